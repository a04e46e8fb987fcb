"""Hundreds of command lines and calls that nobody would write.

The rule: the right result or one of our sentences; never a traceback, a hang,
or a file outside the folder."""

import contextlib
import io
import json
import math
import os
import signal
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import masktune
from masktune import ERM, JTT, ULE, Augment, Benchmark, GroupDRO, MaskTune, Network
from masktune import SaliencyMaps, SaliencyMasks, audit, biased_mnist
from masktune import load_benchmark, make_glyphs, wrap
from masktune import SelectiveNet, Split, cam, compute_maps, create_model, evaluate
from masktune import load_model, overlay_heatmap, plot_bars, plot_curves, plot_grid
from masktune import plot_rows, pointing_game, predict, risk_coverage, save_model
from masktune import selective_scores
from masktune.data.planted_cues import BLUE, RED
from masktune.runs import execute, sweep as sweep_module
from masktune.runs.cli import main
from masktune.runs.record import _write_json, run_hash
from masktune.runs.status import run_status
from masktune.saliency.given_masks import GivenMasks
from throwaway import PARAMETERS, WRITES, notebook

PACKAGE = Path(masktune.__file__).parent
FEW = settings(
    max_examples=100,  # of each of five tests
    deadline=None,
    derandomize=True,  # the same in every CI; `make test-all` tries others
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=3000, derandomize=False)
SECONDS = 40  # after which an input counts as one that hangs


@contextlib.contextmanager
def a_time_limit():
    def late(*_):
        raise AssertionError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_sentence(error):
    "An error of ours: a known kind, raised by masktune's own code, in few words"
    frames = [Path(f.filename) for f in traceback.extract_tb(error.__traceback__)]
    kinds = (ValueError, TypeError, OSError, RuntimeError, ImportError)
    assert isinstance(error, kinds), repr(error)
    assert frames[-1].is_relative_to(PACKAGE), traceback.format_exception(error)
    last = traceback.extract_tb(error.__traceback__)[-1].line
    assert last.startswith("raise"), f"not raised by us: {last}: {error!r}"
    assert len(str(error)) > 10 and "Traceback" not in str(error)


# --- the command line -----------------------------------------------------------------

ODD = [
    *[
        "",
        " ",
        "-",
        "--",
        "=",
        "a=b=c",
        ",",
        ",,",
        "None",
        "True",
        "[]",
        "{}",
        "()",
    ],
    *[
        "0",
        "-1",
        "1e999",
        "-0.0",
        "nan",
        "1_0",
        "0x10",
        "9" * 30,
        "1" * 5000,
        "1+2j",
    ],
    *["{[]:1}", "[[[[", "b'x'", "...", "{1,2}", "'a", "(" * 300, "lambda: 1"],
    *["é", "\u202e", "\x1b[31m", "a\0b", "\ud800", "a\nb", "%s%n", "$(id)", "`id`"],
    *["*", "~nobody", "con", "x" * 300, "runs", "tiny.ipynb", "torn.ipynb", "file"],
]
KEYS = ["seed", "method", "share", "epochs", "out", "sed", "name", "", "é"]
word = st.one_of(st.sampled_from(ODD), st.text(max_size=8))
values = st.lists(word, min_size=1, max_size=3).map(",".join)
pair = st.builds(lambda k, v: f"{k}={v}", st.sampled_from(KEYS), values)
names = st.sampled_from(["tiny.ipynb", "torn.ipynb", "other.ipynb", "biased_mnis"])
numbers = st.one_of(st.integers(-3, 3).map(str), st.sampled_from(ODD))


def options(**kinds):
    "Some of these options, each with a value of its kind, in any order"
    one = st.one_of(*(st.tuples(st.just(f"{k}"), v) for k, v in kinds.items()))
    chosen = st.lists(one, max_size=4)
    return chosen.map(lambda found: [w for two in found for w in two])


