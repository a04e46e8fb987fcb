"A tiny experiment for the tests of runs and sweeps"
import json

import nbformat.v4 as nbf

PARAMETERS = """seed = 0                 # of the throw
method = "ERM"           # "ERM", "MaskTune" or "all"
share = 0.5              # of something, 0 to 1
epochs: int = None       # passes, 1 or more; None: 3
out = "runs/tiny"        # the run's folder"""

WRITES = """import numpy as np, pandas as pd
value = np.random.default_rng(seed).random(4)
pd.DataFrame(dict(data="tiny", method=method, seed=seed, sees="labels", weights="last", epoch=pd.array([None]*4, "Int64"), split="test",
                  metric=["worst_group", "accuracy", "minutes", "group a"], value=value)).to_parquet(f"{out}/metrics.parquet")"""


def notebook(path, *code, parameters=PARAMETERS, tags=("parameters",)):
    "Write an experiment whose cells are `code`"
    cells = [nbf.new_markdown_cell("# Tiny\n\n> An experiment that takes no time"), nbf.new_code_cell(parameters, metadata=dict(tags=list(tags)))]
    python = dict(kernelspec=dict(name="python3", language="python", display_name="python3"))
    path.write_text(json.dumps(nbf.new_notebook(cells=cells + [nbf.new_code_cell(c) for c in code], metadata=python)))
    return path
