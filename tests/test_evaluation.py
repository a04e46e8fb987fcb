"Predictions and reports against values worked out by hand; what can't be measured is refused."

import io

import pandas as pd
import pytest
import torch

from masktune.data.split import Split
from masktune.evaluation.metrics import Predictions, Report, evaluate, group_report
from masktune.evaluation.metrics import predict, unit_images
from masktune.methods.erm import ERM
from masktune.models.zoo import create_model

LABELS = [0, 0, 0, 1, 1, 1]
GROUPS = [0, 1, 1, 3, 3, 4]
PREDICTED = [0, 0, 1, 1, 0, 1]
CLASSES, PLACES = ["land", "water"], ["a", "b", "empty", "c", "d"]


def predictions(**changes):
    logits = torch.nn.functional.one_hot(torch.tensor(PREDICTED)).float() * 2
    known = dict(
        labels=torch.tensor(LABELS),
        groups=torch.tensor(GROUPS),
        ids=[f"{i}.jpg" for i in range(6)],
        class_names=CLASSES,
        group_names=PLACES,
    )
    return Predictions(logits, **known | changes)


def split(n=6, **named):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 28, 28), generator=g, dtype=torch.uint8)
    return Split.from_tensors(images, torch.arange(n) % 2, **named)


def test_a_report_by_hand():
    "A group without an image has no row and no say"
    g = torch.tensor([0, 1, 1, 1, 2, 3, 4, 4])
    train = Split.from_tensors(torch.zeros(8, 1, 2, 2).byte(), [0] * 8, g)
    r = group_report(predictions(), train)
    assert r.groups.group.tolist() == ["a", "b", "c", "d"]
    assert r.groups.n.tolist() == [1, 2, 2, 1]
    assert r.groups.accuracy.tolist() == [1, 0.5, 0.5, 1]
    assert r.accuracy == pytest.approx(4 / 6)
    assert r.worst_group_accuracy == 0.5
    assert r.worst_class_accuracy == pytest.approx(2 / 3)
    assert r.mean_group_accuracy == 0.75
    # training has 1, 3, 1 and 2 images of these four groups
    assert r.reweighted_accuracy == pytest.approx((1 + 1.5 + 0.5 + 2) / 7)


def test_without_groups_classes_take_their_place():
    r = group_report(predictions(groups=None, group_names=None))
    assert r.worst_group_accuracy is None and r.reweighted_accuracy is None
    assert r.groups["class"].tolist() == CLASSES
    assert r.mean_group_accuracy == pytest.approx(2 / 3)


def test_one_row_per_image_by_name():
    table = predictions().table()
    assert table.columns.tolist() == [
        "id",
        "label",
        "predicted",
        "probability",
        "group",
        "logit land",
        "logit water",
    ]
    first = table.iloc[2]
    assert first.id == "2.jpg" and first.label == "land"
    assert first.predicted == "water" and first.group == "b"
    e = torch.tensor(2.0).exp()
    assert table.probability.tolist() == pytest.approx([(e / (e + 1)).item()] * 6)
    assert (table.label == table.predicted).mean() == pytest.approx(4 / 6)


def test_the_table_leaves_out_what_is_not_known():
    table = Predictions(torch.eye(3)).table()
    expected = ["predicted", "probability", "logit 0", "logit 1", "logit 2"]
    assert table.columns.tolist() == expected
    assert table.predicted.tolist() == ["0", "1", "2"]


def test_the_table_survives_csv_and_parquet(tmp_path):
    "Names with commas, quotes and line breaks too"
    ids = ["a,b.jpg", 'say "hi".jpg', "new\nline.jpg", "-x.jpg", "é.jpg", "5.jpg"]
    table = predictions(ids=ids).table()
    back = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(back, table)
    table.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)


def test_an_output_without_a_class_is_numbered():
    "An abstention is one output more than there are classes"
    p = Predictions(torch.eye(3), torch.tensor([0, 1, 0]), class_names=CLASSES)
    assert p.table().predicted.tolist() == ["land", "water", "2"]


def test_short_reprs():
    assert (
        repr(predictions()) == "Predictions(6 images, 2 classes, accuracy 0.6667)"
    )
    assert repr(group_report(predictions())) == (
        "Report(6 images: accuracy (each image once) 66.7 %, worst group 50.0 %,"
        " worst class 66.7 %, mean over groups 75.0 %)"
    )
    assert predictions() != predictions(), "by identity: tensors can't be compared"


def test_a_fitted_method_is_as_good_as_its_network():
    data = split(64)
    net = create_model("small_cnn", 2)
    method = ERM(epochs=1, device="cpu")
    method.model_ = net
    assert predict(method, data).logits.equal(predict(net, data).logits)
    assert isinstance(evaluate(method, data), Report)


def test_predict_is_the_same_whatever_the_batch_and_the_input():
    data, net = split(10), create_model("small_cnn", 2)
    whole = predict(net, data).logits
    assert torch.allclose(predict(net, data, 3).logits, whole, atol=1e-6)
    assert predict(net, data.images).logits.equal(whole)
    assert torch.allclose(predict(net, data.images / 255).logits, whole, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_has_diverged_is_not_evaluated(bad):
    net = create_model("small_cnn", 2)
    net.head.bias.data[1] = bad
    for measure in (predict, evaluate):
        with pytest.raises(ValueError, match="not finite for 6 of 6 images"):
            measure(net, split())


def test_a_class_that_is_ruled_out_is_no_divergence():
    "A logit of minus infinity is a probability of 0"
    net = create_model("small_cnn", 2)
    net.head.bias.data[1] = -float("inf")
    assert predict(net, split()).predicted.tolist() == [0] * 6


@pytest.mark.parametrize("n_outputs", [3, 10])
def test_a_network_for_other_classes_is_not_evaluated(n_outputs):
    message = f"the network has {n_outputs} outputs, .* 2 classes"
    with pytest.raises(ValueError, match=message):
        evaluate(
            create_model("small_cnn", n_outputs), split(class_names=["cat", "dog"])
        )


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.linspace(-2.1, 2.6, 48).view(1, 3, 4, 4), "look normalised"),
        (torch.linspace(0, 255, 48).view(1, 3, 4, 4), "look like bytes"),
        (torch.full((1, 3, 4, 4), float("nan")), r"must be in \[0, 1\]"),
        (torch.zeros(2, 8, 8, 3), "channels come last"),
        (torch.zeros(3, 8, 8), "a dimension is missing"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "not torch.int64"),
    ],
)
def test_images_that_are_something_else(images, message):
    with pytest.raises(ValueError, match=message):
        unit_images(images)


def test_small_images_are_not_taken_for_channels_last():
    assert unit_images(torch.zeros(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    assert unit_images(torch.full((1, 1, 2, 2), 255).byte()).max() == 1


def test_what_a_report_needs():
    with pytest.raises(ValueError, match="no labels"):
        group_report(predictions(labels=None))
    with pytest.raises(ValueError, match="needs the groups of `train`"):
        group_report(predictions(), split())


def test_groups_without_names_are_numbered():
    table = predictions(group_names=None).table()
    assert table.group.tolist() == [str(g) for g in GROUPS]
