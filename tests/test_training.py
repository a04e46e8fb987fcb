"A killed run ends like one that wasn't; same seed, same bits."

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from interrupted import whole_and_killed
from masktune.core.files import fingerprint
from masktune.data.benchmark import Benchmark
from masktune.data.split import Split
from masktune.methods.erm import ERM
from masktune.models.zoo import create_model, load_model
from masktune.training.augment import apply_augment
from masktune.training.batch_norm import frozen_bn_loss
from masktune.training.loop import train
from masktune.training.losses import class_weights
from masktune.training.settings import NetworkMethod, lr_multiplier
from masktune.training.trackers import log_to


class Noise:
    def __repr__(self):
        return "Noise()"

    def __call__(self, x, generator):
        return x + 0.05 * torch.randn(x.shape, generator=generator)


def bench(n=640):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 28, 28), generator=g, dtype=torch.uint8)
    labels = torch.arange(n) % 2
    images[labels == 1, 0] //= 2
    split = Split.from_tensors(images, labels)
    return Benchmark("noise", split, split.subset(range(0, n, 4)), {})


def method():
    return ERM(
        epochs=4,
        batch_size=32,
        schedule="cosine",
        augment=Noise(),
        optimizer="adamw",
        lr=1e-3,
        device="cpu",
    )


def test_kill_9_at_any_moment(tmp_path):
    "A real process, killed again and again at odd moments, ends with the same bits as one left alone"
    whole, killed, kills = whole_and_killed(
        "test_training", "bench", tmp_path, (0.05, 0.4, 0.9, 0.2)
    )
    assert kills >= 2
    for name in ("best.pt", "last.pt"):
        assert fingerprint(load_model(whole / name)) == fingerprint(
            load_model(killed / name)
        )
    assert (whole / "history.csv").read_text() == (
        killed / "history.csv"
    ).read_text()


def test_same_seed_same_bits():
    a, b, c = (
        fingerprint(
            ERM(epochs=1, seed=s, device="cpu")
            .fit(create_model("small_cnn", 2), bench())
            .last_
        )
        for s in (0, 0, 1)
    )
    assert a == b != c


@pytest.mark.parametrize("network", ["small_cnn", "resnet32", "resnet18"])
def test_training_works_for(network):
    "Any network learns two kinds of noise apart, and the one that came in stays as it was"
    net = create_model(network, 2)
    before = fingerprint(net)
    m = ERM(epochs=2, batch_size=32, device="cpu").fit(net, bench(128))
    assert (
        fingerprint(net) == before
        and m.history_.loss.iloc[-1] < m.history_.loss.iloc[0]
    )


class Eye(nn.Module):
    "Passes images on, and notes their type and memory layout and its own outputs'"

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x):
        y = self.net(x)
        if self.training:
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            self.seen.append((y.dtype, channels_last, len(x)))
        return y


def watched(**options):
    "What the first layer of a network sees in an epoch of training, and the method"
    net = create_model("small_cnn", 2)
    net.backbone[0] = Eye(net.backbone[0])
    m = ERM(**dict(epochs=1, batch_size=32, device="cpu") | options)
    m.fit(net, bench(256))
    return m.last_.backbone[0].seen, m


def first_loss(batch_size=256, **options):
    "The loss of the first step, which the untrained network has"
    m = ERM(epochs=1, batch_size=batch_size, device="cpu", **options)
    return m.fit(create_model("small_cnn", 2), bench(256)).history_.loss[0]


def first_logits():
    net, data = create_model("small_cnn", 2), bench(256).train
    return net.train()(data.images / 255).detach(), data.labels


def test_bf16_computes_in_bfloat16():
    assert {dtype for dtype, _, _ in watched(bf16=True)[0]} == {torch.bfloat16}
    assert {dtype for dtype, _, _ in watched(bf16=False)[0]} == {torch.float32}


