"MaskTune end to end on the packaged digits, and the things it refuses."

import pytest
import torch

from interrupted import Interrupted, Stop
from masktune.core.files import fingerprint
from masktune.data.benchmark import Benchmark
from masktune.data.glyphs import make_glyphs
from masktune.data.planted_cues import biased_mnist
from masktune.evaluation.metrics import evaluate, predict
from masktune.methods.abstaining import (
    DeepGamblers,
    SelectiveNet,
    SelfAdaptiveTraining,
)
from masktune.methods.erm import ERM
from masktune.methods.group_dro_jtt import GroupDRO, JTT
from masktune.methods.heads import HeadMethod
from masktune.methods.last_layer import AFR, DFR, LastLayerRetraining
from masktune.methods.masktune import MaskTune, RandomMask, masked_accuracy
from masktune.methods.neurontune import NeuronTune
from masktune.methods.spuriosity import SpuriosityRanking
from masktune.methods.ule import ULE
from masktune.models.zoo import create_model
from masktune.saliency.maps import compute_maps
from masktune.saliency.masking import apply_mask


@pytest.fixture(scope="module")
def fitted():
    bench = biased_mnist(seed=3)
    return bench, ERM(epochs=5, seed=3, device="cpu").fit(
        create_model("small_cnn", 2, seed=3), bench
    )


def reversed_accuracy(m, bench):
    return evaluate(m.model_, bench.tests["reversed"]).accuracy


def test_masktune_pulls_it_out_and_random_masks_do_not(fitted):
    bench, erm = fitted
    before = fingerprint(erm.model_)
    tuned, control = (
        MaskTune(seed=3, device="cpu").fit(erm, bench),
        RandomMask(seed=3, device="cpu").fit(erm, bench),
    )
    assert reversed_accuracy(tuned, bench) > 0.85
    assert reversed_accuracy(tuned, bench) > reversed_accuracy(erm, bench) + 0.25
    assert reversed_accuracy(tuned, bench) > reversed_accuracy(control, bench) + 0.2
    assert fingerprint(erm.model_) == before and fingerprint(
        MaskTune(seed=3, device="cpu").fit(erm, bench).model_
    ) == fingerprint(tuned.model_)


def test_hidden_pixels_are_what_it_trains_on(fitted, monkeypatch):
    "What the loop hands to the loss is black where the mask is, and untouched elsewhere"
    bench, erm = fitted
    small, seen = (
        Benchmark("small", bench.train.subset(range(0, 4000, 40)), bench.val, {}),
        [],
    )

    def spied(self, masks, batch, generator):
        seen.append((batch, new := hide_(self, masks, batch, generator)))
        return new

    hide_ = MaskTune._hide
    monkeypatch.setattr(MaskTune, "_hide", spied)
    m = MaskTune(device="cpu").fit(erm, small)
    assert sum(len(b.y) for b, _ in seen) == len(small.train)
    for before, after in seen:
        mask = m.masks_[0][before.index][:, None].expand_as(before.x)
        assert (
            mask.any()
            and (after.x[mask] == 0).all()
            and (before.x[mask] > 0).any()
            and after.x[~mask].equal(before.x[~mask])
        )


def test_the_learning_rate_comes_from_erm(fitted):
    bench, constant = fitted
    small = Benchmark(
        "small", bench.train.subset(range(0, 4000, 40)), bench.val, {}
    )
    stepped = ERM(epochs=3, schedule="step", step_epochs=1, device="cpu").fit(
        create_model("small_cnn", 2), small
    )
    assert MaskTune(device="cpu").fit(stepped, small).settings_.lr == 0.01 * 0.5**2
    assert (
        MaskTune(device="cpu").fit(constant.model_, small).settings_.lr == 0.01
        and MaskTune(lr=0.02, device="cpu").fit(constant, small).settings_.lr
        == 0.02
    )


