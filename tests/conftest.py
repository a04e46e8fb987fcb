import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("MASKTUNE_LOG", os.devnull)

# what takes longest starts first, so that nothing long is left to one process at the end
FIRST = ("test_slurm.py", "test_team.py", "test_sweep.py", "the_real_", "test_selftest.py")
FIRST += ("test_every_experiment", "kill_9", "test_cli.py", "test_types", "test_fit_a_folder")


def pytest_collection_modifyitems(items):
    def is_first(item):
        return [first in f"{item.path.name}::{item.name}" for first in FIRST]

    items.sort(key=is_first, reverse=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "`--dist loadscope`: a file that shares a fixture stays in one process, which makes it once"
    from xdist.scheduler import LoadScopeScheduling

    files = Path(__file__).parent.glob("test_*.py")
    shared = {f.name for f in files if 'fixture(scope="module")' in f.read_text()}

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return file if Path(file).name in shared else nodeid

    return Scheduling(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path_factory, monkeypatch):
    "A test has a cache of its own; real data goes where the pages find it, and is decoded once"
    if "data" not in request.fixturenames:
        monkeypatch.setenv("MASKTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def global_random_state_untouched():
    "No test, whatever it constructs or fits, may change the global random state"
    before = torch.get_rng_state()
    yield
    assert torch.get_rng_state().equal(before), (
        "the global random state was changed"
    )


@pytest.fixture(scope="session")
def data():
    "The folder with real data, or a skip"
    root = os.environ.get("MASKTUNE_DATA")
    if not root:
        pytest.skip("needs real data: set MASKTUNE_DATA")
    return root
