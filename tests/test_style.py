"How the code is written: lines, cells, modules, imports, types. Each test prints the number it holds."

import ast, re, subprocess, sys, sysconfig
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sysconfig.get_path("scripts"))
MODULES = [
    p
    for p in sorted((ROOT / "masktune").rglob("*.py"))
    if p.name not in ("_modidx.py", "__init__.py", "all.py")
]
PAGES = sorted(
    p
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
)

# Floors of the house: a module imports from its own floor and from those before it.
FLOORS = [
    "core",
    "data",
    "models",
    "evaluation",
    "training",
    "saliency",
    "methods",
    "auditing",
    "runs",
]
# `plots` draws plain arrays and imports core alone, but for these two, which look through networks
ABOVE = {"plots.sheets": "saliency", "plots.browser": "methods"}


def floor(module):
    "The place of `data.split` among the floors"
    folder = ABOVE.get(module, module.split(".")[0])
    return (
        0.5 + FLOORS.index("core")
        if folder == "plots"
        else FLOORS.index(folder) + (0.5 if module in ABOVE else 0)
    )


def imported(path):
    "(line, module as `data.split`) of every masktune module that a file imports, at any depth"
    package = path.relative_to(ROOT / "masktune").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = ".".join([*base, *filter(None, [node.module])])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "masktune."
        ):
            module = node.module.removeprefix("masktune.")
        else:
            continue
        yield node.lineno, module


def test_imports_point_down():
    arrows, wrong = 0, []
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT / "masktune").with_suffix("").parts)
        for line, other in imported(path):
            arrows += 1
            if "." in other and floor(other) > floor(name):
                wrong.append(f"{name}:{line} imports {other}")
    print(f"{arrows} imports between modules")
    assert arrows >= 100, "the test looks at nothing"
    assert not wrong, wrong


def test_no_circle():
    graph = {
        ".".join(p.relative_to(ROOT / "masktune").with_suffix("").parts): p
        for p in MODULES
    }
    seen, path = set(), []

    def visit(name):
        if name in path:
            raise AssertionError(" -> ".join([*path[path.index(name) :], name]))
        if name in seen or name not in graph:
            return
        path.append(name)
        for node in ast.parse(
            graph[name].read_text()
        ).body:  # what runs when the module is imported
            if isinstance(node, ast.ImportFrom):
                for line, other in imported(graph[name]):
                    if line == node.lineno:
                        visit(other)
        seen.add(path.pop())

    for name in graph:
        visit(name)


def exported_cells(page):
    for cell in nbformat.read(page, 4).cells:
        if cell.cell_type == "code" and re.search(
            r"^#\|\s*export", cell.source, re.M
        ):
            yield "\n".join(
                line
                for line in cell.source.splitlines()
                if not line.startswith("#|")
            )


def counted(source):
    "Lines of an exported cell; the fields of a dataclass are not counted"
    fields = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            fields += sum(
                n.end_lineno - n.lineno + 1
                for n in node.body
                if isinstance(n, ast.AnnAssign)
            )
    return len(source.splitlines()) - fields


def test_cells_and_modules_are_short():
    cells = {
        (str(p.relative_to(ROOT)), i): counted(c)
        for p in PAGES
        for i, c in enumerate(exported_cells(p))
    }
    modules = {
        str(p.relative_to(ROOT)): sum(
            len(c.splitlines()) for c in exported_cells(p)
        )
        for p in PAGES
    }
    print(
        f"longest exported cell: {max(cells.values())} lines; longest module: {max(modules.values())} lines"
    )
    assert not {k: n for k, n in cells.items() if n > 40}
    assert not {k: n for k, n in modules.items() if n > 350}


def code_cells(page):
    for cell in nbformat.read(page, 4).cells:
        if cell.cell_type == "code":
            yield cell


def test_lines_are_short():
    wide = {
        f"{p.relative_to(ROOT)}:{i + 1}": len(line)
        for p in MODULES
        for i, line in enumerate(p.read_text().splitlines())
        if not line.startswith(("__all__", "           '"))
    }
    shown = {}
    for p in PAGES:
        for cell in code_cells(p):
            if re.search(
                r"^#\|\s*(export|hide)", cell.source, re.M
            ) or "parameters" in cell.metadata.get("tags", []):
                continue
            for line in cell.source.splitlines():
                if not line.startswith("#|"):
                    shown[f"{p.relative_to(ROOT)}: {line}"] = len(line)
    print(
        f"widest line of a module: {max(wide.values())};"
        f" widest line of a cell that a page shows: {max(shown.values())}"
    )
    assert not {k: n for k, n in wide.items() if n > 110}
    assert not {k: n for k, n in shown.items() if n > 84}


GUARD = re.compile(r"^\s*(if|elif) .*: (return|raise|continue|break|pass)\b.*$")


def test_one_statement_a_line():
    "Two statements share a line only in a short guard: `if n == 0: return None`"
    found = []
    for p in MODULES:
        lines = p.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            for field in ("body", "orelse", "finalbody", "handlers"):
                for child in (
                    getattr(node, field, [])
                    if isinstance(getattr(node, field, []), list)
                    else []
                ):
                    if (
                        isinstance(node, ast.Module)
                        or child.lineno != node.lineno
                        or not isinstance(child, ast.stmt)
                    ):
                        continue
                    line = lines[child.lineno - 1]
                    if not (GUARD.match(line) and len(line.strip()) <= 72):
                        found.append(
                            f"{p.relative_to(ROOT)}:{child.lineno}: {line.strip()[:100]}"
                        )
    assert not found, "\n".join(found[:40])


def test_ruff():
    run = subprocess.run(
        [SCRIPTS / "ruff", "check", "--quiet", "masktune", "nbs", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]


def test_types(tmp_path):
    "mypy over the library and over a script that uses every public name as a user would"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--cache-dir",
            str(tmp_path),
            "masktune",
            "tests/user_script.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(run.stdout.strip().splitlines()[-1])
    assert run.returncode == 0, run.stdout[-3000:]


def test_the_public_names():
    import masktune, masktune.all

    print(f"{len(masktune.__all__)} public names")
    assert len(masktune.__all__) <= 60
    assert set(masktune.__all__) == {
        n for n in vars(masktune.all) if n in masktune.__all__
    }
    variables = {
        "run",
        "fit",
        "table",
        "train",
        "share",
        "rows",
        "grid",
        "place",
        "commit",
        "record",
        "read",
        "select",
        "look",
        "methods",
        "answers",
        "report",
    }
    assert not variables & set(masktune.__all__)


def test_import_is_cheap():
    code = (
        "import time; t = time.perf_counter(); import masktune; masktune.__all__;"
        "print(time.perf_counter() - t)"
    )
    seconds = min(
        float(
            subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                cwd=ROOT,
                check=True,
            ).stdout
        )
        for _ in range(3)
    )
    print(f"import masktune: {seconds:.3f} s")
    assert seconds < 0.1
