"""Every kind of data that should become a `Split` or a `Benchmark`, and the line that does it.

The table on the page "What masktune reads" and tests/test_data_adapters.py are both made of this.
"""

import contextlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision.transforms import v2

from masktune.data.benchmark import Benchmark
from masktune.data.registry import load_benchmark
from masktune.data.split import Split

N, NAMES = 12, ["owl", "wren"]
LABELS = [i % 2 for i in range(N)]
SHADES = [20 * i + 10 for i in range(N)]  # tells each image from the others


def picture(i):
    return Image.new("RGB", (12, 8), (SHADES[i],) * 3)


class Pairs(Dataset):
    "(picture, number) of each image; the classes have names"

    classes = NAMES

    def __init__(self, transform=None):
        self.transform = transform or (lambda im: im)

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.transform(picture(i)), LABELS[i]


def encoded(i):
    file = io.BytesIO()
    picture(i).save(file, "png")
    return file.getvalue()


def write_files(folder: Path):
    "The same twelve images as class folders, as three parts, as two tables and as a shard"
    rows = []
    for i, k in enumerate(LABELS):
        part = ("train", "train", "val", "test")[i // 2 % 4]
        for file in (f"photos/{NAMES[k]}/{i:02}.png", f"parts/{part}/{NAMES[k]}/{i:02}.png"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(encoded(i))
        rows.append((f"photos/{NAMES[k]}/{i:02}.png", NAMES[k], "land", part))
    columns = ["file", "label", "group", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "photos.csv", index=False)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for i, k in enumerate(LABELS):
            for end, data in (("png", encoded(i)), ("cls", str(k).encode())):
                member = tarfile.TarInfo(f"{i:02}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def prepared(folder: Path) -> dict:
    "What a user is assumed to have: names in the lines below"
    write_files(folder)
    table = pd.read_csv(folder / "photos.csv")
    pixels = np.stack([np.asarray(picture(i)) for i in range(N)]).transpose(0, 3, 1, 2)
    images = torch.from_numpy(pixels)
    dicts = [
        dict(photo=picture(i), kind=NAMES[k], place="land") for i, k in enumerate(LABELS)
    ]
    have = dict(images=images, labels=torch.tensor(LABELS), table=table, dicts=dicts)
    have |= dict(pairs=Pairs(), folders=torchvision.datasets.ImageFolder("photos"))
    have |= dict(floats=Pairs(v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, True)])))
    return have | dict(flipped=Pairs(v2.RandomCrop(4)))


def hugging_face() -> dict:
    import datasets

    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=NAMES),
        place=datasets.ClassLabel(names=["land", "water"]),
    )
    columns = dict(image=[picture(i) for i in range(N)], label=LABELS, place=[0] * N)
    data = datasets.Dataset.from_dict(columns, features)
    parts = dict(train=range(8), validation=range(8, 10), test=range(10, 12))
    parted = datasets.DatasetDict({k: data.select(r) for k, r in parts.items()})
    return dict(data=data, parted=parted, stream=data.to_iterable_dataset())


def webdataset() -> dict:
    from webdataset import WebDataset

    return dict(WebDataset=WebDataset)


# you have -> (the line, what must be installed besides)
KINDS = {
    "class folders": ('Split.from_folder("photos")', None),
    "class folders, to be divided": ('Benchmark.from_folder("photos")', None),
    "train, val and test folders": ('Benchmark.from_folder("parts")', None),
    "a CSV file": ('load_benchmark("folder", ".", table="photos.csv")', None),
    "a DataFrame": ("Split.from_frame(table)", None),
    "file names and labels": ("Split.from_files(table.file, labels)", None),
    "arrays or tensors": ("Split.from_tensors(images, labels)", None),
    "a torch Dataset": ("Split.from_dataset(pairs)", None),
    "a torch Dataset of float tensors": ("Split.from_dataset(floats)", None),
    "a torch Dataset of dicts": (
        'Split.from_dataset(dicts, image="photo", label="kind", group="place")',
        None,
    ),
    "an ImageFolder": ("Split.from_dataset(folders)", None),
    "a DataLoader": ("Split.from_dataset(DataLoader(pairs, 4, shuffle=True))", None),
    "a Subset": ("Split.from_dataset(Subset(pairs, range(6)))", None),
    "a ConcatDataset": ("Split.from_dataset(ConcatDataset([pairs, folders]))", None),
    "a TensorDataset": ("Split.from_dataset(TensorDataset(images, labels))", None),
    "several data sets": ("Benchmark.from_datasets(pairs, floats, folders)", None),
    "a generator": ("Split.from_iterable(pair for pair in pairs)", None),
    "webdataset shards": (
        'Split.from_iterable(WebDataset("shard.tar", shardshuffle=False))',
        webdataset,
    ),
    "a Hugging Face Dataset": ("Split.from_dataset(data)", hugging_face),
    "the same, with groups": ('Split.from_dataset(data, group="place")', hugging_face),
    "a Hugging Face IterableDataset": ("Split.from_dataset(stream)", hugging_face),
    "a Hugging Face DatasetDict": ("Benchmark.from_datasets(parted)", hugging_face),
}
REFUSED = {
    "a folder of parts as one split": ('Split.from_folder("parts")', None),
    "random transforms": ("Split.from_dataset(flipped)", None),
    "normalised images": ("Split.from_tensors((images / 255 - 0.45) / 0.225, labels)", None),
    "channels last": ("Split.from_tensors(images.permute(0, 2, 3, 1), labels)", None),
    "labels that are no numbers": ("Split.from_tensors(images, labels + 0.5)", None),
    "batches": ("Split.from_dataset([(images[:4], labels[:4])])", None),
    "several data sets as one split": ("Split.from_dataset(parted)", hugging_face),
}
SCOPE = dict(
    Split=Split,
    Benchmark=Benchmark,
    load_benchmark=load_benchmark,
    DataLoader=DataLoader,
    Subset=Subset,
    ConcatDataset=ConcatDataset,
    TensorDataset=TensorDataset,
)


def is_right(split) -> bool:
    "Whether each image has the label, and the class the name, that it was given"
    shades = [int(x[0, 0, 0]) for x, _, _ in (split[i] for i in range(len(split)))]
    numbers = [SHADES.index(s) for s in shades]
    named = split.class_names in (NAMES, ["0", "1"])
    return named and split.labels.tolist() == [LABELS[i] for i in numbers]


def tried(line: str, more, folder: Path) -> dict:
    "What a line makes of the data in `folder`: images, classes, groups; or the sentence that refuses it"
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        scope = SCOPE | prepared(folder) | (more() if more else {})
        try:
            made = eval(line, scope)
        except (ValueError, FileNotFoundError) as e:
            return dict(refused=str(e).replace(str(folder), "."))
        parts = list(made.splits.values()) if isinstance(made, Benchmark) else [made]
        return {
            "images": " + ".join(str(len(s)) for s in parts),
            "classes": ", ".join(parts[0].class_names),
            "groups": ", ".join(parts[0].group_names or []),
            "right": all(is_right(s) for s in parts),
        }
