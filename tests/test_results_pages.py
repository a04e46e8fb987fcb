"The sentences of the results pages, held to the files under results/; a run that is added is shown."

import json
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from masktune.runs.overview import runs_overview, runs_provenance, stored_means
from masktune.runs.results import write_run
from masktune.runs.stored import read_config, read_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PAGES = [ROOT / "nbs" / "results.ipynb"]
PAGES += sorted((ROOT / "nbs" / "results").glob("*.ipynb"))


def table(run):
    return read_table(RESULTS / run / "table.csv")


# --- biased MNIST ---


def mnist(name, column="reversed"):
    means = table(f"biased_mnist_full/{name}").groupby("method")[column].mean()
    return means.round(1)


def test_one_iteration_is_enough_for_one_square():
    one = table("biased_mnist_full/square_1")
    assert (one.groupby("method").size() == 3).all()
    assert mnist("square_1")["MaskTune"] >= 95
    assert mnist("square_1", "original")["MaskTune"] >= 97
    assert mnist("square_0")["ERM"] == 0
    zero = table("biased_mnist_full/square_0").groupby("method").reversed
    assert (
        round(zero.mean()["MaskTune"]) == 93 and round(zero.std()["MaskTune"]) == 3
    )


def test_a_second_fresh_iteration_undoes_much_of_it():
    runs = [mnist(f"square_{c}") for c in ("0", "0.1", "1", "5")]
    once = [run["MaskTune"] for run in runs]
    twice = [run["MaskTune ×2"] for run in runs]
    assert min(once) > 93 and 41 < min(twice) and max(twice) < 66.5
    assert all(b - a < -30 for a, b in zip(once, twice))
    assert round(mnist("square_1_random")["MaskTune ×2"]) == 91


def test_accumulated_masks_keep_what_was_won():
    kept = mnist("square_1_accumulated")
    names = ["MaskTune", "MaskTune ×2", "MaskTune ×3"]
    assert kept[names].tolist() == [98.3, 98.7, 98.9]
    fresh, added = mnist("two_squares_1"), mnist("two_squares_1_accumulated")
    assert round(fresh["MaskTune ×3"]) == 24 and round(added["MaskTune"]) == 22
    assert round(added["MaskTune ×2"]) == 98 and added["MaskTune ×3"] > 98


def test_a_cue_without_a_place_is_beyond_masking():
    for cue in ("background", "foreground"):
        found = mnist(f"{cue}_1")
        assert found.max() - found["ERM"] < 2, cue


def test_what_others_report_of_erm_on_biased_mnist():
    published = pd.read_csv(RESULTS / "published.csv")
    erm = published[
        (published.data == "biased MNIST") & (published.method == "ERM")
    ]
    erm = erm[erm.test == "reversed"]
    some = erm[~erm.protocol.str.contains("no image")].value
    assert (erm.value.min(), erm.value.max()) == (0, 84.1) and some.min() == 18.59
    assert round(mnist("square_1")["ERM"]) == 20
    assert round(mnist("square_1_random")["ERM"]) == 69


# --- planted shortcuts ---


def gains(name):
    "Worst group minus ERM's: seeds × methods"
    wide = table(f"comparison/{name}").pivot(
        index="seed", columns="method", values="balanced worst_group_accuracy"
    )
    return wide.sub(wide.ERM, axis=0)


def better(name, methods):
    "In how many seeds each of these methods is better than ERM"
    return (gains(name) > 0).sum()[methods.split()].tolist()


HELP = "MaskTune ULE NeuronTune NeuronTune-val AFR DFR GroupDRO JTT RandomMask"


@pytest.mark.parametrize(
    "data,methods,seeds",
    [
        ("biased_mnist", HELP, [5] * 7 + [4, 4]),
        (
            "glyphs_OQ",
            "AFR DFR NeuronTune-val GroupDRO JTT ULE MaskTune",
            [5, 5, 4, 4, 3, 3, 0],
        ),
        (
            "glyphs_EF_border",
            "NeuronTune NeuronTune-val AFR DFR GroupDRO SpuriosityRanking JTT "
            "MaskTune RandomMask ULE",
            [5] * 6 + [3, 3, 0, 0],
        ),
        (
            "glyphs_MNHW",
            "ULE AFR DFR GroupDRO JTT NeuronTune NeuronTune-val MaskTune RandomMask",
            [5] * 4 + [3, 2, 2, 2, 0],
        ),
    ],
)
def test_seeds_in_which_a_method_is_better_than_erm(data, methods, seeds):
    assert better(data, methods) == seeds


