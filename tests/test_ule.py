"ULE: the student is plain ERM, the teacher looks elsewhere, and a killed run ends with the same bits."

import pytest
import torch

from interrupted import Interrupted, Stop
from masktune.core.files import fingerprint
from masktune.data.glyphs import make_glyphs
from masktune.data.batches import Batch
from masktune.methods.erm import ERM
from masktune.methods.ule import ULE, _Pair, input_gradient, opposite_distance
from masktune.models.zoo import create_model

SMALL = dict(epochs=2, batch_size=32, device="cpu")


@pytest.fixture(scope="module")
def bench():
    return make_glyphs("CG", "border", n=160, size=24)


def loss_of(method, pair, x, y):
    return method._loss(None, pair, Batch(x, y, y, y))


def test_the_student_is_erm_to_the_bit(bench):
    net = create_model("small_cnn", 2)
    before = fingerprint(net)
    ule, erm = ULE(**SMALL).fit(net, bench), ERM(**SMALL).fit(net, bench)
    assert (
        fingerprint(ule.student_)
        == fingerprint(erm.last_)
        != fingerprint(ule.model_)
    )
    assert (
        fingerprint(net) == before
        and not ule.model_.untrained
        and not ule.student_.untrained
    )
    assert fingerprint(ULE(**SMALL).fit(net, bench).model_) == fingerprint(
        ule.model_
    )


def test_no_gradient_reaches_the_student_from_the_saliency_term(bench):
    b = next(bench.train.batches(16))
    grads = []
    for weight in (0.0, 50.0):
        pair = _Pair(
            create_model("small_cnn", 2), create_model("small_cnn", 2, seed=1)
        ).train()
        loss_of(ULE(weight=weight), pair, b.x, b.y).backward()
        grads.append(
            [
                torch.cat([p.grad.flatten() for p in net.parameters()])
                for net in (pair.student, pair.teacher)
            ]
        )
    (s0, t0), (s1, t1) = grads
    assert s0.equal(s1) and not t0.allclose(t1, atol=1e-3)


@pytest.mark.parametrize("opposite", ["sign", "magnitude"])
def test_the_term_is_differentiated_twice_and_rightly(opposite):
    "The teacher's gradient against finite differences, in double precision"
    torch_rng = torch.Generator().manual_seed(0)
    x, y = (
        torch.rand(4, 3, 20, 20, generator=torch_rng, dtype=torch.double),
        torch.tensor([0, 1, 1, 0]),
    )
    pair = _Pair(
        create_model("resnet32", 2).double(),
        create_model("resnet32", 2, seed=1).double(),
    ).eval()
    method = ULE(weight=3.0, opposite=opposite, saliency_fraction=1.0)
    w = pair.teacher.head.weight
    loss_of(method, pair, x, y).backward()
    for at in ((0, 3), (1, 40)):

        def moved(step, at=at):
            with torch.no_grad():
                w[at] += step
            value = loss_of(method, pair, x, y).item()
            with torch.no_grad():
                w[at] -= step
            return value

        assert (moved(1e-4) - moved(-1e-4)) / 2e-4 == pytest.approx(
            w.grad[at].item(), rel=2e-2, abs=1e-3
        )


def test_input_gradients_of_a_linear_network_are_its_weights():
    W = torch.tensor([[1.0, -4.0, 2.0], [3.0, 0.0, 1.0]])
    x = torch.rand(
        2, 3, 1, 1, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    g = input_gradient(x.flatten(1) @ W.T, x, torch.tensor([0, 1]))
    assert g.allclose(torch.tensor([[0.25, -1.0, 0.5], [1.0, 0.0, 1 / 3]]))


def test_the_scale_does_not_depend_on_the_size_of_the_image():
    t, s = (
        torch.randn(3, 12, generator=torch.Generator().manual_seed(0)),
        torch.randn(3, 12, generator=torch.Generator().manual_seed(1)),
    )
    for opposite in ("sign", "magnitude"):
        assert opposite_distance(t.repeat(1, 9), s.repeat(1, 9), opposite).allclose(
            opposite_distance(t, s, opposite)
        )
    assert opposite_distance(-s, s) == 0 and opposite_distance(s, s).allclose(
        torch.tensor(4.0)
    )


def test_the_teacher_has_less_gradient_in_the_planted_square_than_its_student():
    bench = make_glyphs("CG", "square", n=320, size=24, spurious_correlation=1.0)
    m = ULE(epochs=4, batch_size=32, device="cpu").fit(
        create_model("small_cnn", 2), bench
    )
    b = next(bench.tests["aligned"].batches(80))

    def inside(net):
        x = b.x.clone().requires_grad_()
        g = input_gradient(net(x), x, b.y).view_as(x).square()
        return (g[:, :, :3, :3].sum((1, 2, 3)) / g.sum((1, 2, 3))).mean().item()

    assert inside(m.model_) < 0.5 * inside(m.student_)


def test_a_killed_run_ends_with_the_same_bits(bench, tmp_path):
    def make(left=None):
        return ULE(augment=Interrupted(left), optimizer="adamw", lr=1e-3, **SMALL)

    whole, net = (
        make().fit(create_model("small_cnn", 2), bench),
        create_model("small_cnn", 2),
    )
    with pytest.raises(Stop):
        make(8).fit(net, bench, checkpoint=tmp_path)
    again = make().fit(net, bench, checkpoint=tmp_path)
    assert fingerprint(again.model_, again.student_) == fingerprint(
        whole.model_, whole.student_
    ) and again.history_.equals(whole.history_)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_batches_too_small_to_share(bench, size):
    b = next(bench.train.batches(size))
    pair = _Pair(
        create_model("small_cnn", 2), create_model("small_cnn", 2, seed=1)
    ).train()
    assert loss_of(ULE(), pair, b.x, b.y).isfinite()


def test_attention_can_be_trained(bench):
    pytest.importorskip("timm")
    net = create_model("timm/vit_tiny_patch16_224", 2)
    x, y = (
        torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 0, 1]),
    )
    pair = _Pair(net, create_model("timm/vit_tiny_patch16_224", 2, seed=1)).train()
    loss_of(ULE(saliency_fraction=0.5), pair, x, y).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in pair.teacher.head.parameters()
    )


def test_it_refuses_before_it_trains(bench):
    for wrong, said in (
        (dict(opposite="reverse"), "opposite='reverse' is not known"),
        (dict(saliency_fraction=50), "between 0 and 1"),
        (dict(compile=True), "differentiates twice"),
    ):
        with pytest.raises(ValueError, match=said):
            ULE(**wrong).fit(create_model("small_cnn", 2), bench)
