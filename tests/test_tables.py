"Tables over many runs, against made-up numbers of known answers: nothing is averaged or missing unsaid."

import json
import re
import warnings
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from masktune.core.files import resolve_path
from masktune.evaluation.metrics import Predictions
from masktune.runs.published import format_published, with_published
from masktune.runs.results import metrics_from_predictions, read_metrics
from masktune.runs.selection import SELECTION_RULES, apply_selection
from masktune.runs.selection import filter_metrics
from masktune.runs.statistics import _bootstrap_interval, _wilcoxon
from masktune.runs.statistics import holm_correction
from masktune.runs.stored import current_names, current_parameters
from masktune.runs.stored import read_config, read_table
from masktune.runs.tables import results_table


def row(
    value,
    metric="worst_group_accuracy",
    split="test",
    method="ERM",
    seed=0,
    weights="best",
    data="birds",
    epoch=None,
    labels_used="class labels",
):
    return dict(
        data=data,
        method=method,
        seed=seed,
        labels_used=labels_used,
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
        pd.isna(m.n_std[0])
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
            "no column labels_used",
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
                    for (rate, w), vs in numbers.items()
                    if rate == lr
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
    with pytest.raises(ValueError, match=r"ERM on birds on test .* differ in lr"):
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


def test_people_read_words_where_columns_and_notes_have_names(tmp_path):
    name = "balanced worst_group_accuracy"
    rows = [
        row(0.5, data=name),
        row(0.6, data=name, seed=1),
        row(0.7, method="JTT"),
    ]
    rows.append(row(0.7, method="JTT", data=name))
    write(tmp_path / "a", rows, parameters={})
    table = results_table(tmp_path)
    for format in ("markdown", "html", "latex"):
        said = table.render(format)
        assert "balanced worst group" in said and "_accuracy" not in said
    assert "JTT on balanced worst group: no seed 1." in table.notes
    more = [row(0.5, data="b"), row(0.6, data="b", seed=1)]
    more.append(row(0.7, method="JTT", data="b"))
    write(tmp_path / "b", more, parameters={})
    said = "JTT on balanced worst group; b: no seed 1."
    assert said in results_table(tmp_path).notes, "once, not for each column"
    assert name in table.render("csv"), "numbers for programs keep their names"


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
        parameters=dict(n_std=10.0),
    )
    write(
        tmp_path / "b", [row(0.5, data="a", method="Z")], parameters=dict(n_std=9.0)
    )
    t = results_table(tmp_path, against="JTT")
    assert (
        t.frame[["method", "data"]].values.tolist()
        == [["JTT", "a"], ["ERM", "b"], ["ERM", "a"], ["Z", "a"]]
        and "JTT on b: not measured." in t.notes
        and "–" in str(t)
    )
    assert results_table(
        tmp_path, "n_std", where="data == 'a' and method != 'JTT'"
    ).frame.n_std.tolist() == [9, 10], "numbers by size"
    where = "data == 'a' and method == 'ERM'"
    by_labels = str(results_table(tmp_path, "labels_used", where=where))
    assert re.search(r"\| class labels +\| 60.0", by_labels)
    t = results_table(
        tmp_path,
        cols="metric",
        metric=["minutes", "worst_group_accuracy"],
        where="data == 'a' and method == 'ERM'",
    )
    assert (
        t.frame["mean"].tolist() == [31, 0.6]
        and t._wide(["31.0", "60.0"]).columns.tolist()
        == ["method", "labels used", "minutes", "worst group, %"]
        and "31.0 " in str(t)
        and "on test;" in t.caption
    ), "minutes belong to no split, and are no percentages"


