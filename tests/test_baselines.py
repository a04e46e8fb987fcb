"GroupDRO and JTT do what they say, and survive being killed."

import copy

import pytest
import torch

from interrupted import Interrupted, Stop, whole_and_killed
from masktune.core.files import fingerprint
from masktune.core.random import make_generator
from masktune.data.benchmark import Benchmark
from masktune.data.glyphs import make_glyphs
from masktune.data.split import Split
from masktune.evaluation.metrics import evaluate, predict
from masktune.methods.erm import ERM
from masktune.methods.group_dro_jtt import GroupDRO, JTT, _GroupBalanced
from masktune.methods.heads import Features, head_as_network
from masktune.models.zoo import create_model, load_model


def noise(n=640):
    g = make_generator(0, "noise")
    x = torch.randint(256, (n, 3, 28, 28), generator=g, dtype=torch.uint8)
    y = torch.arange(n) % 2
    x[y == 1, 0] //= 2
    s = Split.from_tensors(x, y, 2 * y + (torch.arange(n) % 10 < 2))
    return Benchmark("noise", s, s.subset(range(0, n, 4)), {})


def method():
    return GroupDRO(
        epochs=4, batch_size=32, step_size=0.1, adjustment=1.0, device="cpu"
    )


def vectors(n, strength, seed):
    "A class seen weakly and a cue seen well, in two columns of four"
    g = make_generator(seed, "vectors", n, strength)
    y = torch.arange(n) % 2
    a = torch.where(torch.rand(n, generator=g) < strength, y, 1 - y)
    x = torch.randn(n, 4, generator=g)
    x[:, 0] += 2 * y - 1
    x[:, 1] = x[:, 1] * 0.3 + 2 * (2 * a - 1)
    return Features.from_tensors(x, y, 2 * y + a)


@pytest.fixture(scope="module")
def head():
    net = head_as_network(torch.nn.utils.skip_init(torch.nn.Linear, 4, 2))
    for p in net.parameters():
        p.data.zero_()
    return net


@pytest.fixture(scope="module")
def bench():
    return Benchmark(
        "vectors",
        vectors(2000, 0.98, 0),
        vectors(400, 0.5, 1),
        {"balanced": vectors(1000, 0.5, 2)},
    )


def worst(m, bench):
    return evaluate(m.model_, bench.tests["balanced"]).worst_group_accuracy


def test_one_group_is_erm():
    b = noise(256)
    one = lambda s: Split.from_tensors(s.images, s.labels, torch.zeros(len(s)))
    b = Benchmark("one", one(b.train), one(b.val), {})
    kw = dict(epochs=2, batch_size=32, device="cpu")
    dro, erm = (
        m.fit(create_model("small_cnn", 2), b)
        for m in (
            GroupDRO(balanced=False, step_size=0.5, adjustment=3.0, **kw),
            ERM(**kw),
        )
    )
    assert (
        max(
            (p - q).abs().max()
            for p, q in zip(dro.last_.parameters(), erm.last_.parameters())
        )
        < 1e-6
    )
    assert dro.group_weights_.tolist() == [1.0] and [
        n for n, _ in dro.last_.named_buffers()
    ] == [n for n, _ in erm.last_.named_buffers()]


def test_one_step_by_hand():
    "Algorithm 1: the weights move first, by exp(η·(loss + C/√n)), and weigh the groups' means; a group that is not in the batch stays"
    m = GroupDRO(step_size=2.0)
    weights, logits = (
        torch.tensor([0.2, 0.3, 0.5]),
        torch.tensor([[2.0, 0], [0, 1], [1, 1]], requires_grad=True),
    )
    batch = type(
        "Batch", (), dict(y=torch.tensor([0, 0, 1]), group=torch.tensor([0, 0, 2]))
    )
    losses = torch.nn.functional.cross_entropy(
        logits, batch.y, reduction="none"
    ).detach()
    extra = torch.tensor([0.1, 0.2, 0.3])
    means = torch.stack([losses[:2].mean(), torch.tensor(0.0), losses[2]])
    q = torch.tensor([0.2, 0.3, 0.5]) * torch.exp(
        2 * torch.stack([means[0] + 0.1, torch.tensor(0.0), means[2] + 0.3])
    )
    q /= q.sum()
    loss = m._loss(weights, extra, logits, batch)
    assert (
        torch.allclose(weights, q)
        and torch.allclose(loss, (q * means).sum())
        and not weights.requires_grad
        and loss.requires_grad
    )


def test_the_size_adjustment_is_c_over_root_n(bench, head, monkeypatch):
    seen = []
    monkeypatch.setattr(
        GroupDRO,
        "_loss",
        lambda self, w, extra, logits, batch, old=GroupDRO._loss: (
            seen.append(extra),
            old(self, w, extra, logits, batch),
        )[1],
    )
    GroupDRO(epochs=1, adjustment=3.0, device="cpu").fit(head, bench)
    assert torch.allclose(seen[0], 3 / torch.bincount(bench.train.groups).sqrt())


def test_balanced_batches():
    "A quarter of the images from each group in the long run, whatever its size; another order each epoch, the same for the same seed"
    s = copy.copy(vectors(4000, 0.95, 0))
    s.__class__ = _GroupBalanced
    drawn = [
        torch.cat([b.group for b in s.batches(128, True, (0, e))])
        for e in (0, 0, 1)
    ]
    assert (
        drawn[0].equal(drawn[1])
        and not drawn[0].equal(drawn[2])
        and len(drawn[0]) == 4000
    )
    assert (torch.bincount(drawn[0]) / 4000 - 0.25).abs().max() < 0.03


