"The pages are whole: what tests/docs.py says of the real ones, and that it notices when one is broken"

import re
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import docs
from generated import outdated, readme

KNOWN = docs.known_names()


@pytest.mark.parametrize(
    "page", docs.pages(), ids=lambda p: str(p.relative_to(docs.ROOT / "nbs"))
)
def test_page(page):
    assert not docs.page_complaints(page, KNOWN)


def test_sidebar():
    assert not docs.sidebar()


def test_nothing_exported_is_undocumented():
    assert not docs.undocumented()


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "CHANGELOG.md",
        "data/README.md",
    ],
)
def test_links_of_other_texts(file):
    assert not docs.links(docs.ROOT / file)


def test_what_is_written_from_the_notebooks_is_what_they_say():
    assert not outdated()


# --- each complaint, seen on a page that deserves it ---


def value(text="1", **data):
    return [new_output("execute_result", {"text/plain": text} | data)]


def good(*cells):
    nb = new_notebook(
        cells=[new_markdown_cell("# a page\n\n> What it is about."), *cells]
    )
    nb.metadata["ran"] = docs.code_hash(nb)
    return nb


def told(tmp_path, nb):
    (tmp_path / "page.ipynb").write_text(nbformat.writes(nb))
    return docs.page_complaints(tmp_path / "page.ipynb", KNOWN)


def test_a_good_page_is_praised(tmp_path):
    nb = good(
        new_markdown_cell(
            "## A part of it\n\nSee [above](#a-part-of-it), [itself](page.ipynb#a-part-of-it) "
            "and `MaskTune`, `predict(model, images)`, `own`."
        ),
        new_code_cell("own = 1\nown", outputs=value()),
        new_code_cell(
            "print(own)", outputs=[new_output("stream", name="stdout", text="1\n")]
        ),
        new_code_cell(
            '#| fig-alt: "A bar"\nbars(own)',
            outputs=value("<Figure>", **{"image/png": "aaaa"}),
        ),
        new_code_cell("own;"),
        new_code_cell("#| eval: false\nown"),
    )
    assert told(tmp_path, nb) == []


BROKEN = {
    "description": lambda: (
        good()["cells"].clear()
        or new_notebook(cells=[new_markdown_cell("# only a title")])
    ),
    "ends in a value": lambda: good(new_code_cell("x = 1\nx")),
    "ends in a value and": lambda: good(new_code_cell("def f(): return 1\nf()")),
    "an error": lambda: good(
        new_code_cell(
            "1/0",
            outputs=[
                new_output(
                    "error", ename="ZeroDivisionError", evalue="division by zero"
                )
            ],
        )
    ),
    "a warning": lambda: good(
        new_code_cell(
            "x = 1",
            outputs=[
                new_output("stream", name="stderr", text="FutureWarning: old")
            ],
        )
    ),
    "an empty output": lambda: good(new_code_cell("x", outputs=value(" "))),
    "an address in memory": lambda: good(
        new_code_cell("x", outputs=value("<Thing object at 0x7f12ab>"))
    ),
    "a figure without an alt text": lambda: good(
        new_code_cell("bars(x)", outputs=value("<Figure>", **{"image/png": "aaaa"}))
    ),
    "a picture without an alt text": lambda: good(
        new_markdown_cell("![](page.ipynb)")
    ),
    "no gone.ipynb there": lambda: good(new_markdown_cell("[there](gone.ipynb)")),
    "is not on the site": lambda: good(new_markdown_cell("[there](../README.md)")),
    "backticks in a link's text": lambda: good(
        new_markdown_cell("[`there`](page.ipynb)")
    ),
    "no heading of that name": lambda: good(
        new_markdown_cell("[there](page.ipynb#nowhere)")
    ),
    "no heading": lambda: good(new_markdown_cell("[there](#nowhere)")),
    "nothing is called MaskTunes": lambda: good(
        new_markdown_cell("`MaskTunes` does it")
    ),
    "nothing is called predikt": lambda: good(
        new_markdown_cell("`predikt(model, images)` does it")
    ),
    "imports stand among other code": lambda: good(
        new_code_cell("import os\nos.sep", outputs=value())
    ),
    "a table in HTML": lambda: good(
        new_code_cell("x", outputs=value(**{"text/html": "<table>"}))
    ),
    "a link in a link": lambda: good(
        new_markdown_cell("see [[ERM](page.ipynb) there](page.ipynb)")
    ),
    "no note of which code": lambda: (
        good(new_code_cell("x = 1")) | {"metadata": {}}
    ),
}


