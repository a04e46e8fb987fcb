"Data sets of torch, torchvision, Hugging Face, webdataset and pandas become a Split, the right way round."

import io
import json
import tarfile

import kinds
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torch.utils.data import IterableDataset, Subset
from torchvision.transforms import v2

from masktune.data.benchmark import Benchmark
from masktune.data.image_cache import cache_root
from masktune.data.split import Split

SHADES = (10, 90, 170, 250)


def picture(i, mode="RGB", size=(12, 8)):
    return Image.new("L", size, SHADES[i % 4]).convert(mode)


def as_read(split):
    "[(shade, label)] of every image"
    return [
        (int(x[0, 0, 0]), y) for x, y, _ in (split[i] for i in range(len(split)))
    ]


WANT = [(SHADES[i % 4], i % 2) for i in range(6)]


def needs(more):
    if more is not None:
        pytest.importorskip("datasets" if more is kinds.hugging_face else "webdataset")


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_kind_of_data_takes_a_line(tmp_path, monkeypatch, kind):
    line, more = kinds.KINDS[kind]
    needs(more)
    monkeypatch.chdir(tmp_path)
    found = kinds.tried(line, more, tmp_path)
    assert found.get("right"), found
    numbers = [int(n) for n in found["images"].split(" + ")]
    assert sum(numbers) == {
        "a Subset": 6,
        "a ConcatDataset": 24,
        "several data sets": 36,
    }.get(kind, 12)
    by_name = {"arrays or tensors", "a TensorDataset", "file names and labels"}
    by_name |= {"a generator", "webdataset shards"}
    assert found["classes"] == ("0, 1" if kind in by_name else "owl, wren")
    grouped = kind in ("a CSV file", "a DataFrame") or "place" in line
    assert bool(found["groups"]) == grouped


@pytest.mark.parametrize("kind", kinds.REFUSED)
def test_what_can_be_misread_is_refused(tmp_path, monkeypatch, kind):
    line, more = kinds.REFUSED[kind]
    needs(more)
    says = {
        "a folder of parts as one split": "is divided already, into test, train, val",
        "random transforms": "the data set is random",
        "normalised images": "look normalised by mean",
        "channels last": "channels",
        "labels that are no numbers": "whole numbers",
        "batches": "batch",
        "several data sets as one split": "several data sets, train, validation, test",
    }[kind]
    monkeypatch.chdir(tmp_path)
    assert says in kinds.tried(line, more, tmp_path)["refused"]


class Tuples(Dataset):
    def __init__(self, convert=lambda im: im):
        self.convert = convert

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.convert(picture(i)), i % 2


@pytest.mark.parametrize(
    "convert",
    [
        lambda im: im,
        v2.functional.pil_to_tensor,
        torchvision.transforms.functional.to_tensor,
        np.asarray,
        lambda im: np.asarray(im) / 255,
        lambda im: np.asarray(im)[..., 0],
    ],
    ids=[
        "picture",
        "byte tensor",
        "float tensor",
        "array",
        "float array",
        "grey array",
    ],
)
def test_images_of_every_kind(convert):
    s = Split.from_dataset(Tuples(convert))
    assert as_read(s) == WANT and s.image_size == (8, 12)
    assert s.class_names == ["0", "1"] and s.groups is None and s.ids is None
    batch = next(s.batches(6))
    assert batch.x[:, 0, 0, 0].mul(255).round().tolist() == [
        shade for shade, _ in WANT
    ]


