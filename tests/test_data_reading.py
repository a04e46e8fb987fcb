"What comes from outside is read as its owner meant it, or refused: folders, files, pixel modes, values."

import os
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from masktune.data.benchmark import Benchmark
from masktune.data.folders import image_suffixes
from masktune.data.image_cache import decode_images, load_image
from masktune.data.pixels import byte_images, float_images
from masktune.data.resize import Resize
from masktune.data.split import Split

SHADES = {"cat": 40, "dog": 120, "eel": 200}


def save(path, shade=90, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, 0)).save(path)


def fill(root, n=4, classes=SHADES):
    for name in classes:
        for i in range(n):
            save(root / name / f"{i}.png", SHADES.get(name, 90) + i)
    return root


def means_by_class(split):
    "class name -> mean of red, rounded to the shade of the class"
    red = split.images[:, 0].float().mean((1, 2))
    return {
        name: float(red[split.labels == k].mean())
        for k, name in enumerate(split.class_names)
        if (split.labels == k).any()
    }


# --- layouts


@pytest.mark.parametrize(
    "names", ["train val test", "Training VALIDATION Testing", "train valid test"]
)
def test_three_parts_are_three_splits(tmp_path, names):
    for part in names.split():
        fill(tmp_path / part)
    b = Benchmark.from_folder(tmp_path)
    assert b.class_names == ["cat", "dog", "eel"] and not b.notes
    assert {k: len(s) for k, s in b.splits.items()} == {
        "train": 12,
        "val": 12,
        "test": 12,
    }
    for split in b.splits.values():
        assert means_by_class(split) == {n: s + 1.5 for n, s in SHADES.items()}
    ids = [i for s in b.splits.values() for i in s.ids]
    assert len(set(ids)) == 36 and b.train.ids[0].startswith(
        names.split()[0] + "/cat/"
    )


