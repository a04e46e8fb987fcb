"Every published set, from its miniature: where it is found, what is in it, what goes wrong."

import re, shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from masktune.data.labels import PUBLISHED_SIZES, SPAWRIOUS_SPLITS
from masktune.data.miniatures import MINIATURES, make_miniature
from masktune.data.registry import DATASETS, list_benchmarks, load_benchmark
from masktune.data.split import Split
from masktune.data.text_sets import civilcomments_groups
from masktune.evaluation.backgrounds import urbancars_gaps
from masktune.evaluation.metrics import Predictions, group_report
from masktune.methods.erm import ERM
from masktune.models.zoo import create_model


def parts(b):
    return {"train": b.train, "val": b.val, **b.tests}


def counts(b):
    return {
        part: torch.bincount(s.groups, minlength=len(s.group_names)).tolist()
        for part, s in parts(b).items()
    }


# set: form of the miniature, options of load, sizes of the splits, folder that its own folder lies in
SETS = [
    ("waterbirds", {}, {}, (8, 8, 8)),
    ("celeba", {}, {}, (8, 8, 8)),
    ("celeba", dict(form="txt"), {}, (8, 8, 8)),
    ("in9l", {}, {}, (18, 18, *[18] * 8)),
    ("cifar10", {}, {}, (80, 20, 20)),
    ("cifar10", dict(form="binary"), {}, (80, 20, 20)),
    ("svhn", {}, {}, (16, 4, 20)),
    ("cats_vs_dogs", {}, {}, (24, 8, 8)),
    ("spawrious", {}, {}, (13, 3, 16)),
    ("spawrious", {}, dict(split="m2m_hard"), (13, 3, 16)),
    ("urbancars", {}, {}, (52, 16, 16)),
    ("utkface", {}, dict(on_error="skip"), (16, 2, 2)),
    ("imagenet", {}, dict(val=0.5), (43, 43, 86)),
    ("imagenet_a", {}, {}, (0, 0, 86)),
    ("folder", {}, dict(table="labels.csv"), (20, 10, 10)),
]