# folders to write to are never taken from `word`: it could name a real one
outs = st.sampled_from(["runs", "runs/a", "file", "file/a", "a\0b", "x" * 300, ""])
run = st.tuples(
    st.just(["run"]),
    names.map(lambda n: [n]),
    options(
        **{"-p": pair, "--threads": numbers, "--out": outs, "--resume-as": outs}
    ),
)
grid = st.tuples(
    st.just(["sweep"]),
    names.map(lambda n: [n]),
    options(
        **{"-p": pair, "--workers": numbers, "--gpus": values, "--threads": numbers}
    ),
    options(**{"-g": pair, "--on": st.sampled_from(["local", "x", ""])}),
    pair.map(lambda p: ["-g", p]),
)
read = st.tuples(
    st.sampled_from(["status", "reproduce", "show", "table"]).map(lambda c: [c]),
    st.one_of(outs, names, st.just("stored"), st.just("stored/bad")).map(
        lambda n: [n]
    ),
)
table = st.tuples(
    st.just(["table", "stored"]),
    options(
        **{
            "--rows": word,
            "--cols": word,
            "--metric": values,
            "--split": word,
            "--where": st.one_of(word, st.just("seed < 3"), st.just("@x")),
            "--format": st.one_of(word, st.just("latex"), st.just("csv")),
            "--against": word,
            "--select": word,
        }
    ),
)
fit = st.tuples(
    st.just(["fit"]),
    st.sampled_from(["nowhere", "file", "empty", ".", "a\0b"]).map(lambda p: [p]),
    options(
        **{
            "--size": numbers,
            "--epochs": numbers,
            "--lr": numbers,
            "--batch-size": numbers,
            "--device": word,
            "--network": word,
            "--out": outs,
        }
    ),
)
nonsense = st.lists(word, max_size=4).map(lambda words: [["list"], words])
LINES = st.one_of(run, grid, read, table, fit, nonsense).map(
    lambda parts: [w for part in parts for w in part]
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with notebooks and runs; nothing is executed in it but one run"
    import masktune.runs.fit, masktune.runs.reproduce, masktune.runs.tables  # noqa: F401

    place = tmp_path_factory.mktemp("fuzz") / "here"
    place.mkdir()
    notebook(place / "tiny.ipynb", WRITES)
    (place / "torn.ipynb").write_text('{"cells": [')
    notebook(place / "other.ipynb", "1", parameters="a = b'x'\nb = 3.0  # 0 to")
    (place / "file").write_text("text")
    (place / "empty").mkdir()
    for i, text in enumerate(("{}", "[1]", '{"experiment": 3}')):
        (place / "stored" / f"bad{i}").mkdir(parents=True)
        (place / "stored" / f"bad{i}" / "run.json").write_text(text)
    execute.run_experiment(place / "tiny.ipynb", place / "stored" / "good")

    def pretended(folder, plan, lock):
        _write_json(folder, "finished.json", minutes=0, sizes={})
        (folder / f"{plan['experiment']}.ipynb").write_text("{}")

    with pytest.MonkeyPatch.context() as m:
        m.chdir(place)
        m.setenv("HOME", str(place))
        m.setattr(execute, "_execute", pretended)
        m.setattr(execute, "_LogFollower", contextlib.nullcontext)
        m.setattr(
            sweep_module,
            "_local",
            lambda folders, slots, total: [execute.resume_run(f) for f in folders],
        )
        yield place


def run_line(line, place):
    "One line in the folder; what it printed"
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        a_time_limit(),
    ):
        try:
            main(line)
        except SystemExit as e:
            if isinstance(e.code, str):
                assert e.code.startswith("masktune: "), e.code
                assert "not foreseen" not in e.code, e.code
                assert len(e.code) > 15 and "\n" not in e.code.strip(), e.code
            else:
                assert e.code in (None, 0, 1, 2)
    assert "Traceback" not in out.getvalue() + err.getvalue()
    assert os.listdir(place.parent) == ["here"], "a file outside"
    allowed = {"tiny.ipynb", "torn.ipynb", "other.ipynb", "file", "empty"}
    assert set(os.listdir(place)) <= allowed | {"stored", "runs"}
    assert not os.listdir(place / "empty")


@FEW
@given(line=LINES)
def test_command_lines(place, line):
    run_line(line, place)


@pytest.mark.slow
@MANY
@given(line=LINES)
def test_many_command_lines(place, line):
    run_line(line, place)


# --- public functions -----------------------------------------------------------------

anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(),
        st.sampled_from(ODD),
        st.text(max_size=5),
        st.binary(max_size=3),
        st.just(torch.zeros(2)),
        st.just(object()),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
    max_leaves=4,
)


def try_call(does, *args, **options):
    with a_time_limit():
        try:
            return does(*args, **options)
        except Exception as e:
            check_sentence(e)


