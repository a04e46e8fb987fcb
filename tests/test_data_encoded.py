"Images that stay JPEGs: the same split to its user, and nothing is lost on the way."

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from masktune import ERM, Benchmark, MaskTune, Split, compute_maps
from masktune import create_model, predict
from masktune.data import encoded
from masktune.data.encoded import EncodedImages
from masktune.data.image_cache import decode_images, load_image
from masktune.data.scan import cache_root

SIZE = 48


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    "Every set becomes JPEGs, eight to a shard"
    monkeypatch.setenv("MASKTUNE_CACHE_GB", "0")
    monkeypatch.setattr(encoded, "_PER_SHARD", 8)


def picture(i, size=SIZE):
    "A smooth picture with a bright half"
    rows, columns = np.mgrid[:size, :size] * (200 // size)
    x = np.stack([rows, columns, np.full_like(rows, 10 * i % 200)], -1)
    if i % 2:
        x[:, : size // 2] += 40
    return Image.fromarray(x.astype(np.uint8))


def photos(folder, n=20, suffix="jpg", **options):
    for i in range(n):
        path = folder / ("bright" if i % 2 else "plain") / f"{i:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path, **options)
    return sorted(folder.rglob(f"*.{suffix}"))


def quietly(read, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(*args, **options)


def test_jpegs_of_the_right_size_keep_their_pixels(tmp_path, monkeypatch):
    paths = photos(tmp_path / "photos", quality=60)
    with pytest.warns(UserWarning, match="20 images of 48×48 px .*kept as JPEGs"):
        found = decode_images(paths)
    assert isinstance(found.images, EncodedImages)
    monkeypatch.setenv("MASKTUNE_CACHE_GB", "1")
    pixels = decode_images(paths)
    assert found.images[torch.arange(20)].equal(pixels.images)
    assert found.key != pixels.key, "maps of the one are not maps of the other"


@pytest.mark.parametrize(
    "options",
    [
        dict(subsampling="4:2:0"),
        dict(subsampling="4:2:2"),
        dict(subsampling="4:4:4", progressive=True),
        dict(optimize=True, quality=30),
        dict(icc_profile=b"not read by anybody", dpi=(72, 72)),
    ],
)
def test_every_kind_of_jpeg_is_decoded_as_pillow_does(tmp_path, options):
    paths = photos(tmp_path, 3, **options)
    images = quietly(decode_images, paths).images
    for i, path in enumerate(paths):
        assert (images[i].permute(1, 2, 0).numpy() == load_image(path)).all()


def test_other_files_change_by_little(tmp_path):
    grey, turned = tmp_path / "grey.jpg", tmp_path / "turned.jpg"
    picture(3).convert("L").save(grey, quality=99)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture(4).save(turned, quality=99, exif=exif)
    cmyk = tmp_path / "cmyk.jpg"
    picture(5).convert("CMYK").save(cmyk, quality=99)
    paths = [*photos(tmp_path / "png", suffix="png"), grey, turned, cmyk]
    images = quietly(decode_images, paths, size=32).images
    assert images.shape == (23, 3, 32, 32)
    for i, path in enumerate(paths):
        change = images[i].permute(1, 2, 0).numpy() - load_image(path, 32).astype(
            int
        )
        assert abs(change).mean() < 1.5 and abs(change).max() < 25, path


def test_a_split_of_jpegs_is_a_split(tmp_path):
    photos(tmp_path / "photos")
    split = quietly(Split.from_folder, tmp_path / "photos")
    assert "20 images, 3×48×48, kept as JPEGs" in repr(split)
    few = split.subset([3, 17, 4])
    assert few.images[1].equal(split[17][0]) and len(few) == 3
    assert few.fingerprint() != split.fingerprint()
    batches = list(split.batches(6, shuffle=True, seed=1))
    for b in batches:
        for x, i in zip(b.x, b.index.tolist()):
            assert x.mul(255).round().byte().equal(split[i][0])
    assert sorted(i for b in batches for i in b.index.tolist()) == list(range(20))
    again = pickle.loads(pickle.dumps(split))
    assert again.images.equal(split.images)
    split.show(3)


def test_networks_train_on_jpegs_as_on_their_pixels(tmp_path, monkeypatch):
    photos(tmp_path / "photos", quality=60)
    split = quietly(Split.from_folder, tmp_path / "photos")
    monkeypatch.setenv("MASKTUNE_CACHE_GB", "1")
    pixels = Split.from_folder(tmp_path / "photos")
    outputs = []
    for train in (split, pixels):
        bench = Benchmark("photos", train, train, {})
        net = create_model("small_cnn", 2, seed=0)
        net = ERM(epochs=1, batch_size=5, seed=0).fit(net, bench).model_
        net = MaskTune(batch_size=5, seed=0).fit(net, bench).model_
        maps = compute_maps(net, train)
        outputs += [(predict(net, train).logits, maps.values)]
    (logits, heat), (logits2, heat2) = outputs
    assert logits.equal(logits2) and heat.equal(heat2)


def test_what_is_there_is_not_encoded_again(tmp_path, monkeypatch):
    paths = photos(tmp_path / "photos", suffix="png")
    first = quietly(decode_images, paths)
    monkeypatch.setattr(encoded, "write_shard", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_images(paths).key == first.key


def test_an_interrupted_writing_goes_on(tmp_path, monkeypatch):
    paths, real = photos(tmp_path / "photos", suffix="png"), encoded.write_shard

    def stops(folder, number, contents):
        if number == 1:
            raise KeyboardInterrupt
        real(folder, number, contents)

    monkeypatch.setattr(encoded, "write_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        quietly(decode_images, paths)
    written = []
    monkeypatch.setattr(
        encoded, "write_shard", lambda *a: written.append(a[1]) or real(*a)
    )
    images = decode_images(paths).images
    assert written == [1, 2], "the first shard is kept"
    assert all(images[i].float().std() > 0 for i in range(20))


def test_unreadable_files_are_named_or_left_out(tmp_path):
    paths = photos(tmp_path / "photos")
    paths[11].write_bytes(paths[11].read_bytes()[:300])
    with pytest.raises(ValueError, match=f"1 of 20 images .*{paths[11].name}"):
        quietly(decode_images, paths)
    with pytest.warns(UserWarning, match="left out"):
        split = Split.from_files(paths, [0] * 20, on_error="skip")
    assert len(split) == 19 and len(split.skipped) == 1
    assert split[11][0].equal(quietly(decode_images, paths[12:13]).images[0])


def test_a_gap_is_tried_again_and_a_good_shard_is_kept(tmp_path):
    contents = [encoded.encode_jpeg(picture(i)) for i in range(20)]
    broken = {3}

    def encode(i):
        return "a network error" if i in broken else contents[i]

    with ThreadPoolExecutor(2) as pool:
        assert encoded.write_encoded(tmp_path, 20, encode, pool) == {
            3: "a network error"
        }
        assert not EncodedImages(tmp_path, 20, (SIZE, SIZE)).complete
        before = (tmp_path / "000001.jpegs").stat().st_mtime_ns
        assert encoded.write_encoded(tmp_path, 20, encode, pool) == {
            3: "a network error"
        }
        broken.clear()
        assert encoded.write_encoded(tmp_path, 20, encode, pool) == {}
    images = EncodedImages(tmp_path, 20, (SIZE, SIZE))
    assert images.complete and images[3].float().std() > 0
    assert (tmp_path / "000001.jpegs").stat().st_mtime_ns == before


def test_a_damaged_shard_is_noticed_and_made_again(tmp_path):
    paths = photos(tmp_path / "photos", suffix="png")
    images = quietly(decode_images, paths).images
    shard = images.folder / "000001.jpegs"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 8
    shard.write_bytes(content)
    with pytest.raises(OSError, match="is damaged: image .* Delete that file"):
        images[torch.arange(20)]
    shard.unlink()
    again = decode_images(paths).images
    assert all(again[i].float().std() > 0 for i in range(20))
    shard.write_bytes(shard.read_bytes()[:-5])  # cut off: seen when it is opened
    assert decode_images(paths).images[15].equal(again[15])


@pytest.mark.parametrize("total", ["known", "unknown"])
def test_a_stream_turns_into_jpegs_when_it_has_grown(tmp_path, monkeypatch, total):
    monkeypatch.setenv("MASKTUNE_CACHE_GB", str(5 * 3 * SIZE * SIZE / 1e9))
    items = [(picture(i), i % 2) for i in range(20)]
    read = Split.from_iterable if total == "unknown" else Split.from_dataset
    with pytest.warns(UserWarning, match="the images of this data set"):
        split = read(items)
    for i in (0, 4, 5, 19):
        change = split[i][0].permute(1, 2, 0).numpy() - np.asarray(picture(i), int)
        assert abs(change).mean() < 1.5
    assert split.labels.tolist() == [i % 2 for i in range(20)]
    again = quietly(read, items)
    assert again.fingerprint() == split.fingerprint()
    assert len(list((cache_root() / "images").iterdir())) == 1, (
        "nothing is left over"
    )


def test_grey_streams_stay_pixels(tmp_path):
    items = [(torch.full((1, 9, 9), i, dtype=torch.uint8), i % 2) for i in range(9)]
    split = Split.from_dataset(items)
    assert split[7][0].unique().tolist() == [7] and "JPEG" not in repr(split)


@pytest.mark.parametrize("value", ["much", "-1", "nan"])
def test_a_limit_that_is_no_number_is_one_sentence(tmp_path, monkeypatch, value):
    monkeypatch.setenv("MASKTUNE_CACHE_GB", value)
    with pytest.raises(ValueError, match="must be a number of gigabytes"):
        decode_images(photos(tmp_path, 2))
