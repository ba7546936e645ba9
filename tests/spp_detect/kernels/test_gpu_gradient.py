"""The gradient of the window pooling on a GPU, in Triton's interpreter, beside the CPU's."""

from __future__ import annotations

import importlib
from itertools import product

import numpy as np
import pytest
import torch

from spp_detect.kernels import PoolWindows, pool_windows

LEVELS = [(6, 3, 2, 1), (1,), (4, 3), (3, 6), (2, 8, 4, 4), (3, 3, 1)]
SIZES = [(1, 1), (1, 9), (7, 2), (6, 6), (9, 10)]
TYPES = [torch.float32, torch.float16, torch.bfloat16]
FEW = 8  # channels of a program here: the interpreter is slow
CHANNELS = [3, FEW + 2]
WINDOWS = 2


@pytest.fixture
def interpreted(interpreted_gpu):
    """The class whose kernels are decorated for Triton's interpreter."""
    from spp_detect.kernels import gpu_gradient

    interpreted_gpu.CHANNELS = FEW
    return importlib.reload(gpu_gradient).PoolWindowsOnGpu


def draw_cells(height, width, count=WINDOWS):
    rng = np.random.default_rng(0)
    x = np.sort(rng.integers(0, width, (count, 2)), axis=1)
    y = np.sort(rng.integers(0, height, (count, 2)), axis=1)
    cells = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    cells[-1] = 0, 0, width - 1, height - 1
    return torch.from_numpy(cells.astype(np.int32))


def draw_values(kind, shape):
    """Different values; many that are equal; zeros of both signs among negative values."""
    generator = torch.Generator().manual_seed(0)
    if kind == "different":
        return torch.randperm(np.prod(shape), generator=generator).reshape(shape) / 7 - 20
    if kind == "equal":
        return torch.randint(0, 3, shape, generator=generator).float()
    values = torch.randint(-2, 1, shape, generator=generator).float()
    values[::2] *= -1.0
    return values.clamp_(max=0)


def differentiate(function, values, cells, levels, weights):
    leaf = values.clone().requires_grad_()
    pooled = function.apply(leaf, cells, levels)
    pooled.backward(weights)
    return pooled.detach(), leaf.grad


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("dtype", TYPES)
def test_equals_the_cpus(interpreted, levels, dtype):
    """Of all sizes, channels and kinds of values; with the others 540 combinations."""
    for size, channels, kind in product(SIZES, CHANNELS, ["different", "equal", "zeros"]):
        cells = draw_cells(*size)
        values = draw_values(kind, (*size, channels)).to(dtype)
        length = channels * sum(n * n for n in levels)
        generator = torch.Generator().manual_seed(1)
        # Small whole numbers: every sum is exact, in any order.
        weights = torch.randint(-3, 4, (len(cells), length), generator=generator).to(dtype)
        ours, gradient = differentiate(interpreted, values, cells, levels, weights)
        theirs, wanted = differentiate(PoolWindows, values, cells, levels, weights)
        assert ours.dtype == gradient.dtype == dtype
        assert torch.equal(ours, theirs) and torch.equal(gradient, wanted), (size, channels, kind)


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_gradients_of_any_size_are_exact_to_the_last_digits(interpreted, factor):
    values, cells = draw_values("different", (6, 7, 5)), draw_cells(6, 7, 10)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn((10, 5 * 50), generator=generator) * factor
    _, gradient = differentiate(interpreted, values, cells, (6, 3, 2, 1), weights)
    leaf = values.double().requires_grad_()
    pool_windows(leaf, cells, (6, 3, 2, 1)).backward(weights.double())
    torch.testing.assert_close(gradient, leaf.grad.float(), rtol=2e-7, atol=1e-9 * factor)


def test_the_order_of_windows_changes_nothing(interpreted):
    values, cells = draw_values("equal", (9, 8, 4)), draw_cells(9, 8, 20)
    weights = torch.randn((20, 4 * 14), generator=torch.Generator().manual_seed(1))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    _, one = differentiate(interpreted, values, cells, (3, 2, 1), weights)
    _, other = differentiate(interpreted, values, cells[order], (3, 2, 1), weights[order])
    assert torch.equal(one, other)


def test_by_differences(interpreted):
    values = draw_values("different", (3, 4, 1)).double().requires_grad_()
    cells = draw_cells(3, 4, 2)
    assert torch.autograd.gradcheck(lambda m: interpreted.apply(m, cells, (2, 1)), values)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_what_is_not_finite_is_told(interpreted, bad):
    values, cells = draw_values("different", (4, 5, 2)), draw_cells(4, 5, 3)
    weights = torch.ones((3, 2 * 5))
    weights[1, 1] = bad
    _, gradient = differentiate(interpreted, values, cells, (2, 1), weights)
    assert gradient.isnan().all()


def test_zeros_and_no_windows_give_zeros(interpreted):
    values = draw_values("different", (4, 5, 2))
    for cells in (draw_cells(4, 5, 3), torch.zeros((0, 4), dtype=torch.int32)):
        weights = torch.zeros((len(cells), 2 * 5))
        assert not differentiate(interpreted, values, cells, (2, 1), weights)[1].any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*TYPES, torch.float64])
def test_on_the_gpu(dtype):
    values, cells = draw_values("different", (40, 50, 80)).to(dtype), draw_cells(40, 50, 300)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randint(-3, 4, (300, 80 * 50), generator=generator).to(dtype)
    _, wanted = differentiate(PoolWindows, values, cells, (6, 3, 2, 1), weights)
    leaf = values.cuda().requires_grad_()
    pool_windows(leaf, cells.cuda(), (6, 3, 2, 1)).backward(weights.cuda())
    assert torch.equal(leaf.grad.cpu(), wanted)
