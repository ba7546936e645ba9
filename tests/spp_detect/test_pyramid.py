"""The pyramid as a module over whole maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_detect import SpatialPyramidPool
from spp_detect.pyramid import DEFAULT_LEVELS, check_levels


def pool_slowly(plane, n):
    """Bins floor(i·h/n) … ceil((i+1)·h/n) of one channel, cell by cell."""
    h, w = plane.shape
    return [
        max(
            plane[y, x]
            for y in range(i * h // n, -(-(i + 1) * h // n))
            for x in range(j * w // n, -(-(j + 1) * w // n))
        )
        for i in range(n)
        for j in range(n)
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (5, 5), (13, 13), (10, 31)])
@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (1,), (4, 3)])
def test_whole_maps_against_loops(size, levels):
    maps = np.random.default_rng(0).normal(-1, 1, (2, 3, *size)).astype(np.float32)
    pooled = SpatialPyramidPool(levels)(torch.from_numpy(maps))
    wanted = [[v for n in levels for plane in one for v in pool_slowly(plane, n)] for one in maps]
    assert pooled.shape == (2, 3 * sum(n * n for n in levels))
    np.testing.assert_array_equal(pooled.numpy(), np.array(wanted))


def test_one_length_for_maps_of_all_sizes():
    pyramid = SpatialPyramidPool()
    assert pyramid.levels == DEFAULT_LEVELS == (6, 3, 2, 1)
    assert pyramid.bins == 50
    for size in [(1, 1), (10, 10), (13, 13), (42, 63)]:
        assert pyramid(torch.zeros(1, 256, *size)).shape == (1, 12_800)


def test_first_level_is_an_alexnets_fc6_input():
    """The 6 × 6 level first and channel-major: a 6 × 6 map's first columns are its flatten."""
    maps = torch.randn(2, 256, 6, 6)
    assert torch.equal(SpatialPyramidPool()(maps)[:, :9216], maps.flatten(1))


def test_a_whole_map_is_one_window_of_it():
    pyramid = SpatialPyramidPool((5, 2))
    maps = torch.randn(1, 4, 11, 8)
    whole = torch.tensor([[0, 0, 7, 10]], dtype=torch.int32)
    channels_last = maps[0].permute(1, 2, 0).contiguous()
    assert torch.equal(pyramid.pool_windows(channels_last, whole), pyramid(maps))


def test_gradient_reaches_the_largest_cells_only():
    maps = torch.arange(16.0).reshape(1, 1, 4, 4).requires_grad_()
    SpatialPyramidPool((2, 1))(maps).sum().backward()
    wanted = torch.zeros(4, 4)
    wanted[1, 1] = wanted[1, 3] = wanted[3, 1] = 1
    wanted[3, 3] = 2  # of level 2's last bin and of level 1
    assert torch.equal(maps.grad[0, 0], wanted)


def test_trains_inside_a_network():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), SpatialPyramidPool((2, 1)), torch.nn.Linear(20, 2)
    )
    for size in ((9, 17), (30, 8)):
        net.zero_grad()
        net(torch.randn(2, 3, *size)).square().sum().backward()
        assert net[0].weight.grad.abs().sum() > 0


def test_holds_no_weights():
    pyramid = SpatialPyramidPool()
    assert pyramid.state_dict() == {}
    assert list(pyramid.parameters()) == []
    assert "6, 3, 2, 1" in repr(pyramid)


@pytest.mark.parametrize(
    "levels", [(), (0,), (6, -1), (2.0,), ("3",), (True,), (3, None)], ids=repr
)
def test_bad_levels(levels):
    with pytest.raises(ValueError, match=r"pyramid levels .*: expected positive integers"):
        SpatialPyramidPool(levels)


def test_levels_become_a_tuple():
    assert check_levels([3, 1]) == (3, 1)
    assert SpatialPyramidPool([3, 1]).levels == (3, 1)
