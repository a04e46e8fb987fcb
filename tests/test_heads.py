"Features and heads: held against scikit-learn, files, balance, DFR, AFR, last-layer retraining."

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from masktune.core.files import fingerprint
from masktune.core.random import make_generator
from masktune.data.benchmark import Benchmark
from masktune.data.split import Split
from masktune.evaluation.metrics import evaluate, predict
from masktune.methods.erm import ERM
from masktune.evaluation.features import (
    Features,
    balanced_sample_weight,
    extract_features,
)
from masktune.evaluation.features import head_as_network, stratified_halves
from masktune.methods.heads import fit_head, fit_l1_head
from masktune.evaluation.features import undersample
from masktune.methods.last_layer import AFR, DFR, LastLayerRetraining
from masktune.models.zoo import create_model, load_model, save_model


def rows(n, strength, seed, d=12, core=1.0, cue=4.0):
    "Column 0 shows the class, column 1 a cue that goes with it for `strength` of the rows, the rest nothing"
    g = make_generator(seed, "rows", n, strength)
    y = torch.arange(n) % 2
    a = torch.where(torch.rand(n, generator=g) < strength, y, 1 - y)
    x = torch.randn(n, d, generator=g)
    x[:, 0] += core * (2 * y - 1)
    x[:, 1] = x[:, 1] * 0.3 + cue * (2 * a - 1)
    return Features.from_tensors(x, y, 2 * y + a)


@pytest.fixture(scope="module")
def bench():
    return Benchmark(
        "rows",
        rows(2000, 0.95, 0),
        rows(600, 0.9, 1),
        {"balanced": rows(2000, 0.5, 2)},
    )


@pytest.fixture(scope="module")
def erm(bench):
    return LastLayerRetraining(device="cpu").fit(None, bench)


def worst(m, bench):
    return evaluate(m.model_, bench.tests["balanced"]).worst_group_accuracy


@pytest.mark.parametrize(
    "penalty", [dict(l2=0.01), dict(l1=0.02), dict(l1=0.002)], ids=str
)
def test_a_head_is_what_scikit_learn_fits(penalty):
    f = rows(400, 0.9, 3)
    x, y, n = f.values.double().numpy(), f.labels.numpy(), len(f)
    w = 1 + torch.arange(n) % 3.0
    h = fit_head(f, w, tol=1e-6, device="cpu", **penalty)
    w = (w / w.sum()).numpy()
    W, b = h.weight.detach().double(), h.bias.detach().double()

    def loss(W, b):
        return (
            (
                F.cross_entropy(
                    torch.from_numpy(x) @ W.T + b, f.labels, reduction="none"
                )
                * torch.from_numpy(w)
            )
            .sum()
            .item()
        )

    if "l1" in penalty:
        s = LogisticRegression(
            l1_ratio=1,
            C=1 / penalty["l1"],
            solver="liblinear",
            intercept_scaling=1000,
            tol=1e-8,
            max_iter=20000,
        ).fit(x, y, w)

        def cost(W, b):
            return loss(W, b) + penalty["l1"] * W.abs().sum().item()
    else:  # two rows of the softmax share one weight: ‖W‖² is half as large
        s = LogisticRegression(C=2 / penalty["l2"], tol=1e-8, max_iter=5000).fit(
            x, y, w
        )

        def cost(W, b):
            return loss(W, b) + penalty["l2"] / 2 * W.square().sum().item()

    v, c = torch.from_numpy(s.coef_), torch.from_numpy(s.intercept_)
    theirs = cost(torch.cat([-v / 2, v / 2]), torch.cat([-c / 2, c / 2]))
    assert cost(W, b) < theirs + 1e-5 and torch.allclose(
        (W[1] - W[0])[None], v, atol=0.01
    )
    if penalty.get("l1") == 0.02:
        assert (W[1] - W[0] == 0).sum() >= 6, "ℓ1 leaves exact zeros"


