"Masks of objects: found for each set, aligned with the images, refused where they don't fit."

import numpy as np
import pytest
import torch
from PIL import Image

from masktune.data.miniatures import make_miniature
from masktune.data.object_masks import object_masks
from masktune.data.registry import load_benchmark
from masktune.data.split import Split
from masktune.evaluation.localisation import pointing_game


@pytest.fixture
def birds(tmp_path):
    make_miniature("waterbirds", tmp_path, masks=True)
    return tmp_path


def box(h, w):
    mask = torch.zeros(h, w, dtype=torch.bool)
    mask[h // 4 : -(h // 4), w // 4 : -(w // 4)] = True
    return mask


def test_birds_are_found_from_every_folder_and_in_the_order_of_the_images(birds):
    split = load_benchmark("waterbirds", birds).train
    name = split.ids[5].replace(".jpg", ".png")
    other = np.zeros((48, 56), np.uint8)
    other[:7, :9] = 1  # saved as 0 and 1
    Image.fromarray(other).save(birds / "segmentations" / name)
    roots = (
        birds,
        birds / "segmentations",
        birds / "waterbird_complete95_forest2water2",
    )
    for root in roots:
        masks = object_masks(split, root)
        assert masks[5].equal(torch.from_numpy(other > 0))
        assert all(masks[i].equal(box(48, 56)) for i in range(8) if i != 5)
    picked = object_masks(split.subset([5, 0, 5]), birds)
    assert picked[0].equal(picked[2]) and picked[1].equal(box(48, 56))


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_a_mask_goes_the_way_of_its_image(birds, resize):
    "The mask of a picture that is white in the box is that box, however it was brought to size"
    own = birds / "waterbird_complete95_forest2water2"
    for file in (birds / "segmentations").rglob("*.png"):
        image = Image.open(file).convert("RGB")
        name = file.relative_to(birds / "segmentations").with_suffix(".jpg")
        image.save(own / name, format="PNG")
    split = load_benchmark("waterbirds", own, size=32, resize=resize).train
    masks = object_masks(split, birds, resize)
    assert (masks == (split.images[:, 0] >= 128)).double().mean() == 1
    assert masks[0].any() and not masks[0].all()


def test_a_mask_of_another_shape_or_another_crop_is_refused(birds):
    split = load_benchmark("waterbirds", birds, size=32).train
    with pytest.raises(ValueError, match="cuts off 0 %, but 14 % of its image"):
        object_masks(split, birds, "stretch")
    name = split.ids[2].replace(".jpg", ".png")
    Image.new("L", (56, 56), 255).save(birds / "segmentations" / name)
    with pytest.raises(ValueError, match=name.split("/")[1] + " is 56×56 pixels"):
        object_masks(split, birds)


def test_a_blank_mask_is_said_and_stays_in_its_place(birds):
    split = load_benchmark("waterbirds", birds).train
    name = split.ids[3].replace(".jpg", ".png")
    Image.new("1", (56, 48)).save(birds / "segmentations" / name)
    with pytest.warns(
        UserWarning, match="1 of 8 masks mark nothing .*" + split.ids[3]
    ):
        masks = object_masks(split, birds)
    assert masks.flatten(1).any(1).tolist() == [True] * 3 + [False] + [True] * 4


def test_images_with_a_blank_mask_are_left_out_of_the_pointing_game():
    masks = torch.stack([box(8, 8), torch.zeros(8, 8).bool(), box(8, 8)])
    heat = torch.zeros(3, 8, 8)
    heat[:, 4, 4] = 1.0
    assert pointing_game(heat, masks) == {"pointing": 1.0, "energy": 1.0}
    blank = pointing_game(heat[1:2], masks[1:2])
    assert all(value != value for value in blank.values())  # NaN


def test_what_is_missing_or_broken_is_named(birds, tmp_path):
    split = load_benchmark("waterbirds", birds).train
    file = birds / "segmentations" / split.ids[1].replace(".jpg", ".png")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=f"{file.name} is not a whole mask"):
        object_masks(split, birds)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        object_masks(split, birds)
    (tmp_path / "empty").mkdir()
    unnamed = Split.from_tensors(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [0])
    with pytest.raises(ValueError, match="no names"):
        object_masks(unnamed, birds)


def test_no_masks_beside_the_images(tmp_path):
    own = make_miniature("waterbirds", tmp_path / "a" / "b")
    split = load_benchmark("waterbirds", own).train
    with pytest.raises(FileNotFoundError, match="no masks of birds .*CUB-200-2011"):
        object_masks(split, own)


def test_urbancars_has_a_mask_next_to_each_image(tmp_path):
    own = make_miniature("urbancars", tmp_path)
    split = load_benchmark("urbancars", tmp_path).tests["test"]
    name = split.ids[7].replace(".jpg", "_mask.png")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(own / name)
    masks = object_masks(split, tmp_path)
    assert masks[7].equal(torch.eye(64).bool()) and masks[0].equal(box(64, 64))


def test_the_masks_of_the_challenge_belong_to_their_images(tmp_path):
    own = make_miniature("in9l", tmp_path, n=1, challenge="test")
    tests = load_benchmark("in9l", own).tests
    originals = tests["original"]
    masks_of = tmp_path / "test" / "fg_mask" / "val"
    file = masks_of / "02_wheeled vehicle" / "n1018000_0.npy"
    np.save(file, np.eye(48, 56, dtype=np.uint8))
    masks = object_masks(originals, own)
    assert masks.dtype == torch.bool and masks.shape == (9, 48, 56)
    assert masks[2].equal(torch.eye(48, 56).bool())
    assert masks[[0, 1, *range(3, 9)]].sum((1, 2)).tolist() == [1024] * 8
    small = load_benchmark("in9l", own, size=24).tests["original"]
    assert object_masks(small, own).shape == (9, 24, 24)
    with pytest.raises(
        ValueError, match='no masks are known .*the test "original"'
    ):
        object_masks(tests["no_fg"], own)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match="n1018000_0.npy is not a whole mask"):
        object_masks(originals, own)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="n1018000_0.npy"):
        object_masks(originals, own)


@pytest.mark.data
def test_the_real_birds(data):
    "A median of 11.4 % of the picture is bird; three masks are blank (SOURCES.md)"
    bench = load_benchmark("waterbirds", data)
    blank = (
        "Blue_Headed_Vireo_0091_155934",
        "Myrtle_Warbler_0069_166914",
        "Bohemian_Waxwing_0034_796646",
    )
    n = 0
    for split in (bench.train, bench.val, bench.tests["test"]):
        some = [
            i for i, name in enumerate(split.ids) if any(b in name for b in blank)
        ]
        n += len(some)
        if some:
            with pytest.warns(
                UserWarning, match=f"{len(some)} of {len(some)} masks"
            ):
                assert not object_masks(split.subset(some), data).any()
    assert n == 3
    masks = object_masks(bench.val, data)
    share = masks.double().mean((1, 2))
    assert 0.10 < share.median() < 0.13