def test_channels_last_is_the_layout_of_images_and_weights():
    for on in (True, False):
        seen, m = watched(channels_last=on)
        assert {layout for _, layout, _ in seen} == {on}
        weight = m.last_.backbone[3].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == on


def test_batch_size_is_that_of_the_batches():
    assert [n for _, _, n in watched(batch_size=100)[0]] == [100, 100, 56]


def test_label_smoothing_is_in_the_loss():
    logits, labels = first_logits()
    for smoothing in (0.0, 0.3):
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        found = first_loss(label_smoothing=smoothing)
        assert found == pytest.approx(expected.item(), rel=1e-5)


def test_class_weights_are_in_the_loss():
    logits, labels = first_logits()
    each = F.cross_entropy(logits, labels, reduction="none")
    weights = torch.tensor([0.25, 3.0])
    found = first_loss(class_weight=(0.25, 3.0))
    assert found == pytest.approx((weights[labels] * each).mean().item(), rel=1e-5)
    found = first_loss(class_weight="balanced")
    assert found == pytest.approx(each.mean().item(), rel=1e-5)


def test_balanced_class_weights_make_up_for_unequal_classes():
    "As in scikit-learn: n / (classes that occur · n of the class); one that does not occur weighs nothing"
    split = Split.from_tensors(
        torch.zeros(10, 3, 4, 4, dtype=torch.uint8),
        [0] * 6 + [1] * 3 + [3],
        class_names=["a", "b", "c", "d"],
    )
    found = class_weights(NetworkMethod(class_weight="balanced"), split)
    assert torch.allclose(found, torch.tensor([10 / 18, 10 / 9, 0, 10 / 3]))


def test_the_optimizer_is_the_one_asked_for():
    m = ERM(optimizer="adamw", lr=3e-4, weight_decay=0.2, epochs=1, device="cpu")
    state = m.fit(create_model("small_cnn", 2), bench(64)).optimizer_
    assert "exp_avg_sq" in state["state"][0]
    assert state["param_groups"][0]["weight_decay"] == 0.2
    assert state["param_groups"][0]["lr"] == 3e-4
    m = ERM(momentum=0.7, epochs=1, device="cpu")
    state = m.fit(create_model("small_cnn", 2), bench(64)).optimizer_
    assert "momentum_buffer" in state["state"][0]
    assert state["param_groups"][0]["momentum"] == 0.7


def test_deterministic_is_set_during_fit_alone():
    inside = []

    class Asks(Noise):
        def __call__(self, x, generator):
            inside.append(torch.are_deterministic_algorithms_enabled())
            return x

    for on in (True, False):
        m = ERM(epochs=1, deterministic=on, augment=Asks(), device="cpu")
        m.fit(create_model("small_cnn", 2), bench(64))
        assert set(inside) == {on}
        assert not torch.are_deterministic_algorithms_enabled()
        inside.clear()


