import os

import pytest
import torch

os.environ.setdefault("MASKTUNE_LOG", os.devnull)


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