def test_dicts_functions_and_loaders():
    rows = [
        dict(photo=picture(i), kind="ab"[i % 2], place="xy"[i // 3], name=f"n{i}")
        for i in range(6)
    ]
    s = Split.from_dataset(
        rows, image="photo", label="kind", group="place", id="name"
    )
    assert as_read(s) == WANT and s.class_names == ["a", "b"]
    assert s.groups.tolist() == [0, 0, 0, 1, 1, 1] and s.group_names == ["x", "y"]
    assert s.ids == [f"n{i}" for i in range(6)]
    with pytest.raises(
        ValueError,
        match="no image among its keys photo, kind, place, name: name the key by image=",
    ):
        Split.from_dataset(rows)
    with pytest.raises(ValueError, match="no label 'species' among its keys"):
        Split.from_dataset(rows, image="photo", label="species")
    pairs = [(i, dict(y=torch.tensor(i % 2))) for i in range(6)]
    s = Split.from_dataset(
        pairs, image=lambda p: picture(p[0]), label=lambda p: p[1]["y"]
    )
    assert as_read(s) == WANT
    loader = DataLoader(Tuples(), batch_size=4, shuffle=True)
    assert as_read(Split.from_dataset(loader)) == WANT, (
        "in the order of the data set"
    )


def test_image_folders_keep_names_and_ids(tmp_path):
    for i in range(6):
        file = tmp_path / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        picture(i).save(file)
    data = torchvision.datasets.ImageFolder(tmp_path)
    s = Split.from_dataset(data)
    assert (
        s.images.equal(Split.from_folder(tmp_path).images) and s.ids[0] == "a/0.png"
    )
    assert s.class_names == ["a", "b"]
    part = Split.from_dataset(Subset(data, [5, 0]), size=4)
    assert part.class_names == ["a", "b"] and part.labels.tolist() == [1, 0]
    crop = torchvision.transforms.Compose([v2.CenterCrop(6), v2.PILToTensor()])
    assert Split.from_dataset(
        torchvision.datasets.ImageFolder(tmp_path, crop)
    ).image_size == (6, 6)


@pytest.mark.parametrize(
    "transform, says",
    [
        (v2.RandomCrop(4), "the data set is random"),
        (
            v2.Compose(
                [
                    v2.ToImage(),
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Normalize([0.5] * 3, [0.5] * 3),
                ]
            ),
            "look scaled to",
        ),
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), "look like bytes"),
    ],
)
def test_transforms_for_training_are_refused(tmp_path, transform, says):
    for name in "ab":
        (tmp_path / name).mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=says):
        Split.from_dataset(torchvision.datasets.ImageFolder(tmp_path, transform))


def test_joined_data_sets_must_mean_the_same_by_a_number():
    class Named(Tuples):
        def __init__(self, *classes):
            super().__init__()
            self.classes = classes

    cats = Named("cat", "dog")
    both = ConcatDataset([Subset(cats, [0, 1]), Named("cat", "dog")])
    s = Split.from_dataset(both)
    assert s.class_names == ["cat", "dog"] and len(s) == 8
    for other in (Named("bird", "cat"), Named("dog", "cat"), Tuples()):
        with pytest.raises(ValueError, match="the joined data sets number.*cat, dog"):
            Split.from_dataset(ConcatDataset([cats, other]))
    joined = ConcatDataset([cats, Named("dog", "cat")])
    by_shade = Split.from_dataset(joined, label=lambda item: "ab"[item[1]])
    assert by_shade.class_names == ["a", "b"]
    given = Split.from_dataset(ConcatDataset([Tuples(), Tuples()]))
    assert given.class_names == ["0", "1"]


def test_classes_are_matched_by_name(tmp_path):
    "the validation folder lacks class a, so torchvision calls b number 0"
    for part, classes in (("one", "abc"), ("two", "bc"), ("three", "bd")):
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                picture(ord(name) - ord("a")).save(
                    tmp_path / part / name / f"{i}.png"
                )
    train, val, other = (
        torchvision.datasets.ImageFolder(tmp_path / p)
        for p in ("one", "two", "three")
    )
    b = Benchmark.from_datasets(train=train, val=val)
    assert b.val.class_names == b.class_names == ["a", "b", "c"]
    assert set(as_read(b.val)) == {(SHADES[1], 1), (SHADES[2], 2)}
    assert {k: len(s) for k, s in b.splits.items()} == {
        "train": 9,
        "val": 8,
        "test": 3,
    }
    assert b.notes == [
        "no test images were given: 15 % of train is held out for it"
    ]
    with pytest.raises(
        ValueError, match="the label 'd', which is not among a, b, c"
    ):
        Benchmark.from_datasets(train, other)


def test_groups_are_matched_by_name():
    def rows(groups):
        return [
            dict(image=picture(i), label=i % 2, group=g)
            for i, g in enumerate(groups)
        ]

    b = Benchmark.from_datasets(
        rows("ssll"),
        rows("llll"),
        {"a": rows("slww"), "b": rows("wwww")},
        group="group",
    )
    assert b.group_names == ["l", "s", "w"] and list(b.tests) == ["a", "b"]
    assert (
        b.train.groups.tolist() == [1, 1, 0, 0]
        and b.tests["b"].groups.tolist() == [2] * 4
    )
    assert b.tests["a"].groups.tolist() == [1, 0, 2, 2]


def test_other_shapes_and_labels_are_refused():
    sizes = [(picture(0), 0), (picture(1, size=(9, 9)), 1)]
    with pytest.raises(
        ValueError, match=r"image 1 has the shape \(3, 9, 9\).*pass size="
    ):
        Split.from_dataset(sizes)
    assert Split.from_dataset(sizes, size=8).image_size == (8, 8)
    for label, says in (
        (-1, "count from 0"),
        (0.5, "whole numbers"),
        (None, "is missing"),
        ([0, 1], "must be a number or text"),
    ):
        with pytest.raises(ValueError, match=says):
            Split.from_dataset([(picture(0), label)])
    with pytest.raises(ValueError, match="holds a batch of shape"):
        Split.from_dataset([(torch.zeros(4, 3, 8, 8), 0)])
    with pytest.raises(
        ValueError,
        match="several data sets, train, test: .*Benchmark.from_datasets",
    ):
        Split.from_dataset(dict(train=Tuples(), test=Tuples()))
    with pytest.raises(ValueError, match="has no image that can be read"):
        Split.from_dataset([])
    with pytest.raises(ValueError, match="must be a tuple"):
        Split.from_dataset([picture(0)])


