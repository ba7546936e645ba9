"""Window pooling, each device's, against cropped maps and torchvision's RoI pooling."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.ops import roi_pool

from spp_detect.kernels import pool_on_cpu, pool_on_maps, pool_windows, pool_with_torch
from spp_detect.kernels import reference as reference_module

LEVELS = [(6, 3, 2, 1), (1,), (4, 3), (5, 2, 1), (7, 6, 3, 2, 1), (3, 6)]


@pytest.fixture(autouse=True)
def one_thread():
    """Many small poolings: where other work is going on, torch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pool_crops(feature_map, cells, levels):
    """Crop each window and pool it with torch's adaptive pooling."""
    rows = []
    for left, top, right, bottom in cells.tolist():
        crop = feature_map[top : bottom + 1, left : right + 1].permute(2, 0, 1).contiguous()
        rows.append(torch.cat([functional.adaptive_max_pool2d(crop, n).flatten() for n in levels]))
    return torch.stack(rows)


def both(feature_map, cells, levels):
    """The two implementations' results, checked equal to the last bit."""
    with_torch = pool_with_torch(feature_map, cells, levels)
    on_cpu = pool_on_cpu(feature_map, cells, levels)
    assert with_torch.dtype == on_cpu.dtype == feature_map.dtype
    assert torch.equal(with_torch, on_cpu)
    return on_cpu


