"One loop for all methods: what it records, what it leaves out, and a second start."

import json

import pandas as pd
import pytest
import torch

from masktune.data.glyphs import make_glyphs
from masktune.evaluation.metrics import evaluate
from masktune.methods.last_layer import LastLayerRetraining
from masktune.models.zoo import create_model
from masktune.plots.sheets import plot_saliency_comparison
from masktune.runs.compare import Comparison, compare_methods
from masktune.runs.measure import evaluate_networks
from masktune.runs.parameters import _checked_parameters
from masktune.runs.settings import METHOD_BUILDERS, build_methods, resolve_settings
from masktune.runs.settings import subsample

GIVEN = dict(
    scale="mini",
    method="all",
    epochs=None,
    lr=0.02,
    batch_size=64,
    finetune_lr=None,
    n_std=2.0,
    iterations=1,
    weights="last",
    seed=0,
    n_seeds=1,
    device="cpu",
)


def settings(out, **given):
    parameters = GIVEN | dict(out=str(out)) | given
    return resolve_settings(parameters, mini=dict(epochs=1), full=dict(epochs=9))


def letters(seed):
    return make_glyphs("AB", n=200, size=28, spurious_correlation=0.9, seed=seed)


def start(bench, seed):
    return create_model("small_cnn", 2, seed=seed)


def compared(s, bench=letters):
    return compare_methods(bench, start, build_methods(s), s)


def test_what_is_given_wins_over_the_scale(tmp_path):
    assert settings(tmp_path).epochs == 1
    assert settings(tmp_path, scale="full").epochs == 9
    assert settings(tmp_path, epochs=3).epochs == 3
    with pytest.raises(ValueError, match="scale='tiny' is not known"):
        settings(tmp_path, scale="tiny")


def test_names_in_any_case_and_unknown_ones(tmp_path):
    s = settings(tmp_path, method="dfr, masktune")
    assert list(build_methods(s)) == ["ERM", "MaskTune", "DFR"]
    with pytest.raises(ValueError, match="Did you mean 'MaskTune'"):
        build_methods(settings(tmp_path, method="ERM,MaskTun"))


def test_a_builder_of_ones_own(tmp_path):
    def mine(s, common, training):
        return LastLayerRetraining(l2=1.0, **common)

    built = build_methods(settings(tmp_path, method="Mine"), Mine=mine)
    assert built["Mine"](3).l2 == 1.0 and built["Mine"](3).seed == 3


def test_every_builder_passes_the_settings_on(tmp_path):
    s = settings(tmp_path, epochs=7, n_std=1.5, finetune_lr=0.003, iterations=2)
    built = {name: build(5) for name, build in build_methods(s).items()}
    assert list(built) == list(METHOD_BUILDERS)
    assert {m.seed for m in built.values()} == {5}
    for name in ("ERM", "ULE", "JTT", "GroupDRO"):
        assert (built[name].epochs, built[name].lr) == (7, 0.02), name
    for name in ("MaskTune", "RandomMask"):
        assert (built[name].epochs, built[name].lr) == (1, 0.003), name
        assert (built[name].n_std, built[name].init_from) == (1.5, "last"), name
    assert built["MaskTune"].iterations == 2
    assert built["NeuronTune"].tune_on == "train"
    assert built["NeuronTune-val"].tune_on == "val"
    assert built["LastLayerRetraining-val"].tune_on == "val"