@pytest.mark.parametrize("complaint", BROKEN)
def test_a_broken_page_is_noticed(tmp_path, complaint):
    found = told(tmp_path, nbformat.from_dict(BROKEN[complaint]()))
    assert any(complaint in f for f in found), found


def test_an_edit_after_the_run_is_noticed(tmp_path):
    nb = good(new_code_cell("#| export\nx = 1"))
    nb.cells[1].source = "#| exporti\nx = 1"
    assert told(tmp_path, nb) == [], (
        "how a cell is shown does not change what it gives"
    )
    nb.cells[1].source = "#| export\nx = 2"
    assert "has changed since it ran" in told(tmp_path, nb)[0]


def test_the_note_is_taken_after_a_run_and_survives_cleaning(tmp_path):
    nb = new_notebook(
        cells=[
            new_code_cell("x = 1", execution_count=1),
            new_code_cell("x", execution_count=2, outputs=value()),
        ]
    )
    (tmp_path / "nbs").mkdir()
    page = tmp_path / "nbs" / "page.ipynb"
    nbformat.write(nb, page)
    docs.stamp(page)
    shutil.copy(docs.ROOT / "settings.ini", tmp_path)
    nbdev_clean = Path(sysconfig.get_path("scripts")) / "nbdev_clean"
    subprocess.run([nbdev_clean], cwd=tmp_path, check=True)
    cleaned = nbformat.read(page, 4)
    assert docs._counts(cleaned) == [None, None] and docs.stale(cleaned) == []
    with pytest.raises(ValueError, match="has not just been run"):
        docs.stamp(page)
    nb.cells[1].execution_count = 1
    nbformat.write(nb, page)
    with pytest.raises(ValueError, match="has not just been run"):
        docs.stamp(page)


def test_a_run_writes_tables_as_markdown(tmp_path):
    page = tmp_path / "page.ipynb"
    frame = "pd.DataFrame(dict(a=[1, 2]), index=['x', 'y'])"
    cells = [
        new_code_cell("import pandas as pd"),
        new_code_cell(frame),
        new_code_cell(f"{frame}.a"),
    ]
    nbformat.write(new_notebook(cells=cells), page)
    docs.run(page)
    nb = nbformat.read(page, 4)
    table, column = (c.outputs[0].data for c in nb.cells[1:])
    assert "text/html" not in table and "text/html" not in column
    assert (
        table["text/markdown"].splitlines()[2] == "| x  |   1 |"
        and "| y  |   2 |" in column["text/markdown"]
    )
    assert docs.stale(nb) == []


def test_layout_and_comments_are_not_code():
    nb = good(new_code_cell("x = f(1, 2)  # why"))
    nb.cells[1].source = "x = f(\n    1, 2\n)"
    assert docs.stale(nb) == []


def test_a_page_outside_the_sidebar_is_noticed(tmp_path):
    (tmp_path / "nbs" / "sub").mkdir(parents=True)
    for name in ("a.ipynb", "sub/b.ipynb"):
        (tmp_path / "nbs" / name).write_text(nbformat.writes(good()))
    (tmp_path / "nbs" / "sidebar.yml").write_text(
        "contents:\n  - a.ipynb\n  - gone.ipynb\n"
    )
    assert docs.sidebar(tmp_path) == [
        "sub/b.ipynb is not in nbs/sidebar.yml",
        "nbs/sidebar.yml names gone.ipynb, and there is no such page",
    ]


def test_a_reference_has_every_parameter_with_its_meaning():
    import dataclasses

    from masktune import MaskTune, Split, cam
    from masktune._docs import reference

    text = reference(MaskTune)
    for field in dataclasses.fields(MaskTune):
        if field.init and not field.name.startswith("_"):
            rows = [
                line
                for line in text.splitlines()
                if line.startswith(f"| `{field.name}` |")
            ]
            assert len(rows) == 1 and rows[0].split(" | ")[-1].strip(" |"), (
                field.name
            )
    assert "#### MaskTune.fit" in text and "Inherited from NetworkMethod" in text
    assert "Returns `torch.Tensor`" in reference(cam) and "| `x` |" in reference(
        cam
    )
    assert "#### Split.batches" in reference(Split), (
        "methods of mixins belong to the class"
    )