@FEW
@given(parameter=st.sampled_from(KEYS[:4]), value=anything)
def test_parameters(place, parameter, value):
    "A value is refused or survives being written to run.json and read again"
    found = try_call(execute._plan, "tiny.ipynb", {parameter: value}, 1)
    if found:
        kept = json.loads(json.dumps(found))
        again = execute._plan("tiny.ipynb", kept["given"], 1)
        assert (
            again["hash"] == kept["hash"] == run_hash("tiny.ipynb", **kept["given"])
        )
        share = kept["parameters"]["share"]
        assert 0 <= share <= 1 and math.isfinite(share)


@FEW
@given(text=st.text(max_size=30), name=st.sampled_from(["one", "two"]))
def test_comments_of_parameters(place, text, name):
    "Whatever a comment says, the notebook can be read or is refused"
    line = f"{name} = 1  # {text}\nseed = None  # {text}"
    nb = notebook(place.parent / "here" / "tiny.ipynb", WRITES, parameters=line)
    try:
        try_call(masktune.runs.parameters.experiment_parameters, nb)
    finally:
        notebook(nb, WRITES, parameters=PARAMETERS)


@FEW
@given(
    file=st.sampled_from(["run", "finished", "config", "failed", "slurm"]),
    content=st.one_of(
        st.text(max_size=20), anything.map(lambda v: json.dumps(v, default=str))
    ),
)
def test_status_of_any_content(place, file, content):
    "A file of any content hides no other run"
    folder = place / "stored" / "any"
    _write_json(folder, "run.json", experiment="any", hash="0", given={})
    (folder / f"{file}.json").write_text(content, errors="replace")
    try:
        states = run_status(place / "stored").set_index("run").state
        assert states["good"] == "finished" and "any" in states
    finally:
        (folder / f"{file}.json").unlink()


@FEW
@given(
    on=st.one_of(st.just("local"), anything),
    workers=st.one_of(st.none(), anything),
    gpus=st.one_of(st.none(), anything),
    values=anything,
)
def test_sweeps(place, on, workers, gpus, values):
    try_call(
        masktune.sweep,
        "tiny.ipynb",
        dict(seed=values),
        out="runs",
        on=on,
        workers=workers,
        gpus=gpus,
        threads=1,
    )
    assert set(os.listdir(place.parent)) == {"here"}