def test_gains_that_the_text_names():
    digits = gains("biased_mnist")
    assert round(digits.RandomMask.mean()) == 5
    gained = sorted(digits.MaskTune.round())
    assert gained[0] == 4 and (gained[1], gained[-1]) == (62, 82)
    assert gains("glyphs_OQ").MaskTune.min() == -92
    erm = table("comparison/glyphs_OQ").query("method == 'ERM'")
    assert round(erm["balanced worst_group_accuracy"].mean()) == 78


def test_letters_e_and_f():
    found = gains("glyphs_EF")
    erm = table("comparison/glyphs_EF").query("method == 'ERM'").set_index("seed")
    worst = erm["balanced worst_group_accuracy"]
    misled, fine = worst[worst < 90].index, worst[worst >= 90].index
    assert sorted(worst[misled].round()) == [13, 56, 86] and worst[fine].min() >= 99
    names = (
        "MaskTune ULE NeuronTune NeuronTune-val SpuriosityRanking AFR DFR GroupDRO"
    )
    assert (found.loc[misled, names.split()] > 0).all(axis=None)
    assert (found.loc[misled, "JTT"] > 0).sum() == 2
    refuse = ["NeuronTune", "NeuronTune-val", "SpuriosityRanking"]
    assert found.loc[fine, refuse].isna().all(axis=None)
    assert round(found.loc[fine, "MaskTune"].min()) == -5
    assert round(found.loc[fine, "ULE"].min()) == -6


def test_letters_m_n_h_w():
    wide = table("comparison/glyphs_MNHW").pivot(
        index="seed", columns="method", values="balanced worst_group_accuracy"
    )
    assert round(wide.ULE.mean()) == 92 and round(wide.ULE.std()) == 2
    misled = wide.ERM[wide.ERM < 50].round()
    assert len(misled) == 3 and (misled.min(), misled.max()) == (16, 23)


# --- Waterbirds ---


def test_waterbirds():
    birds = table("waterbirds/original").pivot(
        index="seed", columns="method", values="worst_group_accuracy"
    )
    more = birds.sub(birds.ERM, axis=0)
    assert more.MaskTune.round().tolist() == [1, -25, -12]
    assert (more.RandomMask < 0).all() and round(birds.ERM[0]) == 28
    helped = ["NeuronTune", "NeuronTune-val", "AFR", "DFR", "GroupDRO"]
    assert (more[helped] > 0).all(axis=None)
    means = dict(ERM=35, MaskTune=23, RandomMask=24, ULE=5, JTT=44, NeuronTune=43)
    means |= {"NeuronTune-val": 56, "GroupDRO": 54, "AFR": 63, "DFR": 72}
    assert birds.mean().round()[list(means)].to_dict() == means
    right = table("waterbirds/corrected").set_index("method").worst_group_accuracy
    assert [round(right[m]) for m in ("ERM", "MaskTune", "RandomMask")] == [
        38,
        26,
        32,
    ]


def test_heads_alone():
    heads = table("waterbirds/frozen").groupby("method").worst_group_accuracy.mean()
    means = {
        "ERM": 33,
        "NeuronTune": 46,
        "NeuronTune-val": 61,
        "AFR": 57,
        "DFR": 71,
    }
    assert heads.round()[list(means)].to_dict() == means


# --- selective classification ---


