"Planted shortcuts: glyphs, biased, coloured and stacked digits."

import gzip, hashlib, shutil, urllib.request

import pytest
import torch
from hypothesis import given, settings, strategies as st

from masktune.core.random import make_generator
from masktune.data.base_images import BASE_IMAGES, base_images, digits
from masktune.data.glyphs import SHORTCUTS, assign_spurious_labels, make_glyphs
from masktune.data.miniatures import make_miniature
from masktune.data.planted_cues import add_cue, assign_cues, biased_mnist
from masktune.data.registry import load_benchmark
from masktune.data.synthetic import (
    DIFFICULTIES,
    colored_mnist,
    dominoes,
    spuco_mnist,
)


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(2, 6),
    each=st.integers(1, 40),
    strength=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_the_share_with_its_own_cue_is_exact_and_the_rest_is_even(
    k, each, strength, seed
):
    labels = torch.arange(k * each) % k
    table = torch.bincount(
        k * labels
        + assign_spurious_labels(labels, k, strength, make_generator(seed)),
        minlength=k * k,
    ).view(k, k)
    assert (table.diag() == round(strength * each)).all()
    others = table[~torch.eye(k).bool()].view(k, k - 1)
    assert (others.amax(1) - others.amin(1)).max() <= 1


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_glyphs_are_the_same_every_time_and_their_tests_differ_only_in_the_cue(
    shortcut,
):
    a, b = (make_glyphs("ABC", shortcut, 0.9, n=60, seed=4) for _ in range(2))
    for s, t in zip(
        (a.train, a.val, *a.tests.values()), (b.train, b.val, *b.tests.values())
    ):
        assert s.fingerprint() == t.fingerprint()
    original, aligned, reversed_ = (
        a.tests[k].images for k in ("original", "aligned", "reversed")
    )
    if shortcut == "none":
        assert aligned.equal(original)
    elif shortcut == "background":
        assert (aligned != original).any(1).double().mean() > 0.35
    elif shortcut in ("square", "border", "watermark"):
        assert 0 < (aligned != original).any(1).double().mean() < 0.35
    if shortcut == "square":
        assert (aligned[0] != reversed_[0]).any() and aligned[:, :, 6:].equal(
            reversed_[:, :, 6:]
        )


@pytest.mark.parametrize("size", [16, 64, 100])
def test_glyphs_of_any_size(size):
    assert make_glyphs("●▲■★", size=size, n=8).train.images.shape == (
        8,
        3,
        size,
        size,
    )


def test_a_cue_is_easier_than_the_glyph():
    "A nearest-mean rule on raw pixels: right with the colour, wrong when it turns"
    b = make_glyphs("AB", "color", 1.0, n=200)
    mean = torch.stack(
        [b.train.images[b.train.labels == k].float().mean(0) for k in range(2)]
    )
    right = {
        k: float(
            (
                (s.images.float()[:, None] - mean)
                .square()
                .flatten(2)
                .sum(2)
                .argmin(1)
                == s.labels
            )
            .double()
            .mean()
        )
        for k, s in b.tests.items()
    }
    assert right["aligned"] > 0.9 and right["reversed"] < 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        dict(shortcut="frame"),
        dict(classes="A"),
        dict(classes="AA"),
        dict(spurious_correlation=2),
        dict(classes="ABCDEF", shortcut="background"),
    ],
)
def test_wrong_glyphs_are_refused(wrong):
    with pytest.raises(ValueError):
        make_glyphs(**wrong)


@settings(max_examples=20, deadline=None)
@given(conflicting=st.floats(0, 1), exceptions=st.sampled_from(["first", "random"]))
def test_the_share_of_bias_conflicting_digits_is_exact(conflicting, exceptions):
    digit = torch.arange(500) % 10
    odd = assign_cues(digit, conflicting, exceptions) != (digit < 5)
    assert odd[digit < 5].sum() == 250 - round((1 - conflicting) * 250) and odd[
        digit > 4
    ].sum() == round(conflicting * 250)


