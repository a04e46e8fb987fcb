"Splits, and images from files: odd ones, broken ones, missing ones."

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps

from masktune.data.benchmark import Benchmark
from masktune.data.image_cache import cache_root, decode_images, load_image
from masktune.data.miniatures import make_miniature
from masktune.data.split import Split

IMAGES = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)


@pytest.mark.parametrize(
    "bad, says",
    [
        (dict(images=IMAGES.float(), labels=[0] * 4), "uint8"),
        (dict(images=IMAGES, labels=[0] * 3), "4 images need 4 labels"),
        (dict(images=IMAGES, labels=[0, 1, -1, 0]), "-1 is among them"),
        (
            dict(images=IMAGES, labels=[0, 1, 2, 0], class_names=["a", "b"]),
            "a label is 2, but there are only 2 names: a, b",
        ),
        (
            dict(
                images=IMAGES,
                labels=[0] * 4,
                groups=[0, 0, 0, 5],
                group_names=["x"],
            ),
            "a group is 5",
        ),
        (
            dict(images=IMAGES, labels=[0] * 4, ids=["a", "b", "a", "c"]),
            "'a' occurs twice",
        ),
    ],
)
def test_wrong_arrays_are_refused(bad, says):
    with pytest.raises(ValueError, match=says):
        Split.from_tensors(**bad)


def test_a_group_without_images_is_allowed_and_reported():
    split = Split.from_tensors(
        IMAGES, [0, 0, 1, 1], [0, 0, 2, 2], group_names=["a", "b", "c"]
    )
    assert (
        split.group_counts().n.tolist() == [2, 0, 2]
        and "| b" in split._repr_markdown_()
    )
    split.show(2)


def test_a_share_is_held_out_and_the_rest_is_kept():
    split = Split.from_tensors(
        torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1), [0] * 20
    )
    rest, held = split.random_split(0.25, 0, "x")
    assert len(held) == 5 and sorted(
        [*rest.images.flatten().tolist(), *held.images.flatten().tolist()]
    ) == list(range(20))
    assert all(
        s.images.flatten().diff().gt(0).all() for s in (rest, held)
    ) and not held.images.equal(split.random_split(0.25, 0, "y")[1].images)
    with pytest.raises(ValueError, match="val=5 must be between 0 and 1"):
        split.random_split(5, 0)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 17), seed=st.integers(0, 99))
def test_every_image_comes_once_an_epoch(n, size, seed):
    split = Split.from_tensors(
        torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.zeros(n)
    )
    batches = [b.index for b in split.batches(size, shuffle=True, seed=seed)]
    assert sorted(torch.cat(batches).tolist()) == list(range(n)) and len(
        batches
    ) == split.num_batches(size)


def test_labels_are_not_shared_with_the_caller():
    labels = torch.tensor([0, 1, 0, 1])
    split = Split.from_tensors(IMAGES, labels)
    labels[0] = 1
    assert split.labels[0] == 0


@pytest.fixture
def photos(tmp_path):
    return make_miniature("folder", tmp_path / "mine", n=1) / "photos"