def test_rates_that_mean_nothing_are_refused(fitted):
    bench, _ = fitted
    small = Benchmark(
        "small", bench.train.subset(range(0, 4000, 40)), bench.val, {}
    )
    cosine = ERM(epochs=1, schedule="cosine", device="cpu").fit(
        create_model("small_cnn", 2), small
    )
    with pytest.raises(
        ValueError, match="cosine schedule ends at a rate of 0.*for example 0.001"
    ):
        MaskTune(device="cpu").fit(cosine, small)
    assert MaskTune(lr=0.001, device="cpu").fit(cosine, small).settings_.lr == 0.001
    with pytest.raises(
        ValueError, match="trained by sgd, and MaskTune fine-tunes by adamw"
    ):
        MaskTune(optimizer="adamw", device="cpu").fit(cosine, small)
    with pytest.raises(ValueError, match="set optimizer='sgd'"):
        MaskTune(
            preset="released_code",
            lr=0.001,
            optimizer="adamw",
            keep_momentum=True,
            device="cpu",
        ).fit(cosine, small)


def test_maps_without_places_are_refused():
    tiny = make_glyphs(n=80)
    net = create_model("resnet18", 2)
    net.untrained = False
    with pytest.raises(ValueError, match="1×1 for images of 32×32 pixels"):
        MaskTune(device="cpu").fit(net, tiny)


def test_it_refuses_what_it_cannot_start_from(fitted):
    bench, erm = fitted
    with pytest.raises(ValueError, match="still has random weights: fit ERM first"):
        MaskTune().fit(create_model("small_cnn", 2), bench)
    with pytest.raises(ValueError, match="has not been fitted"):
        RandomMask().fit(ERM(), bench)
    with pytest.raises(ValueError, match="init_from='worst' is not known"):
        MaskTune(init_from="worst").fit(erm, bench)


def test_a_killed_fine_tune_resumes(fitted, tmp_path):
    bench, erm = fitted
    small = Benchmark(
        "small", bench.train.subset(range(0, 4000, 10)), bench.val, {}
    )

    def make(left=None):
        return MaskTune(iterations=2, augment=Interrupted(left), device="cpu")

    whole = make().fit(erm, small)
    with pytest.raises(Stop):
        make(6).fit(erm, small, checkpoint=tmp_path)
    assert fingerprint(
        make().fit(erm, small, checkpoint=tmp_path).model_
    ) == fingerprint(whole.model_)


def test_presets_differ_where_the_paper_and_its_code_do(fitted):
    bench, erm = fitted
    small = Benchmark(
        "small", bench.train.subset(range(0, 4000, 10)), bench.val, {}
    )
    ours, paper, code = (
        MaskTune(preset=p, device="cpu").fit(erm, small)
        for p in ("ours", "paper", "released_code")
    )
    assert ours.masks_[0].rule["threshold_at"] == "image" and paper.masks_[
        0
    ].rule == dict(
        n_std=2.0, stats_over="all", threshold_at="features", top_fraction=None
    )
    assert (
        paper.masks_[0].maps.made_from["target"] == fingerprint(small.train.labels)
        and code.masks_[0].maps.made_from["target"] == "predicted"
    )
    assert code.masks_[0].maps.made_from["weights"] == fingerprint(
        erm.model_
    ) and paper.masks_[0].maps.made_from["weights"] == fingerprint(erm.last_)
    forgetful = MaskTune(
        preset="released_code", keep_momentum=False, device="cpu"
    ).fit(erm, small)
    assert fingerprint(forgetful.model_) != fingerprint(code.model_), (
        "ERM's momentum moves the first steps"
    )
    assert (
        MaskTune(preset="paper", threshold_at="image", device="cpu")
        .fit(erm, small)
        .masks_[0]
        .rule["threshold_at"]
        == "image"
    ), "what is given wins over the preset"
    with pytest.raises(ValueError, match="Did you mean 'paper'"):
        MaskTune(preset="papers").fit(erm, small)