# --- public functions of the library: one argument of a good call is another thing -----


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    "name -> (function, arguments of a call that works and takes no time)"
    folder = tmp_path_factory.mktemp("calls")
    images = (torch.arange(12 * 3 * 28 * 28).view(12, 3, 28, 28) * 37 % 251).byte()
    split = Split.from_tensors(images, [0, 1] * 6, [0, 0, 1, 1] * 3)
    net = create_model("small_cnn", 2)
    net.untrained = False
    predictions, maps = predict(net, split), compute_maps(net, split)
    heat, region = maps.values.float(), torch.ones(12, 28, 28, dtype=torch.bool)
    save_model(net, folder / "net.pt")
    maps.save(folder / "maps.pt")
    bars = pd.DataFrame(dict(method=["ERM"], a=[50.0]))
    few = dict(batch_size=8, seed=0)
    scores = dict(scoring=None, second=None)
    curve = dict(val=None, coverages=(1, 0.9), n_boot=10, seed=0)
    look = dict(method="xgradcam", target=None)
    maps_of = dict(masks=None, view=None, bf16=None, batch_size=4, method="gradcam")
    built = dict(pretrained=False, seed=0)
    training = dict(lr=0.01, momentum=0.9, weight_decay=0.0, label_smoothing=0.0)
    training |= dict(
        optimizer="sgd", schedule="constant", patience=None, device="cpu"
    )
    training |= few | dict(bf16=False, grad_accum_steps=1, class_weight=None)
    hiding = dict(n_std=2.0, top_fraction=None, fill="black", iterations=1)
    hiding |= dict(masks="salient", init_from=None, accumulate=False)
    named = dict(labels=split.labels, groups=split.groups, ids=None)
    named |= dict(class_names=["a", "b"], group_names=["c", "d"])
    stats = dict(mean=(0.5,) * 3, std=(0.5,) * 3)
    glyphs = dict(n=16, size=16, seed=0)
    bench = dict(train=split, val=split, tests=dict(test=split), notes=())
    audited = dict(root=None, train=None, masks=None, n=8, n_std=2.0, seed=0)
    moved = dict(scale=(0.5, 1.0), ratio=(0.7, 1.3), shift=0.0)
    return {
        "audit": (lambda **k: audit(net, split, **k), audited | dict(device=None)),
        "Benchmark": (Benchmark, dict(name="b") | bench),
        "from_datasets": (
            Benchmark.from_datasets,
            dict(train=split, seed=0, shares=(0.7, 0.15, 0.15), name="b"),
        ),
        "biased_mnist": (biased_mnist, dict(bias="square", colors=(RED, BLUE))),
        "fit": (
            lambda bench: ERM(epochs=1).fit(net, bench),
            dict(bench=few_of(split)),
        ),
        "load_benchmark": (load_benchmark, dict(name="glyphs", size=16, n=16)),
        "make_glyphs": (make_glyphs, dict(classes="AB", shortcut="none") | glyphs),
        "masks": (
            lambda **k: maps.masks(**k).apply(images / 255, torch.arange(12)),
            dict(fill="black", n_std=2.0, top_fraction=None),
        ),
        "GivenMasks": (GivenMasks, dict(masks=region, fill="black")),
        "Network": (
            Network,
            dict(backbone=net.backbone, neck=net.neck, head=net.head) | stats,
        ),
        "normalise": (
            Network.set_normalisation,
            dict(self=create_model("small_cnn", 2)) | stats,
        ),
        "predict array": (predict, dict(model=net, images=images, batch_size=4)),
        "SaliencyMasks": (SaliencyMasks, dict(maps=maps, rule={}, previous=None)),
        "Split": (Split, dict(images=images) | named),
        "wrap": (wrap, dict(net=Plain(), size=28, layer=None, head=None) | stats),
        "cam": (cam, dict(model=net, x=images[:2]) | look),
        "compute_maps": (compute_maps, dict(model=net, split=split) | maps_of),
        "create_model": (
            create_model,
            dict(name="small_cnn", n_classes=2) | built | stats,
        ),
        "evaluate": (
            evaluate,
            dict(model=net, split=split, train=None, batch_size=4),
        ),
        "load_model": (load_model, dict(path=folder / "net.pt", network=None)),
        "maps": (SaliencyMaps.load, dict(path=folder / "maps.pt")),
        "overlay": (
            overlay_heatmap,
            dict(image=images[0], heat=heat[0], strength=0.5),
        ),
        "plot_bars": (plot_bars, dict(table=bars, columns=["a"], by="method")),
        "plot_curves": (plot_curves, dict(lines=dict(a=[1, 2]), x=None)),
        "plot_grid": (plot_grid, dict(images=images[:2], columns=2, scale=1.0)),
        "plot_rows": (plot_rows, dict(columns=dict(a=images[:2]), scale=1.0)),
        "pointing_game": (pointing_game, dict(maps=heat, region=region)),
        "predict": (
            predict,
            dict(model=net, images=split, batch_size=4, transform=None),
        ),
        "risk_coverage": (risk_coverage, dict(test=predictions) | curve),
        "run_status": (run_status, dict(runs=folder)),
        "selective_scores": (selective_scores, dict(first=predictions) | scores),
        "Augment": (Augment, moved | dict(flip=0.5, degrees=0.0, pad=0)),
        "ERM": (ERM, dict(epochs=1) | training),
        "MaskTune": (MaskTune, dict(epochs=1) | training | hiding),
        "GroupDRO": (GroupDRO, dict(step_size=0.1, adjustment=0.0) | training),
        "JTT": (JTT, dict(upweight=2, first_epochs=1) | training),
        "ULE": (ULE, dict(weight=1.0, saliency_fraction=0.3) | training),
        "SelectiveNet": (SelectiveNet, dict(coverage=0.8, penalty=32.0) | training),
    }


def few_of(split):
    return Benchmark("b", split, split, {})


class Plain(torch.nn.Module):
    "A network of somebody else"

    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


# what a network may be is wide, and a function may raise what it likes
TRIED = [
    *[
        "audit",
        "Benchmark",
        "from_datasets",
        "biased_mnist",
        "fit",
        "load_benchmark",
    ],
    *["make_glyphs", "masks", "GivenMasks", "Network", "normalise"],
    *["predict array", "SaliencyMasks", "Split", "wrap"],
    *["cam", "compute_maps", "create_model", "evaluate", "load_model", "maps"],
    *["overlay", "plot_bars", "plot_curves", "plot_grid", "plot_rows"],
    *[
        "pointing_game",
        "predict",
        "risk_coverage",
        "run_status",
        "selective_scores",
    ],
    *["Augment", "ERM", "MaskTune", "GroupDRO", "JTT", "ULE", "SelectiveNet"],
]
LEFT_OUT = {"model", "network", "net", "self", "transform"}
arrays = st.sampled_from([np.zeros(3), np.array("x"), torch.zeros(2, 3, 1, 1, 1)])
others = st.one_of(anything, arrays, st.sampled_from([Path("p"), int, ODD]))


