"Experiments through papermill, with tiny parameters, as a user runs them; and README's lines."

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import masktune.all
from masktune.models.zoo import load_model
from masktune.runs.execute import run_experiment
from masktune.runs.parameters import experiment_parameters, list_experiments
from masktune.runs.record import run_hash

MASKTUNE = Path(sysconfig.get_path("scripts")) / "masktune"
NAMES = (
    "scale data root download bias exceptions bias_conflicting val_bias_conflicting "
    "epochs batch_size lr finetune_lr n_std iterations accumulate method seed n_seeds "
    "other_exceptions tracker device out"
).split()


MINI = dict(
    own_folder=["accuracy", "worst_class_accuracy"],
    audit=["accuracy"],
    audit_truth=["shortcut detected, all", "sign of MaskTune's gain right, all"],
    selective=["error at 90 %", "AURC"],
    spuriosity_imagenet=["spurious gap"],
    spurious_gaps=["gap", "accuracy"],
    choosing=["worst_group_accuracy", "hidden", "transplant"],
    backgrounds_challenge=["BG gap"],
    group_benchmark=["reweighted_accuracy", "worst_group_accuracy"],
    urbancars=["BG+CoObj gap", "worst_group_accuracy"],
    waterbirds=["reweighted_accuracy", "worst_group_accuracy"],
    celeba=["reweighted_accuracy", "worst_group_accuracy"],
    spawrious=["worst_group_accuracy"],
    comparison=["worst_group_accuracy"],
    ablations=["accuracy"],
    masking=["worst_group_accuracy"],
    biased_mnist=["worst_group_accuracy"],
)
COLUMNS = [
    "method",
    "seed",
    "validation",
    "original",
    "aligned",
    "reversed",
    "balanced_worst",
]
LONG = [
    "data",
    "method",
    "seed",
    "labels_used",
    "weights",
    "epoch",
    "split",
    "metric",
    "value",
]


@pytest.mark.parametrize("name", MINI)
def test_every_experiment_in_miniature(name, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "MPLBACKEND", "agg"
    )  # as many CI machines have it: the notebook must show its figures all the same
    few = ("celeba", "urbancars", "spawrious", "group_benchmark")
    few = dict.fromkeys(few, "ERM,MaskTune") | dict(comparison="ERM,MaskTune,AFR")
    # all methods are tried on waterbirds
    given = dict(method=few[name]) if name in few else {}
    executed = run_experiment(name, tmp_path, scale="mini", device="cpu", **given)
    numbers, images = (
        pd.read_parquet(tmp_path / f"{f}.parquet")
        for f in ("metrics", "predictions")
    )
    assert (
        set(numbers.columns) == set(LONG)
        and set(MINI[name]) <= set(numbers.metric)
        and numbers.value.notna().all()
    )
    assert {"method", "seed", "weights", "split", "id", "label"} <= set(
        images.columns
    ) and len(images)
    if name == "biased_mnist":
        assert list(pd.read_csv(tmp_path / "table.csv").columns) == COLUMNS
    config = json.loads((tmp_path / "config.json").read_text())
    assert (
        config["parameters"]["scale"] == "mini"
        and config["environment"]["torch"]
        and config["data"]
    )
    shown = [
        c
        for c in nbformat.read(executed, 4).cells
        if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))
    ]
    assert (
        shown
        and all("fig-alt" in c.source for c in shown)
        and "<img" in (tmp_path / "report.html").read_text()
    )


def test_selective_without_a_pair(tmp_path):
    run_experiment(
        "selective",
        tmp_path,
        scale="mini",
        method="SelectiveNet",
        epochs=1,
        device="cpu",
    )
    assert (
        pd.read_csv(tmp_path / "table.csv").method.tolist() == ["SelectiveNet"]
        and "Other ways" not in (tmp_path / "table.md").read_text()
    )


def test_nothing_is_left_out():
    assert set(MINI) == set(list_experiments()) - {"bench", "scale"}