def test_weights_are_repetitions_and_standardising_is_folded_back():
    f = rows(200, 0.8, 4)
    n = torch.arange(200) % 3
    a, b = (
        fit_head(f, n, l2=0.01, tol=1e-6, device="cpu"),
        fit_head(
            f.subset(torch.arange(200).repeat_interleave(n)),
            l2=0.01,
            tol=1e-6,
            device="cpu",
        ),
    )
    assert torch.allclose(a.weight, b.weight, atol=1e-3)
    stretched = Features.from_tensors(
        f.values.float() * torch.linspace(0.1, 9, 12) + 3, f.labels, f.groups
    )

    def z(f):
        return head_as_network(
            fit_head(f, l1=0.01, standardize=f, tol=1e-6, device="cpu")
        )

    assert torch.allclose(
        predict(z(f), f).logits, predict(z(stretched), stretched).logits, atol=0.02
    )


def test_the_pull_goes_to_the_first_head(bench, erm):
    first, rows_ = erm.model_.head, bench.val
    far = [
        (fit_head(rows_, towards=first, l2=l2, device="cpu").weight - first.weight)
        .norm()
        .item()
        for l2 in (0.001, 0.1, 100.0)
    ]
    assert far[0] > far[1] > far[2] and far[2] < 0.01


def test_balance(bench):
    f = bench.train
    for by, numbers, k in (("classes", f.labels, 2), ("groups", f.groups, 4)):
        assert torch.bincount(numbers, balanced_sample_weight(f, by)).allclose(
            torch.tensor(1 / k)
        )
        chosen = undersample(f, by, make_generator(0))
        n = torch.bincount(numbers[chosen])
        assert (
            len(set(n.tolist())) == 1
            and n[0] == torch.bincount(numbers).min()
            and len(set(chosen.tolist())) == len(chosen)
        )
        a, b = stratified_halves(f, by, make_generator(0))
        assert (
            torch.cat([a, b]).sort().values.equal(torch.arange(len(f)))
            and (torch.bincount(numbers[a]) - torch.bincount(numbers[b]))
            .abs()
            .max()
            <= 1
        )
    assert not undersample(f, "groups", make_generator(0)).equal(
        undersample(f, "groups", make_generator(1))
    )
    with pytest.raises(
        ValueError, match='no groups to balance: balance="classes" needs none'
    ):
        balanced_sample_weight(Features.from_tensors(f.values, f.labels), "groups")
    with pytest.raises(ValueError, match="only one class"):
        undersample(f.subset(f.labels == 0))


def test_the_cue_is_overcome(bench, erm):
    "A plain head goes by the cue; balanced groups, DFR and AFR don't, and a refit without balance is no help"
    assert worst(erm, bench) < 0.45
    assert (
        worst(
            LastLayerRetraining(tune_on="val", device="cpu").fit(erm, bench), bench
        )
        < 0.6
    )
    for m in (
        LastLayerRetraining(balance="groups", device="cpu"),
        LastLayerRetraining(balance="groups", sample=True, device="cpu"),
        DFR(device="cpu"),
        AFR(device="cpu"),
    ):
        assert worst(m.fit(erm, bench), bench) > worst(erm, bench) + 0.2, m


def test_dfr_on_balanced_data_is_a_plain_refit(bench):
    balanced = bench.val.subset(undersample(bench.val, "groups", make_generator(5)))
    b = Benchmark("balanced", bench.train, balanced, {})
    dfr = DFR(Cs=(0.3,), n_refits=3, penalize_bias=False, device="cpu").fit(None, b)
    plain = LastLayerRetraining(
        tune_on="val", l1=1 / (0.3 * len(balanced)), l2=0.0, device="cpu"
    ).fit(None, b)
    assert torch.allclose(
        dfr.model_.head.weight, plain.model_.head.weight, atol=1e-5
    ) and torch.allclose(dfr.model_.head.bias, plain.model_.head.bias, atol=1e-5)


