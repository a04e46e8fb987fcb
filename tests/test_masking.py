"Masks against a plain numpy reference, and what must hold for any of them."

import numpy as np
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from masktune.saliency.masking import apply_mask, relocate_masks, threshold_maps
from masktune.saliency.masking import upsample_maps
from masktune.training.augment import Augment, View

maps = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(2, 9)),
    elements=st.floats(0, 1, width=16),
)
sizes = st.tuples(st.integers(9, 40), st.integers(9, 40))


def reference(heat, k, over):
    "The rule as the released code has it, one image at a time: (mask, how far each place is from the threshold)"
    values = heat[heat > 0] if over == "positive" else heat.ravel()
    if not len(values):
        return np.zeros(heat.shape, bool), np.ones(heat.shape)
    tau = values.mean() + k * values.std()
    return heat > tau, np.abs(heat - tau)


@given(maps, sizes, st.floats(-1, 4), st.sampled_from(["positive", "all"]))
@settings(max_examples=200, deadline=None)
def test_threshold_is_the_numpy_rule(m, size, k, over):
    m = torch.from_numpy(m.copy())
    got = threshold_maps(m, size, k, over).numpy()
    for heat, mask in zip(upsample_maps(m, size).double().numpy(), got):
        expected, margin = reference(heat, k, over)
        sure = (
            margin > 1e-5
        )  # float32 against float64 decides what lies on the threshold itself
        assert (mask == expected)[sure].all()


@given(maps, sizes, st.floats(-1, 4), st.sampled_from(["positive", "all"]))
@settings(max_examples=100, deadline=None)
def test_threshold_at_features(m, size, k, over):
    m = torch.from_numpy(m.copy())
    got = threshold_maps(m, size, k, over, threshold_at="features")
    for heat, mask in zip(m.double().numpy(), got.numpy()):
        expected, margin = reference(heat, k, over)
        if (margin < 1e-5).any():
            continue
        rows, cols = (
            np.floor(np.arange(n) * h / n).astype(int)
            for n, h in zip(size, heat.shape)
        )
        assert (mask == expected[np.ix_(rows, cols)]).all()


@given(maps, sizes, st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_top_hides_the_hottest(m, size, top):
    m = torch.from_numpy(m.copy())
    heat, mask = upsample_maps(m, size), threshold_maps(m, size, top_fraction=top)
    for h, k in zip(heat, mask):
        assert k.sum() == min(round(top * h.numel()), int((h > 0).sum()))
        if k.any() and not k.all():
            assert h[k].min() >= h[~k].max()


@given(
    arrays(
        bool, st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(2, 12))
    ),
    st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_a_moved_mask_keeps_its_shape(mask, seed):
    moved = relocate_masks(
        torch.from_numpy(mask.copy()), torch.Generator().manual_seed(seed)
    ).numpy()

    def shape(m):
        ys, xs = np.nonzero(m)
        return (
            m[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            if len(ys)
            else np.zeros((0, 0), bool)
        )

    assert all(np.array_equal(shape(a), shape(b)) for a, b in zip(mask, moved))


@given(
    st.integers(40, 90), st.integers(40, 90), st.integers(8, 30), st.integers(0, 10)
)
@settings(max_examples=100, deadline=None)
def test_a_view_knows_its_place(H, W, crop, margin):
    view = View(crop, crop + margin)
    ramp = torch.stack(
        torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    )[None]
    seen, (top, left, bottom, right) = view(ramp), view.box(H, W)
    assert (
        seen.shape[2:] == (crop, crop)
        and 0 <= top < bottom <= H
        and 0 <= left < right <= W
    )
    cell = min(H, W) / (
        crop + margin
    )  # one pixel of the view, in pixels of the picture
    assert (
        abs(seen[0, 0, 0, 0] - top) < 1.5 * cell + 1
        and abs(seen[0, 1, -1, -1] - right) < 1.5 * cell + 1
    )


def test_what_is_hidden_stays_hidden():
    picture = torch.full((1, 3, 40, 56), 0.3)
    picture[:, :, 5:12, 30:44] = 1.0
    mask = picture[:, 0] == 1
    rough = Augment(scale=(0.2, 1), degrees=90, shift=0.3, pad=5)
    seen = rough(
        apply_mask(picture, mask).expand(1000, -1, -1, -1),
        torch.Generator().manual_seed(0),
    )
    assert seen.max() <= 0.3 + 1e-6
    bare = rough(picture.expand(1000, -1, -1, -1), torch.Generator().manual_seed(0))
    assert (bare.amax((1, 2, 3)) > 0.9).float().mean() > 0.5, (
        "without the mask it does show"
    )