def test_selective():
    runs = [table(f"selective/{run}") for run in ("cifar10", "cifar10_abstaining")]
    found = pd.concat(runs).set_index("method").filter(regex="^error|AURC")
    aurc = {"ERM": 3.4, "ERM pair": 2.6, "MaskTune pair": 3.4, "DeepGamblers": 4.7}
    aurc |= {"SelfAdaptiveTraining": 3.8, "SelectiveNet": 6.9}
    assert found.AURC.round(1).to_dict() == aurc
    plain = found.loc["ERM"]
    assert (found.loc["ERM pair"] < plain).all()
    assert (found.loc["MaskTune pair"] - plain).abs().max() < 0.5
    abstaining = ["DeepGamblers", "SelfAdaptiveTraining", "SelectiveNet"]
    assert (found.loc[abstaining] > plain).all(axis=None)


# --- ablations ---


def ablated(run, column="reversed accuracy"):
    return table(run).groupby("method")[column].mean()


def test_settings_of_masktune():
    square = ablated("ablations/square")
    assert square["n_std = 2.0"] > 94 and round(square["lr = 0.001"]) == 62
    assert round(square["fill = blur"]) == 30 and square["epochs = 8"] > 97
    assert (
        square["method = gradcam"] < 65
        and ablated("ablations/glyphs_AB")["ERM"] > 99
    )
    strokes = ablated("ablations/glyphs_OQ")
    assert strokes["epochs = 1"] < strokes["ERM"] < strokes["epochs = 8"]
    birds = table("ablations/waterbirds").set_index("method")
    worst = birds.worst_group_accuracy
    assert (worst > worst["ERM"] + 2).sum() == 1
    assert birds.loc[
        ["ERM", "lr = 0.01"], ["worst_group_accuracy", "accuracy"]
    ].round().values.tolist() == [[28, 78], [36, 69]]
    assert (worst[["n_std = 0.0", "n_std = 1.0"]] < 15).all()


def test_settings_of_ule():
    square = table("ule/square").pivot(
        index="method", columns="seed", values="reversed accuracy"
    )
    square = square.round()
    assert square.loc["weight = 6.0"].tolist() == [97, 62]
    assert square.loc["saliency_fraction = 0.375"].tolist() == [85, 81]
    assert square.loc["saliency_fraction = 0.25"].tolist() == [37, 95]
    assert (square.loc["weight = 3.0"] < 60).all()
    more = square.loc[["weight = 12.0", "weight = 30.0"]]
    assert (more < square.loc["weight = 6.0"]).all(axis=None)
    bar, frame = ablated("ule/glyphs_EF"), ablated("ule/glyphs_CG")
    assert round(bar.ERM) == 38 and (bar > 90).sum() == 6
    assert round(bar["weight = 12.0"]) == 14 and frame.ERM == 92
    lost = 92 - frame.drop("ERM")
    assert (round(lost.min()), round(lost.max())) == (5, 61)
    opposite = ablated("ule/square_opposite").round()
    names = ["ERM", "opposite = sign", "opposite = magnitude"]
    assert opposite[names].tolist() == [17, 83, 13]


# --- the pages ---


def source_of(page):
    cells = nbformat.read(page, 4).cells
    return "\n".join(c.source for c in cells if c.cell_type == "code")


@pytest.fixture
def shown(monkeypatch):
    "What a page displays, as text"
    found = []

    def display(*things):
        found.extend(str(getattr(thing, "data", thing)) for thing in things)

    monkeypatch.setattr("IPython.display.display", display)
    return found


def run_page(page):
    variables = {}
    for cell in nbformat.read(page, 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, variables)
    return variables


def test_the_choices_without_group_labels_are_as_told():
    chosen = run_page(ROOT / "nbs/results/ablations.ipynb")["chosen"]
    square, letters, birds = (
        chosen[chosen.data == name]
        for name in ("digits, square", "letters O, Q", "Waterbirds")
    )
    planted = chosen[chosen.data != "Waterbirds"]
    assert (planted.settings == 13).all() and (planted["ρ masked"] > 0.45).all()
    assert (square["ρ plain"] < 0.3).all()
    assert (planted["by masked"] >= planted.default - 0.01).all()
    assert (square["by masked"] - square["by plain"]).between(10, 53).all()
    assert (letters["by masked"] > letters.default + 10).all()
    assert letters.ERM.iloc[1] > letters.best.iloc[1]
    both = planted[planted.data != "digits, square"]
    assert (both["ρ plain"] > both["ρ masked"]).all()
    assert (both["by plain"] > both["by masked"]).sum() == 3
    numbers = birds.drop(columns=["data", "seed"]).round(2).values.tolist()
    assert numbers == [[28.04, 28.97, 22.27, 23.05, 36.14, 9, 0.03, 0.19]]