def test_accumulated_masks_hide_the_earlier_ones_too(fitted):
    bench, erm = fitted
    small = Benchmark(
        "small", bench.train.subset(range(0, 4000, 20)), bench.val, {}
    )
    a, b, c = (
        MaskTune(iterations=3, accumulate=True, device="cpu").fit(erm, small).masks_
    )
    i = torch.arange(200)
    assert (
        (a[i] & ~b[i]).sum() == 0
        and (b[i] & ~c[i]).sum() == 0
        and a.masked_fraction() < b.masked_fraction() < c.masked_fraction()
    )
    fresh = MaskTune(iterations=3, device="cpu").fit(erm, small).masks_
    assert (
        fresh[0][i].equal(a[i]) and fresh[2].masked_fraction() < c.masked_fraction()
    )


def test_select_takes_what_survives_the_mask(fitted):
    bench, erm = fitted
    small = Benchmark("small", bench.train.subset(range(0, 4000, 4)), bench.val, {})
    best = MaskTune(device="cpu", seed=3).select(
        erm, small, lr=(1e-5, 0.01), n_std=(2.0, 3.0)
    )
    table = best.selection_
    assert len(best.tried_) == len(table) == 4 and table[
        ["lr", "n_std"]
    ].drop_duplicates().shape == (4, 2)
    assert (
        table.val_masked[table.chosen].item()
        == table.val_masked.max()
        > table.val_masked.min()
    )
    first = compute_maps(erm.model_, bench.val).masks()
    assert [
        masked_accuracy(m.model_, bench.val, first) for m in best.tried_
    ] == table.val_masked.tolist(), "every setting is asked with the same masks"


def test_select_by_a_score_of_the_user(fitted):
    bench, erm = fitted
    small = Benchmark("small", bench.train.subset(range(0, 4000, 8)), bench.val, {})
    asked = []

    def first_is_best(net, val):
        assert val is small.val
        asked.append(net)
        return -len(asked)

    best = MaskTune(device="cpu").select(
        erm, small, score=first_is_best, fill=("blur", "black")
    )
    table = best.selection_
    assert [id(m.model_) for m in best.tried_] == [id(net) for net in asked]
    assert table.score.tolist() == [-1, -2] and table.chosen.tolist() == [
        True,
        False,
    ]
    assert best is best.tried_[0] and best.fill == "blur"
    with pytest.raises(ValueError, match="or pass a score"):
        MaskTune(device="cpu").select(erm, small, fill=("blur", "black"))


def test_masked_accuracy_counts_images_with_hidden_places(fitted):
    bench, erm = fitted
    masks = compute_maps(erm.model_, bench.val).masks(top_fraction=0.2)
    i = torch.arange(len(bench.val))
    by_hand = (
        predict(erm.model_, apply_mask(bench.val.images / 255, masks[i])).predicted
        == bench.val.labels
    )
    assert (
        masked_accuracy(erm.model_, bench.val, masks)
        == by_hand.double().mean().item()
    )


def test_random_squares_are_no_maps(fitted):
    bench, erm = fitted
    small = Benchmark(
        "small", bench.train.subset(range(0, 4000, 20)), bench.val, {}
    )
    m = RandomMask(shape="square", device="cpu").fit(erm, small)
    x = torch.ones(64, 3, 28, 28)
    holes = [
        m.masks_[0].apply(x, None, torch.Generator().manual_seed(s)) == 0
        for s in (0, 0, 1)
    ]
    assert holes[0].equal(holes[1]) and not holes[0].equal(holes[2])
    assert abs(m.history_.hidden[0] - holes[0].float().mean()) < 0.03
    with pytest.raises(ValueError, match="shape='round'"):
        RandomMask(shape="round").fit(erm, small)


def test_a_network_of_other_classes_is_refused(fitted):
    bench, erm = fitted
    ten = create_model("small_cnn", 10)
    for method in (ERM, GroupDRO, JTT, ULE, DeepGamblers):
        with pytest.raises(ValueError, match="10 outputs, the data 2 classes"):
            method(epochs=1, device="cpu").fit(ten, bench)


def few(bench, step=20):
    return Benchmark(
        "small", bench.train.subset(range(0, 4000, step)), bench.val, {}
    )


def weights_and_statistics(net):
    return fingerprint(list(net.parameters())), fingerprint(list(net.buffers()))


