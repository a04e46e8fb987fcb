"Many networks on one ranking, soft masks of annotated features, and criteria that need no groups."


import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from masktune.auditing.criteria import CRITERIA, group_free_criteria
from masktune.auditing.criteria import transplant_score
from masktune.core.random import make_generator
from masktune.data.split import Split
from masktune.evaluation.metrics import Predictions
from masktune.methods.annotations import Annotations, candidate_features
from masktune.methods.soft_masks import read_soft_masks, write_soft_masks
from masktune.methods.spuriosity import Ranking
from masktune.methods.spurious_gaps import SpuriousGaps, measure_spurious_gaps
from masktune.models.network import Network
from masktune.models.zoo import create_model, save_model


# --- gaps ---


def ranked(n=100):
    "Two classes of n images; the score falls from the first image to the last"
    labels = torch.arange(2 * n) % 2
    images = torch.zeros(2 * n, 3, 8, 8, dtype=torch.uint8)
    split = Split.from_tensors(images, labels, class_names=["a", "b"])
    return Ranking(-torch.arange(2.0 * n), split, {0: [0], 1: [0]})


def answers(ranking, right):
    "Predictions that are right where `right` is"
    labels = ranking.split.labels
    said = torch.where(right, labels, 1 - labels)
    return Predictions(nn.functional.one_hot(said, 2).float(), labels)


@pytest.fixture(scope="module")
def gaps():
    ranking, place = ranked(), torch.arange(200)
    in_a = ranking.split.labels == 0
    found = {
        "leans on a": answers(ranking, (place < 100) | ~in_a),
        "leans on both": answers(ranking, place < 100),
        "always right": answers(ranking, place >= 0),
    }
    return SpuriousGaps(ranking, found, k=20)


def test_gaps_by_class_and_network(gaps):
    wide = gaps.wide()
    assert wide.to_dict("list") == {
        "leans on a": [1.0, 0.0],
        "leans on both": [1.0, 1.0],
        "always right": [0.0, 0.0],
    }
    assert list(wide.index) == ["a", "b"]
    row = gaps.table().iloc[0]
    assert (row.k, row.top, row.bottom, row.gap) == (20, 1.0, 0.0, 1.0)


def test_the_summary_has_accuracy_and_effective_robustness(gaps):
    table = gaps.summary().set_index("network")
    assert table.accuracy.tolist() == [0.75, 0.5, 1.0]
    assert table.gap.tolist() == [0.5, 1.0, 0.0]
    assert "robustness" not in table  # all are equally good on the most spurious
    ranking = gaps.ranking
    draw = make_generator(0, "accuracies")
    found = {
        str(p): answers(ranking, torch.rand(200, generator=draw) < p)
        for p in (0.5, 0.7, 0.9)
    }
    several = SpuriousGaps(ranking, found, k=20).summary()
    slope, start = np.polyfit(several.top, several.bottom, 1)
    expected = several.bottom - slope * several.top - start
    assert np.allclose(several.robustness, expected)
    assert abs(several.robustness.sum()) < 1e-9


def test_variances_and_shared_classes(gaps):
    found = gaps.findings(n_shuffles=3)
    assert found["variance over classes"] == pytest.approx(0.5 / 3)
    assert found["variance over networks"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert found["negative gaps"] == 0 and found["mean gap"] == 0.5
    assert gaps.shared_classes(least=0.1).empty
    two = {k: gaps.predictions[k] for k in ("leans on a", "leans on both")}
    shared = SpuriousGaps(gaps.ranking, two, k=20).shared_classes(least=0.1)
    assert shared["class"].tolist() == ["a"] and shared.smallest[0] == 1


def test_a_shuffled_ranking_has_no_gap_of_the_cue():
    ranking = ranked(1000)
    right = {"leans": answers(ranking, torch.arange(2000) < 1000)}
    gaps = SpuriousGaps(ranking, right)
    assert gaps.wide().to_numpy().tolist() == [[1.0], [1.0]]
    from masktune.methods.spurious_gaps import _shuffled

    dealt = SpuriousGaps(_shuffled(ranking, 0), right).wide()
    assert dealt.abs().to_numpy().max() < 0.15


def test_networks_may_be_files_and_modules(tmp_path):
    net = create_model("small_cnn", 2)
    net.untrained = False
    save_model(net, tmp_path / "net.pt")
    ranking = ranked(10)
    images = torch.randint(
        255, (20, 3, 32, 32), generator=make_generator(0, "x"), dtype=torch.uint8
    )
    ranking.split = Split.from_tensors(
        images, ranking.split.labels, class_names=["a", "b"]
    )
    both = measure_spurious_gaps(
        ranking, {"module": net, "file": str(tmp_path / "net.pt")}
    )
    logits = [p.logits for p in both.predictions.values()]
    assert logits[0].equal(logits[1])
    with pytest.raises(ValueError, match="'new' has an untrained head"):
        measure_spurious_gaps(ranking, {"new": create_model("small_cnn", 2)})
    ten = create_model("small_cnn", 10)
    ten.untrained = False
    with pytest.raises(ValueError, match="10 classes, and the ranked images have 2"):
        measure_spurious_gaps(ranking, {"ten": ten})


@pytest.mark.parametrize("chart", ["plot_accuracy", "plot_classes"])
def test_charts_show_every_network(gaps, chart):
    axes = getattr(gaps, chart)().axes[0]
    dots = sum(len(c.get_offsets()) for c in axes.collections)
    assert dots == (3 if chart == "plot_accuracy" else 6)


# --- soft masks ---


def channels():
    "A network whose features are the means of the channels"
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = Network(nn.Identity(), pool, nn.utils.skip_init(nn.Linear, 3, 2))
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5]]))
        net.head.bias.zero_()
    net.untrained = False
    return net