def test_unreadable_items_stop_or_are_skipped():
    png = io.BytesIO()
    picture(0).save(png, "png")
    items = [(png.getvalue(), 0), (b"no picture", 1), (png.getvalue(), 1)]
    with pytest.raises(ValueError, match="1 of 3 images can't be read: item 1"):
        Split.from_dataset(items)
    with pytest.warns(UserWarning, match="1 of 3"):
        s = Split.from_dataset(items, on_error="skip")
    assert len(s) == 2 and s.labels.tolist() == [0, 1] and len(s.skipped) == 1
    assert not list(cache_root().rglob("*.growing")), "no half file is left"


def test_streams_are_read_once_and_not_held():
    class Stream(IterableDataset):
        def __iter__(self):
            for i in range(300):
                alive.append(i)
                yield picture(i), i % 2

    alive = []
    s = Split.from_dataset(Stream())
    assert len(s) == len(alive) == 300 and s._rows is not None, "memory-mapped"
    assert as_read(s)[:6] == WANT
    again = Split.from_iterable((picture(i), i % 2) for i in range(300))
    assert again.images.equal(s.images) and again.fingerprint() == s.fingerprint()


def test_tables_of_pandas(tmp_path):
    for i in range(6):
        picture(i).save(tmp_path / f"{i}.png")
    frame = pd.DataFrame(
        dict(
            Path=[f"{i}.png" for i in range(6)],
            Class=list("ababab"),
            group=list("xxyyxx"),
        )
    )
    s = Split.from_frame(frame, root=tmp_path)
    assert (
        as_read(s) == WANT and s.ids[3] == "3.png" and s.group_names == ["x", "y"]
    )
    absolute = frame.assign(Path=[str(tmp_path / f) for f in frame.Path])
    assert as_read(Split.from_frame(absolute)) == WANT
    b = Benchmark.from_datasets(absolute, absolute[1:2], absolute[3:4], size=4)
    assert b.val.labels.tolist() == [1] and b.class_names == ["a", "b"]
    with pytest.raises(ValueError, match="the table has c in column Class, row 1"):
        Benchmark.from_datasets(absolute, absolute[:1].assign(Class="c"), size=4)


# --- Hugging Face


@pytest.fixture
def hugging_face():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        img=datasets.Image(),
        fine_label=datasets.ClassLabel(names=["wren", "owl"]),
        place=datasets.ClassLabel(names=["land", "water"]),
        id=datasets.Value("string"),
    )
    columns = dict(
        img=[picture(i) for i in range(6)],
        fine_label=[i % 2 for i in range(6)],
        place=[i // 3 for i in range(6)],
        id=[f"bird {i}" for i in range(6)],
    )
    return datasets, datasets.Dataset.from_dict(columns, features)


def test_hugging_face_columns_are_found(hugging_face):
    _, data = hugging_face
    s = Split.from_dataset(data, label="fine_label", group="place")
    assert as_read(s) == WANT and s.class_names == ["wren", "owl"]
    assert s.group_names == ["land", "water"] and s.groups.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
    ]
    assert s.ids[2] == "bird 2"
    assert Split.from_dataset(data.remove_columns("place")).class_names == [
        "wren",
        "owl",
    ]
    assert (
        as_read(Split.from_dataset(data.with_format("torch"), label="fine_label"))
        == WANT
    )
    with pytest.raises(
        ValueError, match="there is no column 'groups'; there are img"
    ):
        Split.from_dataset(data, group="groups")
    with pytest.raises(ValueError, match="which column is the label"):
        Split.from_dataset(
            data.rename_column("fine_label", "a").rename_column("place", "b")
        )


def test_hugging_face_parts_become_a_benchmark(hugging_face):
    datasets, data = hugging_face
    parts = datasets.DatasetDict(
        train=data, validation=data.select([0]), test=data.select([5, 4])
    )
    b = Benchmark.from_datasets(
        parts, label="fine_label", group="place", name="birds"
    )
    assert {k: len(s) for k, s in b.splits.items()} == {
        "train": 6,
        "val": 1,
        "test": 2,
    }
    assert as_read(b.tests["test"]) == [WANT[5], WANT[4]] and b.class_names == [
        "wren",
        "owl",
    ]
    with pytest.raises(
        ValueError, match="several data sets, train, validation, test"
    ):
        Split.from_dataset(parts)