def test_a_subsample_is_spread_over_each_split():
    bench = letters(0)
    small = subsample(bench, 30)
    step = -(-len(bench.train) // 30)
    assert len(small.train) <= 30
    assert torch.equal(small.train.labels, bench.train.labels[::step])


def test_rows_of_what_was_asked_for_and_their_difference(tmp_path):
    s = settings(tmp_path, method="ERM,LastLayerRetraining", n_seeds=2)
    found = compared(s)
    column = "balanced accuracy"
    each = found.wide(column, "minutes")
    assert each.method.tolist() == ["ERM", "LastLayerRetraining"] * 2
    assert each.seed.tolist() == [0, 0, 1, 1]
    at = each.pivot(index="seed", columns="method", values=column)
    text = found.table(column, title="two methods", against="ERM").data
    assert f"{(at.LastLayerRetraining - at.ERM).mean():+.1f}" in text
    assert text == (tmp_path / "table.md").read_text().rstrip("\n")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.method.tolist() == each.method.tolist()
    images = pd.read_parquet(tmp_path / "predictions.parquet").query(
        "method == 'ERM' and seed == 1 and weights == 'last' and split == 'balanced'"
    )
    # both files hold the same result
    accuracy = (images.label == images.predicted).mean()
    assert accuracy == pytest.approx(at.ERM[1] / 100)


def test_erm_has_no_rows_unless_it_was_asked_for_and_a_refusal_is_noted(tmp_path):
    def without_groups(seed):
        bench = letters(seed)
        bench.val.groups = None
        return bench

    s = settings(tmp_path, method="LastLayerRetraining,DFR")
    found = compared(s, without_groups)
    assert found.metrics.method.unique().tolist() == ["LastLayerRetraining"]
    assert list(found.fitted) == ["ERM", "LastLayerRetraining"]
    assert found.refused.method.tolist() == ["DFR"]
    assert "DFR needs the groups" in found.refused.why[0]
    s = settings(tmp_path / "alone", method="DFR")
    with pytest.raises(ValueError, match="DFR needs the groups"):
        compared(s, without_groups)  # the only method that was asked for


def test_a_second_start_finds_everything_done(tmp_path, monkeypatch):
    s = settings(tmp_path, method="ERM,MaskTune")
    first = compared(s).metrics
    monkeypatch.setattr(
        "torch.Tensor.backward", lambda *a, **k: pytest.fail("it trained again")
    )
    clock = tmp_path / "checkpoints" / "0" / "ERM" / "minutes.json"
    kept = json.loads(clock.read_text())
    clock.write_text(json.dumps(kept | dict(minutes=60)))
    again = compared(s).metrics
    numbers = first.metric != "minutes"
    pd.testing.assert_frame_equal(first[numbers], again[numbers])
    minutes = again[~numbers & (again.method == "ERM")].value
    assert minutes.between(60, 61).all(), "those of the first start are counted"


def test_heads_are_measured_on_features_as_on_images(tmp_path):
    s = settings(tmp_path, method="LastLayerRetraining")
    found = compared(s)
    on_images = evaluate(
        found.net("LastLayerRetraining"), letters(0).tests["balanced"]
    ).accuracy
    on_features = found.wide("balanced accuracy")["balanced accuracy"][0] / 100
    assert abs(on_features - on_images) <= 0.02  # features are half floats


def test_both_weights_the_history_and_a_gap(tmp_path):
    found = compared(settings(tmp_path, method="ERM", epochs=2))
    losses = found.metrics[found.metrics.metric == "loss"]
    assert losses.epoch.tolist() == [1, 2]
    assert set(found.metrics.weights) == {"best", "last"}
    found.derive(lambda a: dict(gap=a["aligned accuracy"] - a["reversed accuracy"]))
    wide = found.wide("aligned accuracy", "reversed accuracy", "gap")
    difference = wide["aligned accuracy"][0] - wide["reversed accuracy"][0]
    assert wide.gap[0] == pytest.approx(difference)
    with pytest.raises(ValueError, match="Did you mean 'gap'"):
        found.wide("gapp")
    figure = plot_saliency_comparison(
        {"ERM": found.net("ERM")}, letters(0).tests["balanced"], each=1
    )
    assert len(figure.axes) >= 3 * 4


def test_numbers_are_those_of_evaluate(tmp_path):
    bench, net = letters(0), start(None, 0)
    numbers, predictions = evaluate_networks(dict(last=net), bench, method="ERM")
    report = evaluate(net, bench.tests["balanced"], bench.train)
    at = numbers[numbers.split == "balanced"].set_index("metric").value
    for name in ("accuracy", "worst_group_accuracy", "reweighted_accuracy"):
        assert at[name] == pytest.approx(getattr(report, name)), name
    assert numbers.columns[0] == predictions.columns[0] == "method"


def test_an_empty_comparison_says_so(tmp_path):
    with pytest.raises(ValueError, match="nothing has been measured yet"):
        Comparison(tmp_path).wide("accuracy")


class Notes:
    "A tracker that remembers"

    def init(self, **settings):
        self.settings, self.rows, self.over = settings, [], False

    def log(self, numbers):
        self.rows.append(numbers)

    def finish(self):
        self.over = True


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_tracker_that_is_named_gets_every_epoch(tmp_path, monkeypatch, name):
    notes = Notes()
    monkeypatch.setattr("masktune.runs.settings.tracker_by_name", lambda n: notes)
    s = settings(tmp_path, method="ERM", epochs=2, tracker=name)
    compared(s)
    assert notes.over and [row["epoch"] for row in notes.rows] == [1, 2]
    told = notes.settings
    assert told["project"] == "masktune" and told["config"]["lr"] == "0.02"
    # only TensorBoard writes into a folder; wandb's init would refuse the name
    assert ("folder" in told) == (name == "tensorboard")


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'wandb'"):
        compared(settings(tmp_path, method="ERM", tracker="wandbb"))


@pytest.mark.parametrize("experiment", ["biased_mnist", "waterbirds", "selective"])
def test_experiments_take_any_device_and_known_trackers(experiment):
    given = dict(device="cuda:1", tracker="wandb")
    checked = _checked_parameters(experiment, given)
    assert (checked["device"], checked["tracker"]) == ("cuda:1", "wandb")
    with pytest.raises(ValueError, match="tracker='nowhere' is not known"):
        _checked_parameters(experiment, dict(tracker="nowhere"))
