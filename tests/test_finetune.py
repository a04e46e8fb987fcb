"MaskTune end to end on the packaged digits, and the things it refuses."
import pytest
import torch

from masktune.core import fingerprint
from masktune.data import Benchmark
from masktune.finetune import MaskTune, RandomMask
from masktune.metrics import evaluate
from masktune.models import create
from masktune.shortcuts import biased_mnist
from masktune.training import ERM


@pytest.fixture(scope="module")
def fitted():
    bench = biased_mnist(seed=3)
    return bench, ERM(epochs=5, seed=3, device="cpu").fit(create("small_cnn", 2, seed=3), bench)


def reversed_accuracy(m, bench): return evaluate(m.model_, bench.tests["reversed"]).accuracy


def test_masktune_pulls_it_out_and_random_masks_do_not(fitted):
    bench, erm = fitted
    before = fingerprint(erm.model_)
    tuned, control = MaskTune(seed=3, device="cpu").fit(erm, bench), RandomMask(seed=3, device="cpu").fit(erm, bench)
    assert reversed_accuracy(tuned, bench) > .85
    assert reversed_accuracy(tuned, bench) > reversed_accuracy(erm, bench) + .25
    assert reversed_accuracy(tuned, bench) > reversed_accuracy(control, bench) + .2
    assert fingerprint(erm.model_) == before and fingerprint(MaskTune(seed=3, device="cpu").fit(erm, bench).model_) == fingerprint(tuned.model_)


def test_hidden_pixels_are_what_it_trains_on(fitted):
    "With masks that hide everything there is nothing left to learn from: the digits must come from what the masks leave"
    bench, erm = fitted
    everything = MaskTune(top=1., epochs=1, device="cpu").fit(erm, bench)
    assert everything.history_.hidden[0] > .3
    assert reversed_accuracy(everything, bench) < .8


def test_the_learning_rate_comes_from_erm(fitted):
    bench, erm = fitted
    small = Benchmark("small", bench.train.subset(range(0, 4000, 40)), bench.val, {})
    assert MaskTune(device="cpu").fit(erm, small).lr_ == erm.history_.lr.iloc[-1]
    assert MaskTune(device="cpu").fit(erm.model_, small).lr_ == .01 and MaskTune(lr=.003, device="cpu").fit(erm, small).lr_ == .003


def test_it_refuses_what_it_cannot_start_from(fitted):
    bench, erm = fitted
    with pytest.raises(ValueError, match="still has random weights: fit ERM first"): MaskTune().fit(create("small_cnn", 2), bench)
    with pytest.raises(ValueError, match="has not been fitted"): RandomMask().fit(ERM(), bench)
    with pytest.raises(ValueError, match="start='worst' is not known"): MaskTune(start="worst").fit(erm, bench)


def test_a_killed_fine_tune_resumes(fitted, tmp_path):
    bench, erm = fitted
    small = Benchmark("small", bench.train.subset(range(0, 4000, 10)), bench.val, {})

    class Stop(Exception): pass
    class Noise:
        def __init__(self, left=None): self.left = left
        def __repr__(self): return "Noise()"
        def __call__(self, x, g):
            if self.left is not None: self.left -= 1
            if self.left == 0: raise Stop
            return x + .01*torch.randn(x.shape, generator=g)
    make = lambda left=None: MaskTune(iterations=2, augment=Noise(left), device="cpu")
    whole = make().fit(erm, small)
    with pytest.raises(Stop): make(6).fit(erm, small, checkpoint=tmp_path)
    assert fingerprint(make().fit(erm, small, checkpoint=tmp_path).model_) == fingerprint(whole.model_)
