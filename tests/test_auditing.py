"The audit: each measurement finds what was planted, its control does not, and the page is whole."

import copy
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from masktune.auditing.audit import _draw_places, audit
from masktune.auditing.evidence import Evidence, paired_interval, wilson_interval
from masktune.auditing.folder import audit_folder, read_masks
from masktune.auditing.hiding import faithfulness_curves, measure_faithfulness
from masktune.auditing.hiding import mean_color, measure_hiding
from masktune.auditing.places import heat_concentration, heat_constancy
from masktune.auditing.places import measure_objects, name_place
from masktune.auditing.reasons import cluster_maps
from masktune.auditing.report import AuditComparison, AuditReport
from masktune.auditing.slices import _assign_slices, measure_features
from masktune.auditing.slices import measure_slices, worst_slice
from masktune.auditing.surface import describe_files, describe_images
from masktune.auditing.surface import measure_surface, near_duplicates
from masktune.auditing.transplant import PARTS, draw_pairs, measure_transplants
from masktune.auditing.transplant import turned_answers
from masktune.auditing.verdict import (
    LEAST_EXCESS,
    PREDICTIVE,
    STRONG,
    reach_verdict,
)
from masktune.data.split import Split
from masktune.evaluation.features import extract_features
from masktune.evaluation.metrics import predict
from masktune.models.network import Network
from masktune.models.zoo import create_model, save_model
from masktune.saliency.maps import SaliencyMaps, compute_maps


def corner_images(n=120, seed=0):
    "Noise; class 1 has a bright patch in the upper left corner, and the patch is all there is"
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randint(90, (n, 3, 16, 16), generator=g), torch.arange(n) % 2
    x[y == 1, :, :4, :4] = 250
    return Split.from_tensors(x.byte(), y, class_names=["plain", "patch"])


def corner_network():
    "Answers 'patch' where a place of the picture is bright; built by hand, so nothing is learned"
    conv = nn.utils.skip_init(nn.Conv2d, 3, 2, 2, stride=2)
    head = nn.utils.skip_init(nn.Linear, 2, 2)
    with torch.no_grad():
        conv.weight[0], conv.weight[1] = 1 / 12, 0.0
        conv.bias[:] = torch.tensor([-0.4, 0.0])
        head.weight[:] = torch.tensor([[-60.0, 0.0], [60.0, 0.0]])
        head.bias[:] = torch.tensor([0.5, -0.5])
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(nn.Sequential(conv, nn.ReLU()), pool, head)


@pytest.fixture(scope="module")
def corner():
    split, net = corner_images(), corner_network()
    assert predict(net, split).accuracy == 1.0
    return split, net


@pytest.fixture(scope="module")
def report(corner):
    split, net = corner
    return audit(net, split)


def test_wilson_interval_has_the_published_values():
    "Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29"
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_paired_interval_narrows_and_holds_the_difference():
    own, control = np.arange(1000) < 700, np.arange(1000) < 400
    low, high = paired_interval(own, control)
    assert low < 0.3 < high and high - low < 0.1
    few = paired_interval(own[::20], control[::20])
    assert few[1] - few[0] > 2 * (high - low)
    assert paired_interval([True] * 5, [True] * 5)[1] > 0.1, "never of zero width"


def test_the_corner_is_found(report):
    assert (
        report.verdict.strength == "strong" and report.verdict.part == "hot place"
    )
    assert (
        "upper left" in report.verdict.where
        and report.verdict.hiding_helps == "yes"
    )
    moved = report["transplant, hot place"]
    assert moved.value > 0.95 and moved.control < 0.2 and moved.low > 0.5
    assert report["hiding"].value > 0.3 > 0.1 > report["hiding"].control
    assert report["deletion"].excess > 0.1
    assert report["constancy"].raw["place"] == "upper left"