def test_the_controls_move_what_they_say(fitted):
    bench, erm = fitted
    small, start = few(bench), weights_and_statistics(erm.model_)

    def moved(**changed):
        net = MaskTune(device="cpu", **changed).fit(erm, small).model_
        now = weights_and_statistics(net)
        return now[0] != start[0], now[1] != start[1]

    assert moved(lr=0, bn_stats="masked") == (False, True)
    assert moved(bn_stats="frozen") == (True, False)
    assert moved(bn_stats="clean") == moved(bn_stats="masked") == (True, True)
    assert moved(lr=0, bn_stats="frozen") == (False, False)
    with pytest.raises(ValueError, match="bn_stats='new' is not known"):
        moved(bn_stats="new")


def test_clean_statistics_are_those_of_one_pass(fitted):
    "At a rate of 0 the first layer keeps the mean and variance of the clean images"
    bench, erm = fitted
    small = few(bench)
    net = MaskTune(lr=0, batch_size=200, device="cpu").fit(erm, small).model_
    conv, norm = net.backbone[:2]
    with torch.no_grad():
        out = conv(small.train.images / 255)
    assert torch.allclose(norm.running_mean, out.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, out.var((0, 2, 3)), rtol=1e-2)
    assert norm.momentum == erm.model_.backbone[1].momentum == 0.1
    m = MaskTune(device="cpu").fit(erm, small)
    assert m.history_.val_accuracy.iloc[-1] == predict(m.model_, bench.val).accuracy


def test_clean_statistics_are_of_images_augmented_as_in_training(fitted):
    bench, erm = fitted
    small = few(bench)

    def halves(x, generator):
        "Half as bright, half of the images"
        draws = torch.rand(len(x), 1, 1, 1, generator=generator)
        return torch.where(draws < 0.5, x / 2, x)

    m = MaskTune(lr=0, batch_size=50, augment=halves, device="cpu")
    conv, norm = m.fit(erm, small).model_.backbone[:2]
    with torch.no_grad():
        whole = conv(small.train.images / 255).mean((0, 2, 3))
    share = (norm.running_mean / whole).median().item()
    assert 0.7 < share < 0.8, "three quarters of the brightness"
    again = MaskTune(lr=0, batch_size=50, augment=halves, device="cpu")
    again = again.fit(erm, small).model_.backbone[1]
    assert again.running_mean.equal(norm.running_mean)


def test_nothing_hidden_is_one_more_epoch(fitted):
    bench, erm = fitted
    small = few(bench)
    m = MaskTune(masks="none", bn_stats="masked", device="cpu").fit(erm, small)
    more = ERM(epochs=1, device="cpu").fit(erm.model_, small)
    assert fingerprint(m.model_) == fingerprint(more.last_)
    assert m.history_.hidden[0] == 0 and m.history_.untouched[0] == 1


def test_given_masks_are_hidden(fitted, monkeypatch):
    "bool masks, GivenMasks and SaliencyMasks; RandomMask moves them"
    bench, erm = fitted
    small = few(bench)
    cue = torch.zeros(200, 28, 28, dtype=torch.bool)
    cue[:150, :4, :4] = True
    seen = []
    hide = MaskTune._hide

    def spied(self, masks, batch, generator):
        seen.append((batch, after := hide(self, masks, batch, generator)))
        return after

    monkeypatch.setattr(MaskTune, "_hide", spied)
    m = MaskTune(masks=cue, device="cpu").fit(erm, small)
    for before, after in seen:
        covered = cue[before.index][:, None].expand_as(before.x)
        assert (after.x[covered] == 0).all()
        assert after.x[~covered].equal(before.x[~covered])
    assert m.history_.untouched[0] == 0.25
    assert m.history_.hidden[0] == pytest.approx(0.75 * 16 / 784)
    again = MaskTune(masks=m.masks_[0], device="cpu").fit(erm, small)
    assert fingerprint(again.model_) == fingerprint(m.model_)
    maps = MaskTune(device="cpu").fit(erm, small)
    same = MaskTune(masks=maps.masks_[0], device="cpu").fit(erm, small)
    assert fingerprint(same.model_) == fingerprint(maps.model_)
    seen.clear()
    RandomMask(masks=cue, device="cpu").fit(erm, small)
    corner = torch.cat([after.x[:, :, :4, :4] for _, after in seen])
    assert (corner.amax((1, 2, 3)) > 0).float().mean() > 0.4, "the square moved"


