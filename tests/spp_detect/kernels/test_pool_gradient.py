"""The gradient of the window pooling: against torch's own on cropped maps, and by differences."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from torch.nn import functional

from spp_detect.kernels import pool_windows, pool_with_torch

LEVELS = [(6, 3, 2, 1), (1,), (4, 3), (3, 6), (2, 8, 4, 4), (3, 3, 1)]


def random_cells(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.integers(0, width, (count, 2)), axis=1)
    y = np.sort(rng.integers(0, height, (count, 2)), axis=1)
    return torch.from_numpy(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.int32))


def pool_crops(feature_map, cells, levels):
    rows = []
    for left, top, right, bottom in cells.tolist():
        crop = feature_map[top : bottom + 1, left : right + 1].permute(2, 0, 1)
        rows.append(torch.cat([functional.adaptive_max_pool2d(crop, n).flatten() for n in levels]))
    return torch.stack(rows)


def gradient_of(pool, values, cells, levels):
    """The pooled features, and the map's gradient under random weights on them."""
    feature_map = values.clone().requires_grad_()
    pooled = pool(feature_map, cells, levels)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    (pooled * weights.to(pooled.dtype)).sum().backward()
    return pooled.detach(), feature_map.grad


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_gradient_of_adaptive_pooling(levels, dtype):
    values = torch.randn((13, 17, 6), generator=torch.Generator().manual_seed(0)).to(dtype)
    cells = random_cells(120, 13, 17)
    ours, gradient = gradient_of(pool_windows, values, cells, levels)
    theirs, expected = gradient_of(pool_crops, values, cells, levels)
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_any_number_of_windows(count):
    """The backward pass takes three at a time."""
    values = torch.randn((13, 17, 6), generator=torch.Generator().manual_seed(0)).double()
    cells = random_cells(count, 13, 17)
    _, gradient = gradient_of(pool_windows, values, cells, (6, 3, 2, 1))
    _, expected = gradient_of(pool_crops, values, cells, (6, 3, 2, 1))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("levels", LEVELS)
def test_ties_go_where_torch_sends_them(levels):
    """After a ReLU whole bins are zero."""
    values = torch.randint(0, 3, (11, 9, 4), generator=torch.Generator().manual_seed(0)).float()
    cells = random_cells(80, 11, 9)
    _, gradient = gradient_of(pool_windows, values, cells, levels)
    _, expected = gradient_of(pool_crops, values, cells, levels)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("height", [256, 257])
def test_the_last_cell_that_16_bits_can_number_and_the_next(height):
    values = torch.randn((height, 256, 1), generator=torch.Generator().manual_seed(0))
    values[-1, -1] = 9
    cells = torch.tensor([[0, 0, 255, height - 1], [200, 250, 255, height - 1]], dtype=torch.int32)
    _, gradient = gradient_of(pool_windows, values, cells, (3, 1))
    _, expected = gradient_of(pool_crops, values, cells, (3, 1))
    torch.testing.assert_close(gradient, expected)
    assert gradient[-1, -1] != 0


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_gradients_in_half_precision_are_summed_in_float32(dtype, rtol):
    values = torch.randn((13, 17, 6), generator=torch.Generator().manual_seed(0)).to(dtype)
    cells = random_cells(40, 13, 17)
    leaf, floats = values.clone().requires_grad_(), values.float().requires_grad_()
    ours, theirs = pool_windows(leaf, cells, (6, 3, 2, 1)), pool_crops(floats, cells, (6, 3, 2, 1))
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours.backward(weights)
    theirs.backward(weights.float())
    assert torch.equal(ours.float(), theirs)
    torch.testing.assert_close(leaf.grad, floats.grad.to(dtype), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", LEVELS)
def test_ties_in_half_precision(levels, dtype):
    """-0 equals 0, and negative values order as others do."""
    values = torch.randint(-2, 2, (11, 9, 4), generator=torch.Generator().manual_seed(0)) * -0.0
    values += torch.randint(-3, 1, (11, 9, 4), generator=torch.Generator().manual_seed(1))
    values[::2] *= -1.0
    values.clamp_(max=0)
    assert (values.eq(0) & values.signbit()).any() and (values.eq(0) & ~values.signbit()).any()
    cells = random_cells(20, 11, 9)
    leaf, floats = values.to(dtype).requires_grad_(), values.clone().requires_grad_()
    ours, theirs = pool_windows(leaf, cells, levels), pool_crops(floats, cells, levels)
    # Small whole numbers: every sum is exact.
    weights = torch.randint(-1, 2, ours.shape, generator=torch.Generator().manual_seed(2))
    ours.backward(weights.to(dtype))
    theirs.backward(weights.float())
    assert torch.equal(ours.float(), theirs)
    assert torch.equal(leaf.grad.float(), floats.grad)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_share_the_channels(monkeypatch, threads):
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    values = torch.randn((9, 8, 41), generator=torch.Generator().manual_seed(0))
    cells = random_cells(20, 9, 8)
    _, gradient = gradient_of(pool_windows, values, cells, (3, 2, 1))
    _, expected = gradient_of(pool_crops, values, cells, (3, 2, 1))
    torch.testing.assert_close(gradient, expected)


def test_several_poolings_before_a_backward_pass():
    """The memory of one is not another's while its gradient is awaited."""
    maps = [torch.randn((9, 8, 4), generator=torch.Generator().manual_seed(s)) for s in range(3)]
    cells = random_cells(30, 9, 8)
    leaves = [one.clone().requires_grad_() for one in maps]
    pooled = [pool_windows(leaf, cells, (3, 1)) for leaf in leaves]
    for one in pooled:
        (one**2).sum().backward(retain_graph=True)
    for leaf, one in zip(leaves, maps, strict=True):
        wanted = one.clone().requires_grad_()
        (pool_crops(wanted, cells, (3, 1)) ** 2).sum().backward()
        torch.testing.assert_close(leaf.grad, wanted.grad)


def test_gradient_by_differences():
    order = torch.randperm(6 * 7 * 2, generator=torch.Generator().manual_seed(0))
    values = order.double().reshape(6, 7, 2).requires_grad_()
    cells = random_cells(6, 6, 7)
    assert torch.autograd.gradcheck(lambda m: pool_windows(m, cells, (3, 2, 1)), values)


def test_a_hand_worked_gradient():
    """A row 1 5 2 in one bin: the middle cell gets the bin's gradient, and that of its own bin."""
    feature_map = torch.tensor([[[1.0], [5.0], [2.0]]], requires_grad=True)
    pooled = pool_windows(feature_map, torch.tensor([[0, 0, 2, 0]], dtype=torch.int32), (1,))
    (3 * pooled).sum().backward()
    assert feature_map.grad.flatten().tolist() == [0.0, 3.0, 0.0]


def test_without_windows_the_gradient_is_zero():
    feature_map = torch.ones((3, 4, 2), requires_grad=True)
    pooled = pool_windows(feature_map, torch.zeros((0, 4), dtype=torch.int32), (2, 1))
    assert pooled.shape == (0, 10)
    pooled.sum().backward()
    assert feature_map.grad.abs().sum() == 0


def test_no_gradient_where_none_is_wanted():
    feature_map = torch.ones((3, 4, 2), requires_grad=True)
    cells = torch.tensor([[0, 0, 3, 2]], dtype=torch.int32)
    with torch.no_grad():
        assert not pool_windows(feature_map, cells, (2, 1)).requires_grad
    assert torch.equal(
        pool_windows(feature_map, cells, (2, 1)), pool_with_torch(feature_map, cells, (2, 1))
    )