def test_biased_mnist_keeps_its_bits():
    "What the experiments were run on"
    b = biased_mnist()
    assert [s.fingerprint() for s in (b.train, b.val, b.tests["reversed"])] == [
        "07ec303026a6dd25",
        "df94604dc2beb167",
        "ec82fc8534d18ad7",
    ]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    for name in BASE_IMAGES:
        make_miniature(name, root, n=6)
    return root


@pytest.mark.parametrize("name", BASE_IMAGES)
def test_every_set_of_base_images_can_be_biased(base_folder, name):
    b = biased_mnist(
        "full",
        base_folder,
        base_images=name,
        bias="two_squares",
        colors=[(1, 2, 3), (4, 5, 6)],
        bias_conflicting=0.0,
    )
    x, cue = b.train.images, b.train.groups % 2 == 1
    assert (x[cue][:, :, 0, 0] == torch.tensor([1, 2, 3])).all() and (
        x[cue][:, :, 0, -1] == torch.tensor([4, 5, 6])
    ).all()
    assert cue.equal(b.train.labels == 0)


def test_base_images_are_found_in_their_own_folder_too(base_folder, tmp_path):
    assert base_images("mnist", base_folder / "MNIST")[0][0].equal(
        base_images("mnist", base_folder)[0][0]
    )
    assert base_images("cifar10", base_folder / "cifar-10-batches-py")[1][1].equal(
        base_images("cifar10", base_folder)[1][1]
    )
    with pytest.raises(
        FileNotFoundError,
        match="there is no FashionMNIST in .*FashionMNIST/raw: .*download=True",
    ):
        base_images("fashion_mnist", tmp_path)


def test_emnist_stands_upright(base_folder):
    "Stored on its side, read like MNIST: the digit 1 is higher than wide"
    (x, y), _ = base_images("emnist", base_folder)
    ones = x[y == 1].float()
    assert (ones.amax(2).gt(128).sum(1) > ones.amax(1).gt(128).sum(1)).all()


def test_damaged_archives_are_named(tmp_path):
    raw = make_miniature("mnist", tmp_path) / "raw"
    (raw / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(b"\0\0\x08\x03" + bytes(20))
    )
    with pytest.raises(
        ValueError, match="train-images-idx3-ubyte.gz is not a whole idx file"
    ):
        digits("full", tmp_path)
    batch = make_miniature("cifar10", tmp_path, form="binary") / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ValueError, match="data_batch_3.bin is not a whole batch"):
        base_images("cifar10", tmp_path)


@pytest.fixture
def web(tmp_path, monkeypatch):
    "Torchvision's addresses, answered from a folder; no network is needed or used"
    import masktune.data.sources as download

    site, asked = tmp_path / "site", []

    def published(name):
        folder, files = real(name)
        return folder, [
            (
                f,
                [f"http://gone/{f}", (site / f).as_uri()],
                hashlib.md5((site / f).read_bytes()).hexdigest(),
            )
            for f, _, _ in files
        ]

    real, opened = download.published_files, urllib.request.urlopen

    def urlopen(request, timeout):
        asked.append(request.full_url)
        if request.full_url.startswith("http"):
            raise OSError("no route to host")
        return opened(request)

    monkeypatch.setattr(download, "published_files", published)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    site.mkdir()
    return site, asked


@pytest.mark.parametrize("name", BASE_IMAGES)
def test_download_fetches_once_and_reads(tmp_path, web, name):
    site, asked = web
    own = make_miniature(name, tmp_path / "source")
    if name == "cifar10":
        shutil.make_archive(site / "cifar-10-python", "gztar", own.parent, own.name)
    elif name == "emnist":
        shutil.make_archive(site / "gzip", "zip", own, "raw")
    else:
        [shutil.copy(f, site) for f in (own / "raw").iterdir()]
    first = base_images(name, tmp_path / "data", download=True)
    assert first[0][0].equal(base_images(name, tmp_path / "source")[0][0]) and len(
        asked
    ) == 2 * len(list(site.iterdir()))
    assert base_images(name, tmp_path / "data", download=True)[1][1].equal(
        first[1][1]
    ) and len(asked) == 2 * len(list(site.iterdir()))