@pytest.mark.parametrize("C", [1.0, 0.07])
def test_dfr_penalises_the_bias_as_the_published_codes_do(bench, C):
    "Their call: liblinear, intercept_scaling=1, on standardised features; the full-batch search agrees"
    d = DFR(Cs=(C,), n_refits=1, device="cpu").fit(None, bench)
    draw = make_generator(0, "draw", 0)
    rows_ = bench.val.subset(undersample(bench.val, "groups", draw))
    x = bench.train.values.float().numpy()
    mean, deviation = x.mean(0), x.std(0)
    theirs = LogisticRegression(
        C=C, l1_ratio=1, solver="liblinear", tol=1e-8, max_iter=10000
    ).fit((rows_.values.float().numpy() - mean) / deviation, rows_.labels.numpy())
    head = d.model_.head
    ours = (head.weight[1] - head.weight[0]).detach().numpy() * deviation
    shift = float((head.bias[1] - head.bias[0]).detach()) + ours @ (
        mean / deviation
    )
    assert ours == pytest.approx(theirs.coef_[0], abs=5e-3)
    assert shift == pytest.approx(theirs.intercept_[0], abs=5e-3)
    ours = fit_head(
        rows_,
        l1=1 / (C * len(rows_)),
        penalize_bias=True,
        standardize=bench.train,
        tol=1e-6,
        device="cpu",
    )
    assert torch.allclose(
        ours.weight[1] - ours.weight[0], head.weight[1] - head.weight[0], atol=5e-3
    )


def test_a_penalised_bias_is_pulled_to_zero():
    "Nine of ten rows are of one class, and nothing but the bias tells"
    g = make_generator(0, "unbalanced")
    y = (torch.arange(400) % 10 == 0).long()
    f = Features.from_tensors(torch.randn(400, 3, generator=g), y)
    strong, weak = (fit_l1_head(f, C).bias for C in (0.01, 10.0))
    free = fit_head(f, l1=1.0, tol=1e-6, device="cpu")
    assert abs(strong[1] - strong[0]) < abs(weak[1] - weak[0])
    assert not free.weight.any()
    odds = torch.tensor(1 / 9).log()
    assert torch.allclose(free.bias[1] - free.bias[0], odds, atol=0.02)


def test_dfr_of_three_classes_penalises_every_bias():
    g = make_generator(0, "three")
    y = torch.arange(300) % 3
    x = torch.randn(300, 5, generator=g) + 2 * (y[:, None] == torch.arange(5))
    f = Features.from_tensors(x, y, y)
    three = Benchmark("three", f, f, {})
    strong = DFR(Cs=(1e-4,), n_refits=1, device="cpu").fit(None, three).model_.head
    assert not strong.weight.any() and not strong.bias.any()
    weak = DFR(Cs=(1.0,), n_refits=1, device="cpu").fit(None, three)
    assert evaluate(weak.model_, f).accuracy > 0.8


def test_dfr_is_as_fast_as_scikit_learn():
    "As many features as a ResNet-50 has, and the size of Waterbirds' smallest group"
    g = make_generator(0, "wide")
    y = torch.arange(532) % 2
    a = torch.arange(532) // 2 % 2
    x = torch.randn(532, 2048, generator=g).relu() + 0.3 * y[:, None]
    f = Features.from_tensors(x, y, 2 * y + a)
    wide = Benchmark("wide", f, f, {})

    def seconds(fit):
        begun = time.process_time()
        fit()
        return time.process_time() - begun

    z = ((x - x.mean(0)) / x.std(0)).numpy().astype(float)
    theirs = LogisticRegression(C=0.3, l1_ratio=1, solver="liblinear")
    few = DFR(Cs=(0.3,), n_refits=3, device="cpu")
    ours = min(seconds(lambda: few.fit(None, wide)) for _ in range(2)) / 3
    reference = min(seconds(lambda: theirs.fit(z, y.numpy())) for _ in range(3))
    assert ours < 2 * reference, (ours, reference)


def test_dfr_averages_over_draws(bench):
    one, many = (
        DFR(Cs=(0.3,), n_refits=r, device="cpu").fit(None, bench).model_.head.weight
        for r in (1, 4)
    )
    each = [
        DFR(Cs=(0.3,), n_refits=1, device="cpu")
        ._fit_one(
            bench.val.subset(
                undersample(bench.val, "groups", make_generator(0, "draw", i))
            ),
            0.3,
            bench.train,
        )
        .weight
        for i in range(4)
    ]
    assert torch.allclose(
        torch.stack(each).mean(0), many, atol=1e-6
    ) and not torch.allclose(one, many, atol=1e-3)


