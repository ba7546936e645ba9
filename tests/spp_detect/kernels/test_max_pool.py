"""Max pooling of maps against torch's, and the layers that use it."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from spp_detect.backbones import BACKBONES, build_backbone
from spp_detect.kernels import max_pool
from spp_detect.kernels.max_pool import pool_maps


def random_maps(shape, dtype=torch.float32, seed=0):
    """Of either sign, with ties, large and small numbers and infinities."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-9, 9, shape, generator=generator).float()
    maps *= torch.randint(0, 2, shape, generator=generator) * 1e30 + 1e-30
    maps[torch.rand(shape, generator=generator) < 0.05] = -torch.inf
    maps[torch.rand(shape, generator=generator) < 0.01] = torch.inf
    return maps.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def without_torch(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("torch pooled")

    monkeypatch.setattr(max_pool.functional, "max_pool2d", refuse)


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(1, 3),
    channels=st.integers(2, 19),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    kernel=st.integers(1, 6),
    stride=st.integers(1, 5),
    padding=st.integers(0, 3),
    ceil_mode=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_equals_torch_to_the_bit(
    count, channels, height, width, kernel, stride, padding, ceil_mode, dtype, seed
):
    padding = min(padding, kernel // 2)
    if min(height, width) + 2 * padding < kernel:
        return  # torch refuses
    maps = random_maps((count, channels, height, width), dtype, seed)
    wanted = functional.max_pool2d(maps, kernel, stride, padding, ceil_mode=ceil_mode)
    found = pool_maps(maps, kernel, stride, padding, ceil_mode)
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    assert torch.equal(found, wanted)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 64, 86, 125), (8, 64, 28, 28), (0, 64, 9, 9)])
def test_at_a_trunks_sizes_without_torch(shape, dtype, without_torch):
    maps = random_maps(shape, dtype)
    wanted = torch.max_pool2d(maps, 3, 2, 1)
    assert torch.equal(pool_maps(maps, 3, 2, 1, False), wanted)


def test_hand_worked():
    maps = (
        torch.arange(20.0).reshape(1, 1, 4, 5).expand(1, 2, 4, 5)
        * torch.tensor([1.0, -1.0])[None, :, None, None]
    )
    maps = maps.contiguous(memory_format=torch.channels_last)
    pooled = pool_maps(maps, 3, 2, 1, False)
    assert pooled[0, 0].tolist() == [[6, 8, 9], [16, 18, 19]]
    assert pooled[0, 1].tolist() == [[0, -1, -3], [-5, -6, -8]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_and_layouts_go_to_torch(dtype):
    maps = random_maps((2, 3, 9, 8))
    other = maps.double().clamp(-9, 9).to(dtype)
    assert torch.equal(pool_maps(other, 3, 2, 1, True), torch.max_pool2d(other, 3, 2, 1, 1, True))
    rows_first = maps.contiguous()
    pooled = pool_maps(rows_first, 3, 2, 1, False)
    assert torch.equal(pooled, torch.max_pool2d(maps, 3, 2, 1))
    assert pooled.is_contiguous()


def test_a_gradient_comes_through():
    maps = random_maps((1, 4, 7, 9)).clamp(-9, 9).requires_grad_()
    pooled = pool_maps(maps, 3, 2, 1, False)
    pooled.sum().backward()
    assert maps.grad.sum() == pooled.numel()


def test_what_it_gave_is_not_overwritten():
    maps = [random_maps((1, 8, 20, 20), seed=seed) for seed in range(3)]
    pooled = [pool_maps(one, 3, 2, 1, False) for one in maps]
    for one, found in zip(maps, pooled, strict=True):
        assert torch.equal(found, functional.max_pool2d(one, 3, 2, 1))


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_trunks_pool_by_it_and_compute_what_they_did(name):
    torch.manual_seed(0)
    trunk = build_backbone(name).to(memory_format=torch.channels_last)
    pixels = torch.randn(2, 3, 97, 112).contiguous(memory_format=torch.channels_last)
    pools = [layer for layer in trunk.modules() if isinstance(layer, nn.MaxPool2d)]
    with torch.inference_mode():
        found = trunk(pixels)
        for layer in pools:
            assert type(layer) is not nn.MaxPool2d
            layer.forward = partial(nn.MaxPool2d.forward, layer)
        wanted = trunk(pixels)
    assert torch.equal(found, wanted)
