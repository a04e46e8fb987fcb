"Tables over many runs, against made-up numbers of known answers: means, paired differences, Holm, selection rules, and nothing averaged or missing unsaid."

import json, shutil, sys, types
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from masktune.core.files import fingerprint, resolve_path
from masktune.core.random import make_generator
from masktune.data.benchmark import Benchmark
from masktune.data.split import Split
from masktune.evaluation.metrics import Predictions
from masktune.methods.erm import ERM
from masktune.methods.masktune import MaskTune
from masktune.models.zoo import create_model
from masktune.runs.results import SELECTION_RULES, apply_selection
from masktune.runs.results import metrics_from_predictions, read_metrics
from masktune.runs.tables import (
    _bootstrap_interval,
    _wide,
    _wilcoxon,
    holm_correction,
)
from masktune.runs.tables import results_table, with_published
from masktune.training.trackers import TensorBoard, log_to


def row(
    value,
    metric="worst_group_accuracy",
    split="test",
    method="ERM",
    seed=0,
    weights="best",
    data="birds",
    epoch=None,
    sees="class labels",
):
    return dict(
        data=data,
        method=method,
        seed=seed,
        labels_used=sees,
        weights=weights,
        epoch=epoch,
        split=split,
        metric=metric,
        value=value,
    )


def write(folder, rows, **config):
    folder.mkdir(parents=True)
    pd.DataFrame(rows).astype(dict(epoch="Int64")).to_parquet(
        folder / "metrics.parquet"
    )
    (folder / "config.json").write_text(
        json.dumps(dict(parameters={}, commit="abc") | config)
    )


PLAIN, TUNED = (
    [0.30, 0.32, 0.28, 0.31, 0.29, 0.33],
    [0.50, 0.56, 0.44, 0.54, 0.46, 0.53],
)


@pytest.fixture
def runs(tmp_path):
    "Six seeds, each in a folder of its own: ERM and MaskTune"
    for s in range(6):
        write(
            tmp_path / f"run{s}",
            [row(PLAIN[s], seed=s), row(TUNED[s], seed=s, method="MaskTune")],
            parameters=dict(epochs=20, seed=s, method="all", out=f"run{s}"),
        )
    return tmp_path


def cell(t, method="MaskTune", **where):
    return (
        t.frame[
            (t.frame[list(where)] == pd.Series(where)).all(axis=1)
            & (t.frame.method == method)
        ].iloc[0]
        if where
        else t.frame[t.frame.method == method].iloc[0]
    )


def test_read_joins_numbers_and_parameters(tmp_path):
    write(
        tmp_path / "a",
        [row(0.5)],
        parameters=dict(lr=0.1, epochs=None, seed=7, data="sample", layers=[1, 2]),
        settings=dict(epochs=20),
    )
    write(
        tmp_path / "deep" / "b",
        [row(0.6), row(0.7, epoch=3)],
        parameters=dict(lr=0.01, k=2.0),
    )
    m = read_metrics(tmp_path)
    assert (
        m.run.tolist() == ["a", "deep/b", "deep/b"]
        and m.value.tolist() == [0.5, 0.6, 0.7]
        and m.lr.tolist() == [0.1, 0.01, 0.01]
    )
    assert m.epochs[0] == 20, (
        "what a setting was resolved to, not the None that was given"
    )
    assert (
        m.given_seed[0] == 7
        and m.seed[0] == 0
        and m.given_data[0] == "sample"
        and m.data[0] == "birds"
        and m.layers[0] == "[1, 2]"
    )
    assert (
        pd.isna(m.k[0])
        and m.epoch.isna().tolist() == [True, True, False]
        and m.epoch[2] == 3
        and m.attrs["skipped"] == []
    )