def test_afr_weighs_what_the_first_head_is_unsure_of(bench, erm):
    "γ = 0 and a strong pull leave the head; with γ the rows it gets wrong count more"
    m = AFR(gammas=(0.0,), reg_strengths=(1e4,), device="cpu").fit(erm, bench)
    assert torch.allclose(m.model_.head.weight, erm.model_.head.weight, atol=1e-3)

    def lies(m):
        return (
            evaluate(m.model_, bench.tests["balanced"]).groups.accuracy[1:3].mean()
        )

    none, some, more = (
        lies(AFR(gammas=(g,), reg_strengths=(0.001,), device="cpu").fit(erm, bench))
        for g in (0.0, 2.0, 8.0)
    )
    assert none + 0.1 < some < more - 0.1
    bare = Benchmark(
        "bare",
        bench.train,
        Features.from_tensors(bench.val.values, bench.val.labels),
        {},
    )
    with pytest.raises(
        ValueError, match="AFR chooses by the worst group .* name one of each"
    ):
        AFR(device="cpu").fit(erm, bare)
    assert (
        AFR(gammas=(4.0,), reg_strengths=(0.01,), device="cpu")
        .fit(erm, bare)
        .model_.head.weight.isfinite()
        .all()
    )


@pytest.fixture(scope="module")
def images():
    g = make_generator(0, "images")
    x = torch.randint(256, (320, 3, 28, 28), generator=g, dtype=torch.uint8)
    y = torch.arange(320) % 2
    x[y == 1, 0] //= 2
    s = Split.from_tensors(x, y, y * 2 + torch.arange(320) // 2 % 2)
    b = Benchmark("noise", s, s.subset(range(0, 320, 3)), {})
    return b, ERM(epochs=2, batch_size=32, device="cpu").fit(
        create_model("small_cnn", 2), b
    )


def test_features_of_a_network(images, tmp_path):
    "They are what its head sees; the file is read again, and refused where weights or images are others"
    bench, erm = images
    f = extract_features(erm.model_, bench.val, file=tmp_path / "f")
    assert (
        f.values.dtype == torch.half
        and f.labels.equal(bench.val.labels)
        and f.groups.equal(bench.val.groups)
    )
    assert torch.allclose(
        predict(head_as_network(erm.model_), f).logits,
        predict(erm.model_, bench.val).logits,
        atol=0.02,
    )
    changed = torch.load(tmp_path / "f", weights_only=True)
    changed["values"][0] = 7
    torch.save(changed, tmp_path / "f")
    assert (
        extract_features(erm.model_, bench.val, file=tmp_path / "f")
        .values[0]
        .eq(7)
        .all()
    ), "the file is what is used"
    with pytest.raises(
        ValueError, match="f is stale: it was made from other weights"
    ):
        extract_features(
            create_model("small_cnn", 2), bench.val, file=tmp_path / "f"
        )
    with pytest.raises(
        ValueError, match="f is stale: it was made from other images"
    ):
        extract_features(erm.model_, bench.train, file=tmp_path / "f")
    (tmp_path / "f").write_bytes(b"torn")
    damaged = "is damaged or holds no features"
    with pytest.raises(ValueError, match=damaged):
        extract_features(erm.model_, bench.val, file=tmp_path / "f")
    for other in (torch.zeros(4, 2), [torch.zeros(2)], dict(values=torch.zeros(2))):
        torch.save(other, tmp_path / "f")  # somebody else's file
        with pytest.raises(ValueError, match=damaged):
            extract_features(erm.model_, bench.val, file=tmp_path / "f")


def test_a_new_head_leaves_the_rest(images, tmp_path):
    "Another head needs no new features; the layers below stay; the result is saved and loaded"
    bench, erm = images
    before = fingerprint(erm.model_)
    m = LastLayerRetraining(device="cpu").fit(erm, bench, checkpoint=tmp_path)
    assert fingerprint(erm.model_) == before and fingerprint(
        m.model_.backbone, m.model_.neck
    ) == fingerprint(erm.model_.backbone, erm.model_.neck)
    assert fingerprint(m.model_.head) != fingerprint(erm.model_.head) and sorted(
        p.name for p in tmp_path.iterdir()
    ) == ["train", "val"]
    assert extract_features(m.model_, bench.val).values.equal(
        extract_features(erm.model_, bench.val, file=tmp_path / "val").values
    )
    save_model(m.model_, tmp_path / "net.pt")
    assert fingerprint(load_model(tmp_path / "net.pt")) == fingerprint(m.model_)
    assert fingerprint(
        DFR(n_refits=2, device="cpu").fit(erm, bench).model_
    ) == fingerprint(DFR(n_refits=2, device="cpu").fit(erm, bench).model_)


def test_a_linear_probe_of_a_network_for_other_classes(images, tmp_path):
    bench, _ = images
    other = create_model("small_cnn", 10)
    other.untrained = False
    probe = LastLayerRetraining(device="cpu").fit(other, bench)
    assert (
        probe.model_.n_classes == 2
        and predict(probe.model_, bench.val).logits.shape[1] == 2
    )
    save_model(probe.model_, tmp_path / "probe.pt")
    assert load_model(tmp_path / "probe.pt").n_classes == 2
    with pytest.raises(
        ValueError,
        match="a head for 10 classes, and noise has 2: fit LastLayerRetraining first",
    ):
        AFR(device="cpu").fit(other, bench)


def test_what_is_refused(bench, erm, images):
    with pytest.raises(
        ValueError,
        match="DFR starts from a trained network, and this one still has random weights",
    ):
        DFR().fit(create_model("small_cnn", 2), images[0])
    with pytest.raises(ValueError, match="this ERM has not been fitted"):
        AFR().fit(ERM(), images[0])
    with pytest.raises(ValueError, match="AFR starts from a trained head"):
        AFR().fit(None, bench)
    with pytest.raises(
        ValueError, match="LastLayerRetraining was given images and no network"
    ):
        LastLayerRetraining().fit(None, images[0])
    with pytest.raises(
        ValueError, match="the head takes 256 features, and these rows have 12"
    ):
        AFR().fit(images[1], bench)
    with pytest.raises(
        ValueError,
        match="no validation image of group 1: there is nothing to balance",
    ):
        DFR().fit(
            None,
            Benchmark(
                "b", bench.train, bench.val.subset(bench.val.groups != 1), {}
            ),
        )
    with pytest.raises(ValueError, match="tune_on='test' is not known"):
        LastLayerRetraining(tune_on="test").fit(None, bench)
    with pytest.raises(ValueError, match="features must be floats"):
        Features.from_tensors(np.arange(6).reshape(3, 2), [0, 1, 0])
    with pytest.raises(ValueError, match="not finite as half floats"):
        Features.from_tensors(np.full((3, 2), 1e5), [0, 1, 0])


def test_labels_seen_stand_in_the_repr():
    for m, seen in (
        (LastLayerRetraining(), "class labels"),
        (LastLayerRetraining(balance="groups"), "groups of training"),
        (
            LastLayerRetraining(balance="groups", tune_on="val"),
            "groups of validation",
        ),
        (DFR(), "groups of validation"),
        (AFR(), "groups of validation to choose by"),
        (AFR(gammas=(4.0,), reg_strengths=(0.01,)), "class labels"),
        (ERM(), "class labels"),
    ):
        assert seen in m._repr_markdown_() and m.labels_used in m._repr_markdown_()


def test_the_training_loop_takes_features(bench):
    "A head on features is a network: ERM learns it by steps, too"
    net = head_as_network(torch.nn.utils.skip_init(torch.nn.Linear, 12, 2))
    for p in net.parameters():
        p.data.zero_()
    m = ERM(epochs=2, lr=0.1, device="cpu").fit(net, bench)
    assert evaluate(m.model_, bench.val).accuracy > 0.85


@pytest.mark.parametrize("setting", ["gammas", "reg_strengths"])
def test_afr_refuses_what_is_no_strength(setting):
    with pytest.raises(ValueError, match=f"{setting}=-1.0 must be a finite number"):
        AFR(**{setting: (1.0, -1.0)}).check_settings()
    with pytest.raises(TypeError, match=f"{setting} must be tuple"):
        AFR(**{setting: 4.0}).check_settings()
