"""What a reader may expect of the pages, as functions that list what is wrong.

tests/test_docs.py and `make check-docs` ask them.

python tests/docs.py               say what is wrong
python tests/docs.py run PAGE...   execute pages where they are, and note which code they ran
"""

import ast, builtins, contextlib, dataclasses, hashlib, importlib, inspect, io, keyword
import re, sys, tempfile, tokenize
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]


def pages(root=ROOT) -> list:
    "All notebooks of the site"
    return sorted(
        p
        for p in (root / "nbs").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
    )


# --- the code that ran ---


def code_hash(nb) -> str:
    "16 digits for what a page computes: its code, whatever its layout, comments and cells"
    code = "\n".join(_normal(c.source) for c in nb.cells if c.cell_type == "code")
    lines = "\n".join(line for line in code.splitlines() if line.strip())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _normal(source):
    "Code without layout and comments; as it is where it holds IPython's own commands"
    try:
        return ast.unparse(ast.parse(source))
    except SyntaxError:
        return source.strip()


def _counts(nb):
    return [
        c.execution_count
        for c in nb.cells
        if c.cell_type == "code" and c.source.strip()
    ]


def stamp(page):
    "Keep the hash of a page's code in its metadata (`allowed_metadata_keys` in settings.ini)"
    nb = nbformat.read(page, 4)
    if _counts(nb) != list(range(1, len(_counts(nb)) + 1)):
        raise ValueError(
            f"{page} has not just been run from top to bottom: "
            f"make notebooks NB={page}"
        )
    nb.metadata["ran"] = code_hash(nb)
    nbformat.write(nb, page)


def run(page):
    "Execute a page where it is, with tables as Markdown, and note which code ran"
    from nbclient import NotebookClient

    page = Path(page).resolve()
    nb = nbformat.read(page, 4)
    tables = ROOT / "tests" / "tables_as_markdown.py"
    NotebookClient(
        nb,
        timeout=7200,
        coalesce_streams=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(page.parent)}},
        extra_arguments=[f"--IPKernelApp.exec_files={tables}", "--log-level=ERROR"],
    ).execute()
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
    hide_temporary_names(nb)
    nbformat.write(nb, page)
    stamp(page)


def hide_temporary_names(nb):
    "Write /tmp/... for temporary folders in outputs: a page changes where its results do"
    random = re.compile(re.escape(tempfile.gettempdir()) + r"/tmp[a-z0-9_]{8}")

    def settled(text):
        return random.sub(f"{tempfile.gettempdir()}/...", text)

    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = settled(output["text"])
            for kind, value in output.get("data", {}).items():
                if kind.startswith("text/") and isinstance(value, str):
                    output["data"][kind] = settled(value)


def stale(nb) -> list:
    "Whether the outputs are those of the code"
    kept = nb.metadata.get("ran")
    if not any(c.cell_type == "code" for c in nb.cells):
        return []
    if kept is None:
        return [
            "no note of which code was run: run it with `make notebooks NB=...`"
        ]
    return (
        []
        if kept == code_hash(nb)
        else [
            "its code has changed since it ran: run it with `make notebooks NB=...`"
        ]
    )


# --- what is shown ---


def title(nb) -> list:
    first = nb.cells[0].source if nb.cells else ""
    return (
        []
        if re.match(r"# \S.*\n+> \S", first)
        else ["the first cell must be '# title' and '> description'"]
    )


SILENT = {
    "rmtree",
    "save",
    "mark",
    "mkdir",
    "touch",
    "unlink",
    "write_text",
    "write_bytes",
    "append",
    "update",
    "set_size_inches",
    "to_csv",
    "to_parquet",
    "savefig",
    "zero_grad",
    "step",
    "backward",
    "zero_",
    "train",
    "run",
    "main",
    "filterwarnings",
}  # what such calls return is of no interest


def _silent(call, page):
    "Whether a call returns nothing, as far as its name and the functions of its page tell"
    name = (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else getattr(call.func, "id", "")
    )
    own = [
        f
        for f in ast.walk(page)
        if isinstance(f, ast.FunctionDef) and f.name == name
    ]
    given = [
        n.value
        for f in own
        for n in ast.walk(f)
        if isinstance(n, ast.Return) and n.value and n.value is not call
    ]
    return (
        name in SILENT
        or bool(own)
        and all(isinstance(v, ast.Call) and _silent(v, page) for v in given)
    )


