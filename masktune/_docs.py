"""How nbdev turns notebooks into pages: a table for every parameter, and exported code folded.

settings.ini names `Pages` as a processor, in the place of those of nbdev that execute parts of
a page and delete exported cells. Nothing is executed here: what is documented is imported.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import tokenize
from io import StringIO
from pathlib import Path

REPOSITORY = "https://github.com/masktune/masktune/blob/main"


def comments(source) -> dict:
    "line number -> the comment at its end"
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    return {
        t.start[0]: t.string.lstrip("# ")
        for t in tokens
        if t.type == tokenize.COMMENT
    }


def parsed(thing):
    "(syntax tree, comments) of a function or class"
    source = textwrap.dedent(inspect.getsource(thing))
    return ast.parse(source).body[0], comments(source)


def text(node):
    return ast.unparse(node) if node is not None else ""


def parameters(function) -> list:
    "(name, type, default, meaning) of each parameter, as they stand in the source"
    tree, said = parsed(function)
    a = tree.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(positional) - len(a.defaults)) + a.defaults
    pairs = [*zip(positional, defaults), *zip(a.kwonlyargs, a.kw_defaults)]
    rows = [
        (p.arg, text(p.annotation), text(d), said.get((d or p).end_lineno, ""))
        for p, d in pairs
    ]
    for star, p in (("*", a.vararg), ("**", a.kwarg)):
        if p:
            rows.append(
                (star + p.arg, text(p.annotation), "", said.get(p.end_lineno, ""))
            )
    return [r for r in rows if r[0] not in ("self", "cls")]


def fields(cls) -> list:
    "The same of the fields that a dataclass or NamedTuple declares; a long meaning is the line above"
    tree, said = parsed(cls)
    found = [n for n in tree.body if isinstance(n, ast.AnnAssign)]
    found = [n for n in found if isinstance(n.target, ast.Name)]
    code = {n.end_lineno for n in tree.body}
    if dataclasses.is_dataclass(cls):
        init = {f.name for f in dataclasses.fields(cls) if f.init}
    else:
        init = set(cls._fields)  # a NamedTuple
    rows = []
    for n in found:
        above = said.get(n.lineno - 1, "") if n.lineno - 1 not in code else ""
        meaning = said.get(n.end_lineno) or above
        rows.append((text(n.target), text(n.annotation), text(n.value), meaning))
    return [r for r in rows if r[0] in init and not r[0].startswith("_")]


def returned(function) -> str:
    tree, said = parsed(function)
    line = tree.body[0].lineno - 1
    kind, meaning = text(tree.returns).strip("'\""), said.get(line, "")
    return ": ".join(p for p in (f"`{kind}`" if kind else "", meaning) if p)


def escaped(cell):
    return str(cell).replace("|", "\\|").replace("\n", " ")


def markdown_table(columns, rows, widths) -> str:
    """A Markdown table whose cells are escaped; `widths` of the columns in percent, such as '40,60'.

    On a phone, styles.css gives the first and the last cell of a row a line of their own."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(map(escaped, row))} |" for row in rows]
    return "\n".join(lines) + f'\n\n: {{.reference tbl-colwidths="[{widths}]"}}'


def table(rows) -> str:
    "A Markdown table of parameters"
    if not rows:
        return ""
    cells = []
    for name, kind, default, meaning in rows:
        types = [f"`{t}`" for t in kind.split(" | ")] if kind else []
        value = f"`{default}`" if default else ""
        cells.append([f"`{name}`", " or ".join(types), value, meaning])
    columns = ["parameter", "type", "default", "meaning"]
    return markdown_table(columns, cells, "18,17,15,50")


def signature(name, rows) -> str:
    "The call, on one line if it fits and without types"
    shown = [f"{n}={d}" if d else n for n, _, d, _ in rows]
    line = f"{name}({', '.join(shown)})"
    if len(line) > 84:
        inside = textwrap.fill(
            ", ".join(shown), 80, break_long_words=False, break_on_hyphens=False
        )
        line = f"{name}(\n{textwrap.indent(inside, '    ')}\n)"
    return f"```python\n{line}\n```"


def doc(thing) -> str:
    return inspect.getdoc(thing) or ""


def members(cls):
    "(name, method or property) of what the class offers: its own and that of its private bases, in order"
    bases = [
        b for b in reversed(cls.__mro__) if b is cls or b.__name__.startswith("_")
    ]
    found = {}
    for base in bases:
        found |= {n: v for n, v in vars(base).items() if not n.startswith("_")}
    for name, value in found.items():
        value = (
            value.__func__
            if isinstance(value, (classmethod, staticmethod))
            else value
        )
        if inspect.isfunction(value) or isinstance(value, property):
            yield name, value


def reference(thing, level=3) -> str:
    "What the site shows of a function or class, as Markdown"
    thing = inspect.unwrap(thing)
    file = thing.__module__.replace(".", "/")
    line = inspect.getsourcelines(thing)[1]
    source = f"[source]({REPOSITORY}/{file}.py#L{line}){{.source-link}}"
    parts = [f"{'#' * level} {thing.__qualname__}", source]
    describe = class_reference if inspect.isclass(thing) else function_reference
    return "\n\n".join([*parts, *filter(None, describe(thing, level))])


