"Published sets and tables that are cut off, edited or unpacked in part: read as before, noted, or refused."

import gzip
import pickle
import shutil
import struct
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from masktune.data.base_images import base_images
from masktune.data.benchmark import Benchmark
from masktune.data.miniatures import make_miniature
from masktune.data.registry import load_benchmark
from masktune.data.split import Split

META = "metadata.csv"


def edit(file, change):
    "Changes the bytes of a file of a set"

    def run(own):
        (own / file).write_bytes(change((own / file).read_bytes()))

    return run


def retable(file, change, **options):
    "Changes a table of a set"

    def run(own):
        change(pd.read_csv(own / file)).to_csv(
            own / file, **(dict(index=False) | options)
        )

    return run


def without_last_lines(data, n=3):
    return b"\n".join(data.split(b"\n")[: -n - 1]) + b"\n"


def as_dict(bench):
    "{part: {id: (label, group, sum of pixels)}}"
    return {
        part: {
            i: (int(y), int(g), int(x.long().sum()))
            for i, y, g, x in zip(s.ids, s.labels, s.groups, s.images)
        }
        for part, s in bench.splits.items()
    }


def bom(data):
    return b"\xef\xbb\xbf" + data


def crlf(data):
    return data.replace(b"\n", b"\r\n")


def both(change, form):
    files = f"list_attr_celeba.{form}", f"list_eval_partition.{form}"
    return lambda own: [edit(file, change)(own) for file in files]


