"Copies on the Hugging Face hub, from local folders in the same layout: equal to the folder, counts checked."

from pathlib import Path

import pandas as pd
import pytest
import torch

from masktune.data.hub import HUB_COPIES, _ids_of
from masktune.data.labels import CELEBA_ATTRIBUTES, PUBLISHED_SIZES
from masktune.data.miniatures import make_miniature
from masktune.data.registry import load_benchmark

hf = pytest.importorskip("datasets")

PARTS = ("train", "validation", "test")
BIRDS, GROUNDS = ["landbird", "waterbird"], ["land", "water"]


@pytest.fixture(autouse=True)
def own_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def write_copy(folder, parts, features):
    "Parquet files as the hub has them: data/train-00000-of-00001.parquet, ..."
    (folder / "data").mkdir(parents=True)
    for part, columns in parts.items():
        table = hf.Dataset.from_dict(columns, features=hf.Features(features))
        table.to_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")
    return folder


def encoded(path, keep_name=True):
    return {"bytes": path.read_bytes(), "path": path.name if keep_name else None}


def birds_copy(
    tmp_path, keep_names=True, n=2, labels=None, bird_names=BIRDS, drop=()
):
    own = make_miniature("waterbirds", tmp_path / "birds", n=n)
    t = pd.read_csv(own / "metadata.csv")
    parts = {}
    for number, part in enumerate(PARTS):
        rows = t[t.split == number]
        images = [encoded(own / name, keep_names) for name in rows.img_filename]
        y = rows.y.tolist() if labels is None else labels
        parts[part] = dict(image=images, label=y, place=rows.place.tolist())
    for part in drop:
        parts.pop(part)
    features = dict(
        image=hf.Image(), label=hf.Value("int64"), place=hf.Value("int64")
    )
    if bird_names:
        features["label"] = hf.ClassLabel(names=bird_names)
        features["place"] = hf.ClassLabel(names=GROUNDS)
    return own, write_copy(tmp_path / "copy", parts, features)


@pytest.mark.parametrize("bird_names", [BIRDS, None])
def test_a_copy_is_read_like_the_folder(tmp_path, bird_names):
    own, copy = birds_copy(tmp_path, bird_names=bird_names)
    options = dict(size=32, resize="stretch")
    a = load_benchmark("waterbirds", own, **options)
    b = load_benchmark("waterbirds", copy, source="hf", **options)
    assert a.name == b.name == "Waterbirds (original labels; 24 of 11,788 images)"
    for s, t in zip(
        (a.train, a.val, a.tests["test"]), (b.train, b.val, b.tests["test"])
    ):
        assert s.images.equal(t.images)
        assert s.labels.equal(t.labels) and s.groups.equal(t.groups)
        assert (s.class_names, s.group_names) == (t.class_names, t.group_names)
        assert t.ids == [Path(i).name for i in s.ids]


def test_labels_are_corrected_by_file_names_or_not_at_all(tmp_path):
    own, copy = birds_copy(tmp_path, n=4)
    a, b = (
        load_benchmark(
            "waterbirds", root, labels="corrected", source=source, size=16
        )
        for root, source in ((own, "folder"), (copy, "hf"))
    )
    assert b.train.groups.equal(a.train.groups)
    assert b.train.groups.bincount().tolist() == [7, 7, 1, 1]
    _, nameless = birds_copy(tmp_path / "nameless", keep_names=False)
    b = load_benchmark("waterbirds", nameless, source="hf", size=16)
    assert b.val.ids[:2] == ["val/0", "val/1"]
    with pytest.raises(ValueError, match="doesn't say their species"):
        load_benchmark("waterbirds", nameless, source="hf", labels="corrected")


def test_a_copy_that_counts_the_other_way_round_is_refused(tmp_path):
    _, copy = birds_copy(tmp_path, bird_names=BIRDS[::-1])
    with pytest.raises(
        ValueError, match="names waterbird, landbird; they should be"
    ):
        load_benchmark("waterbirds", copy, source="hf")