def test_hugging_face_streams_and_folders(hugging_face, tmp_path):
    datasets, data = hugging_face
    stream = data.to_iterable_dataset()
    assert as_read(Split.from_dataset(stream, label="fine_label")) == WANT
    data.to_parquet(tmp_path / "train.parquet")
    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "train.parquet"),
        split="train",
        cache_dir=str(tmp_path / "hf"),
    )
    assert as_read(Split.from_dataset(loaded, label="fine_label")) == WANT


def test_hugging_face_pictures_follow_our_rules(hugging_face):
    datasets, _ = hugging_face
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    data = datasets.Dataset.from_dict(
        dict(image=[clear], label=[0]),
        datasets.Features(image=datasets.Image(), label=datasets.Value("int64")),
    )
    assert Split.from_dataset(data).images.min() == 255


# --- webdataset


@pytest.fixture
def shard(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for i in range(6):
            png = io.BytesIO()
            picture(i).save(png, "png")
            about = json.dumps(dict(place="xy"[i // 3])).encode()
            for end, data in (
                ("png", png.getvalue()),
                ("cls", str(i % 2).encode()),
                ("json", about),
            ):
                member = tarfile.TarInfo(f"{i:04}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(tmp_path / "shard.tar")


def test_webdataset_shards(shard):
    wds = pytest.importorskip("webdataset")
    raw = wds.WebDataset(shard, shardshuffle=False)
    s = Split.from_iterable(
        raw, group=lambda item: json.loads(item["json"])["place"]
    )
    assert as_read(s) == WANT and s.ids[3] == "0003" and s.group_names == ["x", "y"]
    assert as_read(Split.from_dataset(raw.decode("pil"))) == WANT
    pairs = (
        wds.WebDataset(shard, shardshuffle=False)
        .decode("pil")
        .to_tuple("png", "cls")
    )
    assert as_read(Split.from_dataset(pairs, size=8)) == WANT


def test_parts_in_a_dict_and_beside_it_are_all_used():
    a, b, c = ([(picture(i), i % 2) for i in range(n)] for n in (8, 4, 2))
    bench = Benchmark.from_datasets({"train": a, "val": b}, test=c)
    assert [len(s) for s in (bench.train, bench.val, bench.tests["test"])] == [
        8,
        4,
        2,
    ]
    bench = Benchmark.from_datasets({"train": a, "test": c}, val=b)
    assert [len(s) for s in (bench.train, bench.val, bench.tests["test"])] == [
        8,
        4,
        2,
    ]
    with pytest.raises(ValueError, match="val is given twice"):
        Benchmark.from_datasets({"train": a, "val": b}, val=b)
    with pytest.raises(ValueError, match="test is given twice"):
        Benchmark.from_datasets({"train": a, "test": c}, test=c)
    with pytest.raises(
        ValueError, match="val is there twice among train, val, valid"
    ):
        Benchmark.from_datasets({"train": a, "val": b, "valid": b})


def test_groups_of_a_split_that_is_given_stay_as_they_are():
    def split(names):
        x = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
        y = torch.tensor([0, 1, 0, 1])
        return Split.from_tensors(x, y, y, group_names=names)

    train, val = split(["land", "water"]), split(["water", "land"])
    next(val.batches(4))  # its groups are on the device now
    bench = Benchmark.from_datasets(train, val, val)
    assert val.groups.tolist() == [0, 1, 0, 1] and val.group_names == [
        "water",
        "land",
    ]
    assert bench.val.groups.tolist() == [1, 0, 1, 0]
    assert next(bench.val.batches(4)).group.tolist() == [1, 0, 1, 0]


def test_tests_of_a_dict_and_tests_beside_it_keep_their_names():
    a, b, c = ([(picture(i), i % 2) for i in range(n)] for n in (8, 4, 2))
    bench = Benchmark.from_datasets({"ood": b, "train": a}, val=b, test={"iid": c})
    assert {name: len(s) for name, s in bench.tests.items()} == {"ood": 4, "iid": 2}
    with pytest.raises(ValueError, match="val is given twice"):
        Benchmark.from_datasets(a, val=b, test={"val": c})


class WithAHole(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        if i == 2:
            raise OSError("a hole")
        return picture(i), i % 2


def test_what_is_read_before_an_error_is_not_said_to_be_kept():
    with pytest.raises(ValueError, match="1 of 4 images can't be read") as refused:
        Split.from_dataset(WithAHole())
    assert "cache" not in str(refused.value) and str(refused.value).endswith(
        '"skip".'
    )
