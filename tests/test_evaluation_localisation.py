"The pointing game against counting by hand."

import pytest
import torch

from masktune.evaluation.localisation import pointing_game
from masktune.saliency.maps import SaliencyMaps


def test_maps_and_plain_tensors_agree():
    generator = torch.Generator().manual_seed(0)
    heat = torch.rand(600, 7, 7, generator=generator)
    region = torch.zeros(28, 28, dtype=torch.bool)
    region[4:12, 8:20] = True
    maps = SaliencyMaps(heat, torch.ones(600).bool(), (28, 28), {})
    found = pointing_game(maps, region)
    assert found == pointing_game(heat, region)
    large = torch.nn.functional.interpolate(
        heat[:, None], (28, 28), mode="bilinear"
    )
    hits, energy = 0, 0.0
    for h in large[:, 0]:
        row, column = divmod(int(h.argmax()), 28)
        hits += bool(region[row, column])
        energy += float(h[region].sum() / h.sum())
    assert found["pointing"] == hits / 600
    assert found["energy"] == pytest.approx(energy / 600, abs=1e-5)


def test_blank_maps_and_wrong_shapes():
    blank = torch.zeros(2, 4, 4)
    assert pointing_game(blank, torch.ones(8, 8).bool())["energy"] == 0
    with pytest.raises(ValueError, match=r"region has the shape \(3, 8, 8\)"):
        pointing_game(blank, torch.ones(3, 8, 8).bool())
    with pytest.raises(
        ValueError, match="maps must be SaliencyMaps or an N×h×w tensor"
    ):
        pointing_game(blank[0], torch.ones(8, 8).bool())
