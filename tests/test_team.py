"One run shared by two processes (gloo on the CPU): the same maps and predictions to the bit, the same training up to rounding."

import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from torch import nn

from masktune.core.distributed import rank_and_world_size
from masktune.evaluation.metrics import evaluate, predict
from masktune.methods.erm import ERM
from masktune.models.wrap import wrap
from masktune.models.zoo import create_model
from masktune.saliency.maps import compute_maps
from test_training import bench


def plain_net():
    "A network without batch statistics"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = wrap(
            nn.Sequential(
                nn.Conv2d(3, 8, 5, 2),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(32, 2),
            ),
            size=28,
        )
    return net


def work(out):
    "What is compared; runs alone or in a team"
    data, given = bench(330), create_model("small_cnn", 2)
    maps, said = (
        compute_maps(given, data.train, batch_size=50, file=f"{out}/maps"),
        predict(given, data.train, batch_size=50),
    )
    fits = {
        name: ERM(epochs=3, lr=0.05, batch_size=64, device="cpu").fit(net, data)
        for name, net in (("plain", plain_net()), ("batch norm", given))
    }
    if rank_and_world_size()[0] == 0:
        torch.save(
            dict(
                maps=maps.values,
                correct=maps.correct,
                logits=said.logits,
                accuracy=evaluate(given, data.train, batch_size=50).accuracy
                if rank_and_world_size()[1] == 1
                else said.accuracy,
                weights={n: m.last_.state_dict() for n, m in fits.items()},
                history={n: m.history_.to_dict("list") for n, m in fits.items()},
            ),
            f"{out}/result",
        )


@pytest.fixture(scope="module")
def alone_and_shared(tmp_path_factory):
    "What one process finds, and what two find"
    found = {}
    for n in (1, 2):
        out = tmp_path_factory.mktemp(f"team{n}")
        code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import torch; torch.set_num_threads(1); from test_team import work; work({str(out)!r})"
        (out / "script.py").write_text(code)
        launch = (
            [sys.executable]
            if n == 1
            else [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                "2",
            ]
        )
        done = subprocess.run(
            [*launch, out / "script.py"],
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "MASKTUNE_LOG": os.devnull,
                "CUDA_VISIBLE_DEVICES": "",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[n] = torch.load(out / "result", weights_only=True)
    return found[1], found[2]


def test_maps_and_predictions_are_the_same_bits(alone_and_shared):
    alone, shared = alone_and_shared
    assert (
        alone["maps"].equal(shared["maps"])
        and alone["correct"].equal(shared["correct"])
        and alone["logits"].equal(shared["logits"])
    )
    assert alone["accuracy"] == shared["accuracy"]


def test_training_is_the_same_up_to_rounding(alone_and_shared):
    alone, shared = alone_and_shared
    a, b = (pd.DataFrame(r["history"]["plain"]) for r in (alone, shared))
    assert (a - b).abs().max(axis=None) < 1e-3
    assert (
        max(
            (p - q).abs().max()
            for p, q in zip(
                alone["weights"]["plain"].values(),
                shared["weights"]["plain"].values(),
            )
        )
        < 1e-3
    )
    assert any(
        not torch.equal(p, q)
        for p, q in zip(
            alone["weights"]["plain"].values(), plain_net().state_dict().values()
        )
    ), "it did train"


def test_with_batch_norm_it_learns_as_well_and_differs(alone_and_shared):
    "Each process normalises by its own slice, so the weights differ by more than rounding; the difference is printed by pytest -rP"
    alone, shared = alone_and_shared
    difference = max(
        (p - q).abs().max().item()
        for p, q in zip(
            alone["weights"]["batch norm"].values(),
            shared["weights"]["batch norm"].values(),
        )
    )
    print(
        f"largest difference of a weight or buffer with batch norm: {difference:.3g}"
    )
    assert (
        1e-3 < difference < 1
        and abs(
            alone["history"]["batch norm"]["val_accuracy"][-1]
            - shared["history"]["batch norm"]["val_accuracy"][-1]
        )
        < 0.1
    )
