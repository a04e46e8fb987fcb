"What every method promises: it changes nothing it is handed, and repeats itself."

import copy

import pandas as pd
import pytest
import torch

from masktune.core.files import fingerprint
from masktune.core.random import make_generator
from masktune.data.benchmark import Benchmark
from masktune.data.split import Split
from masktune.methods.abstaining import DeepGamblers, SelectiveNet
from masktune.methods.abstaining import SelfAdaptiveTraining
from masktune.methods.erm import ERM
from masktune.methods.group_dro_jtt import JTT, GroupDRO
from masktune.methods.last_layer import AFR, DFR, LastLayerRetraining
from masktune.methods.masktune import MaskTune, RandomMask
from masktune.methods.neurontune import NeuronTune
from masktune.methods.spuriosity import SpuriosityRanking
from masktune.methods.ule import ULE
from masktune.models.zoo import create_model
from masktune.training.settings import Method

COMMON = dict(batch_size=32, device="cpu")
METHODS = {
    "ERM": ERM(epochs=1, **COMMON),
    "ERM, all options": ERM(
        epochs=2,
        optimizer="adamw",
        schedule="cosine",
        label_smoothing=0.1,
        class_weight="balanced",
        grad_accum_steps=2,
        patience=1,
        bf16=True,
        deterministic=True,
        sync_batch_norm=True,
        **COMMON,
    ),
    "MaskTune": MaskTune(**COMMON),
    "MaskTune, paper": MaskTune(preset="paper", **COMMON),
    "MaskTune, released code": MaskTune(preset="released_code", **COMMON),
    "MaskTune, iterated": MaskTune(iterations=2, accumulate=True, **COMMON),
    "RandomMask": RandomMask(**COMMON),
    "RandomMask, squares": RandomMask(shape="square", **COMMON),
    "ULE": ULE(epochs=1, **COMMON),
    "NeuronTune": NeuronTune(**COMMON),
    "NeuronTune-val": NeuronTune(tune_on="val", **COMMON),
    "SpuriosityRanking": SpuriosityRanking(
        spurious={"0": [3, 7], "1": [5]}, epochs=2, **COMMON
    ),
    "LastLayerRetraining": LastLayerRetraining(balance="groups", **COMMON),
    "DFR": DFR(Cs=(1.0, 0.1), n_refits=2, **COMMON),
    "AFR": AFR(gammas=(1.0, 4.0), **COMMON),
    "JTT": JTT(epochs=1, **COMMON),
    "GroupDRO": GroupDRO(epochs=1, adjustment=1.0, **COMMON),
    "DeepGamblers": DeepGamblers(reward=1.5, epochs=1, **COMMON),
    "SelfAdaptiveTraining": SelfAdaptiveTraining(epochs=1, **COMMON),
    "SelectiveNet": SelectiveNet(epochs=1, **COMMON),
}
FROM_ERM = {
    n for n, m in METHODS.items() if m.needs_trained or not hasattr(m, "lr")
}


def part(n, seed):
    "Noise: class 1 has less red, a fifth of the labels is wrong, so that there are mistakes"
    g = make_generator(seed, "images")
    images = torch.randint(256, (n, 3, 28, 28), generator=g, dtype=torch.uint8)
    looks = torch.arange(n) % 2
    images[looks == 1, 0] //= 2
    labels = torch.where(torch.rand(n, generator=g) < 0.2, 1 - looks, looks)
    groups = 2 * labels + (torch.arange(n) % 5 < 2)
    ids = [f"{seed}/{i}.png" for i in range(n)]
    return Split.from_tensors(images, labels, groups, ids=ids)


@pytest.fixture(scope="module")
def bench():
    return Benchmark("noise", part(160, 0), part(80, 1), {"test": part(40, 2)})


@pytest.fixture(scope="module")
def start():
    return create_model("small_cnn", 2)


@pytest.fixture(scope="module")
def erm(bench, start):
    return ERM(epochs=8, **COMMON).fit(start, bench)


def contents(thing):
    "Everything in an object that could change, in an order that doesn't"
    if isinstance(thing, torch.nn.Module):
        parameters = [(p.requires_grad, p.grad) for p in thing.parameters()]
        modes = [m.training for m in thing.modules()]
        own = {k: v for k, v in vars(thing).items() if not k.startswith("_")}
        return [thing.state_dict(), parameters, modes, contents(own)]
    if isinstance(thing, Split):
        names = [thing.class_names, thing.group_names, thing.ids, thing.skipped]
        return [thing.images, thing.labels, thing.groups, *names]
    if isinstance(thing, Benchmark):
        parts = [thing.train, thing.val, *thing.tests.values()]
        return [list(thing.tests), *map(contents, parts)]
    if isinstance(thing, Method):
        return [contents(v) for _, v in sorted(vars(thing).items())]
    if isinstance(thing, pd.DataFrame):
        return thing.to_csv()
    if isinstance(thing, dict):
        return [(repr(k), contents(v)) for k, v in thing.items()]
    if isinstance(thing, list | tuple):
        return [contents(v) for v in thing]
    return thing if isinstance(thing, torch.Tensor) else repr(thing)


def test_the_list_is_whole():
    "Every method of the library is here, so that a new one is tested as well"

    def below(cls):
        return {cls}.union(*map(below, cls.__subclasses__()))

    library = {
        c
        for c in below(Method)
        if c.__module__.startswith("masktune.")
        and not c.__name__.startswith("_")
        and c.__name__ not in ("Method", "NetworkMethod", "HeadMethod")
    }
    assert {type(m) for m in METHODS.values()} == library


def test_contents_sees_a_change(erm, bench):
    "The test below can fail: one number in the optimizer's state is enough"
    before = fingerprint(contents(erm))
    assert fingerprint(contents(erm)) == before
    changed = copy.deepcopy(erm)
    changed.optimizer_["state"][0]["momentum_buffer"][0, 0, 0, 0] += 1e-3
    assert fingerprint(contents(changed)) != before
    changed = copy.deepcopy(erm)
    changed.last_.backbone[1].running_mean[0] += 1e-3
    assert fingerprint(contents(changed)) != before
    changed = copy.deepcopy(bench)
    changed.val.labels[0] = 1 - changed.val.labels[0]
    assert fingerprint(contents(changed)) != fingerprint(contents(bench))


@pytest.mark.parametrize("name", METHODS)
def test_nothing_that_it_is_handed_changes(name, bench, start, erm):
    "Bit for bit: network, fitted ERM with its optimizer's state, data, and its own settings"
    method = copy.deepcopy(METHODS[name])
    given = erm if name in FROM_ERM else start
    before = [fingerprint(contents(x)) for x in (erm, start, bench, method)]
    settings = repr(method)
    first = fingerprint(method.fit(given, bench).model_)
    assert [fingerprint(contents(x)) for x in (erm, start, bench)] == before[:3]
    assert repr(method) == settings
    again = copy.deepcopy(METHODS[name])
    assert fingerprint(again.fit(given, bench).model_) == first
    assert fingerprint(contents(erm)) == before[0]


@pytest.mark.parametrize("name", METHODS)
def test_wrong_settings_are_refused_before_anything_is_done(
    name, bench, start, erm
):
    method = copy.deepcopy(METHODS[name])
    method.batch_size = -1
    with pytest.raises(ValueError, match="batch_size=-1 must be a whole number"):
        method.fit(erm if name in FROM_ERM else start, bench)