def ends_in_value(source, page=None) -> bool:
    "Whether a cell's last line is a value, or a call that returns one; `page`: the whole page, parsed"
    page = page or ast.parse("")
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    if (
        not body
        or not isinstance(body[-1], ast.Expr)
        or source.rstrip().endswith(";")
    ):
        return False
    value = body[-1].value
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    return not all(isinstance(p, ast.Call) and _silent(p, page) for p in parts)


def outputs(nb) -> list:
    "Every value shown, every figure described, no error, no warning, nothing that only a machine can read"
    found, page = [], ast.parse("")
    with contextlib.suppress(SyntaxError):
        page = ast.parse(_code(nb))
    for c in nb.cells:
        if c.cell_type != "code":
            continue
        about = next((x for x in reversed(c.source.splitlines()) if x.strip()), "")[
            :80
        ]
        if (
            ends_in_value(c.source, page)
            and not c.outputs
            and "#| eval: false" not in c.source
        ):
            found.append(f"ends in a value and shows none: {about}")
        for o in c.outputs:
            text = (
                o.text
                if o.output_type == "stream"
                else o.get("data", {}).get("text/plain", "a value")
            )
            if o.output_type == "error":
                found.append(f"an error: {o.ename}: {o.evalue[:200]}")
            elif o.output_type == "stream" and o.name == "stderr":
                found.append(
                    f"a warning, or progress left behind: {text.strip()[:200]}"
                )
            elif not text.strip():
                found.append(f"an empty output: {about}")
            elif re.search(r"<[\w.]+( object)? at 0x[0-9a-f]+>", text) and not {
                "text/markdown",
                "text/html",
                "image/png",
            } & set(o.get("data", {})):
                found.append(
                    f"shows an address in memory, {text.strip()[:80]}: {about}"
                )
            if "image/png" in o.get("data", {}) and not re.search(
                r"^#\| fig-alt: ['\"]?\S", c.source, re.M
            ):
                found.append(
                    f"a figure without an alt text (#| fig-alt: ...): {about}"
                )
    for alt, target in [
        m
        for c in nb.cells
        if c.cell_type == "markdown"
        for m in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", c.source)
    ]:
        if not alt.strip():
            found.append(f"a picture without an alt text: {target}")
    return found


# --- links ---


def anchors(markdown) -> set:
    "The anchors of the headings, as Quarto and GitHub make them; those written by hand as {#name} too"
    lines, found = _without_code(markdown).splitlines(), set()
    for line in lines:
        if m := re.match(r"#{1,6} +(.*)", line):
            text = re.sub(r"\{#([\w-]+)\}", "", m[1]).strip().lower()
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
            found |= {
                re.sub(
                    r"^[^a-z]+",
                    "",
                    re.sub(r"[^\w\-. ]", "", text).replace(" ", "-"),
                ),
                re.sub(r"[^\w\- ]", "", text).replace(" ", "-"),
            }
            found |= set(re.findall(r"\{#([\w-]+)\}", m[1]))
    return found


def _without_code(markdown):
    return re.sub(r"^ *```.*?^ *```", "", markdown, flags=re.M | re.S)


def _prose(nb):
    return "\n\n".join(c.source for c in nb.cells if c.cell_type == "markdown")


def _text(path):
    return (
        _prose(nbformat.read(path, 4))
        if path.suffix == ".ipynb"
        else path.read_text()
    )


