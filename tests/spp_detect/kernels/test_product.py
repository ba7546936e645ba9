"""Products of features and weights against those in double precision."""

import numpy as np
import pytest
import torch

from spp_detect.kernels import product
from spp_detect.kernels.product import multiply_pairs, multiply_rows

KINDS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_rows_keep_the_accuracy_of_floats(kind, count):
    torch.manual_seed(0)
    rows, weights = torch.randn(count, 700).relu().to(kind), torch.randn(5, 700).T
    wanted = rows.double() @ weights.double()
    found = multiply_rows(rows, weights)
    assert found.dtype == torch.float32
    assert found.shape == (count, 5)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)
    # To round the weights, too, would be another thing.
    rounded = rows.double() @ weights.bfloat16().double()
    assert count == 0 or (found - rounded).abs().max() > 100 * (found - wanted).abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_pairs(kind, in_order, whole, monkeypatch):
    """By the kernel and by the product of all, with weights in either order of memory."""
    monkeypatch.setattr(product, "MOST_PAIRS", 0.0 if whole else 9.0)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    rows, weights = torch.randn(40, 333).to(kind), torch.randn(3, 333, 4)
    chosen, classes = rng.integers(0, 40, 200), rng.integers(0, 3, 200)
    if in_order:
        weights = weights.transpose(1, 2).contiguous().transpose(1, 2)
        classes.sort()
    wanted = np.array(
        [
            rows[r].double().numpy() @ weights[c].double().numpy()
            for r, c in zip(chosen, classes, strict=True)
        ]
    )
    found = multiply_pairs(rows, weights, chosen, classes)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-4)


def test_no_pairs():
    none = np.empty(0, np.int64)
    assert multiply_pairs(torch.zeros(5, 9), torch.zeros(2, 9, 4), none, none).shape == (0, 4)
    assert multiply_pairs(torch.zeros(0, 9), torch.zeros(2, 9, 4), none, none).shape == (0, 4)
