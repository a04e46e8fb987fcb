"Find a set, read its table, refuse what is wrong: the registry and your own tables."

import shutil

import pandas as pd
import pytest
from PIL import Image

from masktune.data.miniatures import make_miniature
from masktune.data.registry import load_benchmark


def test_a_csv_needs_only_file_and_label(tmp_path):
    own = make_miniature("folder", tmp_path / "mine")
    t = pd.read_csv(own / "labels.csv")
    t[["file", "label"]].to_csv(own / "short.csv", index=False)
    b = load_benchmark("folder", own, table="short.csv", size=24)
    assert (
        b.train.groups is None
        and tuple(map(len, b.splits.values())) == (28, 6, 6)
        and load_benchmark("folder", own, table="short.csv", size=24).val.ids
        == b.val.ids
    )
    t.assign(split="train").to_csv(own / "one.csv", index=False)
    one = load_benchmark("folder", own, table="one.csv", size=24)
    assert one.val.ids == b.val.ids and len(one.notes) == 2 and not b.notes
    t.assign(label=[None, *t.label[1:]]).to_csv(own / "hole.csv", index=False)
    with pytest.raises(
        ValueError, match="column label, row 1 .* must not be empty"
    ):
        load_benchmark("folder", own, table="hole.csv")


@pytest.fixture
def birds(tmp_path):
    return make_miniature("waterbirds", tmp_path / "data")


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(img_filename="../secret.jpg"), "'../secret.jpg' leads out of"),
        (dict(img_filename="/etc/passwd"), "'/etc/passwd' leads out of"),
        (dict(y=2), "has 2 in column y, row 1 .* allowed are 0, 1"),
        (dict(split=3), "has 3 in column split"),
        (
            dict(img_filename="001.Black_footed_Albatross/gone.jpg"),
            r"gone.jpg; the nearest that exists is .*001.Black_footed_Albatross",
        ),
        (dict(img_filename=None), "must not be empty"),
    ],
)
def test_a_wrong_value_in_a_table_is_named(birds, change, says):
    table = pd.read_csv(birds / "metadata.csv")
    for column, value in change.items():
        table.loc[0, column] = value
    table.to_csv(birds / "metadata.csv", index=False)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        load_benchmark("waterbirds", birds)


def test_wrong_tables_are_named(birds):
    t = pd.read_csv(birds / "metadata.csv")
    t.drop(columns="place").to_csv(birds / "metadata.csv", index=False)
    with pytest.raises(
        ValueError,
        match=r"metadata.csv has no column place; it has img_id, img_filename, y, split, place_filename",
    ):
        load_benchmark("waterbirds", birds)
    pd.concat([t, t[3:4]]).to_csv(birds / "metadata.csv", index=False)
    with pytest.raises(ValueError, match="occurs twice"):
        load_benchmark("waterbirds", birds)


def test_wrong_places_are_named(birds, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=f"there is no folder {tmp_path}/a/b; the nearest that exists is {tmp_path}\\."
        "(.|\n)*metadata.csv",
    ):
        load_benchmark("waterbirds", tmp_path / "a" / "b")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "waterbird.tar.gz").touch()
    with pytest.raises(
        FileNotFoundError,
        match=r"still packed \(waterbird.tar.gz\): unpack(.|\n)*001.Black",
    ):
        load_benchmark("waterbirds", tmp_path / "packed")
    shutil.copytree(birds, birds.parent / "again")
    with pytest.raises(
        ValueError, match="more than one folder of .*: again, waterbird_complete95"
    ):
        load_benchmark("waterbirds", birds.parent)
    assert len(load_benchmark("waterbirds", birds, size=16).train) == 8


def test_another_set_with_the_same_file_name_is_no_hindrance(birds):
    (birds.parent / "other").mkdir()
    (birds.parent / "other" / "metadata.csv").write_text("image_id,split\n1,2\n")
    assert len(load_benchmark("waterbirds", birds.parent, size=16).train) == 8


def test_wrong_options_are_named(birds):
    with pytest.raises(
        ValueError, match="name='waterbird'.*Did you mean 'waterbirds'"
    ):
        load_benchmark("waterbird", birds)
    with pytest.raises(
        ValueError, match="'labls' is not known. Did you mean 'labels'"
    ):
        load_benchmark("waterbirds", birds, labls="corrected")
    with pytest.raises(ValueError, match="labels='fixed'"):
        load_benchmark("waterbirds", birds, labels="fixed")
    with pytest.raises(
        ValueError,
        match="can't be downloaded from here.*group_DRO(.|\n)*metadata.csv",
    ):
        load_benchmark("waterbirds", birds, download=True)
    with pytest.raises(ValueError, match="cifar10 have the size"):
        load_benchmark("cifar10", birds, size=64)


