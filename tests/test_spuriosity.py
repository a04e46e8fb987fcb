"Spuriosity Rankings: the order follows the truth, both ends are real, answers survive a file and a click."

import json

import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from masktune.core.files import fingerprint
from masktune.core.random import make_generator
from masktune.data.benchmark import Benchmark
from masktune.data.split import Split
from masktune.evaluation.metrics import Predictions, predict
from masktune.methods.annotations import Annotations, annotate, candidate_features
from masktune.methods.annotations import group_separating_features, top_features
from masktune.methods.erm import ERM
from masktune.evaluation.features import Features, extract_features
from masktune.methods.heads import linear_from_weights
from masktune.methods.spuriosity import (
    Ranking,
    SpuriosityRanking,
    spuriosity_scores,
)
from masktune.methods.spuriosity import spurious_gap
from masktune.models.network import Network
from masktune.models.zoo import create_model
from masktune.plots.sheets import feature_maps


def noisy(n, purpose, lies=0.05):
    "Dim noise with a square of random strength, red for class 0, green for class 1, and a weak true stripe"
    g = make_generator(0, "noisy", purpose)
    x, y = torch.randint(20, (n, 3, 16, 16), generator=g), torch.arange(n) % 2
    strength = torch.rand(n, generator=g)
    strength = torch.where(torch.rand(n, generator=g) < lies, -strength, strength)
    seen = torch.where(strength < 0, 1 - y, y)
    x[torch.arange(n), seen, :4, :4] = (
        (20 + 235 * strength.abs()).long()[:, None, None].expand(n, 4, 4)
    )
    x[:, 2, 10:] += (
        (30 + 40 * y + 20 * torch.randn(n, generator=g))
        .clamp(min=0)
        .long()[:, None, None]
    )
    return Split.from_tensors(
        x.byte(),
        y,
        2 * y + (strength > 0),
        ids=[f"{purpose}/{i}" for i in range(n)],
        class_names=["a", "b"],
    ), strength