def links(page, text=None) -> list:
    "Links to files and headings of the repository that lead nowhere"
    page, found = Path(page), []
    text = _text(page) if text is None else text
    linked = re.findall(r"(?<!!)\[([^\]\[]*`[^\]\[]*)\]\(", _without_code(text))
    found += [
        f"backticks in a link's text, which the site shows raw: {t}" for t in linked
    ]
    prose = re.sub(r"`[^`\n]*`", "``", _without_code(text))
    for target in re.findall(
        r"\]\(([^()\s]+)(?: \"[^\"]*\")?\)", prose
    ) + re.findall(r"(?:href|src)=[\"']([^\"']+)[\"']", prose):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        file, _, anchor = target.partition("#")
        where = (page.parent / file).resolve() if file else page
        site = page.parent if (ROOT / "nbs") not in page.parents else ROOT / "nbs"
        if page.suffix == ".ipynb" and site not in where.parents:
            found.append(
                f"links to {target}, which is not on the site: use its address"
            )
        elif not where.exists():
            found.append(f"links to {target}, and there is no {where.name} there")
        elif anchor and anchor not in anchors(
            text if where == page else _text(where)
        ):
            found.append(
                f"links to {target}, and {where.name} has no heading of that name"
            )
    return found


# --- names ---


def exports() -> dict:
    "name -> what it is, for every public name of every module"
    found = {}
    for file in sorted((ROOT / "masktune").rglob("[a-z]*.py")):
        if file.stem == "all":
            continue
        module = importlib.import_module(
            ".".join(file.relative_to(ROOT).with_suffix("").parts)
        )
        found |= {n: getattr(module, n) for n in getattr(module, "__all__", [])}
    return found


def _names(code) -> set:
    "The names in Python code, and its strings that could be names (values of parameters, columns of tables)"
    found = set(re.findall(r"[\"']([A-Za-z_][\w-]*)[\"']", code))
    with contextlib.suppress(tokenize.TokenError, IndentationError, SyntaxError):
        for t in tokenize.generate_tokens(io.StringIO(code).readline):
            if t.type == tokenize.NAME:
                found.add(t.string)
    return found


def _code(nb):
    return "\n".join(c.source for c in nb.cells if c.cell_type == "code")


def known_names(root=ROOT) -> set:
    "What a name in backticks may mean: anything in the library, its tests, its experiments, Python"
    found = {"masktune", "torchrun", *dir(builtins), *keyword.kwlist}
    for file in [
        *(root / "masktune").rglob("*.py"),
        *(root / "tests").glob("*.py"),
    ]:
        found |= {file.stem} | _names(file.read_text())
    for file in [p for p in pages(root) if p.parent.name == "experiments"]:
        found |= {file.stem} | _names(_code(nbformat.read(file, 4)))
    for file in [root / "Makefile", root / "settings.ini", root / "pyproject.toml"]:
        found |= set(re.findall(r"[\w-]+", file.read_text()))
    return found


def doc_links(nb, known=None) -> list:
    "Names in backticks that are nowhere: not in the library, nor in this page's code"
    known, prose, found = known or known_names(), _prose(nb), []
    mine = _names(_code(nb)) | set(
        re.findall(
            r"\w+",
            " ".join(re.findall(r"^ *```.*?^ *```", prose, flags=re.M | re.S)),
        )
    )
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _without_code(prose)):
        if re.fullmatch(r"[A-Za-z_][\w.]*(\([^()]*\))?", span) and not re.search(
            r"\.(md|py|ini|json|csv|txt|toml|yml|parquet|html|pt|cff|jpg|png|ipynb)$",
            span,
        ):
            lost = [
                w
                for w in re.findall(r"[A-Za-z_]\w*", span.partition("(")[0])
                if w not in known and w not in mine
            ]
            if lost:
                found.append(f"`{span}`: nothing is called {lost[0]}")
    return found


# --- the library ---


def _own_doc(cls):
    "The docstring of a class; not the signature that a dataclass without one is given"
    said = vars(cls).get("__doc__") or ""
    generated = dataclasses.is_dataclass(cls) and said.startswith(
        f"{cls.__name__}("
    )
    return "" if generated else said


def undocumented(names=None) -> list:
    "What is exported without a docstring, and parameters and fields without a comment"
    from masktune._docs import fields, members, parameters

    found = []

    def uncommented(where, rows):
        found.extend(
            f"{where}: {name} has no comment" for name, *_, said in rows if not said
        )

    def check(where, function, whole=True):
        if not function.__doc__:
            found.append(f"{where} has no docstring")
        if whole:
            uncommented(where, parameters(function))

    for name, thing in (names or exports()).items():
        thing = inspect.unwrap(thing) if callable(thing) else thing
        where = f"{getattr(thing, '__module__', '')}.{name}"
        if inspect.isclass(thing):
            if not _own_doc(thing):
                found.append(f"{where} has no docstring")
            if dataclasses.is_dataclass(thing) or hasattr(thing, "_fields"):
                uncommented(where, fields(thing))
            elif "__init__" in vars(thing):
                uncommented(where, parameters(thing.__init__))
            for method, member in members(thing):
                if inspect.isfunction(member):
                    check(f"{where}.{method}", member, method == "fit")
        elif inspect.isfunction(thing):
            check(where, thing)
    return found


