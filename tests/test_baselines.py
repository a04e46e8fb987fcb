"GroupDRO and JTT do what they say, and survive being killed."

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
from masktune.methods.group_dro_jtt import GroupDRO, JTT, group_dro_loss
from masktune.evaluation.features import Features, balanced_sample_weight
from masktune.evaluation.features import head_as_network
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
    one_group = [
        Split.from_tensors(
            s.images, s.labels, torch.zeros(len(s)), class_names=["a", "b"]
        )
        for s in (b.train, b.val)
    ]
    b = Benchmark("one", *one_group, {})
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
    "Algorithm 1: the weights move first, by exp(η·(loss + C/√n)); a group that is not in the batch stays"
    before = torch.tensor([0.2, 0.3, 0.5])
    weights, losses = (
        before.clone(),
        torch.tensor([0.1, 0.7, 2.0], requires_grad=True),
    )
    groups, adjustments = torch.tensor([0, 0, 2]), torch.tensor([0.1, 0.2, 0.3])
    loss = group_dro_loss(losses, groups, weights, adjustments, step_size=2.0)
    means = torch.tensor([0.4, 0.0, 2.0])
    moved = before * torch.tensor([2 * (0.4 + 0.1), 0.0, 2 * (2.0 + 0.3)]).exp()
    moved /= moved.sum()
    assert torch.allclose(weights, moved) and not weights.requires_grad
    assert torch.allclose(loss, (moved * means).sum())
    loss.backward()
    assert torch.allclose(losses.grad, moved[groups] / torch.tensor([2.0, 2, 1]))


def test_the_size_adjustment_is_c_over_root_n(bench, head, monkeypatch):
    import masktune.methods.group_dro_jtt as module

    seen = []

    def spy(losses, groups, weights, adjustments, step_size):
        seen.append(adjustments)
        return group_dro_loss(losses, groups, weights, adjustments, step_size)

    monkeypatch.setattr(module, "group_dro_loss", spy)
    GroupDRO(epochs=1, adjustment=3.0, device="cpu").fit(head, bench)
    assert torch.allclose(seen[0], 3 / torch.bincount(bench.train.groups).sqrt())


def test_balanced_batches():
    "A quarter of the images from each group; another order each epoch, the same for the same seed"
    split = vectors(4000, 0.95, 0)
    weights = balanced_sample_weight(split, "groups")
    drawn = [
        torch.cat(
            [
                batch.group
                for batch in split.batches(
                    128, True, (0, epoch), sample_weights=weights
                )
            ]
        )
        for epoch in (0, 0, 1)
    ]
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])
    assert len(drawn[0]) == 4000
    assert (torch.bincount(drawn[0]) / 4000 - 0.25).abs().max() < 0.03


def test_only_a_balanced_groupdro_draws_by_group(bench, head):
    "The share of the small groups among the images that the loss sees"

    def seen(balanced):
        groups = []

        class Spy(GroupDRO):
            def _loss(self, split, weights, n):
                loss = super()._loss(split, weights, n)

                def spying(net, batch):
                    groups.append(batch.group)
                    return loss(net, batch)

                return spying

        Spy(epochs=1, device="cpu", balanced=balanced).fit(head, bench)
        return torch.bincount(torch.cat(groups)) / len(bench.train)

    assert (seen(True) - 0.25).abs().max() < 0.04
    assert seen(False).equal(torch.bincount(bench.train.groups) / len(bench.train))


def test_groupdro_lifts_the_worst_group(bench, head):
    erm = ERM(epochs=5, lr=0.1, device="cpu").fit(head, bench)
    for kw in (dict(), dict(balanced=False, step_size=0.1)):
        m = GroupDRO(epochs=5, lr=0.1, device="cpu", **kw).fit(head, bench)
        assert worst(m, bench) > worst(erm, bench) + 0.4, kw
    assert m.group_weights_.iloc[[1, 2]].min() > 0.1, (
        "the bias-conflicting groups, a hundredth of the rows each, weigh much more than that"
    )
    assert m.history_.val_worst_group_accuracy.max() == pytest.approx(
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
    "A real process, killed at odd moments, ends with the same weights of network and groups, bit for bit"
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

    def run(left=None, checkpoint=None):
        m = make(epochs=2, batch_size=16, augment=Interrupted(left), device="cpu")
        return m.fit(net, b, checkpoint)

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


@pytest.mark.parametrize("preset, times", [("paper", 7), ("released_code", 8)])
def test_jtt_does_what_it_says(bench, head, monkeypatch, preset, times):
    "The second run starts anew and sees the first one's errors `upweight` times, or once more"
    import masktune.methods.group_dro_jtt as module

    fits = []

    class Spy(ERM):
        def fit(self, net, b, checkpoint=None):
            fits.append((self.epochs, net, b))
            return super().fit(net, b, checkpoint)

    monkeypatch.setattr(module, "ERM", Spy)
    m = JTT(epochs=4, lr=0.1, upweight=7, preset=preset, device="cpu")
    m.fit(head, bench)
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
    expected = torch.ones(len(bench.train))
    expected[wrong] = times
    assert counts.equal(expected)
    assert b1.train is bench.train and m.labels_used == "class labels"


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
    assert "groups of training" in GroupDRO().labels_used
    for wrong, message in (
        (dict(step_size=float("nan")), "step_size=nan must be a finite number"),
        (
            dict(adjustment=-1.0),
            "adjustment=-1.0 must be a finite number of at least 0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            GroupDRO(**wrong).fit(create_model("small_cnn", 2), b)
    for name in ("upweight", "first_epochs"):
        with pytest.raises(ValueError, match=f"{name}=0 must be a whole number"):
            JTT(**{name: 0}).fit(create_model("small_cnn", 2), b)