@pytest.fixture
def squares():
    "Ten images of each class; red in class a and green in class b, blue in all"
    x = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    labels = torch.arange(20) % 2
    strength = (10 * torch.arange(20) + 20).byte()
    x[torch.arange(20), labels, :2, :2] = strength[:, None, None]
    x[:, 2, 4:, 4:] = 50
    ids = [f"folder/{i}.jpg" for i in range(20)]
    return Split.from_tensors(x, labels, ids=ids, class_names=["a", "b"])


def test_soft_masks_are_where_the_feature_is(squares, tmp_path):
    net = channels()
    told = candidate_features(net, squares, top=2)
    told.mark("a", 0, True).mark("a", 2, False).mark("b", 1, True)
    table = write_soft_masks(net, squares, told, tmp_path, share=0.3)
    assert list(table.columns) == ["image", "class", "feature", "kind", "mask"]
    sizes = table.groupby(["class", "feature", "kind"]).size().to_dict()
    assert sizes == {
        ("a", 0, "spurious"): 3,
        ("a", 2, "core"): 3,
        ("b", 1, "spurious"): 3,
    }
    brightest = table[(table["class"] == "a") & (table.feature == 0)].image
    assert brightest.tolist() == [f"folder/{i}.jpg" for i in (18, 16, 14)]
    for kind, rows in (("spurious", slice(0, 2)), ("core", slice(4, 8))):
        file = table[(table["class"] == "a") & (table.kind == kind)]["mask"].iloc[0]
        mask = np.array(Image.open(tmp_path / file))
        assert mask.dtype == np.uint8 and mask.shape == (8, 8)
        assert (mask[rows, rows] == 255).all()
        mask[rows, rows] = 0
        assert not mask.any()
    assert pd.read_csv(tmp_path / "masks.csv").equals(table)
    assert Annotations.load(tmp_path / "answers.json") == told


def test_soft_masks_are_read_in_the_order_of_the_split(squares, tmp_path):
    net = channels()
    told = candidate_features(net, squares, top=2)
    told.mark("a", 0, True).mark("a", 2, True)
    write_soft_masks(net, squares, told, tmp_path, share=0.1)
    turned = squares.subset(range(19, -1, -1))
    masks = read_soft_masks(tmp_path, turned)
    assert masks.shape == (20, 8, 8)
    own = masks[1]  # image 18
    assert own[:2, :2].eq(1).all() and not own[:2, 4:].any()
    assert masks.flatten(1).any(1).sum() <= 2
    assert not read_soft_masks(tmp_path, turned, "core").any()
    small = Split.from_tensors(
        squares.images[:, :, :4, :4], squares.labels, ids=squares.ids
    )
    with pytest.raises(ValueError, match="at the size it was written at"):
        read_soft_masks(tmp_path, small)


def test_soft_masks_refuse_other_answers(squares, tmp_path):
    net, other = channels(), create_model("small_cnn", 2)
    told = candidate_features(net, squares)
    with pytest.raises(ValueError, match="no feature has been called"):
        write_soft_masks(net, squares, told, tmp_path)
    told.mark("a", 0)
    other.untrained = False
    with pytest.raises(ValueError, match="another network"):
        write_soft_masks(other, squares, told, tmp_path)
    assert not list(tmp_path.iterdir())


# --- criteria ---


def test_criteria_see_a_network_that_only_reads_a_corner():
    draw = make_generator(0, "criteria")
    y = torch.arange(200) % 2
    x = torch.randint(40, (200, 3, 16, 16), generator=draw, dtype=torch.uint8)
    x[torch.arange(200), y, 1, 1] = 255  # a cue in the corner
    x[torch.arange(200), y, 6:] += 60  # and the thing itself
    split = Split.from_tensors(x, y, class_names=["a", "b"])

    class Looks(nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.register_buffer("mask", torch.zeros(1, 1, 16, 16))
            self.mask[..., rows, :] = 1
            if rows == slice(0, 4):
                self.mask[..., 4:] = 0

        def forward(self, x):
            return x * self.mask

    def network(rows):
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net = Network(Looks(rows), pool, nn.utils.skip_init(nn.Linear, 3, 2))
        with torch.no_grad():
            net.head.weight.copy_(torch.tensor([[99.0, 0, 0], [0, 99.0, 0]]))
            net.head.bias.zero_()
        net.untrained = False
        return net

    cheat, honest = network(slice(0, 4)), network(slice(6, 16))
    one, two = (group_free_criteria(n, split, cheat) for n in (cheat, honest))
    assert list(one) == list(CRITERIA)
    assert one["accuracy"] == two["accuracy"] == one["agreement"] == 1
    assert two["hidden"] > one["hidden"] + 0.2
    assert two["steadiness"] > one["steadiness"]
    assert one["transplant"] < -0.3
    assert transplant_score(cheat, split) == one["any transplant"]