def test_a_network_that_sees_nothing_is_not_accused(corner):
    "Its answers hang on a hash of the whole picture, so no part carries them"
    split, _ = corner
    blind = create_model("small_cnn", 2)
    blind.untrained = False
    few = split.subset(range(60))
    predicted = predict(blind, few).predicted
    if len(predicted.unique()) == 2:
        found = measure_transplants(blind, few, compute_maps(blind, few), predicted)
        assert found[0].excess < STRONG
    with pytest.raises(ValueError, match="the same answer to every image"):
        draw_pairs(torch.zeros(10))


def test_pairs_are_of_other_and_of_the_same_answers():
    predicted = torch.tensor([0, 0, 1, 2, 1, 0])
    pairs = draw_pairs(predicted, rounds=5)
    assert len(pairs) == 30
    assert (predicted[pairs.donor] != predicted[pairs.recipient]).all()
    assert (predicted[pairs.peer] == predicted[pairs.recipient]).all()


def test_concentration_and_constancy_of_known_maps():
    spot = torch.zeros(6, 8, 8)
    spot[:, 0, 0] = 1
    flat = torch.ones(6, 8, 8)
    right = torch.ones(6).bool()
    tight, even = (
        heat_concentration(SaliencyMaps(v.half(), right, (8, 8), {})).mean()
        for v in (spot, flat)
    )
    assert tight == pytest.approx(1) and even == pytest.approx(0.05)
    own, moved = heat_constancy(spot)
    assert own.mean() == pytest.approx(1) and moved.mean() < 0.5


@pytest.mark.parametrize(
    "at, words",
    [
        ((0, 0), "upper left"),
        ((0, 4), "upper middle"),
        ((4, 8), "right side"),
        ((4, 4), "centre"),
        ((8, 0), "lower left"),
    ],
)
def test_places_have_names(at, words):
    mean_map = torch.zeros(9, 9)
    mean_map[at] = 1
    assert name_place(mean_map) == words


def test_objects_are_pointed_at(corner):
    split, net = corner
    patches = split.subset(split.labels == 1)
    region = torch.zeros(len(patches), 16, 16, dtype=torch.bool)
    region[:, :4, :4] = True
    pointing, energy = measure_objects(compute_maps(net, patches), region)
    assert pointing.value == 1 and pointing.control == pytest.approx(1 / 16)
    assert energy.value > 0.5


def test_the_surface_gives_a_tint_away_and_noise_does_not():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randint(200, (160, 3, 16, 16), generator=g), torch.arange(160) % 2
    noise = measure_surface(describe_images(Split.from_tensors(x.byte(), y)), y)
    x[y == 1, 0] += 40
    tint = measure_surface(describe_images(Split.from_tensors(x.byte(), y)), y)
    values = {e.name: (e.value, e.control) for e in tint}
    assert (
        values["surface, colours"][0] > 0.95 > 0.7 > values["surface, colours"][1]
    )
    assert all(e.value < 0.72 for e in noise), [repr(e) for e in noise]