def test_groupdro_lifts_the_worst_group(bench, head):
    erm = ERM(epochs=5, lr=0.1, device="cpu").fit(head, bench)
    for kw in (dict(), dict(balanced=False, step_size=0.1)):
        m = GroupDRO(epochs=5, lr=0.1, device="cpu", **kw).fit(head, bench)
        assert worst(m, bench) > worst(erm, bench) + 0.4, kw
    assert m.group_weights_.iloc[[1, 2]].min() > 0.1, (
        "the groups whose cue lies, a hundredth of the rows each, weigh much more than that"
    )
    assert m.history_.val_worst_group.max() == pytest.approx(
        evaluate(m.model_, bench.val).worst_group_accuracy
    )


def test_groups_that_training_lacks_weigh_nothing():
    b = make_glyphs(n=200)
    m = GroupDRO(epochs=1, device="cpu").fit(create_model("small_cnn", 2), b)
    assert list(m.group_weights_.index) == [
        "A, cue of A",
        "A, cue of B",
        "B, cue of A",
        "B, cue of B",
    ] and m.group_weights_.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_kill_9_with_group_weights(tmp_path):
    "A real process, killed at odd moments, ends with the same weights of the network and of the groups, bit for bit"
    whole, killed, kills = whole_and_killed(
        "test_baselines", "noise", tmp_path, (0.05, 0.6)
    )
    assert kills
    for name in ("best.pt", "last.pt"):
        assert fingerprint(load_model(whole / name)) == fingerprint(
            load_model(killed / name)
        )
    for name in ("history.csv", "weights.csv"):
        assert (whole / name).read_text() == (killed / name).read_text()


@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: GroupDRO(step_size=0.5, **kw),
        lambda **kw: JTT(first_epochs=1, upweight=3, **kw),
    ],
    ids=["GroupDRO", "JTT"],
)
def test_resumed_is_the_same(make, tmp_path):
    b, net = noise(160), create_model("small_cnn", 2)
    run = lambda left=None, **kw: make(
        epochs=2, batch_size=16, augment=Interrupted(left), device="cpu"
    ).fit(net, b, **kw)
    whole = run()
    for left in (4, 9):
        with pytest.raises(Stop):
            run(left, checkpoint=tmp_path)
    again = run(checkpoint=tmp_path)
    assert (
        fingerprint(again.last_) == fingerprint(whole.last_)
        and fingerprint(again.model_) == fingerprint(whole.model_)
        and again.history_.equals(whole.history_)
    )
    if isinstance(whole, GroupDRO):
        assert (
            again.group_weights_.equals(whole.group_weights_)
            and whole.group_weights_.std() > 0.001
        )


def test_jtt_does_what_it_says(bench, head, monkeypatch):
    "The error set is what the first run gets wrong; the second run, anew, sees it `upweight` times"
    import masktune.baselines as baselines

    fits = []
    monkeypatch.setattr(
        baselines,
        "ERM",
        type(
            "Spy",
            (ERM,),
            dict(
                fit=lambda self, net, b, c=None: (
                    fits.append((self.epochs, net, b)),
                    ERM.fit(self, net, b, c),
                )[1]
            ),
        ),
    )
    m = JTT(epochs=4, lr=0.1, upweight=7, device="cpu").fit(head, bench)
    (first, net1, b1), (second, net2, b2) = fits
    assert (
        (first, second) == (1, 4) and net1 is head and net2 is head and b1 is bench
    )
    alone = ERM(epochs=1, lr=0.1, device="cpu").fit(head, bench).last_
    wrong = (~predict(alone, bench.train).correct).nonzero()[:, 0]
    assert m.error_set_.equal(wrong) and 0 < len(wrong) < 500
    counts = torch.zeros(len(bench.train))
    positions = {tuple(v): i for i, v in enumerate(bench.train.values.tolist())}
    for v in b2.train.values.tolist():
        counts[positions[tuple(v)]] += 1
    assert (counts[wrong] == 7).all() and counts.sum() == len(
        bench.train
    ) + 6 * len(wrong)
    assert fits[0][2].train is bench.train and m.labels_used == "class labels"


def test_jtt_lifts_the_worst_group(bench, head):
    erm, jtt = (
        ERM(epochs=5, lr=0.1, device="cpu").fit(head, bench),
        JTT(epochs=5, lr=0.1, device="cpu").fit(head, bench),
    )
    assert worst(jtt, bench) > worst(erm, bench) + 0.3


def test_what_is_refused():
    b = noise(64)
    bare = Split.from_tensors(b.train.images, b.train.labels)
    with pytest.raises(
        ValueError, match="GroupDRO needs groups, and bare has none in train"
    ):
        GroupDRO().fit(
            create_model("small_cnn", 2), Benchmark("bare", bare, b.val, {})
        )
    with pytest.raises(ValueError, match="none in val"):
        GroupDRO().fit(
            create_model("small_cnn", 2), Benchmark("bare", b.train, bare, {})
        )
    assert "groups of training" in repr(GroupDRO()) and "'class labels'" in repr(
        JTT()
    )