def looker(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(
            nn.Sequential(
                nn.Conv2d(3, 24, 3, padding=1),
                nn.BatchNorm2d(24),
                nn.ReLU(),
                nn.Conv2d(24, 32, 3, padding=1),
                nn.BatchNorm2d(32),
                nn.ReLU(),
            ),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(32, 2),
        )


@pytest.fixture(scope="module")
def planted():
    (train, strength), (val, _) = noisy(600, "train"), noisy(300, "val")
    bench = Benchmark("noisy", train, val, {"lying": noisy(300, "test", 1.0)[0]})
    return (
        bench,
        strength,
        ERM(epochs=4, batch_size=32, device="cpu").fit(looker(), bench).model_,
    )


def test_the_order_follows_the_known_strength(planted):
    bench, strength, net = planted
    ranking = SpuriosityRanking(spurious="groups").rank(bench, net)
    assert 0 in ranking.spurious
    for k in ranking.spurious:
        members = bench.train.labels == k
        assert spearmanr(ranking.score[members], strength[members]).statistic >= 0.8
    table = ranking.table()
    assert (
        table.groupby("class")["rank"]
        .agg(list)
        .map(lambda r: r == list(range(1, 301)))
        .all()
    )
    assert (table.groupby("class").spuriosity.diff().dropna() <= 0).all() and len(
        set(table.id)
    ) == 300 * len(ranking.spurious)


def test_scores_are_z_scores_within_the_class():
    values = torch.tensor([[1.0, 0], [3, 0], [5, 9], [100, 1], [300, 2], [200, 3]])
    f = Features.from_tensors(values, [0, 0, 0, 1, 1, 1])
    z = (3 / 2) ** 0.5
    assert spuriosity_scores(f, {0: [0], 1: [0]}).allclose(
        torch.tensor([-z, 0, z, -z, z, 0]), atol=1e-4
    )
    both = spuriosity_scores(f, {1: [0, 1]})
    assert both[:3].isnan().all() and both[3:].allclose(
        torch.tensor([-z, z / 2, z / 2]), atol=1e-4
    )


def test_importance_is_mean_activation_times_weight_over_all_images_of_the_class():
    f = Features.from_tensors(
        torch.tensor([[1.0, 5, 0], [3, 5, 0], [0, 0, 8]]),
        [0, 0, 1],
        class_names=["a", "b"],
    )
    table = top_features(
        f,
        linear_from_weights(
            torch.tensor([[4.0, 1, 9], [1, 1, -1]]), torch.zeros(2)
        ),
        top=2,
    )
    assert table.values.tolist() == [
        ["a", 0, 8.0],
        ["a", 1, 5.0],
        ["b", 0, 0.0],
        ["b", 1, 0.0],
    ]


def test_the_gap_is_between_the_real_ends():
    "1,500 images of a class, more than the released code keeps: right above the middle, wrong below"
    n = 1500
    score = torch.randperm(n, generator=make_generator(0, "score")).float()
    split = Features.from_tensors(
        torch.zeros(n, 1), torch.zeros(n, dtype=torch.long), class_names=["a", "b"]
    )
    logits = torch.stack([(score > 700).float(), torch.full((n,), 0.5)], 1)
    ranking = Ranking(score, split, {0: [0]})
    for k in (None, 10, 600):
        assert spurious_gap(
            ranking, Predictions(logits, split.labels), k
        ).gap.tolist() == [1.0]
    assert spurious_gap(ranking, Predictions(logits, split.labels), 750).bottom[
        0
    ] == pytest.approx(49 / 750)
    with pytest.raises(ValueError, match="too few for two ends of 751"):
        spurious_gap(ranking, Predictions(logits, split.labels), 751)
    with pytest.raises(ValueError, match="1500 images and the predictions of 10"):
        spurious_gap(ranking, Predictions(logits[:10], split.labels[:10]))


def test_features_are_chosen_by_groups():
    g = make_generator(0, "separating")
    group = (torch.arange(200) % 10 == 0).long()
    values = torch.stack(
        [1.0 - group, group.float(), torch.rand(200, generator=g)], 1
    )
    f = Features.from_tensors(values, torch.zeros(200, dtype=torch.long), group)
    table = pd.DataFrame({"class": ["0"] * 3, "feature": [0, 1, 2]})
    assert group_separating_features(f, table) == {0: [0]}
    with pytest.raises(ValueError, match="no groups to choose"):
        group_separating_features(Features.from_tensors(values, group), table)


def test_tuning_on_the_least_spurious_helps_where_the_cue_lies(planted):
    bench, _, net = planted
    before = fingerprint(net)

    def fit(images):
        method = SpuriosityRanking(
            spurious="groups", images=images, n=40, gap=-1.0, epochs=100, lr=0.05
        )
        method.device = "cpu"
        return method.fit(net, bench)

    def lying(m):
        return predict(m, bench.tests["lying"]).accuracy

    least, chance = fit("least"), fit("random")
    assert (
        lying(least.model_) > lying(chance.model_) + 0.15
        and lying(least.model_) > lying(net) + 0.15
    )
    assert (
        least.history_.gap.iloc[-1] < least.history_.gap[0]
        and fingerprint(net) == before
    )
    assert fingerprint(fit("least").model_) == fingerprint(
        least.model_
    ) and fingerprint(least.model_.backbone) == fingerprint(net.backbone)


def test_it_stops_when_the_gap_is_small(planted):
    bench, _, net = planted
    assert (
        len(SpuriosityRanking(spurious="groups", gap=2.0).fit(net, bench).history_)
        == 1
    )
    m = SpuriosityRanking(spurious="groups", gap=-1.0, epochs=3).fit(net, bench)
    assert m.history_.epoch.tolist() == [0, 1, 2, 3]
    whole = (
        SpuriosityRanking(spurious="groups", gap=-1.0, epochs=30)
        .fit(net, bench)
        .history_.gap
    )
    assert (limit := (whole[0] + whole.min()) / 2) < whole[0]
    assert (
        SpuriosityRanking(spurious="groups", gap=limit, epochs=30)
        .fit(net, bench)
        .history_.gap.tolist()
        == whole[: int((whole < limit).idxmax()) + 1].tolist()
    )


def test_which_images_are_tuned_on(planted):
    bench, _, net = planted
    m = SpuriosityRanking(spurious={"a": [4], "b": [22, 21]}, n=7, epochs=0).fit(
        net, bench
    )
    rows = extract_features(net, bench.train)
    assert (
        m._choose_images(net.head, rows).tolist()
        == torch.cat([m.ranking_.order(k)[-7:] for k in (0, 1)]).tolist()
    )
    m.images = "misclassified"
    wrong = m._choose_images(net.head, rows)
    assert len(wrong) and not predict(net, bench.train).correct[wrong].any()
    m.images, m.spurious_ = (
        "least",
        {0: m.spurious_[0]},
    )  # class 1 has no spurious feature: it takes part with random images
    chosen = m._choose_images(net.head, rows)
    assert (bench.train.labels[chosen] == 1).sum() == 7


def test_another_encoder_ranks(planted):
    bench, strength, net = planted
    fitted = ERM(epochs=1, batch_size=32, lr=0.05, device="cpu").fit(
        looker(1), bench
    )
    other = fitted.model_
    m = SpuriosityRanking(spurious="groups", encoder=net, epochs=1).fit(
        other, bench
    )
    assert fingerprint(
        SpuriosityRanking(spurious="groups", encoder=fitted, epochs=1)
        .fit(net, bench)
        .encoder_
    ) == fingerprint(other)
    assert m.ranking_.score.allclose(
        SpuriosityRanking(spurious="groups").rank(bench, net).score, equal_nan=True
    )
    assert fingerprint(m.model_.backbone) == fingerprint(other.backbone)


def test_answers_survive_a_file_and_a_broken_one_is_refused(planted, tmp_path):
    bench, _, net = planted
    answers, file = candidate_features(net, bench.train), tmp_path / "answers.json"
    assert answers.spurious == {} and {
        c: len(fs) for c, fs in answers.asked.items()
    } == {"a": 5, "b": 5}
    first = next(iter(answers.asked["a"]))
    answers.mark("a", first).save(file)
    assert Annotations.load(file) == answers and answers.spurious == {"a": [first]}
    ranking = SpuriosityRanking(spurious=file).rank(bench, net)
    assert (
        ranking.spurious == {0: [first]}
        and ranking.score[bench.train.labels == 1].isnan().all()
        and len(ranking.table()) == 300
    )
    good = json.loads(file.read_text())
    for broken, message in (
        ("{", "damaged"),
        ("[]", "holds no answers"),
        (json.dumps(good | dict(asked={"a": {"1": "yes"}})), "answer 'yes'"),
        (json.dumps(good | dict(asked={"a": {"1": 1}})), "answer 1"),
        (json.dumps(good | dict(asked={"a": {"x": True}})), "damaged"),
        (json.dumps(good | dict(asked=[1])), "damaged"),
    ):
        file.write_text(broken)
        with pytest.raises(ValueError, match=message):
            Annotations.load(file)
    with pytest.raises(FileNotFoundError, match="candidate_features"):
        Annotations.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="class='z' is not known"):
        answers.mark("z", first)
    with pytest.raises(ValueError, match="feature=99 is not known"):
        answers.mark("a", 99)