def test_masks_of_other_images_are_refused(fitted):
    bench, erm = fitted
    with pytest.raises(ValueError, match="masks must be those of the 200 images"):
        cue = torch.zeros(10, 28, 28, dtype=torch.bool)
        MaskTune(masks=cue).fit(erm, few(bench))
    with pytest.raises(ValueError, match="masks must be bool"):
        MaskTune(masks=torch.zeros(200, 28, 28))
    with pytest.raises(ValueError, match="masks='all' is not known"):
        MaskTune(masks="all").fit(erm, few(bench))


def test_it_warns_when_it_hides_nothing_or_nearly_everything(fitted):
    "Most 2×2 maps of a ResNet-18 at 64 px have no place above two deviations"
    glyphs = make_glyphs(n=80, size=64)
    net = create_model("resnet18", 2)
    net.untrained = False
    with pytest.warns(
        UserWarning, match="nothing in ..% .* 2×2 maps .* top_fraction"
    ):
        m = MaskTune(device="cpu").fit(net, glyphs)
    assert m.history_.untouched[0] > 0.5
    bench, erm = fitted
    with pytest.warns(UserWarning, match="hides .* of the training pixels: raise"):
        MaskTune(top_fraction=0.9, stats_over="all", device="cpu").fit(
            erm, few(bench)
        )


@pytest.mark.parametrize("preset", ["ours", "paper", "released_code"])
def test_the_erm_it_is_given_stays_as_it_is(fitted, preset):
    "Weights, statistics and momentum, bit for bit; so a second fit is the same"
    bench, erm = fitted
    before = fingerprint(erm.model_, erm.last_, erm.optimizer_)
    one, two = (
        MaskTune(preset=preset, device="cpu").fit(erm, few(bench)) for _ in range(2)
    )
    assert fingerprint(erm.model_, erm.last_, erm.optimizer_) == before
    assert fingerprint(one.model_) == fingerprint(two.model_)


@pytest.mark.parametrize(
    "wrong", [dict(n_std=float("nan")), dict(iterations=0), dict(top_fraction=20)]
)
def test_values_that_make_no_sense_are_refused(fitted, wrong):
    bench, erm = fitted
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MaskTune(device="cpu", **wrong).fit(erm, few(bench))


HEADS = [
    LastLayerRetraining(device="cpu"),
    DFR(Cs=(0.3,), n_refits=2, device="cpu"),
    AFR(gammas=(4.0,), reg_strengths=(0.01,), device="cpu"),
    NeuronTune(device="cpu"),
    SpuriosityRanking(spurious="groups", device="cpu"),
]
WHOLE = [
    m(epochs=1, device="cpu")
    for m in (ERM, ULE, JTT, GroupDRO, SelfAdaptiveTraining, SelectiveNet)
]
MASKS = [
    MaskTune(preset="released_code", iterations=2, device="cpu"),
    RandomMask(keep_momentum=True, device="cpu"),
    MaskTune(bn_stats="frozen", device="cpu"),
]


@pytest.mark.parametrize(
    "method", [*MASKS, *HEADS, *WHOLE, DeepGamblers(epochs=1, reward=1.5)]
)
def test_no_method_changes_what_it_is_given(fitted, method):
    "The ERM, its momentum, and the images: bit for bit"
    bench, erm = fitted
    small = Benchmark("small", few(bench).train, bench.tests["balanced"], {})
    given = erm if isinstance(method, (MaskTune, HeadMethod)) else erm.last_

    def state():
        splits = [getattr(small, part) for part in ("train", "val")]
        data = [[s.images, s.labels, s.groups] for s in splits]
        return fingerprint(erm.model_, erm.last_, erm.optimizer_, data)

    before = state()
    settings = repr(method)
    method.fit(given, small)
    assert state() == before and repr(method) == settings
