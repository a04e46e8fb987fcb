"Cues planted in photographs: the truth that is returned is the truth in the pixels."

import pandas as pd
import pytest
import torch

from masktune.core.random import make_generator
from masktune.data import group_sets
from masktune.data.benchmark import Benchmark
from masktune.data.photo_cues import (
    _PLACED,
    _PLACELESS,
    PHOTO_CUES,
    PLACES,
    _write,
    plant_cue,
)
from masktune.data.photo_settings import balance_groups, keep_classes
from masktune.data.photo_settings import load_photo_setting, photo_settings
from masktune.data.photo_settings import plant_cue_in_benchmark
from masktune.data.split import Split


def photographs(n=40, k=2, size=(48, 64)):
    draw = make_generator(0, "photographs")
    x = torch.randint(60, 200, (n, 3, *size), dtype=torch.uint8, generator=draw)
    names = ["cat", "dog", "cow"][:k]
    return Split.from_tensors(x, torch.arange(n) % k, class_names=names)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", _PLACED)
def test_only_masked_pixels_change_and_only_where_there_is_a_cue(kind, place):
    split = photographs()
    p = plant_cue(split, kind, 0.9, place=place)
    changed = (p.split.images != split.images).any(1)
    assert not (changed & ~p.masks).any()
    assert changed.sum() > 0.6 * p.masks.sum()
    assert p.masks.flatten(1).any(1).equal(p.cue >= 0)
    assert p.masks.double().mean() < 0.3


@pytest.mark.parametrize("kind", _PLACELESS)
def test_a_cue_without_a_place_has_no_mask_and_is_everywhere(kind):
    split = photographs()
    p = plant_cue(split, kind, classes=[1], spurious_correlation=1.0)
    assert p.masks is None
    changed = (p.split.images != split.images).any(1).double().mean((1, 2))
    assert (changed[p.cue < 0] == 0).all() and (changed[p.cue == 1] > 0.4).all()


@pytest.mark.parametrize("kind", PHOTO_CUES)
def test_cues_are_the_same_every_time(kind):
    first, again = (
        plant_cue(photographs(), kind, place="random") for _ in range(2)
    )
    assert first.split.fingerprint() == again.split.fingerprint()


@pytest.mark.parametrize("kind", sorted({*PHOTO_CUES} - {"none"}))
@pytest.mark.parametrize("size", [(32, 32), (224, 160)])
def test_each_class_can_be_told_by_its_cue(kind, size):
    "The same grey photograph with the cues of two classes is two images"
    grey = torch.full((2, 3, *size), 120, dtype=torch.uint8)
    split = Split.from_tensors(grey, [0, 1], class_names=["cat", "dog"])
    a, b = plant_cue(split, kind, 1.0).split.images.float()
    assert (a - b).abs().sum() > 500


def test_shares_are_exact_and_groups_say_what_is_there():
    p = plant_cue(photographs(300, 3), "sticker", 0.8)
    names = p.split.group_names
    assert names[:4] == [
        "cat, cue of cat",
        "cat, cue of dog",
        "cat, cue of cow",
        "cat, no cue",
    ]
    assert p.split.groups.bincount(minlength=12).view(3, 4).tolist() == [
        [80, 10, 10, 0],
        [10, 80, 10, 0],
        [10, 10, 80, 0],
    ]
    one = plant_cue(photographs(200), "sticker", 0.9, classes=[0])
    assert one.split.group_counts().n.tolist() == [90, 10, 10, 90]
    assert one.split.group_names == [
        *("cat, cue of cat", "cat, no cue", "dog, cue of cat", "dog, no cue")
    ]


def test_the_four_tests_show_the_same_images():
    split = photographs(80)
    bench = Benchmark("photographs", split, split, {"test": split})
    p = plant_cue_in_benchmark(bench, "date", classes=[1], place="random")
    tests = {name: p.truth[name] for name in p.bench.tests}
    assert {n: int((t.cue >= 0).sum()) for n, t in tests.items()} == {
        **{"original": 0, "aligned": 40, "reversed": 40, "balanced": 40}
    }
    assert tests["original"].split.images.equal(split.images)
    assert p.bench.tests["original"].groups.bincount().tolist() == [0, 40, 0, 40]
    for name in ("aligned", "reversed", "balanced"):
        changed = (tests[name].split.images != split.images).any(1)
        assert changed.any() and not (changed & ~tests[name].masks).any()
    assert p.bench.train.groups.bincount().tolist() == [2, 38, 38, 2]