def test_odd_files_are_read_upright_and_in_colour(tmp_path):
    wide = Image.fromarray(np.arange(240, dtype=np.uint8).reshape(6, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    wide.save(tmp_path / "grey.png")
    Image.new("RGBA", (5, 5), (10, 20, 30, 40)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "turned.jpg").shape == (40, 6, 3) and load_image(
        tmp_path / "grey.png"
    ).shape == (6, 40, 3)
    assert load_image(tmp_path / "clear.png")[0, 0].tolist() == [217, 218, 220], (
        "laid on white"
    )


def test_what_lies_in_the_cache_is_what_pillow_decodes(tmp_path):
    "Grey, CMYK, palette, turned: the pixels of Pillow's own resize and crop, to the last of 256 levels"
    rough = Image.fromarray(
        torch.randint(
            256,
            (90, 70, 3),
            generator=torch.Generator().manual_seed(0),
            dtype=torch.uint8,
        ).numpy()
    )
    for i, mode in enumerate(("RGB", "L", "CMYK", "P", "RGBA")):
        rough.convert(mode).save(tmp_path / f"{i}.{'jpg' if i < 3 else 'png'}")
    exif = Image.Exif()
    exif[0x0112] = 8
    rough.save(tmp_path / "7.jpg", exif=exif)
    files = sorted(tmp_path.iterdir())
    for size, (h, w) in ((30, (30, 39)), (100, (100, 129))):
        cached = decode_images(files, size)[0]
        for f, got in zip(files, cached):
            upright = ImageOps.exif_transpose(Image.open(f)).convert("RGB")
            tall = upright.height > upright.width
            whole = upright.resize(
                (h, w) if tall else (w, h), Image.Resampling.BILINEAR
            )
            left, top = (whole.width - size) // 2, (whole.height - size) // 2
            want = torch.from_numpy(
                np.array(whole.crop((left, top, left + size, top + size)))
            ).permute(2, 0, 1)
            assert (got.int() - want.int()).abs().max() <= 1 and got.permute(
                1, 2, 0
            ).numpy().tobytes() == load_image(f, size).tobytes()


def test_the_size_is_looked_up_once(photos, monkeypatch):
    first = Split.from_folder(photos)
    monkeypatch.setattr(Image, "open", None)
    assert Split.from_folder(photos).images.equal(first.images)


def test_two_programs_may_decode_the_same_files_at_once(photos):
    whole = Split.from_folder(photos, 24).images.clone()
    for f in (cache_root() / "images").iterdir():
        f.unlink()
    with ThreadPoolExecutor(4) as pool:
        assert all(
            s.images.equal(whole)
            for s in pool.map(lambda _: Split.from_folder(photos, 24), range(4))
        )


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_rows_are_picked_as_indexing_does(photos, kind):
    s = Split.from_folder(photos, 16)
    s = (
        s
        if kind == "file"
        else Split.from_tensors(
            s.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), s.labels
        )
    )
    index = torch.tensor([3, 3, 0, 19])
    assert s.subset(index).images.equal(s.images[index]) and torch.cat(
        [b.x for b in s.batches(6)]
    ).mul(255).round().byte().equal(s.images)


def test_one_size_where_all_are_alike_else_224(photos, tmp_path):
    assert Split.from_folder(photos).images.shape[1:] == (3, 48, 56)
    Image.new("RGB", (9, 9)).save(photos / "land" / "small.png")
    assert Split.from_folder(photos).images.shape[1:] == (3, 224, 224)


def test_broken_files_stop_or_are_left_out_and_listed(photos):
    whole = Split.from_folder(photos, 32)
    torn = photos / "land" / "photo 3.jpg"
    torn.write_bytes(torn.read_bytes()[:200])
    with pytest.raises(
        ValueError, match=r"1 of 20 images can't be read: .*photo 3.jpg \(OSError"
    ):
        Split.from_folder(photos, 32)
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="1 of 20"):
            fewer = Split.from_folder(photos, 32, on_error="skip")
        kept = torch.tensor(
            ["photo 3.jpg" not in i or "land" not in i for i in whole.ids]
        )
        assert (
            fewer.images.equal(whole.images[kept])
            and len(fewer.skipped) == 1
            and "photo 3.jpg" in fewer.skipped[0]
        )
        assert "left out: 1 unreadable" in fewer._repr_markdown_()
    Image.new("RGB", (40, 40)).save(torn)
    assert len(Split.from_folder(photos, 32, on_error="skip")) == 20
    with pytest.raises(ValueError, match="on_error='ignore'"):
        Split.from_folder(photos, 32, on_error="ignore")


def test_decoding_goes_on_where_it_stopped(photos, monkeypatch):
    from masktune.data import image_cache

    real, seen = image_cache._open_image, []

    def failing(path, resize):
        seen.append(path)
        if len(seen) > 15:
            raise RuntimeError("interrupted")
        return real(path, resize)

    monkeypatch.setattr(image_cache, "_open_image", failing)
    with pytest.raises(ValueError, match="interrupted"):
        Split.from_folder(photos, 32)
    monkeypatch.setattr(
        image_cache,
        "_open_image",
        lambda path, resize: (seen.append(path), real(path, resize))[1],
    )
    Split.from_folder(photos, 32)
    assert len(seen) == 20 + 5


def test_a_missing_place_names_the_nearest_that_exists(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=f"{tmp_path}/a/b; the nearest that exists is {tmp_path}",
    ):
        Split.from_folder(tmp_path / "a" / "b")
    with pytest.raises(FileNotFoundError, match="1 of the 1 images are not there"):
        decode_images([tmp_path / "gone.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="one folder for each class"):
        Split.from_folder(tmp_path / "empty")


def test_a_class_too_small_to_divide_is_named(photos):
    (photos / "rare").mkdir()
    Image.new("RGB", (40, 40)).save(photos / "rare" / "one.png")
    with pytest.raises(ValueError, match="'rare'.*has 1 image;"):
        Benchmark.from_folder(photos)


def test_the_cache_is_made_once_and_never_in_the_data_folder(photos):
    before = sorted(photos.rglob("*"))
    first = Split.from_folder(photos, 32)
    files = list((cache_root() / "images").iterdir())
    assert (
        Split.from_folder(photos, 32).images.equal(first.images)
        and list((cache_root() / "images").iterdir()) == files
        and len(files) == 2  # the pixels and their checksums
    )
    assert sorted(photos.rglob("*")) == before