def call_with_another(calls, name, place, value):
    "The call with one argument replaced; the random state stays as it was"
    function, arguments = calls[name]
    names = sorted(arguments.keys() - LEFT_OUT)
    try_call(function, **arguments | {names[place % len(names)]: value})


@settings(FEW, max_examples=300)
@given(name=st.sampled_from(TRIED), place=st.integers(0, 99), value=others)
def test_public_functions(calls, name, place, value):
    call_with_another(calls, name, place, value)


@pytest.mark.slow
@MANY
@given(name=st.sampled_from(TRIED), place=st.integers(0, 99), value=others)
def test_public_functions_many(calls, name, place, value):
    call_with_another(calls, name, place, value)


def test_the_calls_work_as_they_are(calls):
    assert sorted(calls) == sorted(TRIED)
    for name, (function, arguments) in calls.items():
        if name in ("run_status", "normalise"):
            continue  # there are no runs; nothing is returned
        assert function(**arguments) is not None, name


# what was accepted and misread, or ended in the words of another library
MISREAD = {
    "Augment(flip=5)": dict(flip=5),
    "Augment(scale=(1, 0.5))": dict(scale=(1.0, 0.5)),
    "audit(n=-1)": dict(n=-1),
    "Benchmark(notes='abc')": dict(notes="abc"),
    "Benchmark(tests={'val': ...})": dict(tests=dict(val=None)),
    "create_model(mean=bytes)": dict(mean=(124, 116, 104)),
    "create_model(std=0)": dict(std=(0.5, 0.5, 0.0)),
    "create_model(std=None)": dict(std=None),
    "fit(bench=None)": dict(bench=None),
    "from_datasets(shares=percent)": dict(shares=(70, 15, 15)),
    "from_datasets(shares=0.5)": dict(shares=(0.5, 0.1, 0.1)),
    "load_benchmark(size=0)": dict(size=0),
    "load_benchmark(size=three)": dict(size=(3, 28, 28)),
    "make_glyphs(n=0)": dict(n=0),
    "make_glyphs(classes=None)": dict(classes=None),
    "MaskTune(fill=-1)": dict(fill=-1),
    "MaskTune(masks=None)": dict(masks=None),
    "MaskTune(init_from='x')": dict(init_from="x"),
    "MaskTune(accumulate='no')": dict(accumulate="no"),
    "masks(fill=256)": dict(fill=(255, 0, 0)),
    "ERM(bf16='no')": dict(bf16="no"),
    "ERM(augment=5)": dict(augment=5),
    "ERM(device=5.5)": dict(device=5.5),
    "Network(mean of two)": dict(mean=(0.5, 0.5)),
    "predict(transform=5)": dict(transform=5),
    "predict(transform=len)": dict(transform=len),
    "predict array(batch_size=0)": dict(batch_size=0),
    "Split(labels)": dict(labels=torch.arange(3)),
    "Split(labels too high)": dict(labels=torch.full((12,), 7)),
    "Split(images)": dict(images=torch.zeros(12, 3, 4, 4)),
    "wrap(size='x')": dict(size="x"),
    "wrap(size=-1)": dict(size=-1),
    "wrap(mean of four)": dict(mean=(0.5,) * 4, std=(0.5,) * 4),
    "SelectiveNet(coverage=0)": dict(coverage=0),
    "SelectiveNet(alpha=0)": dict(alpha=0),
}


@pytest.mark.parametrize("case", MISREAD)
def test_what_was_misread_is_refused(calls, case):
    "Each of these used to be accepted, or raised an error of torch, NumPy or Python"
    function, arguments = calls[case.partition("(")[0]]
    if case.startswith(("ERM", "MaskTune", "SelectiveNet")):
        _, bench = calls["fit"]
        net = calls["predict"][1]["model"]

        def fitted(**settings):
            return function(**settings).fit(net, bench["bench"])

        does = fitted
    else:
        does = function
    with pytest.raises((ValueError, TypeError)) as found:
        does(**arguments | MISREAD[case])
    check_sentence(found.value)


def test_a_wrapped_network_takes_no_more_options():
    net = create_model("small_cnn", 2)
    with pytest.raises(ValueError, match="is a Network already"):
        wrap(net, mean=(0.5,) * 3, std=(0.5,) * 3)
