"What a network loses on other backgrounds: the gaps and the Backgrounds Challenge."

import json

import pytest
import torch

from masktune.data.split import Split
from masktune.evaluation.backgrounds import bg_gap, challenge_scores, to_in9


def test_bg_gap_and_the_map_to_nine(tmp_path):
    assert bg_gap(
        {"mixed_same": 0.862, "mixed_rand": 0.789, "original": 0.956}
    ) == pytest.approx(0.073)
    file = tmp_path / "in_to_in9.json"
    file.write_text(
        json.dumps({str(i): -1 if i > 300 else i % 9 for i in range(1000)})
    )
    assert to_in9(torch.tensor([0, 10, 301]), file).tolist() == [0, 1, -1]
    file.write_text("{}")
    with pytest.raises(ValueError, match="each of the classes 0 to 999"):
        to_in9(torch.tensor([0]), file)
    with pytest.raises(FileNotFoundError, match="backgrounds_challenge"):
        to_in9(torch.tensor([0]), tmp_path / "gone.json")


def test_the_challenge_counts_what_is_right_on_every_background():
    """Foregrounds 0, 1, 2 of classes 0, 1, 1 in the middle.

    The classifier says class 0 on a ground brighter than 99 + 50·foreground: foreground 1 is
    fooled by grounds 160 and 220, foreground 2 by 220 alone.
    """
    fronts = torch.zeros(3, 3, 6, 6, dtype=torch.uint8)
    fronts[:, :, 2:4, 2:4] = torch.tensor([0, 1, 2], dtype=torch.uint8).view(
        3, 1, 1, 1
    )
    masks = torch.zeros(3, 6, 6, dtype=torch.bool)
    masks[:, 2:4, 2:4] = True
    grounds = (
        torch.tensor([10, 160, 220, 90], dtype=torch.uint8)
        .view(4, 1, 1, 1)
        .expand(4, 3, 6, 6)
    )
    originals, seen = Split.from_tensors(fronts, [0, 1, 1]), []

    def classify(x):
        seen.append(len(x))
        front, ground = x[:, 0, 2, 2].long(), x[:, 0, 0, 0].long()
        assert (
            x.dtype == torch.uint8
            and x[:, :, 2:4, 2:4].eq(front.byte().view(-1, 1, 1, 1)).all()
        )
        return ((front > 0) & (ground <= 99 + 50 * front)).long()

    for size in (1, 3, 256):
        assert challenge_scores(
            classify, originals, masks, Split.from_tensors(grounds, [0] * 4), size
        ).tolist() == [True, False, False]
    assert challenge_scores(
        classify, originals, masks, Split.from_tensors(grounds[:2], [0] * 2)
    ).tolist() == [True, False, True]
    seen.clear()
    challenge_scores(
        classify,
        originals.subset([1, 1]),
        masks[1:],
        Split.from_tensors(grounds, [0] * 4),
        1,
    )
    assert (
        len(seen) == 2 + 1
    )  # the ground that fools the first is tried first on the second