def test_deterministic_is_restored_after_an_error():
    class Fails(Noise):
        def __call__(self, x, generator):
            raise KeyError

    before = torch.backends.cudnn.benchmark
    with pytest.raises(KeyError):
        ERM(deterministic=True, augment=Fails(), device="cpu").fit(
            create_model("small_cnn", 2), bench(64)
        )
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark == before


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(lr=float("nan")), "lr=nan must be a finite number of at least 0"),
        (dict(lr=float("inf")), "lr=inf must be a finite number"),
        (dict(lr=-0.1), "lr=-0.1 must be a finite number"),
        (dict(epochs=0), "epochs=0 must be a whole number of at least 1"),
        (dict(epochs=1.5), "epochs=1.5 must be a whole number"),
        (dict(batch_size=-1), "batch_size=-1 must be a whole number of at least 1"),
        (dict(batch_size=0), "batch_size=0 must be a whole number"),
        (dict(seed=0.5), "seed=0.5 must be a whole number"),
        (dict(momentum=float("nan")), "momentum=nan must be between 0 and 1"),
        (dict(weight_decay=-1), "weight_decay=-1 must be a finite number"),
        (dict(label_smoothing=2), "label_smoothing=2 must be between 0 and 1"),
        (dict(patience=0), "patience=0 must be a whole number of at least 1"),
        (dict(grad_accum_steps=0), "grad_accum_steps=0 must be a whole number"),
        (dict(step_epochs=0), "step_epochs=0 must be a finite number above 0"),
        (dict(optimizer="adam"), "Did you mean 'adamw'?"),
        (dict(schedule="cosinus"), "Did you mean 'cosine'?"),
        (dict(class_weight="balance"), "Did you mean 'balanced'?"),
        (dict(class_weight=(1, 2, 3)), "2 finite weights, one for each class"),
        (dict(class_weight=(1, float("nan"))), "2 finite weights"),
        (dict(class_weight=(1, -1)), "none of them negative"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_before_training(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ERM(**wrong).fit(create_model("small_cnn", 2), bench(64))


def test_a_network_that_diverges_stops_the_fit(tmp_path):
    "With the epoch and the last finite loss, and without a checkpoint of the ruin"
    m = ERM(epochs=3, lr=1e20, batch_size=32, device="cpu")
    message = (
        "not finite in epoch 1, after . of 8 batches; the last finite loss was"
    )
    with pytest.raises(FloatingPointError, match=message):
        m.fit(create_model("resnet32", 2), bench(256), checkpoint=tmp_path)
    assert not hasattr(m, "model_") and not hasattr(m, "history_")
    for file in tmp_path.glob("*.pt"):
        kept = torch.load(file, weights_only=True)["net"].values()
        assert all(v.isfinite().all() for v in kept)


def test_a_loss_that_is_not_finite_later_names_its_epoch():
    "The last finite loss is the one before the first that is not"

    class Breaks(Noise):
        calls = 0

        def __call__(self, x, generator):
            Breaks.calls += 1
            return x * float("nan") if Breaks.calls == 7 else x

    losses = []

    class Spy:
        __name__ = "spy"
        init = finish = staticmethod(lambda **_: None)

        def log(self, row):
            losses.append(row)

    with log_to(Spy()), pytest.raises(FloatingPointError) as error:
        ERM(epochs=3, batch_size=64, augment=Breaks(), device="cpu").fit(
            create_model("small_cnn", 2), bench(256)
        )
    assert "in epoch 2, after 2 of 4 batches" in str(error.value)
    assert "lr=0.01" in str(error.value) and len(losses) == 1


def test_weights_that_are_not_finite_stop_the_fit_too():
    "A loss that ignores the weight that breaks stays finite"
    net = create_model("small_cnn", 2)
    net.register_buffer("scale", torch.ones(()))

    def loss(net, batch):
        net.scale.fill_(float("inf"))
        return F.cross_entropy(net(batch.x), batch.y)

    settings = NetworkMethod(epochs=1, batch_size=32)
    with pytest.raises(
        FloatingPointError, match="a weight is not finite in epoch 1"
    ):
        train(net, bench(64).train, settings, loss)


@pytest.mark.parametrize(
    "transform", [v2.RandomHorizontalFlip(), v2.RandomCrop(28, 2)]
)
def test_transforms_of_torchvision_are_drawn_from_the_seed(transform):
    def fit(seed=0):
        m = ERM(epochs=2, batch_size=32, seed=seed, augment=transform, device="cpu")
        return m.fit(create_model("small_cnn", 2), bench(128)).last_

    a = fingerprint(fit())
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert fingerprint(fit()) == a
    assert fingerprint(fit(1)) != a


def test_a_torchvision_transform_draws_for_each_image():
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    flipped = apply_augment(v2.RandomHorizontalFlip(), x, g)
    same = (flipped == x).flatten(1).all(1)
    assert 10 < same.sum() < 54 and flipped[~same].equal(x[~same].flip(3))


def test_transforms_that_change_the_shape_are_refused():
    m = ERM(epochs=1, augment=v2.Resize(14), device="cpu")
    with pytest.raises(ValueError, match=r"keep the shape \(3, 28, 28\)"):
        m.fit(create_model("small_cnn", 2), bench(64))


def test_only_what_was_changed_is_printed():
    assert repr(ERM()) == "ERM()"
    assert repr(ERM(lr=0.1, seed=3)) == "ERM(seed=3, lr=0.1)"
    assert "labels used: class labels" in ERM()._repr_markdown_()


@pytest.mark.slow
def test_compiled_trains_alike():
    plain, compiled = (
        ERM(epochs=1, batch_size=32, device="cpu", compile=c).fit(
            create_model("small_cnn", 2), bench(256)
        )
        for c in (False, True)
    )
    assert abs(plain.history_.loss[0] - compiled.history_.loss[0]) < 1e-3


def test_accumulating_is_a_bigger_batch():
    "Without batch norm's statistics in the way, 4 batches of 8 make the step of one of 32"
    net = create_model("small_cnn", 2)
    for m in net.modules():
        if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.BatchNorm1d)):
            m.train = lambda mode=True, m=m: m  # stays in evaluation mode
    net.eval()
    for m in net.modules():
        m.training = False
    big, small = (
        ERM(epochs=1, batch_size=b, grad_accum_steps=a, device="cpu")
        .fit(net, bench(64))
        .last_
        for b, a in ((32, 1), (8, 4))
    )
    assert all(
        torch.allclose(p, q, atol=1e-6)
        for p, q in zip(big.parameters(), small.parameters())
    )