def test_a_truncated_image_is_named_or_left_out(tmp_path):
    own = make_miniature("waterbirds", tmp_path, corrupt=True)
    with pytest.raises(
        ValueError,
        match=r"1 of 24 images can't be read: .*Albatross_0005_39.jpg \(OSError",
    ):
        load_benchmark("waterbirds", own, size=32)
    with pytest.warns(UserWarning, match="Albatross_0005"):
        b = load_benchmark("waterbirds", own, size=32, on_error="skip")
    assert {k: len(s) for k, s in b.splits.items()} == {
        "train": 7,
        "val": 8,
        "test": 8,
    } and [len(s.skipped) for s in b.splits.values()] == [1, 0, 0]
    of = pd.read_csv(own / "metadata.csv").set_index("img_filename")
    assert all(
        of.y[i] == y and of.split[i] == k
        for k, s in enumerate(b.splits.values())
        for i, y in zip(s.ids, s.labels.tolist())
    )


@pytest.fixture
def mine(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(
                tmp_path / name / f"{i}.png"
            )
    return tmp_path


def rows(label_of, sep="/"):
    "file, label for every image of `mine`"
    return [
        (f"{c}{sep}{i}.png", label_of(c, i))
        for c in ("cat", "dog")
        for i in range(6)
    ]


def save(path, header, rows, encoding="utf-8", sep=","):
    text = "\n".join(sep.join(map(str, row)) for row in [header, *rows]) + "\n"
    path.write_bytes(text.encode(encoding))


@pytest.mark.parametrize(
    "header, label_of, options, names",
    [
        (
            ("file", "label"),
            lambda c, i: {"cat": "NA", "dog": "None"}[c],
            {},
            ["NA", "None"],
        ),
        (
            ("path", "class"),
            lambda c, i: {"cat": "café", "dog": "x"}[c],
            dict(encoding="cp1252"),
            ["café", "x"],
        ),
        (
            ("image", "target"),
            lambda c, i: {"cat": 1, "dog": 0}[c],
            dict(encoding="utf-8-sig"),
            ["0", "1"],
        ),
        (
            ("Filename", "Label"),
            lambda c, i: {"cat": 10.0, "dog": 9.0}[c],
            {},
            ["9", "10"],
        ),
        (("file", "label"), lambda c, i: c, dict(sep=";"), ["cat", "dog"]),
        (
            ("file", "label"),
            lambda c, i: c,
            dict(encoding="utf-16", sep="\t"),
            ["cat", "dog"],
        ),
        (
            ("file", "label"),
            lambda c, i: {"cat": " cat", "dog": "dog "}[c],
            {},
            ["cat", "dog"],
        ),
    ],
)
def test_tables_of_other_programs(mine, header, label_of, options, names):
    save(mine / "t.csv", header, rows(label_of), **options)
    b = load_benchmark("folder", mine, table="t.csv")
    assert b.class_names == names
    true = {
        f: str(label_of(*f.split("/")[:1], 0)).strip().removesuffix(".0")
        for f, _ in rows(label_of)
    }
    assert all(
        b.class_names[y] == true[i]
        for s in b.splits.values()
        for i, y in zip(s.ids, s.labels.tolist())
    )


def test_backslashes_separate_folders(mine):
    save(mine / "t.csv", ("file", "label"), rows(lambda c, i: c, sep="\\"))
    b = load_benchmark("folder", mine, table="t.csv")
    assert all("/" in i and "\\" not in i for i in b.train.ids)


@pytest.mark.parametrize(
    "header, change, says",
    [
        (("file", "label"), ("cat/0.png", ""), "nothing in column label, row 1"),
        (("file", "label"), ("", "cat"), "nothing in column file, row 1"),
        (
            ("file", "label", "group"),
            ("cat/0.png", "cat", ""),
            "nothing in column group, row 1",
        ),
        (
            ("file", "label", "split"),
            ("cat/0.png", "cat", ""),
            "nothing in column split, row 1",
        ),
        (
            ("path", "image", "label"),
            ("cat/0.png", "a", "cat"),
            "columns path and image; which is the file",
        ),
        (
            ("photo", "label"),
            ("cat/0.png", "cat"),
            "no column file \\(nor path, image",
        ),
        (("file", "species"), ("cat/0.png", "cat"), "no column label"),
    ],
)
def test_holes_are_named_by_row_and_column(mine, header, change, says):
    others = [
        ("cat/1.png", *change[1:-1], "cat"),
        ("dog/1.png", *change[1:-1], "dog"),
    ]
    if len(header) == 3 and header[0] == "file":
        others = [("cat/1.png", "cat", "a"), ("dog/1.png", "dog", "b")]
    save(mine / "t.csv", header, [change, *others])
    with pytest.raises(ValueError, match=says):
        load_benchmark("folder", mine, table="t.csv")


def test_half_labels_are_no_classes(mine):
    save(
        mine / "t.csv", ("file", "label"), [("cat/0.png", 1.0), ("dog/0.png", 0.5)]
    )
    with pytest.raises(
        ValueError, match="0.5 in column label, row 2 after the header"
    ):
        load_benchmark("folder", mine, table="t.csv")


def test_names_of_parts_are_understood(mine):
    words = ["Training", "Valid", "testing", "train", "val", "TEST"]
    table = [(f, y, words[i % 6]) for i, (f, y) in enumerate(rows(lambda c, i: c))]
    save(mine / "t.csv", ("file", "label", "split"), table)
    b = load_benchmark("folder", mine, table="t.csv")
    assert {k: len(s) for k, s in b.splits.items()} == {
        "train": 4,
        "val": 4,
        "test": 4,
    }
