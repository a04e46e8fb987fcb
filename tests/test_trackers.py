"What a tracker is told of a training, and that its failures do no harm."

import sys
import types

import pytest
import torch

from masktune.core.files import fingerprint
from masktune.core.random import make_generator
from masktune.data.benchmark import Benchmark
from masktune.data.split import Split
from masktune.methods.erm import ERM
from masktune.methods.masktune import MaskTune
from masktune.models.zoo import create_model
from masktune.training.trackers import TRACKERS, MLflow, TensorBoard, log_to
from masktune.training.trackers import tracker_by_name


@pytest.fixture(scope="module")
def tiny():
    def part(n, seed):
        generator = make_generator(seed, "images")
        images = torch.randint(0, 256, (n, 3, 28, 28), generator=generator)
        return Split.from_tensors(images.byte(), torch.arange(n) % 2)

    return create_model("small_cnn", 2), Benchmark(
        "tiny", part(100, 0), part(40, 1), {}
    )


class Notes:
    "A tracker that remembers, and fails after `fine` calls"

    def __init__(self, fine=99):
        self.fine, self.heard, self.over = fine, [], 0

    def init(self, **told):
        self.told = told

    def log(self, numbers):
        if len(self.heard) == self.fine:
            raise ConnectionError("no network")
        self.heard.append(numbers)

    def finish(self):
        self.over += 1


def test_a_tracker_hears_every_epoch_of_every_method_and_changes_nothing(tiny):
    start, bench = tiny
    with log_to(Notes(), project="birds", config=dict(lr=0.01)) as notes:
        erm = ERM(epochs=2).fit(start, bench)
        tuned = MaskTune().fit(erm, bench)
    assert (
        notes.told == dict(project="birds", config=dict(lr=0.01))
        and notes.over == 1
    )
    assert [n["epoch"] for n in notes.heard] == [1, 2, 1]
    assert [
        n["ERM, seed 0/val_accuracy"] for n in notes.heard[:2]
    ] == erm.history_.val_accuracy.tolist() and notes.heard[2][
        "MaskTune, seed 0/loss"
    ] == tuned.history_.loss.iloc[-1]
    assert (
        fingerprint(erm.last_) == fingerprint(ERM(epochs=2).fit(start, bench).last_)
        and len(notes.heard) == 3
    ), "what follows the block is not heard"


def test_a_tracker_that_fails_is_named_and_training_goes_on(tiny):
    broken, other = Notes(fine=1), Notes()
    with (
        log_to(broken),
        log_to(other),
        pytest.warns(
            UserWarning, match="Notes failed .ConnectionError: no network."
        ) as said,
    ):
        erm = ERM(epochs=3).fit(*tiny)
    assert (
        len(said) == 1
        and len(broken.heard) == 1
        and len(other.heard) == 3
        and broken.over == other.over == 1
        and len(erm.history_) == 3
    )
    with pytest.raises(ValueError), log_to(Notes()) as last:
        ERM(optimizer="adam").fit(*tiny)
    assert last.over == 1, "it is finished when the block fails, too"


def test_tensorboard_gets_the_same_numbers(tiny, tmp_path, monkeypatch):
    kept = []

    class SummaryWriter:
        def __init__(self, folder):
            kept.append(folder)

        def add_scalar(self, name, value, step):
            kept.append((name, value, step))

        def close(self):
            kept.append("closed")

    monkeypatch.setitem(
        sys.modules,
        "torch.utils.tensorboard",
        types.SimpleNamespace(SummaryWriter=SummaryWriter),
    )
    with log_to(TensorBoard(), folder=tmp_path):
        erm = ERM(epochs=2).fit(*tiny)
    assert (
        kept[0] == str(tmp_path)
        and kept[-1] == "closed"
        and [k[1:] for k in kept[1:-1] if k[0] == "ERM, seed 0/loss"]
        == list(zip(erm.history_.loss, (1, 2)))
    )


def test_mlflow_gets_the_same_numbers(tiny, monkeypatch):
    "Under names that it allows: no comma, no colon"
    calls = []

    class Module(types.ModuleType):
        def __getattr__(self, name):
            return lambda *args, **kw: calls.append((name, args, kw))

    monkeypatch.setitem(sys.modules, "mlflow", Module("mlflow"))
    with log_to(
        tracker_by_name("mlflow"), project="birds", name="try", config=dict(lr=0.01)
    ) as tracker:
        erm = ERM(epochs=2).fit(*tiny)
    assert isinstance(tracker, MLflow)
    names = [name for name, _, _ in calls]
    assert names == [
        "set_experiment",
        "start_run",
        "log_params",
        "log_metrics",
        "log_metrics",
        "end_run",
    ]
    assert calls[0][1] == ("birds",) and calls[1][2] == dict(run_name="try")
    assert calls[2][1] == (dict(lr=0.01),)
    (first,), options = calls[3][1:]
    assert options == dict(step=1)
    assert first["ERM_ seed 0/loss"] == erm.history_.loss[0]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_by_its_name(name, monkeypatch):
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    found = tracker_by_name(name)
    classes = {"tensorboard": TensorBoard, "mlflow": MLflow}
    assert found is module if name not in classes else type(found) is classes[name]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_the_command(
    name, monkeypatch
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"needs the package {name}: pip install"):
        tracker_by_name(name)


def test_a_tracker_that_does_not_exist():
    with pytest.raises(ValueError, match="Did you mean 'wandb'"):
        tracker_by_name("wanbd")