def test_svhn_is_fetched_too(tmp_path, web):
    for f in make_miniature("svhn", tmp_path / "source").iterdir():
        shutil.copy(f, web[0])
    assert load_benchmark("svhn", tmp_path / "data", download=True).n_classes == 10
    asked = len(web[1])
    make_miniature(
        "svhn", tmp_path / "own" / "svhn", n=3
    )  # not the published files
    own = load_benchmark("svhn", tmp_path / "own", download=True)
    assert len(own.tests["test"]) == 30 and len(web[1]) == asked, (
        "it is there already"
    )


def test_a_cue_leaves_the_rest_alone():
    x = torch.randint(
        256, (6, 3, 32, 32), dtype=torch.uint8, generator=make_generator(0)
    )
    cue = torch.arange(6) % 2 == 0
    y = add_cue(x, cue)
    assert (
        y[~cue].equal(x[~cue])
        and y[cue][:, :, 4:].equal(x[cue][:, :, 4:])
        and y[cue][:, :, :, 4:].equal(x[cue][:, :, :, 4:])
    )


def test_the_colors_of_digits_are_those_of_the_released_code():
    "add_color_bias_to_images: pure red where the pixel is 0 (background), or above 0 (foreground)"
    x = torch.tensor([[[0, 1], [128, 255]]], dtype=torch.uint8)
    red, grey = [255, 0, 0], lambda v: [v, v, v]
    back = add_cue(x, torch.tensor([True]), "background")[0].permute(1, 2, 0)
    assert back.tolist() == [[red, grey(1)], [grey(128), grey(255)]]
    front = add_cue(x, torch.tensor([True]), "foreground")[0].permute(1, 2, 0)
    assert front.tolist() == [[grey(0), red], [red, red]]


@pytest.mark.parametrize("bias", ["background", "foreground"])
def test_colors_of_digits_are_refused_for_color_images(base_folder, bias):
    with pytest.raises(ValueError, match="needs grey images on black"):
        biased_mnist("full", base_folder, base_images="cifar10", bias=bias)
    b = biased_mnist("full", base_folder, base_images="fashion_mnist", bias=bias)
    assert b.train.images.shape[1] == 3


def test_images_and_labels_must_belong_together(tmp_path):
    raw = make_miniature("mnist", tmp_path) / "raw"
    labels = gzip.decompress((raw / "t10k-labels-idx1-ubyte.gz").read_bytes())
    shorter = labels[:4] + (19).to_bytes(4, "big") + labels[8:-1]
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(shorter))
    with pytest.raises(
        ValueError, match="t10k-images.* has 20 images and 19 labels"
    ):
        base_images("mnist", tmp_path)
    wrong = labels[:-1] + b"\x0b"
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(wrong))
    with pytest.raises(ValueError, match="has the label 11; there may be 0 to 9"):
        base_images("mnist", tmp_path)


def test_coloured_mnist_is_dealt_in_turn():
    b = colored_mnist(val=0)
    environment = [i.split("/")[0] for i in b.train.ids]
    assert (
        environment.count("+90 %") == environment.count("+80 %") == 1667
        and len(b.tests["-90 %"]) == 1666
    )
    numbers = [
        int(i.split("/")[1]) for s in (b.train, b.tests["-90 %"]) for i in s.ids
    ]
    assert sorted(numbers) == list(range(5000))
    clean = colored_mnist(label_noise=0.0).tests["-90 %"]
    assert clean.labels.equal(
        (digits()[0][1][[int(i.split("/")[1]) for i in clean.ids]] < 5).long()
    )


