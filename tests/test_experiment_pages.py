"A page of an experiment shows parameters as a table, what its runs left, and links to the results and back."

from pathlib import Path

import pytest
from execnb.nbio import read_nb
from nbdev.processors import FilterDefaults

from masktune.runs._pages import NO_RUNS, RUNS
from masktune.runs.parameters import experiment_parameters, list_experiments

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "nbs" / "experiments").glob("*.ipynb"))


@pytest.fixture(scope="module")
def pages():
    "experiment -> the cells of its page"
    made = {}
    for notebook in NOTEBOOKS:
        nb = read_nb(notebook)
        FilterDefaults()(nb)
        made[notebook.stem] = nb.cells
    return made


def markdown(cells):
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


@pytest.mark.parametrize("name", [n.stem for n in NOTEBOOKS])
def test_parameters_are_a_table_and_the_code_is_folded(pages, name):
    text = markdown(pages[name])
    for parameter in experiment_parameters(name).index:
        assert f"| `{parameter}` |" in text, parameter
    cells = [c.source for c in pages[name] if c.cell_type == "code"]
    folded = [c for c in cells if "Parameters as code" in c]
    assert len(folded) == 1 and "code-fold: true" in folded[0]


@pytest.mark.parametrize("name", [n.stem for n in NOTEBOOKS])
def test_results_and_links(pages, name):
    text = markdown(pages[name])
    assert "## What came out" in text
    folders, described = RUNS.get(name, ([], []))
    if not folders and not described:
        assert NO_RUNS in text
    for page in described:
        assert f"(../results/{page}.ipynb)" in text
        there = (ROOT / "nbs" / "results" / f"{page}.ipynb").read_text()
        assert f"experiments/{name}.ipynb" in there, "and back"
    committed = [f for f in folders if (ROOT / "results" / f).exists()]
    for folder in committed:
        assert f"**`{folder}" in text
    weight = sum(len(str(c.get("outputs", ""))) for c in pages[name])
    assert weight < 1_000_000


def test_committed_numbers_and_pictures_are_on_the_page(pages):
    text = markdown(pages["group_benchmark"])
    assert "**`waterbirds/original`**" in text and "| MaskTune" in text
    assert "23.1\u00a0±\u00a06.4" in text and "| worst group " in text
    pictures = [c for c in pages["group_benchmark"] if "fig-alt" in c.source]
    shown = [c for c in pictures if c.get("outputs")]
    assert len(shown) >= 4
    assert len(list_experiments()) > len(NOTEBOOKS), "aliases share a page"