def test_lists_of_names_and_charts_are_marked_for_the_style_sheet():
    "On a phone a list of names is stacked, in the dark a chart is inverted: see styles.css"
    from execnb.nbio import mk_cell, new_nb

    from masktune import cam
    from masktune._docs import Pages, reference

    assert ": {.reference tbl-colwidths=" in reference(cam)
    cells = [mk_cell(c) for c in ("plot_bars(t, ['a'])", "plot_grid(x)", "1 + 1")]
    page = Pages(new_nb(cells))
    page.begin()
    assert page.nb.cells[0].source.startswith("#| classes: chart\n")
    assert [c.source for c in page.nb.cells[1:]] == ["plot_grid(x)", "1 + 1"]
    table = mk_cell("| a |\n|---|\n| 1.0 ± 0.2 (n=3) |\n\n1.0 ± 0.2", "markdown")
    page = Pages(new_nb([table]))
    page.begin()
    kept = "| 1.0\u00a0±\u00a00.2\u00a0(n=3) |\n\n1.0 ± 0.2"
    assert page.nb.cells[0].source.endswith(kept), "cells of tables stay on a line"
    style = (docs.ROOT / "nbs" / "styles.css").read_text()
    assert "table.reference" in style and ".cell.chart" in style


def mute(
    said,  # documented
    mum=1,
):
    return said


@dataclass
class Mute:
    said: int  # documented
    mum: int = 0

    def fit(self, model):
        return model


def test_what_is_undocumented_is_noticed():
    found = " | ".join(docs.undocumented(dict(mute=mute, Mute=Mute)))
    assert (
        all(
            f"{what}" in found
            for what in (
                "mute has no docstring",
                "mute: mum has",
                "Mute has no docstring",
                "Mute: mum has",
                "Mute.fit has no docstring",
                "Mute.fit: model has",
            )
        )
        and "said" not in found
    )
    assert (
        docs.undocumented(dict(render_character=docs.exports()["render_character"]))
        == []
    ), "documented: docments a line each, and a docstring"


def test_links_in_html_and_code(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<a href='gone.html'>x</a> `[not](a-link)` and\n```\n[nor](this)\n```\n# Ünder *way*, 2nd: `k`-fold\n[here](#ünder-way-2nd-k-fold)\n[web](https://example.org)\n"
    )
    assert [c for c in docs.links(page)] == [
        "links to gone.html, and there is no gone.html there"
    ]


def test_numbers_on_the_home_page_are_those_of_the_results():
    "A row of the table is a row of the committed table"
    measured = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in (
            docs.ROOT / "results" / "biased_mnist_full" / "square_1" / "table.md"
        )
        .read_text()
        .splitlines()
        if line.startswith("| ")
    }
    at = [
        measured["method"].index(c)
        for c in ("original", "reversed", "balanced, worst group")
    ]
    for method in ("ERM", "RandomMask", "MaskTune"):
        assert (
            f"| {method} | {' | '.join(measured[method][i] for i in at)} |"
            in readme()
        )


def test_random_names_of_temporary_folders_are_not_kept():
    "Two runs of a page print the same"
    folder, hidden = (
        f"{tempfile.gettempdir()}/tmprzkw75p6",
        f"{tempfile.gettempdir()}/...",
    )
    printed = new_output("stream", text=f"2 runs in {folder}/runs\n")
    shown = new_output(
        "execute_result", data={"text/plain": f"PosixPath('{folder}/a')"}
    )
    cells = [new_code_cell("1", outputs=[printed, shown])]
    docs.hide_temporary_names(new_notebook(cells=cells))
    assert printed.text == f"2 runs in {hidden}/runs\n"
    assert shown.data["text/plain"] == f"PosixPath('{hidden}/a')"


@pytest.mark.parametrize(
    "page", docs.pages(), ids=lambda p: str(p.relative_to(docs.ROOT / "nbs"))
)
def test_no_page_shows_the_random_name_of_a_folder(page):
    for cell in nbformat.read(page, 4).cells:
        for output in cell.get("outputs", []):
            texts = [output.get("text", ""), *output.get("data", {}).values()]
            assert not any(
                re.search(r"/tmp/tmp[a-z0-9_]{8}", str(t)) for t in texts
            )