def random_map(height, width, channels, seed=0):
    """Positive and negative values, as before a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((height, width, channels), generator=generator) - 0.5


def random_cells(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.integers(0, width, (count, 2)), axis=1)
    y = np.sort(rng.integers(0, height, (count, 2)), axis=1)
    return torch.from_numpy(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.int32))


def special_cells(height, width):
    """The whole map, its borders, its corners, one row, one column."""
    x, y = width - 1, height - 1
    return torch.tensor(
        [
            (0, 0, x, y),
            *((0, 0, x, 0), (0, y, x, y), (0, 0, 0, y), (x, 0, x, y)),
            *((0, 0, 0, 0), (x, 0, x, 0), (0, y, 0, y), (x, y, x, y)),
            *((0, y // 2, x, y // 2), (x // 2, 0, x // 2, y), (x // 2, y // 2, x, y)),
        ],
        dtype=torch.int32,
    )


@pytest.mark.parametrize("levels", LEVELS)
def test_equals_adaptive_pooling_of_the_crops(levels):
    feature_map = random_map(23, 31, 5)
    cells = torch.cat([random_cells(1500, 23, 31), special_cells(23, 31)])
    assert torch.equal(both(feature_map, cells, levels), pool_crops(feature_map, cells, levels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", LEVELS)
def test_half_precision_loses_nothing(dtype, levels):
    """Pooling chooses among values, so halves are pooled as their floats are."""
    halves = random_map(23, 31, 5).to(dtype)
    cells = torch.cat([random_cells(300, 23, 31), special_cells(23, 31)])
    assert torch.equal(
        both(halves, cells, levels).float(), pool_crops(halves.float(), cells, levels)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_values(dtype):
    info = torch.finfo(dtype)
    extremes = [0.0, -0.0, info.tiny, -info.tiny, info.smallest_normal / 2, info.max, info.min, 1.0]
    values = torch.tensor([*extremes, torch.inf, -torch.inf], dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    feature_map = values[torch.randint(len(values), (9, 11, 4), generator=generator)]
    cells = torch.cat([random_cells(200, 9, 11), special_cells(9, 11)])
    wanted = pool_crops(feature_map.float(), cells, (6, 3, 2, 1))
    assert torch.equal(both(feature_map, cells, (6, 3, 2, 1)).float(), wanted)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (6, 6), (16, 17), (74, 99)])
def test_maps_of_any_size(size):
    feature_map = random_map(*size, 3, seed=1)
    cells = torch.cat([random_cells(60, *size, seed=1), special_cells(*size)])
    for levels in ((6, 3, 2, 1), (4, 3)):
        assert torch.equal(both(feature_map, cells, levels), pool_crops(feature_map, cells, levels))


def test_every_window_of_a_small_map():
    height, width = 7, 8
    feature_map = random_map(height, width, 2, seed=2)
    cells = torch.tensor(
        [
            (left, top, right, bottom)
            for left in range(width)
            for right in range(left, width)
            for top in range(height)
            for bottom in range(top, height)
        ],
        dtype=torch.int32,
    )
    assert torch.equal(
        both(feature_map, cells, (5, 2, 1)), pool_crops(feature_map, cells, (5, 2, 1))
    )


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    levels=st.lists(st.integers(1, 8), min_size=1, max_size=4).map(tuple),
    seed=st.integers(0, 999),
)
def test_any_levels(height, width, levels, seed):
    feature_map = random_map(height, width, 2, seed)
    cells = random_cells(8, height, width, seed)
    assert torch.equal(both(feature_map, cells, levels), pool_crops(feature_map, cells, levels))


@pytest.mark.parametrize("levels", LEVELS)
def test_equals_roi_pool_fed_cells(levels):
    feature_map = random_map(30, 40, 4, seed=3)
    cells = torch.cat([random_cells(400, 30, 40, seed=3), special_cells(30, 40)])
    rois = torch.cat([torch.zeros(len(cells), 1), cells.float()], dim=1)
    nchw = feature_map.permute(2, 0, 1)[None].contiguous()
    wanted = torch.cat([roi_pool(nchw, rois, n, 1.0).flatten(1) for n in levels], dim=1)
    assert torch.equal(both(feature_map, cells, levels), wanted)


def test_order_level_after_level_and_channel_major():
    """A 6 × 6 map whose cell (y, x) of channel c holds 100 c + 6 y + x: all bins are known."""
    plane = torch.arange(36.0).reshape(6, 6)
    feature_map = torch.stack([plane, plane + 100], dim=2)
    pooled = both(feature_map, torch.tensor([[0, 0, 5, 5]], dtype=torch.int32), (6, 3, 2, 1))[0]
    level_6 = [*range(36), *range(100, 136)]
    level_3 = [7, 9, 11, 19, 21, 23, 31, 33, 35]
    level_2 = [14, 17, 32, 35]
    wanted = [
        *level_6,
        *level_3,
        *(v + 100 for v in level_3),
        *level_2,
        *(v + 100 for v in level_2),
        35,
        135,
    ]
    assert pooled.tolist() == wanted


def test_order_of_levels_is_as_given():
    feature_map = torch.arange(36.0).reshape(6, 6, 1)
    whole = torch.tensor([[0, 0, 5, 5]], dtype=torch.int32)
    assert both(feature_map, whole, (1, 2))[0].tolist() == [35, 14, 17, 32, 35]


def test_ten_cells_make_six_bins():
    """Windows of ceil(10/6) = 2 every floor(10/6) = 1 cells, as in section 2.3, would make nine."""
    feature_map = torch.arange(10.0)[None, :, None]
    pooled = both(feature_map, torch.tensor([[0, 0, 9, 0]], dtype=torch.int32), (6,))
    assert pooled.shape == (1, 36)
    # Ends ceil((i+1)·10/6) = 2, 4, 5, 7, 9, 10: the largest value is that of the last cell.
    assert pooled.reshape(6, 6)[0].tolist() == [1, 3, 4, 6, 8, 9]


def test_fewer_cells_than_bins_overlap():
    feature_map = torch.tensor([3.0, -1.0, 2.0])[None, :, None]
    pooled = both(feature_map, torch.tensor([[0, 0, 2, 0]], dtype=torch.int32), (4,))
    # Bins [0,1) [0,2) [1,3) [2,3) of three cells.
    assert pooled.reshape(4, 4)[0].tolist() == [3, 3, 2, 2]


def test_negative_maps_stay_negative():
    """A running maximum that starts at 0 would hide them."""
    feature_map = -random_map(9, 11, 3, seed=4).abs() - 1
    cells = torch.cat([random_cells(50, 9, 11, seed=4), special_cells(9, 11)])
    pooled = both(feature_map, cells, (6, 3, 2, 1))
    assert (pooled < 0).all()
    assert torch.equal(pooled, pool_crops(feature_map, cells, (6, 3, 2, 1)))


def test_no_windows():
    none = torch.zeros((0, 4), dtype=torch.int32)
    feature_map = random_map(4, 5, 3)
    assert both(feature_map, none, (6, 3, 2, 1)).shape == (0, 150)
    assert pool_windows(feature_map, none, (2,)).shape == (0, 12)


def test_the_face_takes_maps_with_and_without_gradient():
    feature_map, cells = random_map(9, 10, 3), random_cells(20, 9, 10)
    plain = pool_windows(feature_map, cells, (3, 1))
    leaf = feature_map.clone().requires_grad_()
    traced = pool_windows(leaf, cells, (3, 1))
    assert not plain.requires_grad
    assert traced.requires_grad
    assert torch.equal(plain, traced)


def test_maps_that_are_not_contiguous():
    feature_map = random_map(9, 10, 6)
    cells = random_cells(20, 9, 5)
    wanted = pool_crops(feature_map[:, ::2, 1:4], cells, (3, 1))
    assert torch.equal(both(feature_map[:, ::2, 1:4], cells, (3, 1)), wanted)
    assert torch.equal(pool_windows(feature_map[:, ::2, 1:4], cells, (3, 1)), wanted)


def test_chunks_change_nothing(monkeypatch):
    feature_map, cells = random_map(12, 13, 4), random_cells(57, 12, 13)
    whole = pool_with_torch(feature_map, cells, (3, 2))
    monkeypatch.setattr(reference_module, "CHUNK_VALUES", 4 * 13 * 4 * 10)  # ten windows a chunk
    assert torch.equal(pool_with_torch(feature_map, cells, (3, 2)), whole)


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (4, 3), (2,)])
def test_gradient_equals_that_of_the_crops(levels):
    generator = torch.Generator().manual_seed(5)
    values = torch.randperm(9 * 8 * 2, generator=generator).double()  # all different: no ties
    cells = torch.cat([random_cells(40, 9, 8, seed=5), special_cells(9, 8)])
    gradients = []
    for pool in (pool_with_torch, pool_crops):
        feature_map = values.reshape(9, 8, 2).clone().requires_grad_()
        pooled = pool(feature_map, cells, levels)
        weights = torch.arange(pooled.numel(), dtype=torch.float64).reshape(pooled.shape) % 7 + 1
        (pooled * weights).sum().backward()
        gradients.append(feature_map.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().sum() > 0


def test_gradient_by_differences():
    generator = torch.Generator().manual_seed(6)
    values = torch.randperm(5 * 4 * 2, generator=generator).double().reshape(5, 4, 2)
    cells = torch.tensor(
        [(0, 0, 3, 4), (1, 1, 2, 3), (2, 2, 2, 2), (0, 1, 3, 1)], dtype=torch.int32
    )
    assert torch.autograd.gradcheck(
        lambda m: pool_with_torch(m, cells, (3, 2, 1)), values.requires_grad_()
    )


def pool_on_gpu(gpu, feature_map, cells, levels):
    return gpu.pool_on_gpu([feature_map], torch.zeros_like(cells[:, 0]), cells, levels)


MAPS = [random_map(*size, 5, seed) for seed, size in enumerate([(23, 31), (1, 9), (12, 7)])]


def place_on_maps(count):
    """Windows of several maps mixed, and what each is pooled into."""
    numbers = torch.randint(len(MAPS), (count,), generator=torch.Generator().manual_seed(0))
    each = [random_cells(1, *MAPS[n].shape[:2], seed=i) for i, n in enumerate(numbers.tolist())]
    rows = [pool_crops(MAPS[n], own, (6, 3)) for n, own in zip(numbers.tolist(), each, strict=True)]
    return numbers, torch.cat(each), torch.cat(rows)


def test_windows_of_several_maps():
    numbers, cells, wanted = place_on_maps(60)
    assert len(numbers.unique()) == len(MAPS)
    assert torch.equal(pool_on_maps(MAPS, numbers, cells, (6, 3)), wanted)
    assert pool_on_maps(MAPS, numbers[:0], cells[:0], (6, 3)).shape == (0, wanted.shape[1])


@pytest.mark.parametrize("most", [0, 1 << 30])
def test_the_gpus_kernel_takes_windows_of_several_maps(interpreted_gpu, monkeypatch, most):
    monkeypatch.setattr(interpreted_gpu, "MOST_TABLES", most)
    numbers, cells, wanted = place_on_maps(15)
    assert len(numbers.unique()) == len(MAPS)
    assert torch.equal(interpreted_gpu.pool_on_gpu(MAPS, numbers, cells, (6, 3)), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_gpus_kernel_equals_pooling_of_the_crops(interpreted_gpu, dtype):
    feature_map = random_map(23, 31, 5).to(dtype)
    cells = torch.cat([random_cells(6, 23, 31), special_cells(23, 31)])
    for levels in LEVELS:
        wanted = pool_crops(feature_map.float(), cells, levels)
        assert torch.equal(pool_on_gpu(interpreted_gpu, feature_map, cells, levels).float(), wanted)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (74, 99)])
def test_the_gpus_kernel_on_more_channels_than_a_programs(interpreted_gpu, size):
    feature_map = random_map(*size, interpreted_gpu.CHANNELS + 3, seed=1)
    cells = torch.cat([random_cells(5, *size, seed=1), special_cells(*size)])
    wanted = pool_crops(feature_map, cells, (6, 3, 2, 1))
    assert torch.equal(pool_on_gpu(interpreted_gpu, feature_map, cells, (6, 3, 2, 1)), wanted)


def test_the_gpus_kernel_without_windows(interpreted_gpu):
    none = torch.zeros((0, 4), dtype=torch.int32)
    assert pool_on_gpu(interpreted_gpu, random_map(4, 5, 3), none, (6, 1)).shape == (0, 111)


@pytest.mark.parametrize("most", [0, 4 * 23 * 31 * 5, 4 * 23 * 31 * 5 * 9, 1 << 30])
def test_the_gpus_tables_of_a_large_map_are_fewer(interpreted_gpu, monkeypatch, most):
    monkeypatch.setattr(interpreted_gpu, "MOST_TABLES", most)
    feature_map = random_map(23, 31, 5)
    depth = interpreted_gpu.choose_depth([feature_map])
    assert depth == {0: 1, 4 * 23 * 31 * 5: 1, 4 * 23 * 31 * 5 * 9: 3, 1 << 30: 4}[most]
    cells = torch.cat([random_cells(6, 23, 31), special_cells(23, 31)])
    wanted = pool_crops(feature_map, cells, (6, 3, 2, 1))
    assert torch.equal(pool_on_gpu(interpreted_gpu, feature_map, cells, (6, 3, 2, 1)), wanted)


GPUS = [75, 90]  # without instructions for bfloat16, and an H100


def compile_kernel(kernel, pointers, numbers, constants, capability):
    """Compile a kernel for a GPU that need not be here."""
    triton = pytest.importorskip("triton")
    signature = pointers | dict.fromkeys(numbers, "i32") | dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(kernel, signature, constants)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target).asm["cubin"]


def find_constants(side, values):
    gpu = importlib.import_module("spp_detect.kernels.gpu")
    feature_map = torch.zeros((2, 2, 4), dtype=values)
    none = torch.zeros((0, 4), dtype=torch.int32)
    return gpu.lay_out(feature_map, none, (side, 1))[2]


@pytest.mark.parametrize("capability", GPUS)
@pytest.mark.parametrize("side", [6, 1])
def test_the_gpus_kernel_compiles_without_a_gpu(capability, side):
    pytest.importorskip("triton")
    from spp_detect.kernels import gpu

    names = ("tables", "places", "numbers", "cells", "levels", "pooled")
    pointers = dict(zip(names, ("*bf16", "*i64", *["*i32"] * 3, "*bf16"), strict=True))
    constants = find_constants(side, torch.bfloat16) | {"DEPTH": gpu.DEPTH}
    assert compile_kernel(gpu._pool, pointers, ("channels", "length"), constants, capability)


@pytest.mark.parametrize("capability", GPUS)
@pytest.mark.parametrize("values", ["bf16", "fp16", "fp32", "fp64"])
def test_the_gpus_gradient_compiles_without_a_gpu(capability, values):
    pytest.importorskip("triton")
    from spp_detect.kernels import gpu_gradient

    names = ("feature_map", "cells", "levels", "pooled", "gradient", "scale", "sums")
    types = (f"*{values}", "*i32", "*i32", f"*{values}", f"*{values}", "*fp64", "*i64")
    constants = find_constants(6, torch.float64 if values == "fp64" else torch.float32)
    pointers, numbers = dict(zip(names, types, strict=True)), ("width", "channels", "length")
    assert compile_kernel(gpu_gradient._add_to_cells, pointers, numbers, constants, capability)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_the_gpu(dtype):
    feature_map, cells = random_map(40, 50, 80).to(dtype), random_cells(500, 40, 50)
    pooled = pool_windows(feature_map.cuda(), cells.cuda(), (6, 3, 2, 1))
    assert pooled.dtype == dtype
    wanted = pool_crops(feature_map.float(), cells, (6, 3, 2, 1))
    assert torch.equal(pooled.cpu().float(), wanted)
