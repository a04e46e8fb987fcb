"""What the site shows of an experiment: its parameters as a table, and what its runs left in `results/`.

An experiment is a template: its notebook has no outputs. `Pages` in `_docs.py` calls `experiment_cells`
while a page is made; nothing is executed.
"""

import base64
from io import BytesIO
from pathlib import Path

from .._docs import fold, markdown_table
from .overview import stored_means
from .parameters import experiment_parameters
from .rendering import _heading
from .stored import read_table

# experiment -> (its folders below results/, its pages of results)
RUNS = {
    "biased_mnist": (["biased_mnist"], ["biased_mnist"]),
    "comparison": (["comparison"], ["comparison"]),
    "group_benchmark": (["waterbirds"], ["waterbirds"]),
    "selective": (["selective"], ["selective"]),
    "ablations": (["ablations", "ule"], ["ablations"]),
    "masking": (["masking"], []),
    "bench": ([], ["speed"]),
}
NO_RUNS = (
    "No run of this experiment is committed: its images are yours, or not ours to "
    "share. `make test` runs it in miniature."
)
FIGURES = {
    "table.png": "Chart of the table",
    "controls.png": "Chart of the controls",
    "figure.png": "Where the networks look, or curves of the methods",
}
NOT_SHOWN = {"method", "seed", "labels_used"}


def _cell(text, kind="markdown"):
    from execnb.nbio import mk_cell  # comes with nbdev; only pages need it

    return mk_cell(text, kind)


def parameters_table(notebook) -> str:
    "The parameters of an experiment as a Markdown table."
    rows = experiment_parameters(notebook)
    cells = [
        [f"`{name}`", f"`{row.default}`", row.allowed, row.meaning]
        for name, row in rows.iterrows()
    ]
    columns = ["parameter", "default", "allowed", "meaning"]
    return markdown_table(columns, cells, "18,14,28,40")


def results_table(folder) -> str:
    "The means of a run's `table.csv` as a Markdown table."
    table = read_table(folder / "table.csv")
    columns = [c for c in table.columns if c not in NOT_SHOWN]
    titles = {c: _heading(c).replace("_", " ") for c in columns}
    means = stored_means(folder, titles)
    return means.to_markdown(index=False, disable_numparse=True)


def picture_cell(file, alt):
    "A cell that shows an image file, at most 900 pixels wide."
    from PIL import Image

    image, small = Image.open(file).convert("RGB"), BytesIO()
    image.thumbnail((900, 4000))
    kind = "png" if file.stat().st_size < 100_000 else "jpeg"
    image.save(small, kind, quality=80)
    data = {f"image/{kind}": base64.b64encode(small.getvalue()).decode()}
    cell = _cell(f'#| echo: false\n#| fig-alt: "{alt}"', "code")
    cell.outputs = [dict(output_type="display_data", data=data, metadata={})]
    return cell


def committed_runs(name, root) -> list:
    "The folders of the runs of an experiment below `results/`."
    folders, _ = RUNS.get(name, ([], []))
    tables = [t for f in folders for t in (root / "results" / f).rglob("table.csv")]
    return sorted(table.parent for table in tables)


def links(name) -> str:
    "Where the results of an experiment are discussed"
    _, pages = RUNS.get(name, ([], []))
    named = [f"[{p.replace('_', ' ')}](../results/{p}.ipynb)" for p in pages]
    named.append("[all results](../results.ipynb)")
    return "What they say: " + " · ".join(named)


def results_cells(name, root) -> list:
    "What the committed runs of an experiment left: tables and figures."
    runs = committed_runs(name, root)
    if not runs:
        text = links(name) if name in RUNS and RUNS[name][1] else NO_RUNS
        return [_cell(f"## What came out\n\n{text}")]
    cells = [_cell(f"## What came out\n\n{links(name)}")]
    for run in runs:
        where = run.relative_to(root / "results").as_posix()
        cells.append(_cell(f"**`{where}`**\n\n{results_table(run)}"))
        for file, alt in FIGURES.items():
            if (run / file).exists():
                cells.append(picture_cell(run / file, f"{alt}: {where}"))
    return cells


def experiment_cells(nb) -> list:
    "The cells of an experiment's page: introduction, results, parameters as a table, code."
    path = Path(nb.path_)
    root = path.parents[2]
    cells, seen = [], False
    for cell in nb.cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            seen = True
            cells += results_cells(path.stem, root)
            cells.append(_cell(f"## Parameters\n\n{parameters_table(path)}"))
            fold(cell, "Parameters as code")
        cells.append(cell)
    return cells if seen else list(nb.cells)