def test_a_class_that_test_lacks_does_not_shift_the_others(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", classes=["dog", "eel"])
    b = Benchmark.from_folder(tmp_path)
    assert b.tests["test"].labels.unique().tolist() == [1, 2]
    alone = Split.from_folder(tmp_path / "test")
    assert (
        alone.labels.equal(b.tests["test"].labels)
        and alone.class_names == b.class_names
    )
    assert means_by_class(alone) == {"dog": 121.5, "eel": 201.5}
    given = Split.from_folder(tmp_path / "test", class_names=["eel", "dog"])
    assert means_by_class(given) == {"dog": 121.5, "eel": 201.5}
    assert given.labels.tolist() == [0] * 4 + [1] * 4


def test_missing_parts_are_cut_from_train_and_said(tmp_path):
    fill(tmp_path / "train", n=20)
    b = Benchmark.from_folder(tmp_path)
    assert {k: len(s) for k, s in b.splits.items()} == {
        "train": 42,
        "val": 9,
        "test": 9,
    }
    assert (
        "no val images were given: 15 % of train is held out" in b._repr_markdown_()
    )
    fill(tmp_path / "test", n=2)
    b = Benchmark.from_folder(tmp_path)
    assert {k: len(s) for k, s in b.splits.items()} == {
        "train": 51,
        "val": 9,
        "test": 6,
    }
    assert len(b.notes) == 1
    assert not set(b.train.ids) & set(b.val.ids)


@pytest.mark.parametrize(
    "folders, says",
    [
        (
            ["train/cat", "train/dog", "test/eel"],
            "has the class 'eel', which is not among",
        ),
        (["train/cat", "train/dog", "test"], "no class folders in test"),
        (["train", "test"], "no class folders in test, train"),
        (
            ["train/cat", "train/dog", "test/cat", "horse"],
            "also horse: are these classes or parts",
        ),
        (["test/cat", "test/dog"], "but no train"),
        (["train/cat", "train/dog", "val/cat", "valid/cat"], "two folders for val"),
        (
            ["photos/cat", "photos/dog"],
            "holds one class only, 'photos'.*seem to be in .*/photos: pass that",
        ),
        (["a/photos/cat", "a/photos/dog"], "seem to be in .*/a/photos: pass that"),
        (["cat"], "holds one class only, 'cat'"),
        (["."], "1 of its images lie in no class folder"),
    ],
)
def test_other_layouts_are_refused_with_a_hint(tmp_path, folders, says):
    for i, folder in enumerate(folders):
        save(tmp_path / "set" / folder / "a.png", i)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        Benchmark.from_folder(tmp_path / "set")


def test_a_divided_folder_is_no_single_split(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    with pytest.raises(ValueError, match="is divided already, into train, val"):
        Split.from_folder(tmp_path)


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("car", "plane", "train"):
        save(tmp_path / name / "a.png")
    assert Split.from_folder(tmp_path).class_names == ["car", "plane", "train"]


def test_splits_that_number_classes_otherwise_do_not_belong_together():
    x = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    ab, ba = (
        Split.from_tensors(x, [0, 1], class_names=list(n)) for n in ("ab", "ba")
    )
    with pytest.raises(
        ValueError, match="the classes of val are b, a, and those of train a, b"
    ):
        Benchmark("x", ab, ba, {"test": ab})


# --- files


def test_every_format_that_pillow_writes_is_read(tmp_path):
    fill(tmp_path, classes=["cat"])
    written = []
    for suffix in sorted(image_suffixes() - {".eps", ".ps"}):
        file = tmp_path / "odd" / f"a{suffix}"
        file.parent.mkdir(exist_ok=True)
        kind = Image.registered_extensions()[suffix]
        mode = {"MSP": "1", "XBM": "1", "BLP": "P"}.get(kind, "RGB")
        if suffix == ".pfm":
            mode = "L"
        im = Image.new("RGB", (32, 32), "white").convert(mode)
        try:
            (im.convert("F") if suffix == ".pfm" else im).save(file)
            with Image.open(file) as check:
                check.load()
        except Exception:
            file.unlink(missing_ok=True)
            continue
        written.append(suffix)
    if ".pfm" in written:  # 255 is not white for floats
        (tmp_path / "odd" / "a.pfm").unlink()
        written.remove(".pfm")
    assert {
        ".jpg",
        ".jfif",
        ".jpe",
        ".jp2",
        ".pgm",
        ".tga",
        ".webp",
        ".gif",
        ".tif",
    } <= set(written)
    s = Split.from_folder(tmp_path, size=16)
    assert (s.labels == 1).sum() == len(written) >= 35
    assert s.images[s.labels == 1].min() >= 250


def test_hidden_files_are_left_out_at_any_depth_and_counted(tmp_path):
    fill(tmp_path)
    for hidden in (
        ".ipynb_checkpoints/0-checkpoint.png",
        "deep/.cache/x.png",
        "._0.png",
        "__MACOSX/0.png",
    ):
        save(tmp_path / "cat" / hidden)
    (tmp_path / "dog" / "Thumbs.db").touch()
    (tmp_path / "dog" / "notes.txt").touch()
    (tmp_path / "README.md").touch()
    (tmp_path / "annotations").mkdir()
    save(tmp_path / "stray.png")
    s = Split.from_folder(tmp_path)
    assert len(s) == 12
    assert s.ignored == {
        "hidden": 5,
        "not an image (.txt)": 1,
        "not an image (.md)": 1,
        "folder without images": 1,
        "image in no class folder": 1,
    }
    for text in (
        repr(s),
        s._repr_markdown_(),
        Benchmark.from_folder(tmp_path)._repr_markdown_(),
    ):
        assert "5 hidden" in text and "1 not an image (.txt)" in text
    assert "5 hidden" in Benchmark.from_folder(tmp_path).left_out()["ignored"]
    assert s.subset([0, 1]).ignored == s.ignored


def test_links_are_followed_and_circles_are_not(tmp_path):
    real = fill(tmp_path / "real")
    root = tmp_path / "set"
    (root / "cat").mkdir(parents=True)
    (root / "dog").symlink_to(real / "dog")
    (root / "cat" / "a.png").symlink_to(real / "cat" / "0.png")
    (root / "cat" / "more").symlink_to(real / "cat")
    (root / "cat" / "round").symlink_to(root)
    s = Split.from_folder(root)
    assert s.ids[:5] == ["cat/a.png"] + [f"cat/more/{i}.png" for i in range(4)]
    assert s.ignored["a circle of links"] >= 1


def test_a_class_that_cannot_be_read_is_refused_by_name(tmp_path):
    fill(tmp_path)
    (tmp_path / "fish").mkdir()
    (tmp_path / "fish" / "a.heic").touch()
    with pytest.raises(
        ValueError, match="no image in .*/fish can be read: its files are .heic"
    ):
        Split.from_folder(tmp_path)
    (tmp_path / "fish" / "a.heic").rename(tmp_path / "fish" / "a.png")
    with pytest.raises(
        ValueError, match="none of the 1 images of class 'fish' can be read"
    ):
        with pytest.warns(UserWarning):
            Split.from_folder(tmp_path, on_error="skip")


def test_skip_covers_every_way_of_being_unreadable(tmp_path):
    fill(tmp_path)
    cat = tmp_path / "cat"
    (cat / "dead.png").symlink_to(cat / "gone.png")
    (cat / "text.png").write_text("no picture")
    (cat / "empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(cat / "torn.png")
    (cat / "torn.png").write_bytes((cat / "torn.png").read_bytes()[:900])
    Image.fromarray(np.full((8, 12), 1e9, np.float32)).save(cat / "bright.tiff")
    (cat / "frames.png").mkdir()
    save(cat / "frames.png" / "0.png")
    with pytest.raises(ValueError, match="5 of 18 images can't be read"):
        Split.from_folder(tmp_path)
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="5 of 18"):
            s = Split.from_folder(tmp_path, on_error="skip")
        assert (
            len(s) == 13
            and len(s.skipped) == 5
            and "left out: 5 unreadable" in repr(s)
        )
        assert "cat/frames.png/0.png" in s.ids
    paths = [cat / "0.png", cat / "frames.png", cat / "never.png"]
    with pytest.warns(UserWarning, match="2 of 3"):
        s = Split.from_files(paths, [0, 0, 1], on_error="skip")
    assert len(s) == 1 and "IsADirectoryError" in s.skipped[0]
    assert "FileNotFoundError" in s.skipped[1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    fill(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    with pytest.raises(ValueError, match="1 of 13 images can't be read: .*a pipe"):
        Split.from_folder(tmp_path)
    with pytest.warns(UserWarning, match="1 of 13"):
        assert len(Split.from_folder(tmp_path, on_error="skip")) == 12


def test_odd_names_can_be_written_to_any_table(tmp_path):
    names = [
        "a'b\".png",
        "line\nbreak.png",
        "-rf.png",
        "tab\t.png",
        "ünï.png",
        "한글.png",
        "a,b;c.png",
    ]
    fill(tmp_path, classes=["cat"])
    (tmp_path / "-dog").mkdir()
    for i, name in enumerate(names):
        save(tmp_path / "-dog" / name, i)
    odd = os.path.join(os.fsencode(tmp_path / "-dog"), b"caf\xe9.png")
    with open(odd, "wb") as f:
        f.write((tmp_path / "cat" / "0.png").read_bytes())
    s = Split.from_folder(tmp_path)
    assert len(s) == 12 and s.class_names == ["-dog", "cat"]
    assert {"-dog/line\\nbreak.png", "-dog/caf\\xe9.png", "-dog/tab\\t.png"} <= set(
        s.ids
    )
    table = pd.DataFrame(dict(id=s.ids))
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    assert pd.read_csv(tmp_path / "t.csv").equals(table)
    assert pd.read_parquet(tmp_path / "t.parquet").equals(table)


def test_names_match_however_accents_are_written(tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        for name in ("café", "tea"):
            save(tmp_path / part / unicodedata.normalize(form, name) / "a.png")
    assert Split.from_folder(tmp_path / "test").labels.tolist() == [0, 1]


# --- pixels

RAMP = np.linspace(0, 1, 256).reshape(1, 256).repeat(4, 0)


def off(file, want):
    "Largest difference of what is read from the wanted ramp of 256 levels"
    return np.abs(load_image(file).astype(int) - want[..., None]).max()


@pytest.mark.parametrize("suffix", ["png", "tiff", "jp2", "pgm"])
def test_sixteen_bits_come_out_as_a_ramp(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    sixteen = (RAMP * 65535).round().astype(np.uint16)
    if suffix == "pgm":
        file.write_bytes(b"P5 256 4 65535\n" + sixteen.astype(">u2").tobytes())
    else:
        Image.fromarray(sixteen).save(
            file, **(dict(irreversible=False) if suffix == "jp2" else {})
        )
    assert off(file, (RAMP * 255).round()) <= 1


def test_the_file_says_what_is_white(tmp_path):
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[281] = 4095  # MaxSampleValue: twelve bits
    Image.fromarray((RAMP * 4095).astype(np.uint16)).save(
        tmp_path / "12.tiff", tiffinfo=tags
    )
    assert off(tmp_path / "12.tiff", (RAMP * 255).round()) <= 1
    (tmp_path / "12.pgm").write_bytes(
        b"P5 256 4 4095\n" + (RAMP * 4095).round().astype(">u2").tobytes()
    )
    assert off(tmp_path / "12.pgm", (RAMP * 255).round()) <= 1
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "f.tiff")
    assert off(tmp_path / "f.tiff", (RAMP * 255).round()) == 0
    tags = ImageFileDirectory_v2()
    tags[262] = 0  # WhiteIsZero
    Image.fromarray((RAMP * 65535).astype(np.uint16)).save(
        tmp_path / "i.tiff", tiffinfo=tags
    )
    with Image.open(tmp_path / "i.tiff") as im:
        inverted = im.tag_v2[262] == 0
    want = (255 - RAMP * 255 if inverted else RAMP * 255).round()
    assert off(tmp_path / "i.tiff", want) <= 1


@pytest.mark.parametrize(
    "values, says",
    [
        (
            (RAMP * 255).astype(np.float32),
            "F pixels from 0 to 255, where white is 1",
        ),
        ((RAMP - 0.5).astype(np.float32), "F pixels from -0.5 to 0.5"),
        (
            np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32),
            "F pixels from nan",
        ),
        ((RAMP * 1e6).astype(np.int32), "does not say which value is white"),
    ],
)
def test_values_without_a_meaning_are_refused(tmp_path, values, says):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=says):
        load_image(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="1 of 1 images can't be read.*" + says):
        decode_images([tmp_path / "a.tiff"])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_places_are_white(tmp_path, mode):
    im = Image.new("RGBA", (4, 2), (200, 200, 200, 255))
    im.paste((90, 90, 90, 0), (2, 0, 4, 2))
    options = {}
    if mode == "P":
        im = im.convert("RGB").quantize(4)
        options = dict(transparency=im.getpixel((3, 0)))
    elif mode == "RGB":
        im = im.convert("RGB")
        options = dict(transparency=(90, 90, 90))
    im.convert(mode).save(tmp_path / "a.png", **options)
    a = load_image(tmp_path / "a.png")
    assert a[0, 0].tolist() == [200] * 3 and a[0, 3].tolist() == [255] * 3


def test_the_cache_knows_special_pixels(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    decoded = decode_images([tmp_path / "a.png"])
    assert decoded.images.min() == 255


# --- size


def page(tmp_path):
    a = np.zeros((60, 100, 3), np.uint8)
    a[:, :10] = (255, 0, 0)
    Image.fromarray(a).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def test_the_choice_of_size_decides_what_is_kept(tmp_path):
    file = page(tmp_path)
    crop, stretch, pad = (
        load_image(file, 30, how) for how in ("crop", "stretch", "pad")
    )
    assert crop.shape == stretch.shape == pad.shape == (30, 30, 3)
    assert crop[..., 0].max() == 0, "the red edge is cut off"
    assert stretch[:, :2, 0].min() > 200 and pad[10:20, :2, 0].min() > 200
    assert pad[:5].max() == pad[-5:].max() == 0
    assert load_image(file, (30, 50)).shape == (30, 50, 3)
    assert load_image(file, (30, 50))[:, :4, 0].min() > 200, (
        "the same shape cuts nothing"
    )


def test_what_the_crop_cuts_off_is_said(tmp_path):
    s = Split.from_files([page(tmp_path)] * 2, [0, 1], size=30)
    assert "the crop cuts off 40 % of the pictures" in repr(s)
    fill(tmp_path / "set")
    tall = Split.from_folder(tmp_path / "set", size=8)
    assert "the crop cuts off 33 %" in repr(tall) and "crop" in repr(
        tall.subset([0])
    )
    for how in ("stretch", "pad"):
        assert "cuts off" not in repr(
            Split.from_folder(tmp_path / "set", size=8, resize=how)
        )
    assert "cuts off" not in repr(Split.from_folder(tmp_path / "set"))


def test_another_resize_is_another_cache(tmp_path):
    file = page(tmp_path)
    keys = {
        decode_images([file], 30, resize=how).key
        for how in ("crop", "stretch", "pad")
    }
    assert len(keys) == 3
    means = {
        decode_images([file], 30, resize=how).images.float().mean().item()
        for how in ("crop", "stretch", "pad")
    }
    assert len(means) == 3


@pytest.mark.parametrize(
    "transform",
    [
        transforms.Compose([transforms.Resize((20, 30)), transforms.ToTensor()]),
        v2.Compose([v2.Resize((20, 30)), v2.PILToTensor()]),
        transforms.Resize((20, 30)),
        lambda im: im.resize((30, 20)),
    ],
    ids=["v1 tensor", "v2 bytes", "picture", "function"],
)
def test_a_transform_may_resize(tmp_path, transform):
    file = page(tmp_path)
    s = Split.from_files([file, file], [0, 1], ids=["a", "b"], resize=transform)
    assert s.image_size == (20, 30)
    want = torch.from_numpy(
        np.array(Image.open(file).resize((30, 20), Image.BILINEAR))
    ).permute(2, 0, 1)
    assert (s.images[0].int() - want.int()).abs().float().mean() < 5
    assert decode_images([file, file], resize=transform).key == s._key


@pytest.mark.parametrize(
    "transform, says",
    [
        (transforms.RandomCrop(20), "resize= is random"),
        (
            transforms.Compose(
                [
                    transforms.Resize((9, 9)),
                    transforms.ToTensor(),
                    transforms.Normalize(0.5, 0.5),
                ]
            ),
            "look scaled to",
        ),
        (
            v2.Compose(
                [v2.Resize((9, 9)), v2.ToImage(), v2.ToDtype(torch.float32)]
            ),
            "look like bytes",
        ),
        ("squash", "resize='squash' is not known"),
    ],
    ids=["random", "normalised", "unscaled", "typo"],
)
def test_transforms_that_do_not_fit_are_refused(tmp_path, transform, says):
    with pytest.raises(ValueError, match=says):
        Split.from_files([page(tmp_path)], [0], resize=transform)
    if callable(transform):
        with pytest.raises(ValueError, match="leave size= out"):
            Split.from_files([page(tmp_path)], [0], size=8, resize=transform)


def test_a_network_says_how_its_images_were_prepared(tmp_path):
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        net = timm.create_model("mobilenetv3_small_050", num_classes=2)
    config = net.pretrained_cfg
    s = Split.from_files([page(tmp_path)], [0], like=net)
    assert s.image_size == config["input_size"][1:] == (224, 224)
    whole = Image.open(page(tmp_path)).resize(
        (int(224 / config["crop_pct"] * 100 / 60), int(224 / config["crop_pct"])),
        Image.BICUBIC,
    )
    left, top = (whole.width - 224) // 2, (whole.height - 224) // 2
    want = torch.from_numpy(
        np.array(whole.crop((left, top, left + 224, top + 224)))
    ).permute(2, 0, 1)
    assert (s.images[0].int() - want.int()).abs().float().mean() < 1
    with pytest.raises(ValueError, match="like= sets size and resize"):
        Split.from_files([page(tmp_path)], [0], like=net, size=64)
    with pytest.raises(ValueError, match="like=Identity does not say"):
        Split.from_files([page(tmp_path)], [0], like=torch.nn.Identity())


def test_the_old_crop_is_the_same_to_the_bit():
    "what earlier versions did to a square size"
    rng = np.random.default_rng(0)
    for w, h in ((40, 30), (31, 77), (224, 225), (50, 50)):
        im = Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for size in (24, 64):
            new = [max(size, round(side * size / min(im.size))) for side in im.size]
            first = [(n - size) // 2 for n in new]
            box = [
                at * o / n
                for a in (first, [f + size for f in first])
                for at, o, n in zip(a, im.size, new)
            ]
            want = im.resize((size, size), Image.Resampling.BILINEAR, box)
            assert Resize((size, size))(im).tobytes() == want.tobytes()


# --- values


def test_bytes_and_floats_are_the_same_images():
    x = torch.randint(
        256,
        (4, 3, 6, 6),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    assert float_images(x).equal(x / 255) and byte_images(x / 255).equal(x)
    a, b = (Split.from_tensors(v, [0, 1, 0, 1]) for v in (x, x / 255))
    assert a.images.equal(b.images) and a.fingerprint() == b.fingerprint()


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda x: x * 255, "look like bytes: divide by 255"),
        (lambda x: x * 65535, "look like 16-bit numbers"),
        (
            lambda x: (x - 0.45) / 0.225,
            "look normalised by mean and standard deviation",
        ),
        (lambda x: 2 * x - 1, r"look scaled to \[-1, 1\]"),
        (lambda x: x * float("nan"), "not finite"),
        (lambda x: (255 * x).long(), "not torch.int64"),
        (lambda x: x.permute(0, 2, 3, 1), "look like channels last"),
        (lambda x: (255 * x).byte().permute(0, 2, 3, 1), "look like channels last"),
        (lambda x: x[0, 0, 0], "must be N×C×H×W"),
    ],
)
def test_other_values_are_refused_with_what_they_look_like(change, says):
    x = torch.linspace(0, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    with pytest.raises(ValueError, match=says):
        Split.from_tensors(change(x), [0, 1])


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(labels=[0, 10**12]), "far beyond the number of images"),
        (dict(labels=["a", "b"]), "number the names"),
        (dict(labels=[0.5, 1]), "whole numbers, and 0.5"),
        (dict(labels=[float("nan"), 1]), "whole numbers, and nan"),
        (dict(labels=[-1, 1]), "count from 0"),
        (dict(labels=[[0], [1]]), "one each"),
        (dict(ids="ab"), "a list with a name for each image"),
        (dict(ids=["a", None]), "a list with a name for each image"),
        (dict(ids=["a", "a"]), "'a' occurs twice"),
        (dict(class_names="ab"), "must be a list of names"),
        (dict(class_names=["a"]), "only 1 names"),
    ],
)
def test_labels_ids_and_names_are_checked(given, says):
    x = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=says):
        Split.from_tensors(x, **(dict(labels=[0, 1]) | given))
    for labels in ([0.0, 1.0], [False, True], np.array([0, 1], np.uint8)):
        assert Split.from_tensors(x, labels).labels.tolist() == [0, 1]


def test_a_transform_is_tried_on_a_file_that_can_be_read_to_its_end(tmp_path):
    root = fill(tmp_path / "photos", classes=["cat", "dog"])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    torn = root / "cat" / "0.jpg"  # the first: its header is whole
    (root / "cat" / "0.png").unlink()
    Image.fromarray(noise).save(torn)
    torn.write_bytes(torn.read_bytes()[:900])
    shrink = transforms.Resize((6, 10))
    with pytest.warns(UserWarning, match="1 of 8 images can't be read"):
        split = Split.from_folder(root, resize=shrink, on_error="skip")
    assert len(split) == 7 and split.image_size == (6, 10)
    with pytest.raises(ValueError, match="the others are kept in the cache"):
        Split.from_folder(root, resize=shrink)
    with pytest.raises(ValueError, match="is random"):
        Split.from_folder(root, resize=transforms.RandomCrop(4), on_error="skip")
