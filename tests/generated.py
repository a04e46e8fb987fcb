"""What is written from the notebooks: README.md, the index of names, the gallery, llms.txt.

python tests/generated.py     write them all
"""

import base64
import importlib
import inspect
import io
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

from masktune._docs import escaped

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
SITE = "https://masktune.github.io/masktune"


def title(page):
    "(title, subtitle) of a notebook"
    first = nbformat.read(page, 4).cells[0].source
    head, _, rest = first.partition("\n")
    return head.lstrip("# "), rest.strip().removeprefix("> ")


def listed(root=ROOT) -> list:
    "The pages of the site, in the order of the sidebar"
    entry = r"^\s*(?:- |- href: |href: )([\w/.-]+\.ipynb)$"
    text = (root / "nbs" / "sidebar.yml").read_text()
    return list(dict.fromkeys(re.findall(entry, text, re.M)))


# --- README ---


def readme() -> str:
    "nbs/index.ipynb, with its links counted from the top of the repository"
    cells = nbformat.read(NBS / "index.ipynb", 4).cells
    text = "\n\n".join(c.source.strip() for c in cells if c.cell_type == "markdown")
    text = re.sub(
        r"\{\.[^}]*\}", "", text
    )  # classes of buttons, which GitHub would show
    text = re.sub(r"(\]\()(?!https?:|#)", r"\1nbs/", text)
    return f"<!-- written from nbs/index.ipynb by `make readme`; edit that -->\n\n{text}\n"


# --- the index of names ---


def homes() -> dict:
    "module -> its notebook"
    found = {}
    for page in sorted(NBS.rglob("*.ipynb")):
        for cell in nbformat.read(page, 4).cells[:4]:
            if m := re.match(r"#\|\s*default_exp (\S+)", cell.source):
                found[f"masktune.{m[1]}"] = page.relative_to(NBS).as_posix()
    return found


def names(modules) -> list:
    "(name, module, first sentence, whether `import masktune` has it) of everything that is exported"
    import masktune

    found = []
    for module in modules:
        home = importlib.import_module(module)
        for name in getattr(home, "__all__", []):
            thing = getattr(home, name)
            documented = inspect.isclass(thing) or inspect.isroutine(thing)
            said = (
                (inspect.getdoc(thing) or "").split("\n")[0]
                if documented
                else "a constant"
            )
            found.append((name, module, said, name in masktune.__all__))
    return sorted(found, key=lambda row: row[0].lower())


def api() -> list:
    "The cells of nbs/api.ipynb"
    pages = homes()
    rows = names(pages)
    public = [row for row in rows if row[3]]
    others = [row for row in rows if not row[3]]

    def table(rows):
        lines = ["| name | what it is | page |", "|---|---|---|"]
        for name, module, said, _ in rows:
            lines.append(f"| `{name}` | {escaped(said)} | [{module}]({pages[module]}) |")
        return "\n".join(lines) + "\n\n: {.reference}"

    head = "# All names\n\n> What `import masktune` offers, and what its modules hold besides."
    text = (
        f"`masktune` offers {len(public)} names; `from masktune.all import *` brings them into a notebook. "
        "They are imported when they are first used."
    )
    more = "Import these from their modules: `from masktune.core.random import make_generator`."
    return [
        head,
        text,
        "## Public names",
        table(public),
        "## In the modules",
        more,
        table(others),
    ]


# --- llms.txt ---


def llms() -> str:
    "A map of the site for language models (llmstxt.org)"
    name, about = title(NBS / "index.ipynb")
    lines = [f"# {name}", "", f"> {about}", "", "## Pages", ""]
    for page in listed():
        head, said = title(NBS / page)
        lines.append(
            f"- [{head}]({SITE}/{page.removesuffix('.ipynb')}.html): {said}"
        )
    return "\n".join(lines) + "\n"


# --- the gallery ---


def figures(page) -> list:
    "(PNG, alternative text) of the figures of a page"
    found = []
    for cell in nbformat.read(page, 4).cells:
        alt = re.search(r"^#\| fig-alt: [\"']?(.*?)[\"']?$", cell.source, re.M)
        for output in cell.get("outputs", []):
            if alt and "image/png" in output.get("data", {}):
                found.append((base64.b64decode(output.data["image/png"]), alt[1]))
    return found


def thumbnail(png, width=480):
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((width, 2 * width))
    return image.quantize(64)


def gallery() -> tuple:
    "(cells of nbs/gallery.ipynb, file -> PNG): the first figure of each page that has one"
    cells, files = [], {}
    for page in listed():
        found = figures(NBS / page)
        if not found:
            continue
        png, alt = found[0]
        file = f"images/gallery/{page.removesuffix('.ipynb').replace('/', '-')}.png"
        files[file] = png
        cells.append(f"[![{alt}]({file})]({page})\n\n{title(NBS / page)[0]}")
    head = "# Gallery\n\n> One picture of each page that has any; each leads to its page."
    tiles = "\n\n".join(f"::: {{.tile}}\n{cell}\n:::" for cell in cells)
    return [head, f":::: {{.tiles}}\n{tiles}\n::::"], files


# --- writing ---


def notebook(cells, name):
    nb = new_notebook(cells=[new_markdown_cell(c) for c in cells])
    for i, cell in enumerate(nb.cells):
        cell.id = f"{name}{i}"
    nb.metadata["kernelspec"] = dict(
        display_name="python3", language="python", name="python3"
    )
    nb.nbformat_minor = 5
    return nb


def texts() -> dict:
    "file -> what it should hold"
    pages = {"api": api(), "gallery": gallery()[0]}
    found = {
        f"nbs/{n}.ipynb": nbformat.writes(notebook(c, n)) + "\n"
        for n, c in pages.items()
    }
    return found | {"README.md": readme(), "nbs/llms.txt": llms()}


def outdated() -> list:
    "Files that are not what the notebooks say"
    return [
        f"{file} is not what the notebooks say: run make readme"
        for file, text in texts().items()
        if not (ROOT / file).exists() or (ROOT / file).read_text() != text
    ]


if __name__ == "__main__":
    for file, png in gallery()[1].items():
        (NBS / file).parent.mkdir(parents=True, exist_ok=True)
        thumbnail(png).save(NBS / file, optimize=True)
    for _ in range(
        2
    ):  # the second time the new pages are among those that are listed
        for file, text in texts().items():
            (ROOT / file).write_text(text)
