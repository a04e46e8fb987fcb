"The small things: paths, whole files, fingerprints, generators, checks, progress."

import contextlib
import os
import time
from pathlib import Path

import pytest
import torch

from masktune.core.distributed import (
    environment,
    rank_and_world_size,
    resolve_device,
)
from masktune.core.files import atomic_write, data_root, fingerprint, resolve_path
from masktune.core.progress import ResumableTimer, Throttle, progress
from masktune.core.random import make_generator
from masktune.core.validation import check_choice, check_count, check_fraction
from masktune.core.validation import check_positive, raises

ROOT = Path(__file__).parents[1]


def test_relative_paths_count_from_the_working_directory(tmp_path, monkeypatch):
    "whatever settings.ini other programs have in parent folders"
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = other\n")
    (tmp_path / "nbs" / "deep").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "nbs" / "deep"):
        monkeypatch.chdir(folder)
        assert resolve_path("data") == folder / "data"
    monkeypatch.delenv("MASKTUNE_DATA", raising=False)
    assert data_root() == tmp_path / "nbs" / "deep" / "data"
    monkeypatch.setenv("MASKTUNE_DATA", str(tmp_path))
    assert (
        data_root() == tmp_path
        and data_root("x") == tmp_path / "nbs" / "deep" / "x"
    )


def test_our_own_notebooks_count_from_the_project(monkeypatch):
    monkeypatch.chdir(ROOT / "nbs" / "data")
    assert resolve_path("runs") == ROOT / "runs"
    monkeypatch.chdir(ROOT / "tests")
    assert resolve_path("runs") == ROOT / "tests" / "runs"


def test_home_is_expanded_and_absolute_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_path("~/photos") == tmp_path / "photos"
    assert resolve_path("/srv/photos") == Path("/srv/photos")


def test_a_file_is_whole_or_as_it_was(tmp_path):
    file = tmp_path / "new" / "state.txt"
    with atomic_write(file) as temp:
        temp.write_text("first")
    with contextlib.suppress(RuntimeError), atomic_write(file) as temp:
        temp.write_text("sec")
        raise RuntimeError
    assert file.read_text() == "first" and os.listdir(tmp_path / "new") == [
        "state.txt"
    ]


def test_fingerprints_tell_values_shapes_and_types_apart():
    zeros = torch.zeros(2, 3)
    different = [
        zeros,
        zeros.T,
        zeros.double(),
        zeros + 1e-7,
        [zeros, zeros],
        0,
        "0",
        0.0,
        None,
    ]
    assert len({fingerprint(x) for x in different}) == len(different)
    assert fingerprint(torch.arange(8)[::2]) == fingerprint(torch.arange(4) * 2)
    assert fingerprint(1, 2) != fingerprint(12)


def test_generators_depend_on_seed_and_purpose_alone():
    def draw(*key):
        return torch.rand(4, generator=make_generator(*key)).tolist()

    assert draw(0, "order", 1) == draw(0, "order", 1)
    others = [(1, "order", 1), (0, "order", 2), (0, "mask", 1), (0, "order")]
    assert all(draw(0, "order", 1) != draw(*key) for key in others)
    # the stream of a purpose is part of every published number
    order = torch.randperm(6, generator=make_generator(0, "order"))
    assert order.tolist() == [4, 3, 0, 2, 5, 1]


def test_checks_return_the_value_or_name_it():
    assert check_choice("bias", "none", ["none", "square"]) == "none"
    with pytest.raises(
        ValueError, match="bias='sqare' is not known. Did you mean 'square'?"
    ):
        check_choice("bias", "sqare", ["none", "square"])
    for value in (-0.1, 1.1, float("nan"), 5):
        with pytest.raises(ValueError, match="share=.* must be between 0 and 1"):
            check_fraction("share", value)
    for value in (0, -1, 1.0, True, None, "3"):
        with pytest.raises(
            ValueError, match="n=.* must be a whole number of at least 1"
        ):
            check_count("n", value)
    assert check_count("n", 0, minimum=0) == 0
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match="lr=.* must be a finite number above 0"
        ):
            check_positive("lr", value)


def test_raises_fails_where_nothing_is_raised(capsys):
    with raises(ValueError, "be"):
        raise ValueError("to be")
    assert capsys.readouterr().out == "to be\n"
    with (
        pytest.raises(AssertionError, match="raised no ValueError"),
        raises(ValueError),
    ):
        pass
    with (
        pytest.raises(AssertionError, match="not in the message"),
        raises(ValueError, "x"),
    ):
        raise ValueError("to be")
    with pytest.raises(KeyError), raises(ValueError):
        raise KeyError


def test_a_throttle_keeps_under_a_twentieth_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    throttle, calls = Throttle(), []

    def save():
        calls.append(now[0])
        now[0] += 1

    for _ in range(100):
        throttle(save)
        now[0] += 1
    assert calls == [0, 21, 42, 63, 84], "1 second of 21, and then again 20 later"


def test_a_timer_goes_on_where_the_last_attempt_ended(tmp_path):
    first = ResumableTimer(tmp_path / "work")
    assert 0 <= first.minutes() < 0.1
    (tmp_path / "work" / "minutes.json").write_text(
        f'{{"minutes": 3, "at": {time.time() - 60}}}'
    )
    (tmp_path / "work" / "state.pt").touch()
    assert ResumableTimer(tmp_path / "work").minutes() == pytest.approx(4, abs=0.05)


def test_progress_writes_lines_to_a_log(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKTUNE_LOG", str(tmp_path / "log.txt"))
    for _ in progress(range(12), "working", unit="batch"):
        time.sleep(0.1)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert 1 <= len(lines) <= 3 and all(
        line.startswith("working: ") for line in lines
    )


def test_one_process_on_one_device():
    assert rank_and_world_size() == (0, 1)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert environment()["torch"] == torch.__version__