def sidebar(root=ROOT) -> list:
    "Pages that the sidebar lacks, and entries that are no page"
    from generated import listed

    named = listed(root)
    there = [str(p.relative_to(root / "nbs")) for p in pages(root)]
    return [f"{p} is not in nbs/sidebar.yml" for p in there if p not in named] + [
        f"nbs/sidebar.yml names {p}, and there is no such page"
        for p in named
        if p not in there
    ]


def imports_apart(nb) -> list:
    "A shown cell that imports does nothing else: nbdev reads such cells apart"
    found = []
    for c in nb.cells:
        if c.cell_type != "code" or re.search(r"^#\|\s*export", c.source, re.M):
            continue
        with contextlib.suppress(SyntaxError):
            body = ast.parse(c.source).body
            kinds = [
                isinstance(n, (ast.Import, ast.ImportFrom))
                for n in ast.walk(ast.Module(body, []))
            ]
            only = all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)
            if any(kinds) and not only:
                found.append(
                    f"imports stand among other code: {c.source.splitlines()[0]}"
                )
    return found


def shown_by_scripts(nb) -> list:
    "Tables in HTML make the site load scripts from a network"
    return [
        f"a table in HTML (run it with `make notebooks`): {c.source.splitlines()[-1][:80]}"
        for c in nb.cells
        if c.cell_type == "code"
        for o in c.outputs
        if "text/html" in o.get("data", {})
    ]


NESTED = re.compile(r"\[\[[^\]]*\]\([^)]*\)[^\]]*\]\(")


def rendered(page) -> list:
    "What nbdev's processors make of a page: they raise nothing, and leave no link in a link"
    from execnb.nbio import read_nb
    from nbdev.processors import FilterDefaults

    processor = FilterDefaults().nb_proc(read_nb(page))
    try:
        processor.process()
    except Exception as error:
        return [f"nbdev can't render it: {type(error).__name__}: {error}"]
    texts = [c.source for c in processor.nb.cells if c.cell_type == "markdown"]
    return [
        f"a link in a link: {m[0][:90]}" for t in texts for m in NESTED.finditer(t)
    ]


def weight(page) -> list:
    "A page of over 1 MB is slow to load"
    size = page.stat().st_size
    return [f"weighs {size / 1e6:.1f} MB; 1 MB is the most"] if size > 1e6 else []


def page_complaints(page, known=None) -> list:
    "All that is wrong with one notebook"
    nb = nbformat.read(page, 4)
    template = page.parent.name == "experiments" and not any(
        c.get("outputs") for c in nb.cells
    )  # its executed copies are the runs
    return [
        *title(nb),
        *([] if template else [*outputs(nb), *stale(nb)]),
        *links(page),
        *doc_links(nb, known),
        *([] if page.stem == "bench" else imports_apart(nb)),  # optional libraries
        *shown_by_scripts(nb),
        *rendered(page),
        *weight(page),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        for p in sys.argv[2:]:
            print(p, flush=True)
            run(p)
        sys.exit()
    sys.path.insert(0, str(ROOT))
    known = known_names()
    wrong = (
        [
            f"{p.relative_to(ROOT)}: {w}"
            for p in pages()
            for w in page_complaints(p, known)
        ]
        + sidebar()
        + undocumented()
    )
    wrong += [
        f"{p}: {w}"
        for p in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")
        if (ROOT / p).exists()
        for w in links(ROOT / p)
    ]
    from generated import outdated

    wrong += outdated()
    print(
        "\n".join(wrong)
        or f"{len(pages())} pages and {len(exports())} exported names: nothing to complain about"
    )
    sys.exit(bool(wrong))