def test_the_share_for_validation_is_checked():
    with pytest.raises(ValueError, match="val=20 must be between 0 and 1"):
        colored_mnist(val=20)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_spuco_mnist_colours_only_what_is_not_digit(difficulty):
    b = spuco_mnist(difficulty, spurious_correlation=1.0)
    x = b.train.images
    coloured = (x[:, 0] != x[:, 1]) | (x[:, 1] != x[:, 2])
    per_image = coloured.flatten(1).sum(1)
    most = {
        "magnitude_large": 784,
        "magnitude_medium": 16,
        "magnitude_small": 4,
    }.get(difficulty, 49)
    assert (
        per_image.max() <= most
        and per_image.float().mean() > 0.5 * most
        and b.train.groups.equal(6 * b.train.labels)
    )


@pytest.mark.parametrize(
    "bottom, shape", [("cifar10", (3, 64, 32)), ("fashion_mnist", (3, 56, 28))]
)
def test_dominoes_shuffle_one_half_and_keep_the_other(base_folder, bottom, shape):
    b = dominoes(bottom, 1.0, base_folder)
    aligned, top, low = (
        b.tests[k] for k in ("aligned", "digit shuffled", "bottom shuffled")
    )
    h = 32 if bottom == "cifar10" else 28
    assert aligned.images.shape[1:] == shape and aligned.groups.equal(
        3 * aligned.labels
    )
    assert top.images[:, :, h:].equal(aligned.images[:, :, h:]) and low.images[
        :, :, :h
    ].equal(aligned.images[:, :, :h])
    assert (low.groups % 2).equal(low.labels) and (top.groups // 2).equal(
        top.labels
    )
    assert len(b.train) + len(b.val) == 12


@pytest.mark.data
def test_full_mnist_and_dominoes(data):
    b = biased_mnist("full", data)
    assert [len(s) for s in (b.train, b.val, b.tests["original"])] == [
        48000,
        12000,
        10000,
    ]
    d = dominoes(root=data, val=0.0, spurious_correlation=0.95)
    assert (
        d.train.groups.bincount().tolist() == [4750, 250, 250, 4750]
        and len(d.tests["aligned"]) == 1960
    )


@pytest.mark.data
def test_full_coloured_mnist(data):
    b = colored_mnist("full", data, val=0.0)
    assert len(b.train) == 46667 and len(b.tests["-90 %"]) == 23333
    five = spuco_mnist(data="full", root=data)
    assert [len(s) for s in (five.train, five.val, five.tests["test"])] == [
        54000,
        6000,
        10000,
    ]


def test_names_lead_back_to_the_published_images(base_folder):
    (x, d), (tx, td) = base_images("mnist", base_folder)
    for b, per_class in (
        (biased_mnist("full", base_folder, bias="none"), 5),
        (spuco_mnist(data="full", root=base_folder), 2),
    ):
        for s in (b.train, b.val, *b.tests.values()):
            images, digit = zip(
                *(
                    (x[int(i)], d[int(i)])
                    if part == "train"
                    else (tx[int(i)], td[int(i)])
                    for part, i in (name.split("/") for name in s.ids)
                )
            )
            assert (
                s.labels.equal(torch.stack(digit) // per_class)
                and s.images.amax(1).ge(torch.stack(images)).all()
            )
        assert {i.split("/")[0] for i in b.train.ids + b.val.ids} == {
            "train"
        } and len({*b.train.ids, *b.val.ids}) == len(x)
    d = dominoes("cifar10", 0.5, base_folder)
    low, tlow = (c[0] for c in base_images("cifar10", base_folder))
    for s in (d.train, d.val, *d.tests.values()):
        for image, name in zip(s.images, s.ids):
            part, pair = name.split("/")
            above, number = map(int, pair.split("+"))
            assert image[0, 2:30, 2:30].equal(
                (x if part == "train" else tx)[above]
            ) and image[:, 32:].equal((low if part == "train" else tlow)[number])