@pytest.mark.parametrize(
    "name, form, options, sizes",
    SETS,
    ids=[
        f"{s[0]} {' '.join([*s[1].values(), *map(str, s[2].values())])}".strip()
        for s in SETS
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_read_from_its_own_folder_and_from_the_one_above(
    name, form, options, sizes, tmp_path
):
    own = make_miniature(name, tmp_path / "x" / name, **form)
    b = load_benchmark(name, own, **options)
    assert tuple(map(len, parts(b).values())) == sizes
    if own != tmp_path / "x" / name or name not in ("folder",):
        above = load_benchmark(name, own.parent, **options)
        assert [s.ids for s in parts(above).values()] == [
            s.ids for s in parts(b).values()
        ]
        assert all(
            s.images.equal(t.images) and s.labels.equal(t.labels)
            for s, t in zip(parts(b).values(), parts(above).values())
        )
    every = [i for s in parts(b).values() for i in s.ids]
    assert len(set(every)) == len(every) and not set(b.train.ids) & set(b.val.ids)
    assert b.train.images.dtype == torch.uint8 and b.train.images.shape[1] == 3


def test_every_known_set_is_tried():
    made = {
        "multinli",
        "civilcomments",
        "biased_mnist",
        "colored_mnist",
        "spuco_mnist",
        "dominoes",
        "glyphs",
        "imagenet9_rebias",
    }
    assert set(list_benchmarks()) == set(DATASETS) == {s[0] for s in SETS} | made


def test_generated_sets_are_loaded_like_the_others(tmp_path):
    for name in ("mnist", "cifar10"):
        make_miniature(name, tmp_path)
    assert (
        load_benchmark(
            "biased_mnist", tmp_path, data="full", base_images="cifar10"
        ).n_classes
        == 2
        and len(load_benchmark("glyphs", n=8, size=16).train) == 8
    )
    assert (
        load_benchmark("dominoes", tmp_path).train.images.shape[1:] == (3, 64, 32)
        and load_benchmark("spuco_mnist").n_classes == 5
    )


def test_waterbirds_groups_and_corrected_labels(tmp_path):
    own = make_miniature("waterbirds", tmp_path, n=4)
    table = pd.read_csv(own / "metadata.csv")
    assert (
        list(table.columns)
        == "img_id img_filename y split place place_filename".split()
    )
    b, corrected = (
        load_benchmark("waterbirds", own, size=24),
        load_benchmark("waterbirds", own, size=24, labels="corrected"),
    )
    assert (
        counts(b)["train"] == [4] * 4
        and counts(corrected)["train"] == [7, 7, 1, 1]
        and b.group_names[1] == "landbird on water"
    )
    of = dict(zip(table.img_filename, 2 * table.y + table.place))
    assert all(
        of[i] == g
        for s in parts(b).values()
        for i, g in zip(s.ids, s.groups.tolist())
    )
    changed = [
        i
        for i, a, c in zip(b.train.ids, b.train.labels, corrected.train.labels)
        if a != c
    ]
    assert sorted({i.split("/")[0] for i in changed}) == [
        "021.Eastern_Towhee",
        "088.Western_Meadowlark",
        "102.Western_Wood_Pewee",
    ]


def test_both_averages_of_waterbirds(tmp_path):
    make_miniature("waterbirds", tmp_path)
    b = load_benchmark("waterbirds", tmp_path, size=24)
    train = b.train.subset(
        torch.cat(
            [
                (b.train.groups == g).nonzero()[:, 0][:n]
                for g, n in enumerate((2, 1, 1, 2))
            ]
        )
    )
    test = b.tests["test"]
    r = group_report(
        Predictions(
            torch.nn.functional.one_hot(test.groups % 2, 2).float(),
            test.labels,
            test.groups,
            test.ids,
            test.class_names,
            test.group_names,
        ),
        train,
    )
    assert (
        r.accuracy == 0.5
        and r.reweighted_accuracy == pytest.approx(4 / 6)
        and r.worst_group_accuracy == 0
    )


def test_celeba_takes_any_pair(tmp_path):
    own = make_miniature("celeba", tmp_path)
    t = pd.read_csv(own / "list_attr_celeba.csv")
    b = load_benchmark(
        "celeba", own, size=32, target="Eyeglasses", confounder="Young"
    )
    of = dict(zip(t.image_id, (t.Eyeglasses + 1) + (t.Young + 1) // 2))
    assert all(
        of[i] == g
        for s in parts(b).values()
        for i, g in zip(s.ids, s.groups.tolist())
    )
    with pytest.raises(
        ValueError, match="target='Blonde_Hair'.*Did you mean 'Blond_Hair'"
    ):
        load_benchmark("celeba", own, target="Blonde_Hair")


def test_celeba_wants_every_image_in_both_lists(tmp_path):
    own = make_miniature("celeba", tmp_path)
    t = pd.read_csv(own / "list_eval_partition.csv")
    t[1:].to_csv(own / "list_eval_partition.csv", index=False)
    with pytest.raises(
        ValueError, match="000001.jpg is in the list of attributes but not"
    ):
        load_benchmark("celeba", own)
    t.to_csv(own / "list_eval_partition.csv", index=False)
    a = pd.read_csv(own / "list_attr_celeba.csv")
    a[:-1].to_csv(own / "list_attr_celeba.csv", index=False)
    with pytest.raises(
        ValueError,
        match="000024.jpg is in the list of parts but not in the list of attr",
    ):
        load_benchmark("celeba", own)
    pd.concat([a, a[2:3]]).to_csv(own / "list_attr_celeba.csv", index=False)
    with pytest.raises(ValueError, match="000003.jpg"):
        load_benchmark("celeba", own)
    with pytest.raises(ValueError, match="target and confounder are both Male"):
        load_benchmark("celeba", own, target="Male", confounder="Male")


def test_labels_that_are_written_as_floats_are_read_as_numbers(tmp_path):
    own = make_miniature("waterbirds", tmp_path)
    t = pd.read_csv(own / "metadata.csv")
    t.astype({"y": float, "place": float}).to_csv(own / "metadata.csv", index=False)
    b = load_benchmark("waterbirds", own)
    assert b.train.labels.dtype == torch.int64
    assert counts(b)["train"] == [2] * 4
    t.assign(y=t.y + 0.5).to_csv(own / "metadata.csv", index=False)
    with pytest.raises(ValueError, match="has 0.5 in column y"):
        load_benchmark("waterbirds", own)


@pytest.mark.parametrize(
    "name, cell",
    [
        ("spawrious", "1/dirt/labrador"),
        (
            "urbancars",
            "bg-0.5_co_occur_obj-0.5/val/obj-country_bg-urban_co_occur_obj-urban",
        ),
        ("imagenet", "val/n01440764"),
        ("in9l", "train/03_reptile"),
    ],
)
def test_a_folder_without_an_image_is_named(tmp_path, name, cell):
    own = make_miniature(name, tmp_path)
    for f in (own / cell).iterdir():
        f.unlink()
    with pytest.raises(
        ValueError, match="there is no image in .*" + cell.split("/")[-1]
    ):
        load_benchmark(name, own)


def test_a_set_that_lacks_classes_is_named(tmp_path):
    own = make_miniature("imagenet", tmp_path)
    (own / "val" / "n02085620").rename(own / "val" / "n99999999")
    with pytest.raises(
        ValueError, match="val lacks 1 of the 42 classes of ReBias: n02085620"
    ):
        load_benchmark("imagenet9_rebias", own)
    with pytest.raises(ValueError, match="has 1 classes that .* lacks: n99999999"):
        load_benchmark("imagenet", own)


def test_files_with_other_names_are_refused_or_left_out(tmp_path):
    own = make_miniature("cats_vs_dogs", tmp_path)
    shutil.copy(own / "train" / "cat.3.jpg", own / "train" / "cat.3 (copy).jpg")
    with pytest.raises(ValueError, match=r"1 of 41 images .*cat.3 \(copy\).jpg"):
        load_benchmark("cats_vs_dogs", own)
    with pytest.warns(UserWarning, match="1 images are left out"):
        b = load_benchmark("cats_vs_dogs", own, on_error="skip")
    assert len(b.train.skipped) == 1 and "40 of 25,000 images" in b.name


def test_house_numbers_and_labels_must_belong_together(tmp_path):
    from scipy.io import loadmat, savemat

    own = make_miniature("svhn", tmp_path)
    t = loadmat(own / "train_32x32.mat")
    savemat(own / "train_32x32.mat", {"X": t["X"], "y": t["y"][:-1]})
    with pytest.raises(
        ValueError, match="20 images need as many labels.* there are 19"
    ):
        load_benchmark("svhn", own)
    savemat(own / "train_32x32.mat", {"X": t["X"], "y": t["y"] - 1})
    with pytest.raises(ValueError, match="from 1 to 10 each, .* from 0 to 9"):
        load_benchmark("svhn", own)


def test_ids_of_text_are_there_once(tmp_path):
    own = make_miniature("multinli", tmp_path)
    path = own / "data" / "metadata_random.csv"
    t = pd.read_csv(path, index_col=0)
    pd.concat([t, t[3:4]]).to_csv(path)
    with pytest.raises(ValueError, match="has the id 3 twice"):
        load_benchmark("multinli", own)


@pytest.mark.parametrize("challenge", ["bg_challenge", "test", ""])
def test_the_challenge_is_found_in_all_three_places(tmp_path, challenge):
    own = make_miniature("in9l", tmp_path, n=1, challenge=challenge)
    for v in ("no_fg", "mixed_next"):
        shutil.rmtree(tmp_path / challenge / v)
    for root in (tmp_path, own):
        b = load_benchmark("in9l", root, size=24)
        assert (
            list(b.tests)
            == [
                "original",
                "mixed_same",
                "mixed_rand",
                "only_fg",
                "only_bg_b",
                "only_bg_t",
            ]
            and b.class_names[2] == "wheeled vehicle"
        )
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(own / part)
    assert len(load_benchmark("in9l", tmp_path, size=24).tests["original"]) == 9


def test_class_folders_go_by_their_number(tmp_path):
    own = make_miniature("in9l", tmp_path, n=1)
    (own / "train" / "02_wheeled vehicle").rename(own / "train" / "02_vehicle")
    assert load_benchmark("in9l", own, size=24).train.labels.tolist() == list(
        range(9)
    )
    (own / "train" / "02_vehicle").rename(own / "train" / "03_vehicle")
    with pytest.raises(
        ValueError, match="one folder for each class 0 to 8.*03_reptile, 03_vehicle"
    ):
        load_benchmark("in9l", own, size=24)


def test_in9_without_the_challenge_says_so(tmp_path):
    own = make_miniature("in9l", tmp_path, n=1)
    shutil.rmtree(tmp_path / "bg_challenge")
    with pytest.raises(
        FileNotFoundError, match="no test of the Backgrounds Challenge"
    ):
        load_benchmark("in9l", own)


def test_a_set_that_is_only_a_test_is_not_trained_on(tmp_path):
    b = load_benchmark(
        "imagenet_a", make_miniature("imagenet_a", tmp_path, n=1), size=32
    )
    with pytest.raises(ValueError, match="this split has no images.*ImageNet-A"):
        ERM(epochs=1).fit(create_model("small_cnn", 43), b)
    for split in (b.train, b.val):
        with pytest.raises(ValueError, match="this split has no images"):
            split.batches(4)
    assert sum(len(x.y) for x in b.tests["test"].batches(16)) == 43


@pytest.mark.parametrize(
    "name, rule",
    [
        ("cats_vs_dogs", "number mod 5: 0 for testing, 1 for validation"),
        (
            "spuco_mnist",
            "own list of validation images is replaced by a seeded tenth",
        ),
        ("imagenet_a", "train and val are empty"),
    ],
)
def test_rules_of_our_own_are_stated_where_the_reader_is(name, rule):
    assert name in list_benchmarks()  # which imports the readers
    assert rule in " ".join(DATASETS[name].read.__doc__.split())
    pages = Path("nbs/data").glob("*.ipynb")
    assert any(rule in page.read_text() for page in pages)


def test_a_part_of_a_set_says_so_in_its_name(tmp_path):
    make_miniature("waterbirds", tmp_path)
    make_miniature("cifar10", tmp_path)
    names = [load_benchmark(n, tmp_path).name for n in ("waterbirds", "cifar10")]
    assert names == [
        "Waterbirds (original labels; 24 of 11,788 images)",
        "CIFAR-10 (120 of 60,000 images)",
    ]


def test_the_published_sizes_add_up():
    "facts 5.1, 5.2, 5.4, 5.5; Krizhevsky 2009, Netzer 2011, Hendrycks 2021"
    assert PUBLISHED_SIZES["waterbirds"] == 4795 + 1199 + 5794
    assert PUBLISHED_SIZES["celeba"] == 162770 + 19867 + 19962
    assert (
        PUBLISHED_SIZES["spawrious"] == 4 * (3072 + 96 + 2756 + 412) + 4 * 2 * 3168
    )
    assert PUBLISHED_SIZES["urbancars"] == 8000 + 1000 + 1000
    assert PUBLISHED_SIZES["svhn"] == 73257 + 26032


@pytest.mark.parametrize("split", SPAWRIOUS_SPLITS)
def test_spawrious_dogs_are_where_the_loader_puts_them(tmp_path, split):
    "By the published order of the list, which is not that of the labels"
    own = make_miniature("spawrious", tmp_path, n=1 if split == "o2o_easy" else 2)
    for f in own.rglob("*_0.png") if split == "o2o_easy" else ():
        for i in range(1, 100):
            shutil.copy(f, f.with_name(f"{i}.png"))
    b = load_benchmark("spawrious", tmp_path, size=8, split=split, val=0.0)
    train, test, filler = SPAWRIOUS_SPLITS[split]
    folders = Counter(
        (i.split("/")[0], i.split("/")[1], i.split("/")[2]) for i in b.train.ids
    )
    for dog, where in zip(("bulldog", "dachshund", "labrador", "corgi"), train):
        assert folders["0", where, dog] >= (97 if split == "o2o_easy" else 1)
        if split == "o2o_easy":
            assert (
                folders["0", filler, dog],
                folders["1", where, dog],
                folders["1", filler, dog],
            ) == (3, 87, 13)
    seen, tested = (
        {(i.split("/")[2], i.split("/")[1]) for i in s.ids}
        for s in (b.train, b.tests["test"])
    )
    assert not seen & tested and len(b.train) == len(b.tests["test"])
    assert all(
        b.group_names[g] == f"{i.split('/')[2]}, {i.split('/')[1]}"
        for i, g in zip(b.train.ids, b.train.groups.tolist())
    )


def test_the_published_shares_of_spawrious():
    "3,168 images: 3,072 + 96 in the first environment, 2,756 + 412 in the second (facts 5.4)"
    assert [(int(p * 3168), 3168 - int(p * 3168)) for p in (0.97, 0.87)] == [
        (3072, 96),
        (2756, 412),
    ]


def test_urbancars_cells_and_gaps(tmp_path):
    make_miniature("urbancars", tmp_path)
    b = load_benchmark("urbancars", tmp_path)
    assert counts(b)["train"] == [20, 2, 2, 2, 2, 2, 2, 20] and not any(
        "mask" in i for i in b.train.ids
    )
    for i, g in zip(b.train.ids, b.train.groups.tolist()):
        cell = re.fullmatch(
            r"obj-(\w+)_bg-(\w+)_co_occur_obj-(\w+)", i.split("/")[-2]
        ).groups()
        assert [c == "country" for c in cell] == [
            bool(g & bit) for bit in (4, 2, 1)
        ]
    a = np.array([0.99, 0.9, 0.8, 0.3, 0.4, 0.7, 0.95, 0.97])
    inside = (
        0.9025 * (0.99 + 0.97) / 2
        + 0.0475 * (0.9 + 0.95) / 2
        + 0.0475 * (0.8 + 0.7) / 2
        + 0.0025 * (0.3 + 0.4) / 2
    )
    assert list(urbancars_gaps(a).values()) == pytest.approx(
        [inside, (0.8 + 0.7) / 2 - inside, (0.9 + 0.95) / 2 - inside, 0.35 - inside]
    )


def test_utkface_reads_names_and_reports_those_it_cannot(tmp_path):
    make_miniature("utkface", tmp_path, n=4)
    with pytest.raises(ValueError, match="1 of 41 images.*61_1_2017"):
        load_benchmark("utkface", tmp_path)
    with pytest.warns(UserWarning, match="left out"):
        b = load_benchmark(
            "utkface", tmp_path, on_error="skip", target="race", confounder="age"
        )
    assert len(b.train.skipped) == 1 and b.class_names == [
        "white",
        "black",
        "asian",
        "indian",
        "other",
    ]
    assert all(
        i.split("_")[2] == str(y)
        for i, y in zip(b.train.ids, b.train.labels.tolist())
    )


def test_cats_and_dogs_divide_by_number(tmp_path):
    make_miniature("cats_vs_dogs", tmp_path)
    b = load_benchmark("cats_vs_dogs", tmp_path)

    def rest(s):
        return {int(i.split(".")[1]) % 5 for i in s.ids}

    assert (
        rest(b.tests["test"]) == {0}
        and rest(b.val) == {1}
        and rest(b.train) == {2, 3, 4}
    )


def test_rebias_takes_its_own_nine_classes(tmp_path):
    make_miniature("imagenet", tmp_path / "imagenet")
    make_miniature("imagenet_a", tmp_path)
    b = load_benchmark("imagenet9_rebias", tmp_path, size=16, val=0.1)
    assert (
        b.tests["ImageNet-A"].labels.bincount().tolist()
        == b.tests["ImageNet-9"].labels.bincount().tolist()
        == [10, 10, 6, 10, 10, 10, 10, 8, 10]
    )
    assert {"n02123045", "n02124075"} <= {
        i.split("/")[-2]
        for i, y in zip(b.tests["ImageNet-A"].ids, b.tests["ImageNet-A"].labels)
        if b.class_names[y] == "cat"
    }


@pytest.mark.parametrize(
    "name, says",
    [
        ("svhn", "test_32x32.mat is not a whole file of SVHN"),
        ("cifar10", "data_batch_1 is not a whole batch"),
    ],
)
def test_truncated_archives_are_named(tmp_path, name, says):
    make_miniature(name, tmp_path, corrupt=True)
    with pytest.raises(ValueError, match=says):
        load_benchmark(name, tmp_path)


def test_text_comes_as_tables(tmp_path):
    for name in ("multinli", "civilcomments"):
        make_miniature(name, tmp_path, n=3)
    pairs, comments = (
        load_benchmark("multinli", tmp_path),
        load_benchmark("civilcomments", tmp_path),
    )
    assert (
        list(pairs.id) == list(range(54))
        and pairs.groupby(["part", "group"]).size().eq(3).all()
        and set(pairs.part) == {"train", "val", "test"}
    )
    assert comments.groupby(["part", "group"]).size()["train"].tolist() == [
        3,
        24,
        3,
        24,
    ]
    with pytest.raises(ValueError, match="protocol='fine'"):
        civilcomments_groups(comments, comments.label == 0, "fine")


def test_the_protocols_of_civilcomments_differ(tmp_path):
    "A comment that mentions two identities counts in both of their groups, and once in the coarse one"
    own = make_miniature("civilcomments", tmp_path)
    t = pd.read_csv(own / "all_data_with_identities.csv", index_col=0)
    t.loc[t.male >= 0.5, "black"] = 0.9
    t.to_csv(own / "all_data_with_identities.csv")
    table = load_benchmark("civilcomments", own)
    test = table[table.part == "test"]
    official, coarse = (
        civilcomments_groups(test, ~(test.male & (test.label == 1)), p).set_index(
            "group"
        )
        for p in ("official", "coarse")
    )
    assert (
        len(official) == 16
        and official.n["black, toxic"] == 4
        and official.accuracy["black, toxic"] == 0.5
        and official.accuracy.min() == 0
    )
    assert (
        coarse.n.sum() == len(test) == 36
        and coarse.accuracy["any identity, toxic"] == 14 / 16
    )


@pytest.mark.parametrize("name", MINIATURES)
def test_miniatures_are_the_same_every_time(tmp_path, name):
    a, b = (make_miniature(name, tmp_path / k, n=1) for k in "ab")
    files = [
        p.relative_to(a)
        for p in sorted(a.rglob("*"))
        if p.is_file() and p.suffix != ".mat"
    ]  # .mat files carry the time
    assert all((a / f).read_bytes() == (b / f).read_bytes() for f in files) and (
        files or name == "svhn"
    )


@pytest.mark.data
def test_the_real_waterbirds(data):
    want = {
        "original": [
            [3498, 184, 56, 1057],
            [467, 466, 133, 133],
            [2255, 2255, 642, 642],
        ],
        "corrected": [
            [3502, 252, 52, 989],
            [478, 473, 122, 126],
            [2298, 2302, 599, 595],
        ],
    }
    for labels, numbers in want.items():
        b = load_benchmark("waterbirds", data, labels=labels)
        assert (
            list(counts(b).values()) == numbers
            and sum(map(len, parts(b).values())) == 11788
            and b.train.images.shape[1:] == (3, 224, 224)
        )
    assert 0.3 < np.mean(b.mean) < 0.6


@pytest.mark.data
def test_the_real_cifar10(data):
    b = load_benchmark("cifar10", data)
    assert (
        tuple(map(len, parts(b).values())) == (40000, 10000, 10000)
        and b.tests["test"].labels.bincount().tolist() == [1000] * 10
    )
    assert (b.train.labels.bincount() + b.val.labels.bincount()).tolist() == [
        5000
    ] * 10
    assert b.tests["test"].labels[:4].tolist() == [
        3,
        8,
        8,
        0,
    ]  # cat, ship, ship, airplane: the first test images


@pytest.mark.data
def test_the_real_celeba_rows(data):
    b = load_benchmark("celeba", f"{data}/celeba", size=178)
    rows = [
        line.split()
        for line in open(f"{data}/celeba/list_attr_celeba.txt")
        .read()
        .splitlines()[2:]
    ]
    assert (
        b.train.ids == [r[0] for r in rows] == [f"{i:06}.jpg" for i in range(1, 11)]
    )
    assert b.train.groups.tolist() == [
        2 * (r[10] == "1") + (r[21] == "1") for r in rows
    ] and b.train.images.shape == (10, 3, 178, 178)


@pytest.mark.data
def test_the_real_celeba_faces(data):
    b = load_benchmark("celeba", f"{data}/celeba_64px")
    assert list(counts(b).values()) == [
        [6136, 5831, 1975, 210],
        [1240, 1266, 412, 27],
        [1408, 1106, 373, 16],
    ]
    assert b.train.images.shape[1:] == (3, 64, 64)
    assert b.name == "CelebA (Blond_Hair / Male; 20,000 of 202,599 images)"


@pytest.mark.data
def test_the_real_photographs(data):
    folder = f"{data}/imagenet-sample"
    known = pd.read_csv(
        f"{folder}/classes.tsv", sep="\t", header=None, names=["k", "wnid", "name"]
    )
    files = sorted(Path(folder).glob("*.jpg"))
    numbers = dict(zip(known.wnid, known.k))
    split = Split.from_files(
        files,
        [numbers[f.name.split("_")[0]] for f in files],
        size=64,
        class_names=list(known.name),
    )
    assert (
        len(split) == 100
        and split.labels.tolist() == list(range(0, 1000, 10))
        and split.images.float().std() > 40
    )