def function_reference(function, level, name=None) -> list:
    rows = parameters(function)
    result = returned(function)
    call = signature(name or function.__name__, rows)
    return [call, doc(function), table(rows), f"Returns {result}" if result else ""]


def class_reference(cls, level) -> list:
    if dataclasses.is_dataclass(cls) or hasattr(cls, "_fields"):
        parts = dataclass_reference(cls)
    elif "__init__" in vars(cls):
        rows = parameters(cls.__init__)
        parts = [signature(cls.__name__, rows), doc(cls), table(rows)]
    else:
        parts = [doc(cls)]
    attributes = []
    for name, member in members(cls):
        if isinstance(member, property):
            attributes.append(f"| `{name}` | {escaped(doc(member))} |")
        else:
            title = f"{'#' * (level + 1)} {cls.__name__}.{name}"
            parts += [title, *function_reference(member, level + 1, name)]
    if attributes:
        parts.append("| attribute | |\n|---|---|\n" + "\n".join(attributes))
    return parts


def dataclass_reference(cls: type) -> list:
    "The fields that the class declares itself, then those that it inherits, folded"
    own = fields(cls)
    names = {row[0] for row in own}
    parts = [signature(cls.__name__, own), doc(cls), table(own)]
    for base in filter(dataclasses.is_dataclass, cls.__mro__[1:]):
        rows = [row for row in fields(base) if row[0] not in names]
        names |= {row[0] for row in rows}
        if rows:
            title = f"Inherited from {base.__name__}"
            parts.append(
                f'::: {{.callout-note collapse="true"}}\n## {title}\n\n{table(rows)}\n:::'
            )
    return parts


EXPORTED = {"export", "exporti"}
HIDDEN = {"hide", "default_exp"}
IMPORTS = (ast.Import, ast.ImportFrom)


def content(source) -> str:
    "What a cell is made of: imports, checks, or code"
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return "code"
    if body and all(isinstance(node, IMPORTS) for node in body):
        return "imports"
    checks = body and all(isinstance(node, ast.Assert) for node in body)
    return "checks" if checks else "code"


def public_names(source) -> list:
    "The functions and classes that a cell defines for everyone"
    defined = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(source).body
    return [
        n.name
        for n in body
        if isinstance(n, defined) and not n.name.startswith("_")
    ]


CHART = re.compile(r"\b(plot_bars|plot_curves|chart)\(")  # drawn with lines, no photographs


def unbroken(markdown) -> str:
    "Cells such as `35.1 ± 6.6 (n=3)` in one piece: they are not broken into lines"
    if isinstance(markdown, list):
        markdown = "".join(markdown)
    number = r"(?<=[\d.]) ± ([\d.]+)(?: (\(n=\d+\)))?"
    lines = markdown.split("\n")
    return "\n".join(
        re.sub(number, whole, line) if line.startswith("|") else line for line in lines
    )


def whole(match) -> str:
    "A spread without spaces at which a line could break"
    return "\u00a0±\u00a0" + "\u00a0".join(filter(None, match.groups()))


def fold(cell, summary):
    "Show one line in the place of a cell, until it is clicked"
    options = f'#| code-fold: true\n#| code-summary: "{summary}"\n'
    cell.source = options + cell.source


class Pages:
    "A processor of nbdev: references in front of exported cells, which are folded, as are imports and checks"

    def __init__(self, nb):
        self.nb = nb
        sources = (
            cell.get("directives_", {}).get("default_exp") for cell in nb.cells
        )
        module = next(filter(None, sources), None)
        self.module = module and importlib.import_module(f"masktune.{module[0]}")

    def begin(self):
        if Path(str(self.nb.get("path_", ""))).parent.name == "experiments":
            pages = importlib.import_module("masktune.runs._pages")
            self.nb.cells = pages.experiment_cells(self.nb)
        self.nb.cells = [
            new for cell in self.nb.cells for new in self.made_of(cell)
        ]
        for cell in self.nb.cells:
            if cell.cell_type == "markdown":
                cell.source = unbroken(cell.source)
            for output in cell.get("outputs", ()):
                data = output.get("data", {})
                if "text/markdown" in data:
                    data["text/markdown"] = unbroken(data["text/markdown"])

    def made_of(self, cell):
        "The cells that take the place of one"
        from execnb.nbio import mk_cell  # comes with nbdev; only pages need it

        directives = set(cell.get("directives_", ()))
        if directives & HIDDEN:
            return
        if cell.cell_type != "code":
            yield cell
            return
        what = content(cell.source)
        if directives & EXPORTED:
            if what == "imports":
                return
            for name in public_names(cell.source):
                text = reference(getattr(self.module, name))
                yield mk_cell(text, "markdown")
            cell.outputs = []
            fold(cell, "Show the code")
        elif what != "code":
            fold(cell, "Imports" if what == "imports" else "Checked")
        elif CHART.search(cell.source) and "#| classes" not in cell.source:
            cell.source = f"#| classes: chart\n{cell.source}"  # see styles.css
        yield cell

    def __call__(self, cell):
        pass
