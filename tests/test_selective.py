"Selective classification by hand; the three losses; abstention is learnt, and resumed."

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from interrupted import Interrupted, Stop
from masktune.core.files import fingerprint
from masktune.data.benchmark import Benchmark
from masktune.data.glyphs import make_glyphs
from masktune.data.split import Split
from masktune.evaluation.metrics import Predictions
from masktune.evaluation.selective import ScoredPredictions, risk_coverage
from masktune.evaluation.selective import selective_scores
from masktune.methods.abstaining import (
    DeepGamblers,
    SelectiveNet,
    SelfAdaptiveTraining,
)
from masktune.methods.abstaining import add_abstention, gamblers_loss, sat_loss
from masktune.methods.abstaining import selective_loss
from masktune.models.zoo import create_model


def says(probabilities, labels):
    return Predictions(torch.tensor(probabilities).log(), torch.tensor(labels))


def test_joint_answers_by_hand():
    first, second = (
        says([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], [0, 0, 0]),
        says([[0.8, 0.2], [0.2, 0.8], [0.1, 0.9]], [0, 0, 0]),
    )
    product = selective_scores(first, second)
    assert torch.allclose(
        product.score, torch.tensor([0.72, 0.32, 0.63]).double(), atol=1e-6
    ) and product.predicted.tolist() == [0, 1, 1]
    assert torch.allclose(
        selective_scores(first, second, scoring="mean").score,
        torch.tensor([0.85, 0.6, 0.8]).double(),
        atol=1e-6,
    )
    agree = selective_scores(first, second, scoring="agreement")
    assert agree.predicted.tolist() == [0, 0, 1] and (
        agree.score > 0.5
    ).tolist() == [True, False, True]
    assert torch.allclose(
        selective_scores(first).score,
        torch.tensor([0.9, 0.6, 0.7]).double(),
        atol=1e-6,
    )
    assert product.wrong.tolist() == [False, True, True]


def test_risk_coverage_by_hand():
    a = ScoredPredictions(
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).double(),
        torch.tensor([0, 0, 0, 0, 0]),
        torch.tensor([0, 0, 1, 0, 1]),
    )
    r = risk_coverage(a, coverages=(1, 0.8, 0.4))
    assert r.table.error.tolist() == [
        0.4,
        0.25,
        0.0,
    ] and r.table.reached.tolist() == [1, 0.8, 0.4]
    assert (
        torch.allclose(r.curve, torch.tensor([0, 0, 1 / 3, 1 / 4, 2 / 5]).double())
        and abs(r.aurc - (1 / 3 + 1 / 4 + 2 / 5) / 5) < 1e-12
    )


def test_thresholds_come_from_validation_and_the_reached_coverage_is_told():
    test = ScoredPredictions(
        torch.linspace(0, 1, 101, dtype=torch.float64),
        torch.zeros(101).long(),
        torch.zeros(101).long(),
    )
    val = ScoredPredictions(
        torch.linspace(0, 2, 101, dtype=torch.float64),
        torch.zeros(101).long(),
        torch.zeros(101).long(),
    )
    r = risk_coverage(test, val, coverages=(0.8, 1))
    assert (
        r.table.threshold[0] == val.score.sort(descending=True).values[80].item()
        and abs(r.table.reached[0] - (test.score >= val.score[20]).double().mean())
        < 1e-9
        and 0.55 < r.table.reached[0] < 0.65
    )
    assert r.table.reached[1] == 1, (
        "full coverage answers everything, whatever validation held"
    )
    assert r.held_out and "validation" in r._repr_markdown_()


def test_equal_scores_count_as_if_in_random_order():
    a = ScoredPredictions(
        torch.tensor([1.0, 0, 0, 0]).double(),
        torch.zeros(4).long(),
        torch.tensor([0, 1, 0, 0]),
    )
    b = ScoredPredictions(
        torch.tensor([1.0, 0, 0, 0]).double(),
        torch.zeros(4).long(),
        torch.tensor([0, 0, 0, 1]),
    )
    assert risk_coverage(a).curve.equal(risk_coverage(b).curve) and torch.allclose(
        risk_coverage(a).curve, torch.tensor([0, 1 / 6, 2 / 9, 1 / 4]).double()
    )


def test_the_intervals_are_those_of_a_plain_bootstrap():
    g = torch.Generator().manual_seed(0)
    a = ScoredPredictions(
        torch.rand(400, generator=g).double(),
        torch.zeros(400).long(),
        (torch.rand(400, generator=g) < 0.2).long(),
    )
    r, draw = (
        risk_coverage(a, coverages=(0.7,), n_boot=4000).table.iloc[0],
        np.random.default_rng(1),
    )
    score, wrong = a.score.numpy(), a.wrong.numpy()
    errors = []
    for _ in range(4000):
        i = draw.integers(400, size=400)
        kept = score[i] >= r.threshold
        errors.append(wrong[i][kept].mean())
    assert np.allclose(
        [r.low, r.high], np.quantile(errors, [0.025, 0.975]), atol=0.006
    )


