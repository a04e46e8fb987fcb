"Views and augmentation: where a view is taken, and that what is masked stays masked."

import torch
from hypothesis import given, settings, strategies as st

from masktune.saliency.masking import apply_mask
from masktune.training.augment import Augment, View


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