def test_schedules():
    def s(kind):
        return NetworkMethod(
            epochs=4, schedule=kind, step_epochs=2, step_factor=0.1
        )

    assert [lr_multiplier(s("constant"), e) for e in (0, 3.9)] == [1, 1]
    assert (
        lr_multiplier(s("cosine"), 0) == 1 and lr_multiplier(s("cosine"), 4) < 1e-9
    )
    assert [round(lr_multiplier(s("step"), e), 6) for e in (0, 1.9, 2, 3.9)] == [
        1,
        1,
        0.1,
        0.1,
    ]


def test_an_odd_last_batch_of_one():
    "129 images in batches of 32: the last single image would break batch norm"
    m = ERM(epochs=1, batch_size=32, device="cpu").fit(
        create_model("small_cnn", 2), bench(129)
    )
    assert len(m.history_) == 1


def test_damaged_and_foreign_checkpoints(tmp_path):
    "A damaged one is left out by name and the one before it used; one of another run is refused"

    def run(**options):
        m = ERM(epochs=3, batch_size=32, device="cpu", **options)
        return m.fit(create_model("small_cnn", 2), bench(128), checkpoint=tmp_path)

    whole = fingerprint(run().last_)
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:5000])
    with pytest.warns(UserWarning, match="last.pt is damaged .* and is left out"):
        assert fingerprint(run().last_) == whole
    (
        tmp_path / "previous.pt"
    ).unlink()  # by now the damaged one, or not: that depends on how often it was time to write
    with pytest.raises(
        ValueError,
        match="last.pt belongs to another run .*name another folder, or delete this one",
    ):
        run(seed=1)
    with pytest.raises(ValueError, match="belongs to another run"):
        run(lr=0.02)


def test_norms_that_are_replaced_later_are_frozen_too():
    net = create_model("small_cnn", 2).train()
    frozen = frozen_bn_loss(net, lambda model, batch: None)
    norm = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    name = next(k for k, m in net.named_modules() if m is norm)
    parent, _, last = name.rpartition(".")
    setattr(
        net.get_submodule(parent), last, torch.nn.BatchNorm2d(norm.num_features)
    )
    frozen(net, None)
    assert not net.get_submodule(name).training
