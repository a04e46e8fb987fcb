"A killed run ends like one that wasn't; same seed, same bits."

import pytest
import torch

from interrupted import whole_and_killed
from masktune.core.files import fingerprint
from masktune.data.benchmark import Benchmark
from masktune.data.split import Split
from masktune.methods.erm import ERM
from masktune.models.zoo import create_model, load_model
from masktune.training.loop import NetworkMethod, lr_multiplier


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
    "A real process, killed again and again at odd moments, ends with the same weights, bit for bit, as one left alone"
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


@pytest.mark.parametrize(
    "options",
    [
        dict(bf16=True),
        dict(channels_last=False),
        dict(accumulate_steps=4),
        dict(label_smoothing=0.1),
        dict(optimizer="adamw", lr=1e-3),
    ],
    ids=str,
)
def test_options_train(options):
    m = ERM(epochs=2, batch_size=32, device="cpu", **options).fit(
        create_model("small_cnn", 2), bench(256)
    )
    assert m.history_.loss.iloc[-1] < m.history_.loss.iloc[0]


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
    s = lambda kind: NetworkMethod(
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
    run = lambda **kw: ERM(epochs=3, batch_size=32, device="cpu", **kw).fit(
        create_model("small_cnn", 2), bench(128), checkpoint=tmp_path
    )
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
