"Masks against a plain numpy reference, and what must hold for any of them."

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from masktune.saliency.given_masks import GivenMasks, hidden_shares
from masktune.saliency.maps import SaliencyMaps
from masktune.saliency.masking import random_squares, relocate_masks
from masktune.saliency.masking import threshold_maps, upsample_maps

maps = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(2, 9)),
    elements=st.floats(0, 1, width=16),
)
sizes = st.tuples(st.integers(9, 40), st.integers(9, 40))


def reference(heat, k, over):
    "The rule of the released code, one image at a time: (mask, distance of each place from the threshold)"
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


@given(st.integers(20, 60), st.integers(20, 60), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_squares_have_their_sides(H, W, seed):
    many = random_squares(40, (H, W), torch.Generator().manual_seed(seed))
    low, high = round(H / 14), round(H / 2)
    rows, columns = many.any(2).sum(1), many.any(1).sum(1)
    assert many.shape == (40, H, W) and rows.max() <= high and columns.max() <= high
    assert many.flatten(1).sum(1).equal(rows * columns), "one rectangle each"
    whole = (rows == columns) & (rows >= low)
    assert whole.any() or low == 0


def test_a_rule_that_means_nothing_is_refused():
    heat = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    for wrong in (
        dict(n_std=float("nan")),
        dict(n_std=float("inf")),
        dict(top_fraction=1.5),
        dict(stats_over="everything"),
        dict(threshold_at="pixels"),
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            threshold_maps(heat, (8, 8), **wrong)


def test_saliency_masks_and_given_masks_count_alike():
    "One count stands behind the mean share, the blank images and what a history says"
    values = torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    values[0] = 0
    looked = SaliencyMaps(values, torch.ones(6).bool(), (8, 12), {})
    masks = looked.masks(top_fraction=0.25)
    held = GivenMasks(masks[torch.arange(6)])
    expected = masks[torch.arange(6)].flatten(1).sum(1)
    for found in (masks, held):
        assert found.hidden_pixels().equal(expected) and expected[0] == 0
        assert found.masked_fraction() == expected.sum().item() / (6 * 8 * 12)
        assert hidden_shares(found, 6) == (found.masked_fraction(), 1 / 6)
