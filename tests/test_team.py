"One run shared by two processes (gloo): the same maps and predictions to the bit, training up to rounding."

import os
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from torch import nn

from masktune.core.distributed import rank_and_world_size
from masktune.data.benchmark import Benchmark
from masktune.data.miniatures import make_miniature
from masktune.data.split import Split
from masktune.evaluation.metrics import predict
from masktune.methods.abstaining import SelfAdaptiveTraining
from masktune.methods.erm import ERM
from masktune.methods.group_dro_jtt import GroupDRO
from masktune.methods.ule import ULE
from masktune.models.wrap import wrap
from masktune.models.zoo import create_model
from masktune.runs.record import is_finished
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


def grouped():
    "330 images in two groups of unequal size"
    data = bench(330)
    groups = (torch.arange(330) % 7 == 0).long()
    split = Split.from_tensors(data.train.images, data.train.labels, groups)
    return Benchmark("grouped", split, split.subset(range(0, 330, 4)), {})


def fits():
    "name -> (network, method)"
    plain, with_norm = plain_net(), create_model("small_cnn", 2)
    common = dict(epochs=3, lr=0.05, batch_size=64, device="cpu")
    return {
        "plain": (plain, ERM(**common)),
        "batch norm": (with_norm, ERM(**common)),
        "synchronised, an epoch": (
            with_norm,
            ERM(sync_batch_norm=True, **common | dict(epochs=1)),
        ),
        "synchronised": (with_norm, ERM(sync_batch_norm=True, **common)),
        "class weights": (plain, ERM(class_weight=(0.5, 2.0), **common)),
        "GroupDRO": (plain, GroupDRO(step_size=0.5, **common)),
        "ULE": (with_norm, ULE(sync_batch_norm=True, **common | dict(epochs=1))),
    }


def refused():
    "What a team must not do, as the message"
    try:
        SelfAdaptiveTraining(device="cpu").fit(plain_net(), bench(64))
    except ValueError as error:
        return str(error)
    return ""


def work(out):
    "What is compared; runs alone or in a team"
    data, net = grouped(), create_model("small_cnn", 2)
    maps = compute_maps(net, data.train, batch_size=50, file=f"{out}/maps")
    said = predict(net, data.train, batch_size=50)
    fitted = {name: m.fit(start, data) for name, (start, m) in fits().items()}
    rank, n_processes = rank_and_world_size()
    result = dict(
        maps=maps.values,
        correct=maps.correct,
        logits=said.logits,
        accuracy=said.accuracy,
        refused=refused() if n_processes > 1 else "",
        group_weights=fitted["GroupDRO"].group_weights_.tolist(),
        weights={
            n: getattr(m, "last_", m.model_).state_dict() for n, m in fitted.items()
        },
        history={n: m.history_.to_dict("list") for n, m in fitted.items()},
    )
    if rank == 0:
        torch.save(result, f"{out}/result")


def largest_difference(alone, shared, name):
    "Of any weight or running statistic"
    a, b = alone["weights"][name], shared["weights"][name]
    return max(
        (a[k] - b[k]).abs().max().item() for k in a if "num_batches" not in k
    )


@pytest.fixture(scope="module")
def alone_and_shared(tmp_path_factory):
    "What one process finds, and what two find"
    found = {}
    for n in (1, 2):
        out = tmp_path_factory.mktemp(f"team{n}")
        code = f"""
import sys
import torch

sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_team import work

torch.set_num_threads(1)
work({str(out)!r})
"""
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


@pytest.mark.parametrize(
    "name, bound",
    [
        ("plain", 1e-3),
        ("class weights", 1e-3),
        ("GroupDRO", 1e-3),
        ("synchronised, an epoch", 1e-3),
        ("synchronised", 5e-2),  # rounding grows with the steps
    ],
)
def test_training_is_the_same_up_to_rounding(alone_and_shared, name, bound):
    alone, shared = alone_and_shared
    a, b = (pd.DataFrame(r["history"][name]) for r in (alone, shared))
    assert (a.loss - b.loss).abs().max() < bound
    found = largest_difference(alone, shared, name)
    print(f"{name}: largest difference of a weight or statistic {found:.2g}")
    assert found < bound