@pytest.mark.slow
def test_scale_is_measured_in_miniature(tmp_path):
    run_experiment("scale", tmp_path, scale="mini")
    table = pd.read_csv(tmp_path / "scale.csv")
    assert set(table.n) == {200, 400} and len(table) == 2 * table.step.nunique()
    assert (table.seconds >= 0).all() and (table.mb >= 0).all()


def test_group_benchmarks_share_a_notebook():
    known = list_experiments()
    for name in ("waterbirds", "celeba", "spawrious", "urbancars"):
        assert known[name] == known["group_benchmark"]
        assert experiment_parameters(name).default["data"] == repr(name)
        assert run_hash(name) == run_hash("group_benchmark", data=name)
        with pytest.raises(ValueError, match=f"There are: {name}"):
            run_hash(name, data="celeba" if name != "celeba" else "waterbirds")
    assert run_hash("celeba") != run_hash("waterbirds")


def test_no_parameter_hides_an_export():
    for name in list_experiments():
        assert not set(experiment_parameters(name).index) & set(
            vars(masktune.all)
        ), name


@pytest.mark.slow
def test_biased_mnist_leaves_its_table(tmp_path):
    run_experiment(
        "biased_mnist",
        tmp_path,
        scale="mini",
        n_seeds=2,
        seed=4,
        bias_conflicting=0.05,
        device="cpu",
    )
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table.columns) == COLUMNS
    assert (
        table.method.tolist() == ["ERM", "RandomMask", "MaskTune"] * 2
        and table.seed.tolist() == [4] * 3 + [5] * 3
    )
    assert table.iloc[:, 2:].to_numpy().max() <= 100 and table.aligned.max() > 50
    assert (tmp_path / "figure.png").stat().st_size > 10_000 and (
        tmp_path / "table.md"
    ).read_text().count("±") > 10


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(
            dict(bias="two_squares", method="MaskTune", iterations=2),
            marks=pytest.mark.slow,
        ),
        pytest.param(dict(bias="none", method="ERM"), marks=pytest.mark.slow),
        pytest.param(
            dict(bias="foreground", exceptions="random", val_bias_conflicting=0.5),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_biased_mnist_other_parameters(tmp_path, given):
    run_experiment("biased_mnist", tmp_path, epochs=1, device="cpu", **given)
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.method.tolist() == {
        "ERM": ["ERM"],
        "MaskTune": ["MaskTune", "MaskTune ×2"],
    }.get(given.get("method"), ["ERM", "RandomMask", "MaskTune"])


def test_parameters_are_the_agreed_ones():
    assert list(experiment_parameters("biased_mnist").index) == NAMES


@pytest.mark.parametrize(
    "given,says",
    [
        (
            ["-p", "epocs=3"],
            "parameter='epocs' is not known. Did you mean 'epochs'?",
        ),
        (["-p", "epochs"], "-p epochs must be KEY=VALUE"),
    ],
    ids=str,
)
def test_mistakes_are_refused_before_anything_starts(tmp_path, given, says):
    done = subprocess.run(
        [MASKTUNE, "run", "biased_mnist", "--out", tmp_path / "run", *given],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode
        and says in done.stderr
        and "Traceback" not in done.stderr
        and not (tmp_path / "run").exists()
    )


@pytest.mark.parametrize(
    "given,says",
    [
        (
            dict(data="full", root="/nowhere"),
            "there is no MNIST in /nowhere/MNIST/raw",
        ),
        pytest.param(
            dict(bias="sqare"),
            "bias='sqare' is not known. Did you mean 'square'?",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dict(bias_conflicting=1.5),
            "bias_conflicting=1.5 must be between 0 and 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dict(method="mask_tune"),
            "method='mask_tune' is not known. Did you mean 'MaskTune'?",
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_wrong_values_are_one_sentence(tmp_path, given, says):
    args = [f"-p{k}={v}" for k, v in given.items()]
    done = subprocess.run(
        [MASKTUNE, "run", "biased_mnist", "--out", tmp_path, *args],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode
        and says in done.stderr
        and len(done.stderr.strip().splitlines()) == 1
    )


def photos(folder, size):
    "Two classes of noise, dark and light, with twelve images each"
    g = np.random.default_rng(0)
    for name, shade in (("cat", 60), ("dog", 190)):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = g.normal(shade, 40, (*size, 3)).clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_readme_on_a_folder_of_images(tmp_path, monkeypatch):
    "README's lines for one's own images run as they are, on a small network"
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = re.search(r"```python\n(from masktune.all.*?)```", text, re.S).group(1)
    photos(tmp_path / "photos", (40, 50))
    monkeypatch.chdir(tmp_path)
    small = code.replace(
        'create_model("resnet18", bench.n_classes, pretrained=True)',
        'create_model("small_cnn", bench.n_classes)',
    )
    assert small != code
    *lines, last = small.strip().splitlines()
    variables = {}
    exec("\n".join(lines), variables)
    report = eval(last, variables)
    assert len(variables["bench"].train) == 16
    assert report.worst_group_accuracy is None and 0 <= report.accuracy <= 1


def local_hub(folder):
    "A tiny ViT and a tiny copy of beans, in folders named as on the hub"
    import datasets
    import transformers

    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_labels=5,
    )
    name = folder / "google" / "vit-base-patch16-224"
    transformers.ViTForImageClassification(config).save_pretrained(name)
    size = dict(height=32, width=32)
    transformers.ViTImageProcessor(size=size).save_pretrained(name)
    kinds = ["angular_leaf_spot", "bean_rust", "healthy"]
    features = datasets.Features(
        image_file_path=datasets.Value("string"),
        image=datasets.Image(),
        labels=datasets.ClassLabel(names=kinds),
    )
    data = folder / "AI-Lab-Makerere" / "beans" / "data"
    data.mkdir(parents=True)
    for part, n in (("train", 12), ("validation", 6), ("test", 6)):
        shades = [60 + 60 * (i % 3) for i in range(n)]
        columns = dict(
            image_file_path=[f"/home/me/{part}/{i}.jpg" for i in range(n)],
            image=[Image.new("RGB", (50, 40), (0, s, i)) for i, s in enumerate(shades)],
            labels=[i % 3 for i in range(n)],
        )
        table = datasets.Dataset.from_dict(columns, features)
        table.to_parquet(data / f"{part}-00000-of-00001.parquet")


def test_readme_with_hugging_face(tmp_path, monkeypatch):
    "README's lines for a network and a data set of the hub run as they are, on local folders"
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("transformers")
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = re.search(r"```python\n(from datasets.*?)```", text, re.S).group(1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    variables = {}
    with torch.random.fork_rng(devices=[]):
        local_hub(tmp_path)
        exec(code, variables)
    bench, tuned = variables["bench"], variables["tuned"]
    assert {k: len(s) for k, s in bench.splits.items()} == dict(train=12, val=6, test=6)
    assert bench.class_names == ["angular_leaf_spot", "bean_rust", "healthy"]
    assert bench.train.image_size == (32, 32)
    again = load_model(tmp_path / "tuned", network=variables["vit"])
    x = bench.train.images / 255
    expected = tuned.model_.eval().logits(x)
    assert torch.allclose(again.logits((x - 0.5) / 0.5), expected, atol=1e-4)


def test_fit_a_folder_from_the_command_line(tmp_path):
    photos(tmp_path / "photos", (28, 28))
    out = tmp_path / "run"
    given = "--network small_cnn --epochs 2 --batch-size 8 --size 28".split()
    done = subprocess.run(
        [MASKTUNE, "fit", tmp_path / "photos", *given, "--out", out],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "MaskTune" in done.stdout, done.stderr
    table = pd.read_csv(out / "table.csv")
    assert {"ERM", "MaskTune"} <= set(table.method) and (out / "erm.pt").exists()
    done = subprocess.run(
        [MASKTUNE, "fit", tmp_path / "photo"], capture_output=True, text=True
    )
    assert (
        done.returncode
        and f"there is no folder {tmp_path / 'photo'}" in done.stderr
    )