@pytest.mark.parametrize(
    "name,break_,why",
    [
        (
            "metrics.parquet",
            lambda f: f.write_bytes(f.read_bytes()[:200]),
            "damaged",
        ),
        ("metrics.parquet", lambda f: f.write_bytes(b""), "damaged"),
        (
            "metrics.parquet",
            lambda f: (
                pd.DataFrame([row(1.0)]).drop(columns="labels_used").to_parquet(f)
            ),
            "no column sees",
        ),
        (
            "config.json",
            lambda f: f.write_text('{"parameters": {'),
            "config.json is damaged",
        ),
        ("config.json", lambda f: f.unlink(), "no config.json"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_there(
    runs, name, break_, why
):
    break_(runs / "run2" / name)
    with pytest.warns(UserWarning, match=f"run2: .*{why}"):
        m = read_metrics(runs)
    assert (
        sorted(m.seed.unique()) == [0, 1, 3, 4, 5] and len(m.attrs["skipped"]) == 1
    )
    t = results_table(m, against="ERM")
    assert cell(t).n == 5 and any("run2" in n for n in t.notes) and "run2" in str(t)


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        read_metrics(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="found none"):
        read_metrics(tmp_path)


def test_means_and_paired_differences(runs):
    t = results_table(runs, against="ERM")
    d = np.array(TUNED) - np.array(PLAIN)
    c = cell(t)
    assert (
        np.isclose(c["mean"], np.mean(TUNED))
        and np.isclose(c.sd, np.std(TUNED, ddof=1))
        and c.n == 6
        and c.seeds == [0, 1, 2, 3, 4, 5]
    )
    assert (
        np.isclose(c.difference, d.mean())
        and np.isclose(c.p, stats.wilcoxon(d).pvalue)
        and c.p == c.p_holm == 2 / 64
    )
    assert d.min() < c.low < d.mean() < c.high < d.max() and (
        c.low,
        c.high,
    ) == tuple(_bootstrap_interval(d)), "the same interval each time"
    assert (
        np.isnan(cell(t, "ERM").difference)
        and f"{100 * np.mean(TUNED):.1f} ± {100 * np.std(TUNED, ddof=1):.1f}"
        in str(t)
        and "n = 6 seeds" in t.caption
    )


def test_pairs_are_seeds_and_not_places(tmp_path):
    for s in (3, 1, 2):
        write(tmp_path / f"erm{s}", [row(s / 10, seed=s)])
    for s in (2, 3, 4):
        write(
            tmp_path / f"tuned{s}", [row(s / 10 + 0.05, seed=s, method="MaskTune")]
        )
    t = results_table(tmp_path, against="ERM")
    assert (
        np.isclose(cell(t).difference, 0.05)
        and cell(t).pairs == 2
        and cell(t).n == 3
    )
    assert (
        "MaskTune on birds: no seed 1." in t.notes
        and "ERM on birds: no seed 4." in t.notes
        and "n=2" in str(t)
    )
    assert np.isnan(cell(t).p) and "no p-values" in str(t)


def test_holm_and_wilcoxon_by_hand():
    assert np.allclose(
        holm_correction([0.01, 0.04, 0.03, np.nan, 0.005]),
        [0.03, 0.06, 0.06, np.nan, 0.02],
        equal_nan=True,
    )
    assert (
        np.allclose(holm_correction([0.5, 0.9]), [1, 1])
        and np.isnan(holm_correction([np.nan])).all()
    )
    assert (
        np.isnan(_wilcoxon([1, 2, 3, 4, 5]))
        and _wilcoxon([0] * 6) == 1
        and _wilcoxon([1, 2, 3, 4, 5, 6]) == 2 / 64
    )


def test_several_comparisons_are_corrected_together(runs):
    for s in range(6):
        write(
            runs / f"more{s}",
            [
                row(PLAIN[s] + 0.01 * (s + 1), seed=s, method="JTT"),
                row(PLAIN[s] - 0.01 * (s - 2.4), seed=s, method="AFR"),
            ],
        )
    f = results_table(runs, against="ERM").frame.set_index("method")
    assert (
        f.p_holm.isna().sum() == 1
        and np.isclose(f.p_holm["MaskTune"], 3 / 32)
        and np.isclose(f.p_holm["JTT"], 3 / 32)
        and f.p_holm["AFR"] == f.p["AFR"]
    )


@pytest.fixture
def sweep(tmp_path):
    "Two rates, two weights each: every rule has another favourite"
    numbers = {  # rate, weights: validation average, worst group, masked; test worst group
        (0.1, "best"): (0.95, 0.50, 0.60, 0.51),
        (0.1, "last"): (0.94, 0.80, 0.61, 0.81),
        (0.01, "best"): (0.92, 0.60, 0.90, 0.61),
        (0.01, "last"): (0.91, 0.55, 0.65, 0.56),
    }
    for s in range(3):
        for lr in (0.1, 0.01):
            write(
                tmp_path / f"{lr}-{s}",
                [
                    row(v + 0.001 * s, m, split, "MaskTune", s, w)
                    for (l, w), vs in numbers.items()
                    if l == lr
                    for v, (m, split) in zip(
                        vs,
                        [
                            ("accuracy", "val"),
                            ("worst_group_accuracy", "val"),
                            ("masked", "val"),
                            ("worst_group_accuracy", "test"),
                        ],
                    )
                ],
                parameters=dict(lr=lr),
            )
    return tmp_path


@pytest.mark.parametrize(
    "rule,lr,weights,value",
    [
        ("best validation average", 0.1, "best", 0.51),
        ("best validation worst group", 0.1, "last", 0.81),
        ("masked validation", 0.01, "best", 0.61),
    ],
)
def test_rules_pick_what_they_should(sweep, rule, lr, weights, value):
    picked = apply_selection(read_metrics(sweep), rule)
    assert (
        set(picked.lr) == {lr}
        and set(picked.weights) == {weights}
        and len(picked) == 3 * 4
        and set(picked.candidates) == {4}
    )
    t = results_table(sweep, select=rule)
    assert (
        np.isclose(cell(t)["mean"], value + 0.001)
        and cell(t).selected_by == rule
        and cell(t).uses_groups == (rule == "best validation worst group")
    )
    assert ("which uses group labels" in t.caption) == (
        rule == "best validation worst group"
    ) and ("without group labels" in t.caption) == (
        rule != "best validation worst group"
    )


def test_last_chooses_weights_and_no_settings(sweep):
    with pytest.raises(ValueError, match=r"they differ in lr \(0.01, 0.1\)"):
        results_table(sweep, select="last")
    t = results_table(sweep, cols="lr", select="last")
    assert (
        np.isclose(cell(t, lr=0.1)["mean"], 0.811)
        and np.isclose(cell(t, lr=0.01)["mean"], 0.561)
        and "weights: the last; nothing chosen" in t.caption
    )


def test_the_best_weights_are_shown_where_nothing_chooses_and_the_rule_can_be_ones_own(
    sweep, monkeypatch
):
    t = results_table(sweep, cols="lr")
    assert (
        np.isclose(cell(t, lr=0.1)["mean"], 0.511)
        and "nothing chosen" in t.caption
        and "weights: the best by validation;" in t.caption
    )
    t = results_table(sweep, cols="weights", where="lr == .1")
    assert np.isclose(cell(t, weights="last")["mean"], 0.811)
    t = results_table(sweep, cols="lr", where="weights == 'last'")
    assert (
        np.isclose(cell(t, lr=0.1)["mean"], 0.811)
        and "weights: the last;" in t.caption
    )
    monkeypatch.setitem(SELECTION_RULES, "mine", ("accuracy", False))
    assert (
        results_table(sweep, select="mine")
        .frame["mean"]
        .equals(
            results_table(sweep, select="best validation average").frame["mean"]
        )
    )


def test_an_epoch_can_be_chosen_only_if_it_was_tested(tmp_path):
    write(
        tmp_path / "a",
        [
            row(0.5, "accuracy", "val"),
            row(0.1),
            row(0.9, "accuracy", "val", epoch=1),
            row(0.8, "accuracy", "val", epoch=2),
            row(0.2, epoch=2),
        ],
    )
    assert (
        cell(results_table(tmp_path, select="best validation average"), "ERM")[
            "mean"
        ]
        == 0.2
    )
    assert cell(results_table(tmp_path), "ERM")["mean"] == 0.1, (
        "a history row is not the result"
    )
    assert results_table(
        tmp_path, cols="epoch", metric="accuracy", split="val", where="epoch > 0"
    ).frame["mean"].tolist() == [0.9, 0.8]


def test_where_there_is_nothing_to_choose_by_a_lone_candidate_stays_and_more_are_said(
    tmp_path,
):
    tuned = [row(0.7, method="MaskTune"), row(0.8, "masked", "val", "MaskTune")]
    for lr in (0.1, 0.01):
        write(
            tmp_path / f"{lr}",
            [row(0.5), row(0.4, weights="last"), row(0.6 + lr, method="JTT")]
            + tuned,
            parameters=dict(lr=lr),
        )
    t = results_table(tmp_path, select="masked validation", against="ERM")
    assert set(t.frame.method) == {"ERM", "MaskTune"}, (
        "ERM is the same in both runs; JTT has two candidates, and no number to tell them apart"
    )
    assert (
        cell(t, "ERM")["mean"] == 0.5
        and cell(t, "ERM").candidates == 1
        and t.notes == ["JTT on birds: nothing to choose by."]
    )
    assert (
        cell(
            results_table(tmp_path, select="masked validation", where="lr == .1"),
            "JTT",
        )["mean"]
        == 0.7
    )


def test_the_last_weights_are_judged_by_the_last_row_of_the_history(tmp_path):
    for lr, masked in ((0.1, (0.9, 0.5)), (0.01, (0.2, 0.6))):
        write(
            tmp_path / f"{lr}",
            [row(lr, weights="last")]
            + [
                row(v, "masked", "val", weights="last", epoch=i)
                for i, v in enumerate(masked, 1)
            ],
            parameters=dict(lr=lr),
        )
    assert (
        cell(results_table(tmp_path, select="masked validation"), "ERM")["mean"]
        == 0.01
    )


def test_a_run_that_was_told_which_weights_to_show_shows_those(tmp_path):
    write(
        tmp_path / "a",
        [row(0.5), row(0.4, weights="last"), row(0.6, method="JTT")],
        parameters=dict(weights="last"),
    )
    t = results_table(tmp_path)
    assert (
        cell(t, "ERM")["mean"] == 0.4
        and cell(t, "JTT")["mean"] == 0.6
        and "weights: the best by validation or, where there are none, the last;"
        in t.caption
    )


def test_different_things_are_never_averaged(tmp_path):
    for s, lr in enumerate((0.1, 0.1, 0.01)):
        write(
            tmp_path / f"{s}",
            [
                row(0.5 + s / 10, seed=s),
                row(0.5, "accuracy", seed=s),
                row(0.6, split="other", seed=s),
            ],
            parameters=dict(lr=lr, out=f"{s}", n_seeds=1),
        )
    with pytest.raises(
        ValueError, match="ERM on birds can't be averaged: they differ in split"
    ):
        results_table(tmp_path)
    with pytest.raises(
        ValueError, match=r"they differ in lr \(0.1, 0.01\)|lr \(0.01, 0.1\)"
    ):
        results_table(tmp_path, split="test")
    with pytest.raises(ValueError, match="they differ in metric"):
        results_table(
            tmp_path,
            split="test",
            metric=["accuracy", "worst_group_accuracy"],
            where="lr == .1",
        )
    assert (
        cell(results_table(tmp_path, split="test", where="lr == .1"), "ERM").n == 2
    )
    with pytest.raises(ValueError, match="they differ in method"):
        write(
            tmp_path / "3",
            [row(0.5, seed=3, method="JTT")],
            parameters=dict(lr=0.1),
        )
        results_table(tmp_path, "lr", "data", split="test")


def test_a_number_that_several_runs_share_counts_once_and_two_answers_to_one_question_are_an_error(
    tmp_path,
):
    for s in range(2):
        for lr in (0.1, 0.01):
            write(
                tmp_path / f"{lr}-{s}",
                [
                    row(0.3 + s / 10, seed=s),
                    row(0.5 + lr + s / 10, seed=s, method="MaskTune"),
                ],
                parameters=dict(finetune_lr=lr),
            )
    t = results_table(tmp_path, where="method == 'ERM' or finetune_lr == .1")
    assert cell(t, "ERM").n == cell(t).n == 2 and np.isclose(
        cell(t, "ERM")["mean"], 0.35
    )
    write(tmp_path / "again", [row(0.9, seed=0)], parameters=dict(finetune_lr=0.1))
    with pytest.raises(
        ValueError,
        match="seed 0 of ERM on birds has different numbers from 0.1-0, again",
    ):
        results_table(tmp_path, where="method == 'ERM' and finetune_lr == .1")


def test_a_shared_number_is_taken_from_the_same_settings_for_every_seed(tmp_path):
    for name, s, lr in (
        ("a", 0, 0.1),
        ("b", 0, 0.01),
        ("c", 1, 0.01),
        ("d", 1, 0.1),
    ):
        write(
            tmp_path / name,
            [row(0.3 + s / 10, seed=s)],
            parameters=dict(finetune_lr=lr),
        )
    assert cell(results_table(tmp_path), "ERM").n == 2, (
        "runs are named by a hash: their order says nothing"
    )


def test_missing_cells_and_orders(tmp_path):
    write(
        tmp_path / "a",
        [
            row(0.5, data="b"),
            row(0.6, data="a"),
            row(0.7, method="JTT", data="a"),
            row(30.0, "minutes", "train"),
            row(31.0, "minutes", "train", data="a"),
        ],
        parameters=dict(k=10.0),
    )
    write(tmp_path / "b", [row(0.5, data="a", method="Z")], parameters=dict(k=9.0))
    t = results_table(tmp_path, against="JTT")
    assert (
        t.frame[["method", "data"]].values.tolist()
        == [["JTT", "a"], ["ERM", "b"], ["ERM", "a"], ["Z", "a"]]
        and "JTT on b: not measured." in t.notes
        and "–" in str(t)
    )
    assert results_table(
        tmp_path, "k", where="data == 'a' and method != 'JTT'"
    ).frame.k.tolist() == [9, 10], "numbers by size"
    assert "| class labels | 60.0" in str(
        results_table(
            tmp_path, "labels_used", where="data == 'a' and method == 'ERM'"
        )
    )
    t = results_table(
        tmp_path,
        cols="metric",
        metric=["minutes", "worst_group_accuracy"],
        where="data == 'a' and method == 'ERM'",
    )
    assert (
        t.frame["mean"].tolist() == [31, 0.6]
        and _wide(t, ["31.0", "60.0"]).columns.tolist()
        == ["method", "labels_used", "minutes", "worst group, %"]
        and "31.0 " in str(t)
        and "on test;" in t.caption
    ), "minutes belong to no split, and are no percentages"


@pytest.mark.parametrize(
    "wrong,says",
    [
        (
            dict(metric="worst_gruop"),
            "metric='worst_gruop' is not known. Did you mean 'worst_group'",
        ),
        (dict(rows="methods"), "Did you mean 'method'"),
        (dict(cols="split", split="tset"), "Did you mean 'test'"),
        (
            dict(against="Masktune"),
            "Did you mean 'MaskTune'. There are: ERM, MaskTune",
        ),
        (dict(where="epoch_s == 20"), "Did you mean 'epochs'"),
        (dict(where="epochs =="), "can't be read"),
        (dict(where="epochs == 3"), "leaves none"),
        (
            dict(select="validation average"),
            "Did you mean 'best validation average'",
        ),
        (dict(format="word"), "markdown, html, latex, csv"),
        (dict(rows="data"), "choose two different"),
        (dict(metric="loss"), "measured only on train: say split='train'"),
    ],
)
def test_what_is_not_there_gets_the_nearest_name_and_the_list(runs, wrong, says):
    write(runs / "run9", [row(0.1, "loss", "train")], parameters=dict(epochs=20))
    with pytest.raises(ValueError, match=says):
        results_table(runs, **wrong)


def test_formats(runs):
    t = results_table(runs, against="ERM", format="latex")
    assert (
        str(t) == t.render("latex")
        and t._repr_markdown_() == t.render("markdown")
        and t.render("html").count("<caption>") == 2
    )
    assert (
        t.render("latex").count(r"\toprule") == 2
        and r"$\pm$" in str(t)
        and r"95 \%" in str(t)
        and not set("±×†") & set(str(t))
    )
    from io import StringIO

    back = pd.read_csv(StringIO(t.render("csv")))
    assert np.allclose(back["mean"], t.frame["mean"]) and {
        "difference",
        "p_holm",
        "n",
        "selected_by",
    } <= set(back)


def test_published_figures_stand_beside_and_mix_with_nothing(tmp_path):
    for s in range(2):
        write(
            tmp_path / f"{s}",
            [
                row(0.3, seed=s, data="Waterbirds (original labels)"),
                row(0.9, "accuracy", seed=s, data="Waterbirds (original labels)"),
            ],
        )
    ours = results_table(tmp_path)
    both = with_published(ours, "results/published.csv")
    assert both.frame.equals(ours.frame) and both.render("csv") == ours.render(
        "csv"
    )
    assert (
        set(both.published.data) == {"Waterbirds"}
        and set(both.published.metric)
        <= {"worst_group_accuracy", "worst_group, largest gain"}
        and set(both.published.test) == {"test"}
    )
    assert (
        "86.4 ± 1.9" in str(both)
        and str(both).startswith(ours.caption)
        and any("not comparable with the original labels" in n for n in both.notes)
    )
    assert {"average", "accuracy"} >= set(
        with_published(
            results_table(tmp_path, metric="accuracy"), "results/published.csv"
        ).published.metric
    )
    for s, v in (("original", 0.6), ("reversed", 0.2)):
        write(
            tmp_path / "x" / "mnist" / s,
            [row(v, "accuracy", s, data="biased MNIST (full, square)")],
        )
    mine = with_published(
        results_table(
            tmp_path / "x" / "mnist", metric="accuracy", split="reversed"
        ),
        "results/published.csv",
    ).published
    assert set(mine.data) == {"biased MNIST"} and set(mine.test) == {"reversed"}, (
        "the same test, not only the same data"
    )
    write(tmp_path / "none", [row(0.1)])
    assert any(
        "No published figure" in n
        for n in with_published(
            results_table(tmp_path / "none"), "results/published.csv"
        ).notes
    )


def test_every_published_figure_has_its_source_and_none_is_from_memory():
    p = pd.read_csv(resolve_path("results/published.csv"))
    assert set(p.tag) == {"F", "F2"} and p[
        [
            "data",
            "method",
            "test",
            "metric",
            "value",
            "source",
            "protocol",
            "beware",
        ]
    ].notna().all(axis=None)
    assert (
        not p.duplicated(
            ["data", "method", "test", "metric", "source", "protocol"]
        ).any()
        and p.value.between(0, 100).all()
    )
    of = p.set_index(["data", "method", "metric", "tag"]).value
    assert of[
        "Waterbirds", "MaskTune", "worst_group_accuracy", "F2"
    ].item() == 86.4 and set(
        of["CelebA", "MaskTune", "worst_group_accuracy", "F2"]
    ) == {78.0, 27.2}
    assert not p.method.isin(
        [
            "SelectiveNet",
            "DeepGamblers",
            "SelfAdaptiveTraining",
            "CVaR-DRO",
            "DivDis",
        ]
    ).any(), "those are recalled, not found"


def test_numbers_from_stored_predictions(tmp_path):
    write(tmp_path / "a", [row(0.5)], parameters=dict(lr=0.1))
    said = Predictions(
        torch.tensor([[2.0, 1.0], [1.0, 3.0], [0.0, 1.0], [2.0, 0.0]]),
        torch.tensor([0, 1, 0, 0]),
        torch.tensor([0, 2, 1, 1]),
    )
    pd.concat(
        [
            said.table().assign(method="ERM", seed=0, weights=w, split=s)
            for w in ("best", "last")
            for s in ("val", "test")
        ]
    ).to_parquet(tmp_path / "a" / "predictions.parquet")
    m = metrics_from_predictions(tmp_path)
    got = m[(m.weights == "last") & (m.split == "test")].set_index("metric").value
    assert np.isclose(
        got[
            ["accuracy", "worst_group_accuracy", "worst_class_accuracy", "balanced"]
        ],
        [0.75, 0.5, 2 / 3, (1 + 0.5 + 1) / 3],
    ).all() and set(m.lr) == {0.1}
    assert cell(results_table(m, metric="worst_class_accuracy"), "ERM")[
        "mean"
    ] == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def tiny():
    part = lambda n, seed: Split.from_tensors(
        torch.randint(
            0, 256, (n, 3, 28, 28), generator=make_generator(seed, "images")
        ).byte(),
        torch.arange(n) % 2,
    )
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


def test_the_page_of_results_shows_a_run_that_was_added(tmp_path, monkeypatch):
    "Its cells are run in a copy of the project with two more folders of runs: two settings, and a data set with several tests"
    home = Path(__file__).parents[1]
    shutil.copytree(home / "results", tmp_path / "results")
    shutil.copy(home / "settings.ini", tmp_path)
    environment = json.loads(
        (home / "results" / "biased_mnist" / "config.json").read_text()
    )["environment"]
    for s in range(2):
        for k, v in ((1.0, 0.4), (2.0, 0.5)):
            write(
                tmp_path / "results" / "waterbirds" / f"{k}-{s}",
                [
                    row(
                        x + s / 100,
                        m,
                        sp,
                        method,
                        s,
                        "last",
                        "Waterbirds (original labels)",
                    )
                    for method, x in (("ERM", 0.25), ("MaskTune", v))
                    for m, sp in (
                        ("worst_group_accuracy", "test"),
                        ("accuracy", "test"),
                        ("accuracy", "val"),
                    )
                ]
                + [
                    row(
                        90.0,
                        "minutes",
                        "train",
                        "MaskTune",
                        s,
                        "last",
                        "Waterbirds (original labels)",
                    )
                ],
                parameters=dict(k=None, seed=s, n_seeds=1),
                settings=dict(k=k, epochs=7),
                environment=environment,
            )
    write(
        tmp_path / "results" / "new_thing",
        [
            row(x, "accuracy", sp, data="biased MNIST (x)")
            for sp, x in (("original", 0.6125), ("reversed", 0.2125))
        ],
        environment=environment,
    )
    monkeypatch.chdir(tmp_path)
    shown, space = [], {}
    monkeypatch.setattr(
        "IPython.display.display",
        lambda *things: shown.extend(
            t.data if hasattr(t, "data") else t for t in things
        ),
    )
    for c in nbformat.read(home / "nbs" / "results.ipynb", 4).cells:
        if c.cell_type == "code":
            exec(c.source, space)
    page = "\n".join(map(str, shown))
    assert (
        "### Waterbirds" in page
        and "k = 1.0" in page
        and "k = 2.0" in page
        and "50.5 ± 0.7" in page
        and "+15.0" in page
        and "86.4 ± 1.9" in page
        and "| 90.0" in page
    )
    assert (
        "### new thing" in page
        and "61.3" in page
        and "21.2" in page
        and "18.59" in page
    )
    assert {"waterbirds/1.0-0", "new_thing"} <= set(space["rows"].run) and space[
        "rows"
    ].set_index("run").minutes["waterbirds/1.0-0"] == "90"