def test_they_did_train(alone_and_shared):
    for name, (start, _) in fits().items():
        trained = alone_and_shared[0]["weights"][name]
        first = start.state_dict()
        assert any(not first[k].equal(trained[k]) for k in first), name


def test_groups_weigh_the_same(alone_and_shared):
    "Each process sees half of the images of a group, and both move the weights by all of them"
    alone, shared = (torch.tensor(r["group_weights"]) for r in alone_and_shared)
    assert torch.allclose(alone, shared, atol=1e-4)
    assert (alone - 0.5).abs().max() > 0.01, "they moved"


def test_with_batch_norm_it_learns_as_well_and_differs(alone_and_shared):
    "Each process normalises by its own slice, so weights differ by more than rounding (pytest -rP)"
    alone, shared = alone_and_shared
    difference = largest_difference(alone, shared, "batch norm")
    print(f"largest difference with batch norm: {difference:.3g}")
    assert 1e-2 < difference < 1
    a, b = (r["history"]["batch norm"]["val_accuracy"][-1] for r in (alone, shared))
    assert abs(a - b) < 0.1


def test_ule_can_be_differentiated_twice_through_synchronised_batch_norm(
    alone_and_shared,
):
    "It compares the saliency of the first images of a slice, so the numbers differ"
    history = alone_and_shared[1]["history"]["ULE"]
    assert history["val_accuracy"][-1] > 0.9


def test_what_processes_do_not_share_is_refused(alone_and_shared):
    assert "SelfAdaptiveTraining keeps a target" in alone_and_shared[1]["refused"]


# --- `masktune fit` ----------------------------------------------------------------


def team_of_two(*words, **options):
    "A command that two processes share"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", "--no-python", sys.executable, "-c"]
    command = "import sys; from masktune.runs.cli import main; main(sys.argv[1:])"
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*launch, command, *map(str, words)],
        env=os.environ | alone | {"MASKTUNE_LOG": os.devnull},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_fit_in_two_processes_has_one_lock_and_one_set_of_files(tmp_path):
    photos = make_miniature("folder", tmp_path / "data", n=8) / "photos"
    words = ["fit", photos, "--network", "small_cnn", "--size", 32, "--epochs", 1]
    words += ["--batch-size", 8, "--threads", 1, "--device", "cpu"]
    words += ["--out", tmp_path / "run"]
    process, most = team_of_two(*words), 0
    while process.poll() is None:
        most = max(most, len(list((tmp_path / "run").glob("lock.*"))))
        time.sleep(0.05)
    said, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    assert most == 1 and is_finished(tmp_path / "run")
    assert said.count("| MaskTune |") == said.count("results: ") == 1
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    assert not [f for f in files if f.startswith((".", "lock", "failed"))]
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert table.method.tolist() == ["ERM", "MaskTune"]
    metrics = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    keys = ["method", "seed", "weights", "epoch", "split", "metric"]
    assert not metrics.duplicated(keys).any(), "no number is there twice"
    process = team_of_two(*words)  # it is done, and nothing is written again
    again, _ = process.communicate()
    assert process.returncode == 0 and again == said
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    assert now == files


@pytest.mark.slow
def test_what_two_processes_cannot_do_is_said_without_a_traceback(tmp_path):
    photos = make_miniature("folder", tmp_path / "data", n=8) / "photos"
    for file in photos.rglob("*.*"):
        file.write_text("no picture")
    words = [
        "fit",
        photos,
        "--threads",
        1,
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    ]
    _, errors = team_of_two(*words).communicate()
    ours = [line for line in errors.splitlines() if line.startswith("masktune: ")]
    assert ours and all("images can't be read" in line for line in ours), errors
    assert "not foreseen" not in errors
    assert not list((tmp_path / "run").glob("lock.*"))