def test_a_run_that_is_added_is_shown(tmp_path, monkeypatch, shown):
    "The page of all runs, in a copy of the project with two more folders of runs"
    shutil.copytree(RESULTS, tmp_path / "results")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    name = "new birds (two settings)"
    for seed in range(2):
        for n_std, value in ((1.0, 0.4), (2.0, 0.5)):
            rows = [
                dict(data=name, method=method, seed=seed, value=x + seed / 100)
                for method, x in (("ERM", 0.25), ("MaskTune", value))
            ]
            minutes = dict(metric="minutes", split="train", value=90.0)
            rows.append(dict(data=name, method="MaskTune", seed=seed) | minutes)
            folder = tmp_path / "results" / "new_birds" / f"{n_std}-{seed}"
            write_run(folder, rows, n_std=n_std, seed=seed, n_seeds=1, epochs=7)
    rows = [
        dict(data="biased MNIST (x)", metric="accuracy", split=split, value=value)
        for split, value in (("original", 0.6125), ("reversed", 0.2125))
    ]
    write_run(tmp_path / "results" / "new_thing", rows)
    monkeypatch.chdir(tmp_path)
    made = run_page(ROOT / "nbs/results/runs.ipynb")["made"].set_index("run")
    page = "\n".join(shown)
    assert "### new birds" in page and "n_std = 1" in page and "n_std = 2" in page
    assert "50.5 ± 0.7" in page and "+15.0" in page and "| 90.0" in page
    assert "### new thing" in page and "61.3" in page and "21.2" in page
    assert "18.59" in page, "the published figure of the same data and test"
    assert made.minutes["new_birds/1.0-0"] == 90 and "new_thing" in made.index


def test_no_page_says_that_a_run_has_none():
    page = source_of(ROOT / "nbs/results/runs.ipynb")
    described = set(re.findall(r'"([a-z_]+)"', page.split("DESCRIBED")[1]))
    for name in described & {p.name for p in RESULTS.iterdir()}:
        words = "\n".join(source_of(p) for p in PAGES if p.stem != "runs")
        assert name in words, f"no page reads results/{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_results_pages_show_no_code_and_weigh_little(page):
    cells = nbformat.read(page, 4).cells
    code = [c.source for c in cells if c.cell_type == "code"]
    assert all(source.startswith("#| echo: false") for source in code)
    assert page.stat().st_size < 1_000_000
    first = next(i for i, c in enumerate(cells) if c.cell_type == "code")
    assert first >= 2, "conclusions come first"


def test_the_overview_of_runs(tmp_path):
    for seed in range(2):
        rows = [
            dict(method=method, seed=seed, split=split, metric=metric, value=value)
            for method, value in (("ERM", 0.25), ("MaskTune", 0.5))
            for split in ("val", "reversed", "original")
            for metric in ("accuracy", "worst_group_accuracy", "masked")
        ]
        write_run(tmp_path / str(seed), rows, lr=0.1, seed=seed)
    ((name, tables),) = runs_overview(tmp_path).items()
    assert name == "birds" and len(tables) == 2
    assert [t.frame.metric[0] for t in tables] == [
        "worst_group_accuracy",
        "accuracy",
    ]
    assert set(tables[0].frame.split) == {"reversed", "original"}
    made = runs_provenance(tmp_path)
    assert made.run.tolist() == ["0", "1"] and made.seeds.tolist() == ["0", "1"]
    assert made.minutes.tolist() == [None, None]


