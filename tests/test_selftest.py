"`masktune selftest` in miniature, on a CPU without Jupyter: as a fresh machine with a GPU runs it."

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
# as `import` sees a machine without these packages
ABSENT = """
import importlib.util, sys

NAMES = set('''IPython ipykernel papermill pytorch_grad_cam nbformat nbclient nbconvert bleach
jupyter_client ipywidgets submitit fastcore nbdev execnb datasets webdataset'''.split())
found = importlib.util.find_spec


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def find_spec(name, package=None):
    return None if name.split(".")[0] in NAMES else found(name, package)


sys.meta_path.insert(0, Absent())
importlib.util.find_spec = find_spec
"""


def selftest(tmp_path, *options):
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "sitecustomize.py").write_text(ABSENT)
    code = "from masktune.runs.cli import main; main()"
    command = [sys.executable, "-c", code, "selftest", "--tiny", *options]
    path = os.pathsep.join([str(tmp_path / "absent"), str(ROOT)])
    done = subprocess.run(
        [*command, "--device", "cpu", "--out", str(tmp_path / "out")],
        env=os.environ | dict(PYTHONPATH=path, MASKTUNE_LOG=os.devnull),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return pd.read_csv(tmp_path / "out" / "parts.csv", keep_default_na=False)


def test_rehearsal_without_jupyter(tmp_path):
    rows = selftest(tmp_path, "--parts", "bench,mnist", "--minutes", "5")
    assert list(rows.part) == ["bench", "mnist"]
    assert rows.state.eq("finished").all(), rows.note.to_list()
    bench = pd.read_csv(tmp_path / "out" / "bench_cpu.csv")
    assert set(bench.way) == {"masked", "plain"}
    numbers = pd.read_parquet(tmp_path / "out" / "mnist" / "metrics.parquet")
    assert set(numbers.method) == {"ERM", "RandomMask", "MaskTune"}


@pytest.mark.slow
def test_rehearsal_of_all_parts(tmp_path):
    rows = selftest(tmp_path, "--minutes", "20")
    assert rows.state.eq("finished").all(), rows.note.to_list()


def test_time_that_is_over_stops_cleanly(tmp_path):
    rows = selftest(tmp_path, "--parts", "mnist", "--minutes", "0.001")
    assert rows.state.to_list() == ["stopped"]


def test_parts_are_joined_as_they_were_cut(tmp_path):
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data" / "set" / "a.bin").write_bytes(os.urandom(300_000))
    script = ROOT / "data" / "parts.sh"
    env = os.environ | dict(PART_SIZE="100K")
    cut = [script, "cut", "data", "parts"]
    subprocess.run(cut, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert len(list((tmp_path / "parts").glob("part0?"))) >= 3
    join = [script, "join", "parts", "again"]
    subprocess.run(join, cwd=tmp_path, check=True)
    whole, again = (tmp_path / d / "set" / "a.bin" for d in ("data", "again"))
    assert whole.read_bytes() == again.read_bytes()
    (tmp_path / "parts" / "part01").unlink()
    assert subprocess.run(join, cwd=tmp_path, capture_output=True).returncode