@pytest.fixture()
def files(tmp_path):
    "Two classes of photographs; those of class b are larger files from another camera"
    g = np.random.default_rng(0)
    for k, (name, camera) in enumerate((("a", "IMG"), ("b", "DSC"))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            pixels = g.integers(0, 255, (20 + 4 * k, 20, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            image.save(tmp_path / "photos" / name / f"{camera}_{i:04}.png")
    return tmp_path


def test_files_give_the_class_away(files):
    split = Split.from_folder(files / "photos", 16)
    found = measure_surface(
        describe_files(files / "photos", split.ids), split.labels
    )
    values = {e.name.removeprefix("surface, "): e.value for e in found}
    for name in ("size", "aspect ratio", "file name"):
        assert values[name] > 0.95, values
    assert values["file type"] <= 0.6


def test_near_duplicates_are_counted_once():
    split = corner_images(40)
    brighter = (split.images[:10].int() + 1).clamp(max=255).byte()
    again = Split.from_tensors(brighter, split.labels[:10])
    pairs = near_duplicates(split, again)
    own = pairs[pairs.a == pairs.b]
    assert len(own) == 10


def test_hiding_counts_what_is_lost(corner):
    split, net = corner
    maps = compute_maps(net, split)
    lost = measure_hiding(net, split, maps)
    assert lost.value == pytest.approx(0.5, abs=0.15), "all patches become plain"
    curves = faithfulness_curves(net, split, maps, shares=(0.1, 0.5))
    assert (curves["deletion, own"] < curves["deletion, random"] + 1e-6).all()


def test_two_places_are_two_reasons():
    maps = torch.zeros(60, 8, 8)
    maps[:40, 0, 0] = maps[40:, 7, 7] = 1
    maps += 0.05 * torch.rand(
        maps.shape, generator=torch.Generator().manual_seed(0)
    )
    clusters, score = cluster_maps(maps)
    assert np.bincount(clusters).tolist() == [40, 20] and score > 0.8


def test_the_worst_slice_is_found_without_groups():
    "Features of three kinds; the network is wrong on one of them"
    g = torch.Generator().manual_seed(0)
    kind = torch.arange(300) % 3
    features = torch.randn(300, 8, generator=g) + 6 * torch.eye(8)[kind]
    labels = torch.zeros(300, dtype=torch.long)
    logits = torch.stack([1.0 - 2.0 * (kind == 2), torch.zeros(300)], 1)
    from masktune.evaluation.metrics import Predictions

    answers = Predictions(logits, labels, class_names=["a", "b"])
    inside, held = worst_slice(features, answers)
    assert (kind[torch.from_numpy(inside)] == 2).float().mean() > 0.95
    images = torch.zeros(300, 3, 8, 8, dtype=torch.uint8)
    split = Split.from_tensors(images, labels, class_names=["a", "b"])
    worst = measure_slices(split, answers, features)
    assert worst.value == 0 and worst.control > 0.5


def test_the_verdict_follows_the_printed_rules():
    def moved(part, value, n=200):
        return Evidence(
            f"transplant, {part}", value, 0.0, value - 0.05, value, n, ""
        )

    least = LEAST_EXCESS["edges"]
    for value, strength in (
        (least / 2, "no sign"),
        (least + 0.01, "some"),
        (STRONG + 0.01, "strong"),
    ):
        assert reach_verdict([moved("edges", value)]).strength == strength
    both = [moved("hot place", 0.5), moved("edges", 0.6)]
    assert reach_verdict(both).part == "hot place", (
        "the smaller of two that are alike"
    )
    assert reach_verdict([moved("colours", 0.9)]).strength == "no sign"
    alone = Evidence("surface, colours", PREDICTIVE, 0.5, 0.3, 0.5, 200, "")
    assert reach_verdict([moved("colours", 0.9), alone]).part == "colours"
    unsure = Evidence("transplant, edges", 0.3, 0.0, -0.1, 0.7, 10, "")
    assert reach_verdict([unsure]).strength == "no sign", "its interval holds zero"


def test_the_page_is_whole_and_fetches_nothing(report, tmp_path):
    report.save_html(tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    assert "<script" not in page and "http" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for e in report.evidence:
        assert e.name[1:] in page
    assert all(re.findall(r'<img alt="([^"]*)"', page)), "every picture has a text"
    assert report.verdict.sentence in page


def test_short_reprs(report):
    assert len(repr(report)) < 200 and repr(report).startswith("AuditReport(")
    assert all(len(repr(e)) < 120 for e in report.evidence)
    assert report._repr_markdown_().count("|") > 20
    assert list(report.table.columns) == [
        "evidence",
        "value",
        "control",
        "low",
        "high",
        "n",
    ]
    assert (report.table.low <= report.table.high).all()


def test_before_and_after(corner):
    split, net = corner
    softer = corner_network()
    softer.head.weight.data *= 0.5
    both = audit(net, softer, split.subset(range(60)))
    assert isinstance(both, AuditComparison)
    change = both.table.set_index("evidence").loc["transplant, hot place"]
    assert change.before > 0.4 and change.change == change.after - change.before


def test_images_are_drawn_evenly():
    labels = torch.tensor([0] * 90 + [1] * 10)
    images = torch.zeros(100, 3, 8, 8, dtype=torch.uint8)
    split = Split.from_tensors(images, labels)
    at = _draw_places(split, 20, seed=0)
    assert labels[at].bincount().tolist() == [10, 10] and at.equal(at.sort().values)
    assert _draw_places(split, 50, seed=0).equal(_draw_places(split, 50, seed=0))
    assert labels[_draw_places(split, 50, 0)].bincount().tolist() == [40, 10]


def test_what_it_refuses(corner):
    split, net = corner
    with pytest.raises(ValueError, match="still has random weights"):
        audit(create_model("small_cnn", 2), split)
    with pytest.raises(
        ValueError, match="3 outputs, and the images have 2 classes"
    ):
        three = create_model("small_cnn", 3)
        three.untrained = False
        audit(three, split)
    with pytest.raises(ValueError, match="must be a Split"):
        audit(net, split.images)
    with pytest.raises(ValueError, match="at least two classes"):
        audit(net, split.subset(split.labels == 0))
    with pytest.raises(ValueError, match="audit takes"):
        audit()


def test_a_folder_becomes_a_page(corner, tmp_path):
    split, net = corner
    save_model(create_saved(net), tmp_path / "net.pt")
    for i in range(60):
        image, label, _ = split[i]
        file = (
            tmp_path / "photos" / f"{label} {split.class_names[label]}" / f"{i}.png"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    found = audit_folder(tmp_path / "photos", tmp_path / "out", tmp_path / "net.pt")
    assert isinstance(found, AuditReport) and found.verdict is not None
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "audit.html",
        "audit.csv",
        "annotations.json",
    }
    with pytest.raises(FileNotFoundError, match="60 of 60 masks are missing"):
        read_masks(tmp_path, Split.from_folder(tmp_path / "photos"))


def create_saved(net):
    "A network that a file can name; its weights do not matter here"
    saved = create_model("small_cnn", 2)
    saved.untrained = False
    return saved


def test_every_part_is_transplanted(report):
    names = [e.name for e in report.evidence if e.name.startswith("transplant")]
    assert names == [f"transplant, {part}" for part in PARTS]


def test_intervals_where_hiding_helps(corner):
    split, net = corner
    turned = Split.from_tensors(split.images, 1 - split.labels)  # the cue misleads
    found = measure_faithfulness(net, turned, compute_maps(net, turned))
    assert found.value < 0 and found.low <= found.excess <= found.high


def test_classes_of_one_image():
    x = corner_images(11).images
    y = torch.tensor([0] * 5 + [1] * 5 + [2])
    single, split = (
        Split.from_tensors(x, torch.arange(11)),
        Split.from_tensors(x, y),
    )
    families = describe_images(single)
    assert measure_surface(families, single.labels.numpy()) == []
    net = create_model("small_cnn", 3).eval()
    pooled, answers = extract_features(net, split), predict(net, split)
    found = measure_features(net, split, answers, pooled)
    assert found.details["class"].tolist() == ["0", "1"]
    few = split.subset([0, 1, 2, 3, 10])
    pooled, answers = extract_features(net, few), predict(net, few)
    assert measure_features(net, few, answers, pooled) is None


def test_a_class_that_was_not_divided_has_a_slice_of_its_own():
    values = np.random.default_rng(0).normal(size=(8, 2))
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    first = np.array([1, 1, 1, 0, 0, 0, 1, 0], dtype=bool)
    slices = _assign_slices(values, labels, first, 4, 0)
    assert set(slices[:6]).isdisjoint(slices[6:])


def test_images_without_an_object_do_not_count(corner):
    split, net = corner
    maps = compute_maps(net, split)
    region = torch.zeros(len(split), 16, 16, dtype=torch.bool)
    assert measure_objects(maps, region) == []
    region[split.labels == 1, :4, :4] = True
    pointing, energy = measure_objects(maps, region)
    assert pointing.n == energy.n == 60 and pointing.control == 1 / 16


def test_the_mean_colour_is_that_of_all_classes():
    x = torch.zeros(1200, 3, 2, 2, dtype=torch.uint8)
    x[600:] = 255  # class by class, as folders are read
    split = Split.from_tensors(x, torch.arange(1200) // 600)
    assert mean_color(split).tolist() == pytest.approx([0.5] * 3, abs=0.01)
    assert mean_color(split.subset(range(599, 601))).tolist() == [0.5] * 3


def test_answers_are_those_of_the_logits_where_probabilities_are_rounded(corner):
    split, net = corner
    sure = copy.deepcopy(net)
    with torch.no_grad():
        sure.head.bias += 200  # both probabilities are 1
    ended = Network(sure.backbone, sure.neck, sure.head, end=nn.Sigmoid())
    predicted = predict(ended, split).predicted
    assert predicted.equal(split.labels)
    pairs = draw_pairs(predicted)
    turned = turned_answers(
        ended, split, pairs, predicted, lambda x, donor, at: donor
    )
    assert turned.all(), "whole donors carry their answers"


FEW = {
    "two": [0, 1],
    "four": [0, 1, 2, 3],
    "one of a class": [0, 2, 4, 6, 8, 10, 12, 14, 1],
    "a dozen": list(range(12)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FEW)
def test_few_images_give_no_verdict_and_no_odd_numbers(corner, name):
    "In all its renderings the report says what the images are too few for"
    split, net = corner
    few = split.subset(FEW[name])
    found = audit(net, few)
    page = re.sub(r'src="data:[^"]*"', "", found.to_html())
    for text in (repr(found), found._repr_markdown_(), page):
        assert "Too few images for a verdict" in text or text is page
        assert not re.search(r"\b(nan|inf)\b", text, re.I), text
        assert "1 images" not in text
    assert f"{len(few)} were looked at" in found._repr_markdown_()
    assert "reasons (a class of 20 images)" in page
    names = set(found.table.evidence)
    assert "reasons" not in names and ("slice, worst" in names) == (len(few) > 8)
    assert ("constancy" in names) == (name in ("four", "a dozen"))
    assert any(n.startswith("surface") for n in names) == (name == "a dozen")


def test_images_alone_may_be_too_few():
    found = audit(corner_images().subset([0, 1, 2, 3]))
    assert found.table.empty and "Nothing was measured" in found._repr_markdown_()
    assert "too few images for the surface" in found.to_html()


def test_enough_images_leave_nothing_out(report):
    assert report.not_measured == [] and "Too few" not in report._repr_markdown_()


def test_one_number_has_no_interval():
    one = Evidence("one", 0.8, 0.1, -np.inf, np.inf, 1, "A sentence.")
    assert "unknown, from one number" in one._repr_markdown_()
    assert np.isnan(one.row()["low"])


def test_audit_refuses_what_does_not_belong_to_the_split(corner):
    split, net = corner
    for match, options in {
        "n=1 must be a whole number of at least 2": dict(n=1),
        "seed=-1 must be": dict(seed=-1),
        "masks must be N×H×W": dict(masks=torch.ones(3, 16, 16, dtype=torch.bool)),
        "does not know its files": dict(root="photos"),
    }.items():
        with pytest.raises(ValueError, match=match):
            audit(net, split, **options)
    with pytest.raises(TypeError, match="train must be Split or None"):
        audit(net, split, train=split.images)
