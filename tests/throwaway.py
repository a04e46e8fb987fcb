"A tiny experiment for the tests of runs and sweeps"

import contextlib, json, multiprocessing, os, signal, time

import nbformat.v4 as nbf

PARAMETERS = """seed = 0                 # of the throw
method = "ERM"           # "ERM", "MaskTune" or "all"
share = 0.5              # of something, 0 to 1
epochs: int = None       # passes, 1 or more; None: 3
out = "runs/tiny"        # the run's folder"""

WRITES = """import json, numpy as np, pandas as pd
with open(f"{out}/config.json", "w") as f:
    json.dump(dict(parameters=dict(seed=seed, method=method)), f)
value = np.random.default_rng(seed).random(4)
rows = dict(data="tiny", method=method, seed=seed, sees="labels", weights="last", split="test", value=value)
rows |= dict(epoch=pd.array([None]*4, "Int64"), metric=["worst_group", "accuracy", "minutes", "group a"])
pd.DataFrame(rows).to_parquet(f"{out}/metrics.parquet")"""


def notebook(path, *code, parameters=PARAMETERS, tags=("parameters",)):
    "Write an experiment whose cells are `code`"
    cells = [
        nbf.new_markdown_cell("# Tiny\n\n> An experiment that takes no time"),
        nbf.new_code_cell(parameters, metadata=dict(tags=list(tags))),
    ]
    python = dict(
        kernelspec=dict(name="python3", language="python", display_name="python3")
    )
    path.write_text(
        json.dumps(
            nbf.new_notebook(
                cells=cells + [nbf.new_code_cell(c) for c in code], metadata=python
            )
        )
    )
    return path


def forked(does, *args, said=os.devnull, **kwargs):
    "A call in a process of its own, with what is imported here; what it prints goes to the file `said`"

    def child():
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, signal.default_int_handler)
        with (
            open(said, "w") as f,
            contextlib.redirect_stdout(f),
            contextlib.redirect_stderr(f),
        ):
            try:
                does(*args, **kwargs)
            except SystemExit as e:
                f.write(str(e))
                raise

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def until(what, seconds=120):
    "Wait until `what()`"
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