@pytest.mark.parametrize(
    "wrong,says",
    [
        (
            dict(metric="worst_gruop"),
            "metric='worst_gruop' is not known. Did you mean 'worst_group_accuracy'",
        ),
        (dict(rows="methods"), "Did you mean 'method'"),
        (dict(cols="split", split="tset"), "Did you mean 'test'"),
        (
            dict(against="Masktune"),
            "Did you mean 'MaskTune'. There are: ERM, MaskTune",
        ),
        (dict(where="epoch_s == 20"), "Did you mean 'epochs'"),
        (dict(where="epochs =="), "cannot be read"),
        (dict(where="epochs == 3"), "leaves none"),
        (
            dict(select="validation average"),
            "Did you mean 'best validation average'",
        ),
        (dict(format="word"), "markdown, html, latex, csv"),
        (dict(rows="data"), "choose two columns"),
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
    back = pd.read_csv(StringIO(t.render("csv")))
    assert np.allclose(back["mean"], t.frame["mean"]) and {
        "difference",
        "p_holm",
        "n",
        "selected_by",
    } <= set(back)


WATERBIRDS = "Waterbirds (original labels)"


def test_published_figures_are_below_our_table_and_mix_with_nothing(tmp_path):
    for s in range(2):
        rows = [
            row(0.3, seed=s, data=WATERBIRDS),
            row(0.9, "accuracy", seed=s, data=WATERBIRDS),
        ]
        write(tmp_path / f"{s}", rows)
    ours = results_table(tmp_path)
    both = with_published(ours, "results/published.csv")
    assert both.frame.equals(ours.frame)
    assert both.render("csv") == ours.render("csv")
    ((heading, figures),) = both.extra
    assert set(figures.data) == {"Waterbirds"}
    assert all("worst group" in what for what in figures["what, where"])
    assert all(what.endswith(", test") for what in figures["what, where"])
    assert "86.4 ± 1.9" in str(both) and str(both).startswith(ours.caption)
    assert any("not comparable with the original ones" in n for n in both.notes)
    averages = results_table(tmp_path, metric="accuracy")
    ((_, figures),) = with_published(averages, "results/published.csv").extra
    names = {what.rsplit(",", 1)[0] for what in figures["what, where"]}
    assert names <= {"average", "accuracy (each image once)"}


def test_published_figures_are_of_the_same_test(tmp_path):
    name = "biased MNIST (full, square)"
    for split, value in (("original", 0.6), ("reversed", 0.2)):
        write(tmp_path / split, [row(value, "accuracy", split, data=name)])
    ours = results_table(tmp_path, metric="accuracy", split="reversed")
    ((_, figures),) = with_published(ours, "results/published.csv").extra
    assert set(figures.data) == {"biased MNIST"}
    assert all(what.endswith(", reversed") for what in figures["what, where"])


def test_no_published_figure_is_said(tmp_path):
    write(tmp_path / "none", [row(0.1)])
    table = with_published(results_table(tmp_path), "results/published.csv")
    assert "No published figure is known for birds." in table.notes


def test_every_published_figure_has_its_source_and_none_is_from_memory():
    p = pd.read_csv(resolve_path("results/published.csv"))
    told = ["data", "method", "validation", "test", "metric", "value"]
    told += ["source", "protocol", "beware"]
    assert set(p.tag) == {"F", "F2"} and p[told].notna().all(axis=None)
    same = ["data", "method", "test", "metric", "source", "protocol"]
    assert not p.duplicated(same).any() and p.value.between(0, 100).all()
    recalled = {"SelectiveNet", "DeepGamblers", "SelfAdaptiveTraining"}
    recalled |= {"CVaR-DRO", "DivDis"}
    assert not recalled & set(p.method), "those are recalled, not found"
    assert len(format_published(p)) == len(p)


@pytest.mark.parametrize(
    "data,method,metric,source,values",
    [
        ("Waterbirds", "MaskTune", "worst_group_accuracy", "Asgari", [86.4]),
        ("Waterbirds", "ERM", "worst_group_accuracy", "Asgari", [80.8]),
        ("Waterbirds", "GroupDRO", "worst_group_accuracy", "Asgari", [89.3]),
        ("Waterbirds", "ERM", "worst_group_accuracy", "SAGE", [73.2]),
        ("Waterbirds", "GroupDRO", "worst_group_accuracy", "SAGE", [89.9]),
        ("CelebA", "JTT", "worst_group_accuracy", "Asgari", [40.6]),
        ("CelebA", "LfF", "worst_group_accuracy", "Asgari", [24.4]),
        ("CelebA", "ERM", "worst_group_accuracy", "Asgari", [47.2]),
        ("CelebA", "GroupDRO", "worst_group_accuracy", "Asgari", [88.3]),
        ("Waterbirds", "ERM", "worst_group_accuracy", "CRAYON", [28.35]),
        ("Waterbirds", "MaskTune", "worst_group_accuracy", "CRAYON", [45.67]),
        ("ImageNet-9L", "MaskTune", "BG gap", "CRAYON", [12.54]),
        ("MetaShift", "MaskTune", "worst_group_accuracy", "DaC", [66.3]),
        ("MetaShift", "ERM", "average", "DaC", [77.4]),
        ("Waterbirds", "DPE", "worst_group_accuracy", "DPE", [94.1]),
        ("CelebA", "FG-CCDB", "worst_group_accuracy", "FG-CCDB", [89.2]),
        ("CelebA", "NSF", "worst_group_accuracy", "NSF", [84.3]),
        ("CelebA", "MaskTune", "worst_group_accuracy", "", [78.0, 27.2]),
    ],
)
def test_published_values(data, method, metric, source, values):
    p = pd.read_csv(resolve_path("results/published.csv"))
    found = p[(p.data == data) & (p.method == method) & (p.metric == metric)]
    found = found[found.source.str.startswith(source)]
    assert found.value.tolist() == values


def test_what_is_done_with_validation_images_is_said():
    p = pd.read_csv(resolve_path("results/published.csv"))
    learns = set(p[p.validation.str.startswith("learns from them")].method)
    assert {"DFR", "NeuronTune-val", "DPE", "SELF"} == learns


def test_numbers_from_stored_predictions(tmp_path):
    write(tmp_path / "a", [row(0.5)], parameters=dict(lr=0.1))
    predictions = Predictions(
        torch.tensor([[2.0, 1.0], [1.0, 3.0], [0.0, 1.0], [2.0, 0.0]]),
        torch.tensor([0, 1, 0, 0]),
        torch.tensor([0, 2, 1, 1]),
        class_names=["land", "water"],
        group_names=["a", "b", "c"],
    )
    named = predictions.table()
    numbers = named.assign(
        label=predictions.labels.tolist(), group=predictions.groups.tolist()
    ).rename(columns={"logit land": "logit 0", "logit water": "logit 1"})
    expected = dict(
        accuracy=0.75,
        worst_group_accuracy=0.5,
        worst_class_accuracy=2 / 3,
        mean_group_accuracy=(1 + 0.5 + 1) / 3,
    )
    file = tmp_path / "a" / "predictions.parquet"
    for table in (named, numbers):  # of today, and of earlier versions
        parts = [
            table.assign(method="LastLayer", seed=0, weights=w, split=s)
            for w in ("best", "last")
            for s in ("val", "test")
        ]
        pd.concat(parts).to_parquet(file)
        metrics = tmp_path / "a" / "metrics.parquet"
        stored = pd.read_parquet(metrics).assign(method="LastLayer")
        stored.to_parquet(metrics)
        m = metrics_from_predictions(tmp_path)
        last = m[(m.weights == "last") & (m.split == "test")]
        got = last.set_index("metric").value
        for name, value in expected.items():
            assert got[name] == pytest.approx(value), name
        assert set(m.lr) == {0.1} and set(m.method) == {"LastLayerRetraining"}
        worst = results_table(m, metric="worst_class_accuracy")
        assert worst.frame["mean"].item() == pytest.approx(2 / 3)


def test_numbers_from_predictions_keep_data_sets_apart(tmp_path):
    write(tmp_path / "a", [row(0.5, data="birds"), row(0.5, data="digits")])
    parts = []
    for data, names, labels in (("birds", "ab", [0, 1]), ("digits", "xyz", [0, 0])):
        logits = torch.eye(2, len(names))  # predicts 0, then 1
        p = Predictions(logits, torch.tensor(labels), class_names=list(names))
        tags = dict(data=data, method="ERM", seed=0, weights="best", split="test")
        parts.append(p.table().assign(**tags))
    pd.concat(parts).to_parquet(tmp_path / "a" / "predictions.parquet")
    m = metrics_from_predictions(tmp_path)
    accuracy = m[m.metric == "accuracy"].set_index("data").value.to_dict()
    assert accuracy == {"birds": 1.0, "digits": 0.5}, "pooled it would be .75"


def test_every_test_split_is_shown_and_named(tmp_path):
    for s in range(2):
        rows = [
            row(value + s / 100, split=split, seed=s, method=method, data="digits")
            for method, shift in (("ERM", 0.0), ("MaskTune", 0.1))
            for split, value in (("original", 0.6), ("reversed", 0.2))
            for value in [value + shift]
        ]
        rows += [row(3.0, "minutes", "train", seed=s, data="digits")]
        write(tmp_path / f"{s}", rows)
    t = results_table(tmp_path, against="ERM")
    assert t.by_split and t.frame.split.tolist() == ["original", "reversed"] * 2
    assert np.allclose(t.frame["mean"], [0.605, 0.205, 0.705, 0.305])
    assert np.allclose(t.frame.difference.dropna(), [0.1, 0.1])
    assert "digits, original" in str(t) and "digits, reversed" in str(t)
    alone = results_table(tmp_path, split="reversed")
    assert not alone.by_split and "digits, reversed" not in str(alone)
    both = ["worst_group_accuracy", "minutes"]
    t = results_table(tmp_path, cols="metric", metric=both)
    assert [c for c in t._wide(["-"] * len(t.frame)).columns[2:]] == [
        "worst group, %, original",
        "worst group, %, reversed",
        "minutes",
    ]


def test_biased_mnist_of_the_committed_results():
    t = results_table("results/comparison/biased_mnist")
    assert set(t.frame.split) == {"original", "aligned", "reversed", "balanced"}
    balanced = t.frame[(t.frame.split == "balanced") & (t.frame.method == "ERM")]
    stored = read_table(
        resolve_path("results/comparison/biased_mnist") / "table.csv"
    )
    column = "balanced worst_group_accuracy"
    mean = stored[stored.method == "ERM"][column].mean() / 100
    assert balanced["mean"].item() == pytest.approx(mean, abs=1e-5)


HOSTILE = (
    "<img src=x onerror=alert(1)>|\n\r\\input{/etc/passwd} & 100% [a](javascript:b)"
)


@pytest.mark.parametrize("format", ["markdown", "html", "latex"])
def test_names_from_data_are_escaped(tmp_path, format):
    write(tmp_path / "a", [row(0.5, data=HOSTILE), row(0.6, method=HOSTILE)])
    broken = tmp_path / "a\n\\input{x}<b>"
    write(broken, [row(0.5)])
    (broken / "config.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = results_table(tmp_path, format=format)
    text = str(t)
    assert len(t.notes) == 3, "one file left out, two cells empty"
    if format == "html":
        assert not re.search(
            r"<(?!/?(table|thead|tbody|tr|th|td|caption|p)\b)", text
        )
    if format == "latex":
        # notes are comments: a line break in one would start a command
        assert not re.search(r"\\(input|include|write|def|catcode)", text)
        assert all(
            line.startswith(("\\", "%")) or line.endswith("\\\\") or not line
            for line in text.splitlines()
        )
    if format == "markdown":
        assert "<img" not in text and "](javascript" not in text
        lines = [line for line in text.splitlines() if line.startswith("|")]
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(bars) == 1, "every row has as many cells"


@pytest.mark.parametrize(
    "where,seeds",
    [
        ("seed == 2", [2]),
        ("seed < 2 or seed == 5", [0, 1, 5]),
        ("(seed > 1 and seed != 3) and method == 'ERM'", [2, 4, 5]),
        ("epochs >= 20 and seed <= -1 or seed == 0", [0]),
        ("epoch == None and seed == 1", [1]),
    ],
)
def test_where_keeps_what_it_says(runs, where, seeds):
    kept = filter_metrics(read_metrics(runs), where)
    assert sorted(kept.seed.unique()) == seeds


@pytest.mark.parametrize(
    "where",
    [
        "@pd.io.common.os.system('touch owned')",
        "__import__('os').system('touch owned')",
        "seed == @len(method)",
        "method.str.contains('ERM')",
        "seed == (lambda: 1)()",
        "seed in [0, 1]",
        "0 < seed < 2",
        "seed",
        "seed == 1; 2",
        "seed == 1\nseed == 2",
        "seed == [x for x in ()]",
        "seed == f'{1}'",
        "seed == seed",
        "not seed == 1",
        "",
        "(" * 3000,
        "seed == " + "(" * 900 + "1" + ")" * 900,
        "-" * 1500 + "1 == seed",
        "seed == 'a' 'b' if 1 else 2",
        "method < 3",
        "\0",
    ],
)
def test_where_is_parsed_and_never_run(runs, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="where|is not known"):
        filter_metrics(read_metrics(runs), where)
    assert not (tmp_path / "owned").exists()


def test_names_of_earlier_versions_are_translated_when_a_file_is_read(tmp_path):
    old = [
        dict(row(0.5), metric=metric, method=method)
        for metric in ("worst_group", "worst_class", "balanced", "adjusted", "loss")
        for method in ("NeuronTune†", "LastLayer", "k = 2.0", "start = last", "AFR")
    ]
    write(
        tmp_path / "a",
        old,
        parameters=dict(
            k=2.0,
            conflicting=0.01,
            val_conflicting=None,
            draw="released",
            strength=0.9,
            carrier="cifar10",
            other_draw=True,
            method="ERM,LastLayer",
            factors="k,start,lr",
        ),
        settings=dict(draw="random"),
    )
    file = tmp_path / "a" / "metrics.parquet"
    stored = pd.read_parquet(file).rename(columns=dict(labels_used="sees"))
    stored.to_parquet(file)
    m = read_metrics(tmp_path)
    assert set(m.metric) == {
        "worst_group_accuracy",
        "worst_class_accuracy",
        "mean_group_accuracy",
        "reweighted_accuracy",
        "loss",
    }
    assert set(m.method) == {
        "NeuronTune-val",
        "LastLayerRetraining",
        "n_std = 2.0",
        "init_from = last",
        "AFR",
    }
    first = m.iloc[0]
    assert first.labels_used == "class labels" and first.n_std == 2.0
    assert first.bias_conflicting == 0.01 and first.exceptions == "random"
    assert first.spurious_correlation == 0.9 and first.base_images == "cifar10"
    assert first.other_exceptions and "val_bias_conflicting" in m
    assert first.given_method == "ERM,LastLayerRetraining"
    assert first.factors == "n_std,init_from,lr"
    assert read_config(tmp_path / "a")["parameters"]["exceptions"] == "first"
    assert not {"sees", "k", "draw", "strength", "conflicting"} & set(m.columns)


def test_todays_names_stay(tmp_path):
    today = pd.DataFrame(
        {"balanced accuracy": [1], "balanced_worst": [1], "method": ["ERM pair"]}
    )
    pd.testing.assert_frame_equal(current_names(today), today)
    parameters = dict(n_std=2.0, exceptions="first", method="ERM,NeuronTune-val")
    assert current_parameters(parameters) == parameters


def test_the_committed_results_read_under_todays_names():
    m = read_metrics("results")
    old = {"worst_group", "balanced", "adjusted", "worst_class"}
    assert not old & set(m.metric) and "sees" not in m
    assert not {"NeuronTune†", "LastLayer"} & set(m.method)
    assert not m.method.str.match("(k|over|start|share) = ").any()
    table = read_table(resolve_path("results/comparison/glyphs_OQ") / "table.csv")
    assert "balanced worst_group_accuracy" in table