def test_losses_by_hand():
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(6, 4, generator=g), torch.tensor([0, 1, 2, 0, 1, 2])
    p = logits.softmax(1)
    own = p[torch.arange(6), y]
    assert torch.allclose(
        gamblers_loss(logits, y, 2.0), -(own + p[:, 3] / 2).log().mean()
    )
    assert torch.allclose(
        sat_loss(logits, y, torch.full((6,), 0.3)),
        -(0.3 * own.log() + 0.7 * p[:, 3].log()).mean(),
    )
    s, each = (
        torch.rand(6, generator=g),
        F.cross_entropy(logits, y, reduction="none"),
    )
    by_hand = (
        0.5 * ((each * s).sum() / s.sum() + 32 * max(0, 0.9 - s.mean()) ** 2)
        + 0.5 * each.mean()
    )
    assert torch.allclose(selective_loss(logits, s, logits, y, 0.9), by_hand)


def test_one_more_output_leaves_the_others_as_they_were():
    net = create_model("small_cnn", 2)
    x = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    net.eval()
    before = net(x)
    assert add_abstention(net, 0)(x)[:, :2].allclose(before) and net.n_classes == 3


@pytest.fixture(scope="module")
def half_random():
    "Bright and dark squares can be told apart; of grey ones the label is a coin"
    g = torch.Generator().manual_seed(0)
    y, hard = torch.randint(2, (600,), generator=g), torch.arange(600) % 2 == 0
    level = torch.where(hard, 128, torch.where(y == 1, 230, 30))
    x = (
        (
            level[:, None, None, None]
            + torch.randint(-20, 20, (600, 3, 16, 16), generator=g)
        )
        .clamp(0, 255)
        .byte()
    )
    parts = [slice(0, 400), slice(400, 500), slice(500, 600)]
    train, val, test = (Split.from_tensors(x[i], y[i]) for i in parts)
    return Benchmark("half random", train, val, {"test": test}), hard[500:]


@pytest.mark.parametrize("reward", [1.0, 2.2])
def test_a_reward_that_makes_no_sense_is_refused(reward):
    with pytest.raises(ValueError, match="one of 2 classes must pay more than 1"):
        DeepGamblers(reward=reward).fit(
            create_model("small_cnn", 2), make_glyphs(n=80)
        )


@pytest.mark.parametrize("name", ["coverage", "alpha"])
def test_a_selector_that_nothing_trains_is_refused(name):
    "With coverage 0 it may select nothing; with alpha 0 it has no part in the loss"
    with pytest.raises(
        ValueError, match=f"{name}=0.0 must be above 0, and 1 at most"
    ):
        SelectiveNet(**{name: 0.0}).fit(
            create_model("small_cnn", 2), make_glyphs(n=80)
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: DeepGamblers(reward=1.4, **kw),
        lambda **kw: SelfAdaptiveTraining(pretrain=1, **kw),
        lambda **kw: SelectiveNet(coverage=0.5, **kw),
    ],
    ids=["gamblers", "sat", "selectivenet"],
)
def test_abstention_is_learnt_where_labels_are_a_coin(half_random, make, tmp_path):
    bench, hard = half_random
    start = create_model("small_cnn", 2)
    before = fingerprint(start)
    common = dict(epochs=8, batch_size=50, lr=0.02, device="cpu")
    m = make(**common).fit(start, bench)
    said = m.selective_scores(bench.tests["test"])
    assert said.score[~hard].median() > said.score[hard].median(), (
        "it hesitates where nothing can be known"
    )
    assert risk_coverage(said, coverages=(0.5,)).table.error[0] < 0.15
    assert fingerprint(start) == before and not m.model_.untrained

    whole = make(**common | dict(epochs=2), augment=Interrupted()).fit(start, bench)
    with pytest.raises(Stop):
        make(**common | dict(epochs=2), augment=Interrupted(12)).fit(
            start, bench, checkpoint=tmp_path
        )
    assert fingerprint(
        make(**common | dict(epochs=2), augment=Interrupted())
        .fit(start, bench, checkpoint=tmp_path)
        .model_
    ) == fingerprint(whole.model_)


def test_what_is_refused():
    first = says([[0.9, 0.1]], [0])
    with pytest.raises(ValueError, match="needs the predictions of two networks"):
        selective_scores(first, scoring="product")
    with pytest.raises(
        ValueError, match="scoring='produkt' is not known. Did you mean 'product'"
    ):
        selective_scores(first, first, scoring="produkt")
    with pytest.raises(ValueError, match="different images"):
        selective_scores(first, says([[0.9, 0.1]], [1]))
    with pytest.raises(ValueError, match="no labels"):
        selective_scores(Predictions(torch.zeros(1, 2)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        risk_coverage(first, coverages=(95,))