def test_a_click_is_an_answer(planted, tmp_path):
    ipywidgets = pytest.importorskip("ipywidgets")
    bench, _, net = planted
    answers = candidate_features(net, bench.val, top=2)
    form = annotate(net, bench.val, answers, tmp_path / "clicked.json")
    boxes = [c for c in form.children if isinstance(c, ipywidgets.Checkbox)]
    assert (
        len(boxes) == 4
        and sum(isinstance(c, ipywidgets.Image) for c in form.children) == 2
    )
    boxes[2].value = True
    assert Annotations.load(
        tmp_path / "clicked.json"
    ) == answers and answers.spurious == {"b": [list(answers.asked["b"])[0]]}
    boxes[2].value = False
    assert Annotations.load(tmp_path / "clicked.json").spurious == {}


def test_the_map_of_a_feature_behind_a_mean_is_its_channel(planted):
    bench, _, net = planted
    x = next(bench.val.batches(8)).x
    with torch.no_grad():
        channel = net.features(x)[:, 3]
    assert (feature_maps(net, x, 3) * channel.sum()).allclose(
        channel * feature_maps(net, x, 3).sum(), rtol=1e-3, atol=1e-4
    )


def test_it_refuses_what_it_cannot_do(planted):
    bench, _, net = planted
    for make, message in (
        (dict(), "nobody has said which features are spurious"),
        (dict(spurious={}), "no feature is called spurious"),
        (dict(spurious={"a": [99]}), "there is no feature 99 among 32"),
        (dict(spurious={"z": [1]}), "class='z' is not known"),
        (
            dict(spurious=Annotations({"a": {1: True}}, "another")),
            "features of another network",
        ),
        (dict(spurious="groups", images="best"), "images='best'"),
    ):
        with pytest.raises(ValueError, match=message):
            SpuriosityRanking(**make).fit(net, bench)
    with pytest.raises(ValueError, match="needs a network to look through"):
        SpuriosityRanking(spurious="groups").rank(bench)
    with pytest.raises(ValueError, match="still has random weights"):
        SpuriosityRanking(spurious="groups").fit(
            create_model("small_cnn", 2), bench
        )
    assert "groups of training" in repr(
        SpuriosityRanking(spurious="groups").labels_used
    )