def test_a_control_says_nothing_about_the_class():
    p = plant_cue(photographs(400), "frame", 0.5)
    table = torch.bincount(2 * p.split.labels + p.cue, minlength=4)
    assert table.tolist() == [100] * 4


def test_settings_are_half_and_half():
    settings = photo_settings()
    assert len({s.name for s in settings}) == len(settings) == 48
    assert sum(s.has_shortcut for s in settings) == 24
    assert {s.kind for s in settings} == {*PHOTO_CUES}
    assert all(
        s.spurious_correlation == 0.5 for s in settings if not s.has_shortcut
    )


def test_classes_and_groups_are_chosen():
    split = photographs(90, 3)
    two = keep_classes(split, ["cow", "cat"])
    assert two.class_names == ["cow", "cat"] and two.labels.bincount().tolist() == [
        30,
        30,
    ]
    assert two.images[two.labels == 0].equal(split.images[split.labels == 2])
    even = balance_groups(plant_cue(split, "tint", 0.8, classes=[0]).split, n=3)
    assert even.group_counts().n.tolist() == [3] * 6
    with pytest.raises(ValueError, match="class='cot'.*Did you mean 'cow'"):
        keep_classes(split, ["cot"])
    with pytest.raises(ValueError, match="'cat, no cue' has no image"):
        balance_groups(plant_cue(split, "tint").split)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(kind="stiker"), "Did you mean 'sticker'"),
        (dict(place="left"), "place='left'"),
        (dict(classes=[2]), "numbers from 0 to 1"),
        (dict(classes=[]), "numbers from 0 to 1"),
        (dict(scale=12), "scale=12"),
        (dict(opacity=1.5), "opacity=1.5"),
        (dict(spurious_correlation=95), "spurious_correlation=95"),
    ],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        plant_cue(photographs(4), **wrong)


def few_birds(data, folder):
    "A Waterbirds of 40 of the real images of each group of each part"
    whole = group_sets.find_dataset("waterbirds", data)
    rows = pd.read_csv(whole / "metadata.csv")
    few = rows.groupby(["split", "y", "place"]).head(40)
    few.to_csv(folder / "metadata.csv", index=False)
    for file in few.img_filename:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).symlink_to(whole / file)
    return folder


@pytest.mark.data
def test_real_photographs(data, tmp_path):
    settings = {s.name: s for s in photo_settings()}
    birds = few_birds(data, tmp_path)
    p = load_photo_setting(settings["birds sticker"], birds, n=20, size=64)
    assert [len(s) for s in (p.bench.train, p.bench.val)] == [40, 10]
    assert p.bench.train.images.shape[1:] == (3, 64, 64)
    assert p.truth["train"].masks.any() and len(p.bench.tests["balanced"]) == 10
    pets = load_photo_setting(settings["cat_dog clean"], data, n=50)
    assert (
        pets.bench.class_names == ["cat", "dog"] and pets.bench.train.groups is None
    )


def test_two_of_many_classes_get_a_cue():
    x = torch.zeros(24, 3, 16, 16, dtype=torch.uint8)
    split = Split.from_tensors(x, torch.arange(24) % 12)
    bench = Benchmark("twelve", split, split, {"test": split})
    planted = plant_cue_in_benchmark(bench, "sticker", classes=[0, 1])
    assert planted.truth["train"].cue.unique().tolist() == [-1, 0, 1]


@pytest.mark.parametrize("side", [28, 32, 48, 224])
def test_a_date_stamp_is_whole(side):
    "Two dates that differ in the first digit alone look different"
    first, second = (
        _write(date, (side, side), 0.15, "lower right")
        for date in ("24 12 90", "14 12 90")
    )
    assert first.any() and not first.equal(second)
    assert not first[:, 0].any() and not first[:, -1].any(), "it touches the border"


def test_images_too_small_for_a_text_are_refused():
    with pytest.raises(ValueError, match="needs 22 pixels, and the images have room"):
        plant_cue(photographs(size=(16, 16)), "date")
    assert plant_cue(photographs(size=(16, 16)), "sticker").masks.any()