def test_a_copy_with_other_counts_is_refused(tmp_path, monkeypatch):
    own, copy = birds_copy(tmp_path)
    known = HUB_COPIES["waterbirds"]
    monkeypatch.setitem(
        HUB_COPIES,
        "waterbirds",
        known._replace(counts=known.counts | {"val": [9, 9, 1, 9]}),
    )
    with pytest.raises(
        ValueError, match=r"has \[2, 2, 2, 2\] images of each group in val"
    ):
        load_benchmark("waterbirds", copy, source="hf")
    monkeypatch.setitem(
        HUB_COPIES,
        "waterbirds",
        known._replace(counts=known.counts | {"test": [2, 2, 2, 2]}),
    )
    assert len(load_benchmark("waterbirds", copy, source="hf").tests["test"]) == 8


def test_what_a_copy_lacks_is_named(tmp_path):
    _, copy = birds_copy(tmp_path, drop=["validation"])
    with pytest.raises(ValueError, match="parts train, test; it needs validation"):
        load_benchmark("waterbirds", copy, source="hf")
    with pytest.raises(FileNotFoundError, match="copy of grodino/waterbirds"):
        load_benchmark("waterbirds", tmp_path / "nowhere", source="hf")
    with pytest.raises(ValueError, match="source='hub'"):
        load_benchmark("waterbirds", copy, source="hub")


def test_a_wrong_value_is_named(tmp_path):
    labels = [0, 1, 2, 0, 1, 0, 1, 1]
    _, copy = birds_copy(tmp_path, labels=labels, bird_names=None)
    with pytest.raises(ValueError, match="has 2 in column label, row 2 of train"):
        load_benchmark("waterbirds", copy, source="hf")


@pytest.mark.parametrize("kind", ["bool", "int64"])
def test_faces_have_attributes_as_columns(tmp_path, kind):
    own = make_miniature("celeba", tmp_path / "faces")
    t = pd.read_csv(own / "list_attr_celeba.csv")
    part_of = pd.read_csv(own / "list_eval_partition.csv").partition
    parts = {}
    for number, part in enumerate(("train", "valid", "test")):
        rows = t[part_of == number]
        folder = own / "img_align_celeba" / "img_align_celeba"
        columns = dict(image=[encoded(folder / name) for name in rows.image_id])
        for a in CELEBA_ATTRIBUTES:
            columns[a] = (
                (rows[a] > 0).tolist() if kind == "bool" else rows[a].tolist()
            )
        parts[part] = columns
    features = dict(image=hf.Image()) | {
        a: hf.Value(kind) for a in CELEBA_ATTRIBUTES
    }
    copy = write_copy(tmp_path / "copy", parts, features)
    options = dict(size=32, target="Smiling", confounder="Young")
    a = load_benchmark("celeba", own, **options)
    b = load_benchmark("celeba", copy, source="hf", **options)
    assert a.name == b.name and a.group_names == b.group_names
    for s, u in (
        (a.train, b.train),
        (a.val, b.val),
        (a.tests["test"], b.tests["test"]),
    ):
        assert s.images.equal(u.images) and s.groups.equal(u.groups)
        assert s.ids == u.ids


def test_the_counts_add_up_to_the_published_sizes():
    for name, copy in HUB_COPIES.items():
        assert sum(map(sum, copy.counts.values())) == PUBLISHED_SIZES[name]


def test_the_hub_is_asked_for_the_right_copy(monkeypatch):
    "Without root=, the repository and its configuration are asked for; nothing else is"
    asked = []

    def load_dataset(*args):
        asked.append(args)
        raise ConnectionError("no hub")

    monkeypatch.setattr(hf, "load_dataset", load_dataset)
    for name in HUB_COPIES:
        with pytest.raises(ConnectionError):
            load_benchmark(name, source="hf")
    assert asked == [
        ("grodino/waterbirds", None),
        ("flwrlabs/celeba", "img_align+identity+attr"),
    ]
    assert torch.tensor([len(a) for a in asked]).eq(2).all()


def test_names_are_read_without_the_bytes_of_the_images(tmp_path, monkeypatch):
    _, copy = birds_copy(tmp_path)
    rows = hf.load_dataset(str(copy), split="train")
    read = []
    image = hf.Image(decode=False)
    for method in ("__iter__", "__getitem__"):
        whole = getattr(hf.Dataset, method)

        def watched(self, *key, whole=whole):
            read.extend(self.column_names)
            return whole(self, *key)

        monkeypatch.setattr(hf.Dataset, method, watched)
    ids = _ids_of(rows, "train")
    assert read and set(read) == {"image.path"}
    assert ids == [row["path"] for row in rows.cast_column("image", image)["image"]]
