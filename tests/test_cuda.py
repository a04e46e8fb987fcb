"On a GPU: the same numbers as on a CPU, the same bits again, resumed and shared training. `pytest -m cuda`."

import copy

import pytest
import torch

from interrupted import Interrupted, Stop
from masktune.data.glyphs import make_glyphs
from masktune.evaluation.metrics import predict
from masktune.methods.erm import ERM
from masktune.methods.masktune import MaskTune, RandomMask
from masktune.methods.ule import ULE
from masktune.models.zoo import create_model
from masktune.saliency.given_masks import hidden_shares
from masktune.saliency.maps import compute_maps

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def bench():
    return make_glyphs(n=600, seed=0)


@pytest.fixture(scope="module")
def erm(bench):
    net = create_model("small_cnn", bench.n_classes)
    return ERM(epochs=3, batch_size=64, device="cuda").fit(net, bench)


def bits(net):
    return [p.cpu() for p in net.state_dict().values()]


def same_bits(first, second):
    return all(a.equal(b) for a, b in zip(bits(first), bits(second), strict=True))


def maps_on(device, net, split, **options):
    # `to` moves the network itself, so that each device has a copy of its own
    return compute_maps(copy.deepcopy(net).to(device), split, **options)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
@pytest.mark.parametrize(
    "bf16, apart, agree", [(False, 0.02, 0.99), (True, 0.1, 0.95)]
)
def test_maps_are_those_of_the_cpu(bench, erm, name, bf16, apart, agree):
    net, split = erm.model_, bench.val
    if name == "resnet18":  # larger images: maps of more than one place
        net = create_model(name, bench.n_classes).eval()
        split = split.subset(range(64))
        larger = torch.nn.functional.interpolate(split.images, scale_factor=4)
        split = type(split).from_tensors(
            larger, split.labels, class_names=split.class_names
        )
    here = maps_on("cpu", net, split, target="label", bf16=False)
    there = maps_on("cuda", net, split, target="label", bf16=bf16)
    # a map that is zero nearly everywhere is scaled to [0, 1] all the same, noise and all
    differences = (here.values.float() - there.values.float()).abs().flatten()
    assert differences.quantile(0.99) < apart
    index = torch.arange(len(split))
    same = here.masks()[index] == there.masks()[index]
    assert same.float().mean() > agree


def test_masks_are_the_same_on_both_devices(bench, erm):
    masks = compute_maps(erm.model_, bench.train).masks()
    index = torch.arange(len(bench.train))
    there = masks.on(index, torch.device("cuda"))
    assert there.is_cuda
    assert (there.cpu() == masks[index]).float().mean() > 0.9999
    here = hidden_shares(masks, len(bench.train))
    assert hidden_shares(masks, len(bench.train), "cuda") == pytest.approx(
        here, abs=1e-4
    )


def test_predictions_are_those_of_the_cpu(bench, erm):
    test = bench.tests["original"]
    there = predict(erm.model_, test)
    here = predict(copy.deepcopy(erm.model_).cpu(), test)
    assert (there.logits.cpu() - here.logits).abs().max() < 0.05
    assert abs(there.accuracy - here.accuracy) < 0.01


@pytest.mark.parametrize("method", [MaskTune, RandomMask])
def test_deterministic_repeats_itself_to_the_bit(bench, method):
    "ResNet-32, whose pool is a mean: torch has no deterministic backward pass for adaptive max pools"

    def fitted():
        common = dict(batch_size=64, device="cuda", deterministic=True)
        net = create_model("resnet32", bench.n_classes)
        erm = ERM(epochs=2, **common).fit(net, bench)
        return erm, method(**common).fit(erm, bench)

    first, second = fitted(), fitted()
    for one, other in zip(first, second, strict=True):
        assert same_bits(one.model_, other.model_)


@pytest.mark.parametrize(
    "options", [dict(bf16=True), dict(bf16=True, compile=True)]
)
def test_bf16_and_compile_train(bench, options):
    net = create_model("small_cnn", bench.n_classes)
    erm = ERM(epochs=6, batch_size=64, device="cuda", **options).fit(net, bench)
    assert erm.history_.loss.iloc[-1] < 0.5 * erm.history_.loss.iloc[0]
    assert predict(erm.model_, bench.val).accuracy > 0.9


def test_a_stopped_run_goes_on_to_the_same_bits(bench, tmp_path):
    def method(augment):
        return ERM(
            epochs=3,
            batch_size=64,
            device="cuda",
            deterministic=True,
            augment=augment,
        )

    net = create_model("resnet32", bench.n_classes)
    whole = method(Interrupted()).fit(net, bench)
    with pytest.raises(Stop):
        method(Interrupted(left=12)).fit(net, bench, tmp_path)
    resumed = method(Interrupted()).fit(net, bench, tmp_path)
    assert same_bits(whole.last_, resumed.last_)


def test_ule_trains_and_leaves_a_network_of_finite_weights(bench):
    net = create_model("small_cnn", bench.n_classes)
    ule = ULE(epochs=2, batch_size=64, device="cuda").fit(net, bench)
    assert all(p.isfinite().all() for p in bits(ule.model_))
    assert ule.model_.device.type == "cuda"


def test_images_stay_on_the_device(bench):
    "An epoch copies no image: the second one finds them where they are"
    device = torch.device("cuda")
    next(bench.train.batches(8, device=device))
    images, labels, _ = bench.train._resident[device]
    assert images.is_cuda and labels.is_cuda
    next(bench.train.batches(8, device=device))
    assert bench.train._resident[device][0] is images
