"One loop for all methods: what it records, what it leaves out, and that a second start finds everything done."

import json

import pandas as pd
import pytest

from masktune.evaluation.metrics import evaluate

TOLD = dict(
    scale="mini",
    method="all",
    epochs=None,
    lr=0.02,
    batch_size=64,
    finetune_lr=None,
    k=2.0,
    iterations=1,
    weights="last",
    seed=0,
    n_seeds=1,
    device="cpu",
)


def asked(out, **given):
    return settled(
        TOLD | dict(out=str(out)) | given, mini=dict(epochs=1), full=dict(epochs=9)
    )


def data(seed):
    return glyphs("AB", n=200, size=28, spurious_correlation=0.9, seed=seed)


def start(bench, seed):
    return create("small_cnn", 2, seed=seed)


def test_what_is_given_wins_over_the_scale(tmp_path):
    assert (
        asked(tmp_path).epochs == 1
        and asked(tmp_path, scale="full").epochs == 9
        and asked(tmp_path, epochs=3).epochs == 3
    )
    with pytest.raises(ValueError, match="scale='tiny' is not known"):
        asked(tmp_path, scale="tiny")


def test_names_in_any_case_and_unknown_ones(tmp_path):
    assert list(chosen_methods(asked(tmp_path, method="dfr, masktune"))) == [
        "ERM",
        "MaskTune",
        "DFR",
    ]
    with pytest.raises(
        ValueError, match="method='MaskTun' is not known. Did you mean 'MaskTune'"
    ):
        chosen_methods(asked(tmp_path, method="ERM,MaskTun"))
    own = chosen_methods(
        asked(tmp_path, method="Mine"),
        Mine=lambda s, all, whole: LastLayer(l2=1.0, **all),
    )
    assert own["Mine"](3).l2 == 1.0 and own["Mine"](3).seed == 3


def test_rows_of_what_was_asked_for_and_their_difference(tmp_path):
    s = asked(tmp_path, method="ERM,LastLayer", n_seeds=2)
    found = compare(data, start, chosen_methods(s), s)
    each = found.wide("balanced accuracy", "minutes")
    assert each.method.tolist() == [
        "ERM",
        "LastLayerRetraining",
    ] * 2 and each.seed.tolist() == [0, 0, 1, 1]
    at = each.pivot(index="seed", columns="method", values="balanced accuracy")
    text = found.table("balanced accuracy", title="two methods", against="ERM").data
    assert f"{(at.LastLayer - at.ERM).mean():+.1f}" in text and text == (
        tmp_path / "table.md"
    ).read_text().rstrip("\n")
    assert (
        pd.read_csv(tmp_path / "table.csv").method.tolist() == each.method.tolist()
    )
    images = pd.read_parquet(tmp_path / "predictions.parquet").query(
        "method == 'ERM' and seed == 1 and weights == 'last' and split == 'balanced'"
    )
    assert (images.label == images.predicted).mean() == pytest.approx(
        at.ERM[1] / 100
    )  # the two files tell the same


def test_erm_has_no_rows_unless_it_was_asked_for_and_a_refusal_is_noted(tmp_path):
    def without(seed):
        b = data(seed)
        b.val.groups = None
        return b

    s = asked(tmp_path, method="LastLayer,DFR")
    found = compare(without, start, chosen_methods(s), s)
    assert found.metrics.method.unique().tolist() == [
        "LastLayerRetraining"
    ] and list(found.fitted) == ["ERM", "LastLayerRetraining"]
    assert (
        found.refused.method.tolist() == ["DFR"]
        and "DFR needs the groups" in found.refused.why[0]
    )
    s = asked(tmp_path / "alone", method="DFR")
    with pytest.raises(ValueError, match="DFR needs the groups"):
        compare(
            without, start, chosen_methods(s), s
        )  # the only one that was asked for


def test_a_second_start_finds_everything_done(tmp_path, monkeypatch):
    s = asked(tmp_path, method="ERM,MaskTune")
    first = compare(data, start, chosen_methods(s), s).metrics
    monkeypatch.setattr(
        "torch.Tensor.backward", lambda *a, **k: pytest.fail("it trained again")
    )
    clock = tmp_path / "checkpoints" / "0" / "ERM" / "minutes.json"
    clock.write_text(json.dumps(json.loads(clock.read_text()) | dict(minutes=60)))
    again = compare(data, start, chosen_methods(s), s).metrics
    kept = first.metric != "minutes"
    pd.testing.assert_frame_equal(first[kept], again[kept])
    assert (
        again[~kept & (again.method == "ERM")].value.between(60, 61).all()
    )  # those of the first start are counted


def test_heads_are_measured_on_features_as_on_images(tmp_path):
    s = asked(tmp_path, method="LastLayerRetraining")
    found = compare(data, start, chosen_methods(s), s)
    on_images = evaluate(
        found.net("LastLayerRetraining"), data(0).tests["balanced"]
    ).accuracy
    assert (
        abs(
            found.wide("balanced accuracy")["balanced accuracy"][0] / 100
            - on_images
        )
        <= 0.02
    )  # features are half floats


def test_both_weights_the_history_and_a_gap(tmp_path):
    s = asked(tmp_path, method="ERM", epochs=2)
    found = compare(data, start, chosen_methods(s), s)
    assert found.metrics.query("metric == 'loss'").epoch.tolist() == [1, 2] and set(
        found.metrics.weights
    ) == {"best", "last"}
    found.derive(lambda a: dict(gap=a["aligned accuracy"] - a["reversed accuracy"]))
    w = found.wide("aligned accuracy", "reversed accuracy", "gap")
    assert w.gap[0] == pytest.approx(
        w["aligned accuracy"][0] - w["reversed accuracy"][0]
    )
    with pytest.raises(ValueError, match="Did you mean 'gap'"):
        found.wide("gapp")
    figure = looks({"ERM": found.net("ERM")}, data(0).tests["balanced"], each=1)
    assert len(figure.axes) >= 3 * 4