SAME = {
    "birds, CRLF": ("waterbirds", {}, edit(META, crlf)),
    "birds, BOM": ("waterbirds", {}, edit(META, bom)),
    "birds, UTF-16": (
        "waterbirds",
        {},
        edit(META, lambda b: b.decode().encode("utf-16")),
    ),
    "birds, columns turned": (
        "waterbirds",
        {},
        retable(META, lambda t: t[t.columns[::-1]]),
    ),
    "birds, rows shuffled": (
        "waterbirds",
        {},
        retable(META, lambda t: t.sample(frac=1, random_state=0)),
    ),
    "birds, an index": ("waterbirds", {}, retable(META, lambda t: t, index=True)),
    "birds, semicolons": ("waterbirds", {}, retable(META, lambda t: t, sep=";")),
    "faces, CRLF": ("celeba", {}, both(crlf, "csv")),
    "faces, BOM": ("celeba", {}, both(bom, "csv")),
    "faces, text, CRLF": ("celeba", dict(form="txt"), both(crlf, "txt")),
    "faces, text, BOM": ("celeba", dict(form="txt"), both(bom, "txt")),
    "faces, columns turned": (
        "celeba",
        {},
        retable("list_attr_celeba.csv", lambda t: t[t.columns[::-1]]),
    ),
    "cars, other folders": (
        "urbancars",
        {},
        lambda own: (own / "bg-0.8_co_occur_obj-0.8/train/x").mkdir(parents=True),
    ),
    "cars, masks as jpg": (
        "urbancars",
        {},
        lambda own: [
            p.rename(p.with_suffix(".jpg")) for p in own.rglob("*_mask.png")
        ],
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_other_programs_write_the_same_set(tmp_path, case):
    name, form, change = SAME[case]
    own = Path(make_miniature(name, tmp_path, **form))
    before = as_dict(load_benchmark(name, own))
    change(own)
    assert as_dict(load_benchmark(name, own)) == before


def first(own, pattern):
    return min(own.rglob(pattern))


REFUSED = {
    "birds, empty": ("waterbirds", {}, edit(META, lambda b: b""), "is empty"),
    "birds, no rows": (
        "waterbirds",
        {},
        edit(META, lambda b: b.split(b"\n")[0]),
        "has no rows",
    ),
    "birds, zeros": (
        "waterbirds",
        {},
        edit(META, lambda b: b + b"\0\0"),
        "is no text",
    ),
    "birds, no image": (
        "waterbirds",
        {},
        lambda o: first(o, "*.jpg").unlink(),
        "1 of the 24",
    ),
    "birds, twice": (
        "waterbirds",
        {},
        retable(META, lambda t: pd.concat([t, t[:1].assign(split=2)])),
        "occurs twice",
    ),
    "birds, a comma": (
        "waterbirds",
        {},
        edit(META, lambda b: b.replace(b"\n1,", b"\n1,x,", 1)),
        "do not fit its header",
    ),
    "birds, two columns y": (
        "waterbirds",
        {},
        edit(META, lambda b: b.replace(b"place_filename", b"y", 1)),
        "several columns called 'y'",
    ),
    "faces, cut off": (
        "celeba",
        dict(form="txt"),
        both(without_last_lines, "txt"),
        "lists 24 images, and lists 21",
    ),
    "faces, list cut off": (
        "celeba",
        {},
        edit("list_eval_partition.csv", without_last_lines),
        "not in the list of parts",
    ),
    "faces, no count": (
        "celeba",
        dict(form="txt"),
        edit("list_attr_celeba.txt", lambda b: b.split(b"\n", 1)[1]),
        "must start with the number of images",
    ),
    "faces, a name short": (
        "celeba",
        dict(form="txt"),
        edit("list_attr_celeba.txt", lambda b: b.replace(b"Bald ", b"", 1)),
        "a row has more cells",
    ),
    "dogs, an image short": (
        "spawrious",
        {},
        lambda own: first(own, "*.png").unlink(),
        "and other folders",
    ),
    "dogs, a folder short": (
        "spawrious",
        {},
        lambda own: shutil.rmtree(own / "0/desert/bulldog"),
        "there is no folder",
    ),
    "dogs, torn": (
        "spawrious",
        {},
        lambda own: [
            p.write_bytes(p.read_bytes()[:60]) for p in [first(own, "*.png")]
        ],
        "1 of .* images can't be read",
    ),
    "cars, a cell short": (
        "urbancars",
        {},
        lambda own: shutil.rmtree(next(own.glob("*/train/*"))),
        "there is no folder",
    ),
}


def damaged(tmp_path, name, form, change):
    "The folder of a miniature after something has happened to it"
    own = Path(make_miniature(name, tmp_path, **form))
    change(own)
    return own


@pytest.mark.parametrize("case", REFUSED)
def test_damage_is_one_sentence(tmp_path, case):
    name, form, change, says = REFUSED[case]
    own = damaged(tmp_path, name, form, change)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        load_benchmark(name, own)


def test_what_a_published_table_leaves_out_is_noted(tmp_path):
    own = Path(make_miniature("waterbirds", tmp_path))
    retable(META, lambda t: t[t.split != 1])(own)
    b = load_benchmark("waterbirds", own)
    assert "24 of" not in b.name and "16 of 11,788 images" in b.name
    assert b.notes == ["metadata.csv has no images of val"]
    assert b.train.ignored == {"image not in metadata.csv": 8}
    assert "8 image not in metadata.csv" in b._repr_markdown_()


def test_a_waterbirds_with_other_groups_says_so(tmp_path):
    own = Path(make_miniature("waterbirds", tmp_path, n=58))
    b = load_benchmark(
        "waterbirds", own, size=8
    )  # 56 are published in the third group
    assert len(b.notes) == 1 and "train has [58, 58, 58, 58]" in b.notes[0]
    assert not load_benchmark(
        "waterbirds", make_miniature("waterbirds", tmp_path / "2")
    ).notes


# --- MNIST and CIFAR


def gz(change):
    return lambda data: gzip.compress(change(gzip.decompress(data)))


def reshaped(raw):
    n, h, w = struct.unpack(">III", raw[4:16])
    return raw[:4] + struct.pack(">III", n, h // 2, w * 2) + raw[16:]


def one_fewer(raw):
    (n,) = struct.unpack(">I", raw[4:8])
    return raw[:4] + struct.pack(">I", n - 1) + raw[8:-1]


def unpickled(change):
    def run(data):
        batch = pickle.loads(data, encoding="bytes")
        change(batch)
        return pickle.dumps(batch, 2)

    return run


TRAIN, TEST = "raw/train-images-idx3-ubyte.gz", "raw/t10k-images-idx3-ubyte.gz"
LABELS = "raw/train-labels-idx1-ubyte.gz"
ONE, TWO = "data_batch_1", "data_batch_2"
BINARY = dict(form="binary")
BASE = {
    "digits, cut": (
        "mnist",
        {},
        edit(TRAIN, lambda b: b[:-9]),
        "not a whole gzip file",
    ),
    "digits, a page": (
        "mnist",
        {},
        edit(TRAIN, lambda b: b"<html>"),
        "not a whole gzip file",
    ),
    "digits, empty": (
        "mnist",
        {},
        edit(TRAIN, lambda b: b""),
        "not a whole idx file",
    ),
    "digits, inside": (
        "mnist",
        {},
        edit(TRAIN, gz(lambda b: b[:-784])),
        "not a whole idx file",
    ),
    "digits, shape": ("mnist", {}, edit(TRAIN, gz(reshaped)), "no images of 28×28"),
    "digits, labels": (
        "mnist",
        {},
        edit(LABELS, gz(one_fewer)),
        "20 images and 19 labels",
    ),
    "digits, the test twice": (
        "mnist",
        {},
        lambda own: shutil.copy(own / TEST, own / TRAIN),
        "hold the same images",
    ),
    "digits, swapped": (
        "emnist",
        {},
        lambda own: shutil.copy(
            own / "raw/emnist-digits-train-labels-idx1-ubyte.gz",
            own / "raw/emnist-digits-train-images-idx3-ubyte.gz",
        ),
        "no images of 28×28",
    ),
    "pictures, cut": (
        "cifar10",
        {},
        edit(ONE, lambda b: b[:-100]),
        "not a whole batch",
    ),
    "pictures, an image short": (
        "cifar10",
        BINARY,
        edit(f"{ONE}.bin", lambda b: b[:-3073]),
        "19 images, and other batches 20",
    ),
    "pictures, empty": (
        "cifar10",
        BINARY,
        edit(f"{ONE}.bin", lambda b: b""),
        "0 images",
    ),
    "pictures, a batch twice": (
        "cifar10",
        {},
        lambda own: shutil.copy(own / ONE, own / TWO),
        "hold the same images",
    ),
    "pictures, floats": (
        "cifar10",
        {},
        edit(ONE, unpickled(lambda d: d.update({b"data": d[b"data"] / 255}))),
        "float64",
    ),
    "pictures, of CIFAR-100": (
        "cifar10",
        {},
        edit(
            ONE, unpickled(lambda d: d.update({b"fine_labels": d.pop(b"labels")}))
        ),
        "no entries labels and data",
    ),
}


@pytest.mark.parametrize("case", BASE)
def test_damaged_arrays_are_one_sentence(tmp_path, case):
    name, form, change, says = BASE[case]
    damaged(tmp_path, name, form, change)
    with pytest.raises(ValueError, match=says):
        base_images(name, tmp_path)


# --- tables of one's own


@pytest.fixture
def mine(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for i in range(10):
            shade = 10 + 20 * i + (kind == "dog")
            Image.new("RGB", (8, 8), (shade,) * 3).save(
                tmp_path / kind / f"{i}.png"
            )
    return tmp_path


def rows(parts=None, label=str):
    "file, label and perhaps the part of all images"
    files = [(kind, i) for kind in ("cat", "dog") for i in range(10)]
    table = pd.DataFrame([(f"{k}/{i}.png", label(k)) for k, i in files])
    table.columns = ["file", "label"]
    return table if parts is None else table.assign(split=(parts * 20)[:20])


def read(folder, table):
    if isinstance(table, str):
        (folder / "t.csv").write_text(table)
    else:
        table.to_csv(folder / "t.csv", index=False)
    return load_benchmark("folder", folder, table="t.csv")


@pytest.mark.parametrize(
    "parts, sizes, held",
    [
        (["train"], dict(train=12, val=4, test=4), "val test"),
        (["train", "test"], dict(train=8, val=2, test=10), "val"),
        (["Training", "valid"], dict(train=8, val=10, test=2), "test"),
        (["train", "dev"], dict(train=8, val=2, dev=10), "val"),
        (["train", "val", "A", "B"], dict(train=5, val=5, A=5, B=5), ""),
    ],
)
def test_a_table_without_some_parts_is_completed_as_folders_are(
    mine, parts, sizes, held
):
    b = read(mine, rows(parts))
    assert {k: len(s) for k, s in b.splits.items()} == sizes
    said = [
        f"no {part} images were given: 15 % of train is held out for it"
        for part in held.split()
    ]
    assert b.notes == said
    ids = [i for s in b.splits.values() for i in s.ids]
    assert len(set(ids)) == 20, "each image is in one part"
    for split in b.splits.values():
        assert all(
            i.startswith(b.class_names[y]) for i, y in zip(split.ids, split.labels)
        )
        assert split.labels.unique().tolist() == [0, 1], "class by class"
    again = read(mine, rows(parts))
    assert {k: s.ids for k, s in again.splits.items()} == {
        k: s.ids for k, s in b.splits.items()
    }


def test_an_undivided_table_is_divided_as_a_folder_is(mine):
    b = read(mine, rows())
    assert {k: len(s) for k, s in b.splits.items()} == dict(train=12, val=4, test=4)
    folder = Benchmark.from_folder(mine)
    assert sorted(b.tests["test"].ids) == sorted(folder.tests["test"].ids)


@pytest.mark.parametrize(
    "table, says",
    [
        ("", "is empty"),
        ("file,label\n", "has no rows"),
        ("file,label\ncat/0.png,a\ncat/1.png,a\n", "one class only, 'a'"),
        (rows(["val", "test"]), "val, test, and no train"),
        (rows(["0", "1", "2"]), "0, 1, 2, and no train"),
        (
            rows(["train"] * 10 + ["val", "test"] * 5),
            "class 'dog' in val, and not in train",
        ),
        (
            'file,label\ncat/0.png,"a\ncat/1.png,b"\ndog/0.png,c\n',
            "has several lines",
        ),
        ("file,label\ncat/0.png,a,b\ndog/0.png,b\n", "do not fit its header"),
        ("file,label\ncat/0.png,a\ndog/0.png,b,c\n", "do not fit its header"),
        (
            "file,label,label\ncat/0.png,a,b\ndog/0.png,b,a\n",
            "several columns called 'label'",
        ),
        (
            "file,Label,label\ncat/0.png,a,b\ndog/0.png,b,a\n",
            "Label and label; which is the label",
        ),
        ("file,label\ncat/0.png,a\n./cat/0.png,b\n", "'cat/0.png' occurs twice"),
        ("file,label\ncat/0.png,a\ncat//0.png,b\n", "'cat/0.png' occurs twice"),
        ("PK\x03\x04\x00\x00", "is no text"),
        (
            rows(["train"] + ["test"] * 9),
            "class 'cat' in .* has 1 image; a division",
        ),
    ],
)
def test_tables_that_would_be_misread_are_refused(mine, table, says):
    with pytest.raises(ValueError, match=says):
        read(mine, table)


def test_numbers_are_numbers_only_where_all_are(mine):
    for names, want in (
        ({"cat": "1.0", "dog": "2"}, ["1", "2"]),
        ({"cat": "10", "dog": "9"}, ["9", "10"]),
        ({"cat": "001", "dog": "1"}, ["001", "1"]),
        ({"cat": "1", "dog": "n"}, ["1", "n"]),
        ({"cat": "NA", "dog": "nan"}, ["NA", "nan"]),
        ({"cat": "True", "dog": "False"}, ["False", "True"]),
    ):
        b = read(mine, rows(label=names.get))
        assert b.class_names == want
        cat = names["cat"].removesuffix(".0")
        for i, y in zip(b.train.ids, b.train.labels.tolist()):
            assert (b.class_names[y] == cat) == i.startswith("cat")


def test_images_beside_those_in_the_table_are_counted(mine):
    b = read(mine, rows(["train", "val", "test"])[:-3])
    assert b.train.ignored == {"image not in t.csv": 3}
    assert "3 image not in t.csv" in b._repr_markdown_()


# --- layouts that can be read in two ways


def fill(root, folders, n=4):
    for folder in folders.split():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.new("RGB", (8, 6), (30 * i, 9, 9)).save(
                root / folder / f"{i}.png"
            )


@pytest.mark.parametrize(
    "folders, says",
    [
        (
            "a/train/cat a/train/dog b/train/cat b/train/dog",
            "/set/a is a data set of its own.*in train",
        ),
        (
            "a/train/cat a/train/dog a/test/cat labels/x",
            "/set/a is a data set of its own.*test, train",
        ),
        ("a/cat a/dog b/cat b/dog", "two ways.*seem to be in .*/set/a: pass that"),
        (
            "2021/cat 2021/dog 2022/cat 2022/dog 2022/eel",
            "two ways: its folders 2021, 2022",
        ),
        (
            "train/a/cat train/a/dog train/b/cat train/b/dog",
            "two ways.*in .*/set/train/a: pass that",
        ),
        (
            "cat/train cat/test dog/train dog/test",
            "put the parts above the classes.*/set/test/cat",
        ),
        ("images masks", "images, masks, which are no names of classes"),
        ("Images annotations", "no names of classes"),
    ],
)
def test_layouts_with_two_readings_are_refused(tmp_path, folders, says):
    fill(tmp_path / "set", folders)
    with pytest.raises(ValueError, match=says):
        Benchmark.from_folder(tmp_path / "set")
    if "train/a" not in folders:
        with pytest.raises(ValueError, match=says):
            Split.from_folder(tmp_path / "set")


def test_folders_in_classes_are_read_where_they_can_be_nothing_else(tmp_path):
    fill(
        tmp_path / "set", "cat/black cat/white dog/brown cat/monday/late dog/monday"
    )
    b = Benchmark.from_folder(tmp_path / "set")
    assert b.class_names == ["cat", "dog"]
    assert sum(len(s) for s in b.splits.values()) == 20
    fill(tmp_path / "two", "a/cat a/dog b/cat b/dog")
    told = Split.from_folder(tmp_path / "two", class_names=["a", "b"])
    assert told.class_names == ["a", "b"] and len(told) == 16


def test_two_folders_of_one_name_are_refused(tmp_path):
    fill(tmp_path, "cat dog")
    (tmp_path / "cat ").mkdir()
    shutil.copy(tmp_path / "cat/0.png", tmp_path / "cat /9.png")
    with pytest.raises(ValueError, match="two folders in .* are called 'cat'"):
        Split.from_folder(tmp_path)


def test_files_that_differ_are_not_compared_to_the_end(tmp_path, monkeypatch):
    "Six batches of CIFAR-10 are 15 pairs; a few images tell a pair apart"
    make_miniature("cifar10", tmp_path, n=20)
    compared, equal = [], torch.equal

    def counted(a, b):
        compared.append(len(a))
        return equal(a, b)

    monkeypatch.setattr(torch, "equal", counted)
    base_images("cifar10", tmp_path)
    assert len(compared) == 15 and max(compared) <= 16
