import os

import pytest
import torch

os.environ.setdefault("MASKTUNE_LOG", os.devnull)

# what takes longest starts first, so that nothing long is left to one process at the end
FIRST = ("test_slurm.py", "test_team.py", "test_sweep.py", "the_real_", "test_selftest.py")
FIRST += ("test_every_experiment", "kill_9", "test_cli.py", "test_types", "test_fit_a_folder")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Tests with a fixture of their file stay in one process, which makes it once (`--dist loadgroup`)"
    for item in items:
        found = item._fixtureinfo.name2fixturedefs.values()
        if any(f[-1].scope == "module" for f in found):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    place = {i.nodeid: [w in i.nodeid for w in FIRST] for i in items}
    items.sort(key=lambda item: place[item.nodeid], reverse=True)


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