def test_short_tables(tmp_path):
    frame = pd.DataFrame(
        dict(method=["b", "a"] * 2, seed=[0, 0, 1, 1], worst_group=[1.0, 2, 3, 2])
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    means = stored_means(tmp_path, dict(worst_group_accuracy="worst"))
    assert means.values.tolist() == [["b", "2.0 ± 1.4"], ["a", "2.0 ± 0.0"]]
    assert list(stored_means(tmp_path, {}, ["a"]).method) == ["a"]


def test_every_committed_run_says_what_made_it():
    made = runs_provenance(RESULTS)
    assert len(made) == len(list(RESULTS.rglob("config.json"))) > 20
    assert made.torch.notna().all() and made.commit.notna().all()
    for file in RESULTS.rglob("config.json"):
        assert json.loads(file.read_text())["parameters"]
        read_config(file.parent)


# --- audit, choosing, gaps ---


def test_the_audit_finds_ten_of_fourteen_and_accuses_nobody():
    found = pd.read_csv(RESULTS / "audit/settings.csv")
    assert len(found) == 48
    judged = found[found.half == "judged on"]
    taken, clean = (judged[judged.truth == t].found for t in ("taken", "clean"))
    assert (taken.sum(), len(taken), clean.sum(), len(clean)) == (10, 14, 0, 15)
    assert (judged["sign right"].sum(), len(judged)) == (27, 30)
    missed = found[(found.truth == "taken") & ~found.found]
    assert set(missed.cue) == {"moving sticker", "watermark"}
    assert set(missed.family) == {"photographs"} and len(missed) == 4
    said_yes = found[found.hiding_helps == "yes"]
    assert len(said_yes) == 4 and (said_yes.gain >= 0.05).all()
    assert (found.gain >= 0.05).sum() == 8


def test_the_audit_misses_the_ground_of_waterbirds():
    birds = pd.read_csv(RESULTS / "audit/waterbirds.csv")
    assert set(birds.verdict) == {"no sign"}
    first = birds[birds.network.str.endswith("seed 0")].set_index("evidence")
    hot = first.loc["transplant, hot place"]
    assert (round(100 * hot.value), round(100 * hot.control)) == (42, 22)


def test_the_largest_transplant_ranks_best_without_groups():
    rho = pd.read_csv(RESULTS / "choosing/spearman.csv")
    assert len(rho) == 20 and (rho["any transplant"] > 0).all()
    criteria = rho.columns[4:]
    positive = [c for c in criteria if (rho[c].dropna() > 0).all()]
    assert positive == ["any transplant"]
    means = rho.groupby("kind")[["any transplant", "hidden"]].mean().round(2)
    assert means.loc["setting"].tolist() == [0.64, 0.52]
    assert means.loc["method"].tolist() == [0.72, 0.42]


def test_what_would_have_been_chosen_without_groups():
    chosen = pd.read_csv(RESULTS / "choosing/chosen.csv")
    means = (100 * chosen.groupby("kind").mean(numeric_only=True)).round()
    asked = ["any transplant", "hidden", "default", "best", "ERM"]
    assert means.loc["setting", asked].tolist() == [67, 66, 60, 69, 42]
    assert means.loc["method", asked].tolist() == [74, 59, 60, 82, 42]
    worst = chosen[
        (chosen.kind == "method") & (chosen["any transplant"] < chosen.ERM - 0.1)
    ]
    assert worst.data.tolist() == ["O Q, square"] and worst.seed.tolist() == [1]


def test_the_data_decide_where_networks_lean():
    between = pd.read_csv(RESULTS / "spuriosity/between.csv", index_col=0).round(2)
    assert between.loc["stickers", ["stickers", "turned"]].tolist() == [0.81, -0.7]
    found = pd.read_csv(RESULTS / "spuriosity/findings.csv", index_col=0)
    own = found.stickers
    assert own.networks == 12 and own.classes == 8
    ratio = own["variance over classes"] / own["variance over networks"]
    assert 5 < ratio < 6
    assert (
        found["all"]["variance over classes"]
        < found["all"]["variance over networks"]
    )
    assert round(own["mean correlation, shuffled"], 2) == 0.69
    shared = pd.read_csv(RESULTS / "spuriosity/shared_classes.csv")
    assert len(shared) == 8 and shared.smallest.min() > 0.2
    summary = pd.read_csv(RESULTS / "spuriosity/summary.csv")
    gaps = 100 * summary[summary.trained_on == "stickers"].gap
    assert round(gaps.min()) == 69 and round(gaps.max()) == 78
