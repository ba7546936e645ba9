"""Memory used again: only when nothing refers to it."""

import gc

import numpy as np
import torch

from spp_detect.kernels.memory import Recycler


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_a_result_is_gone():
    recycler = Recycler()
    first = recycler.take((5, 6), np.float32)
    where = address(first)
    del first
    assert address(recycler.take((3, 4), np.int16)) == where


def test_what_is_still_seen_is_never_given_again():
    recycler = Recycler()
    for view in (
        lambda a: a,
        lambda a: a[2:4, ::2],
        lambda a: a.view(np.int16)[1:],
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a).view(torch.int32)[3:].T,
        lambda a: torch.from_numpy(a)[1].numpy(),
    ):
        array = recycler.take((50, 60), np.float32)
        array[:] = 7
        seen = view(array)
        before = np.asarray(seen).copy()
        del array
        gc.collect()
        for _ in range(3):
            recycler.take((50, 60), np.float32)[:] = 9
        np.testing.assert_array_equal(np.asarray(seen), before)


def test_no_more_than_the_largest_piece_is_kept():
    recycler = Recycler()
    small, large, middle = (recycler.take((n,), np.float64) for n in (10, 1000, 100))
    where = address(large)
    del small, large, middle
    assert sum(map(len, recycler._kept)) == 8000
    assert address(recycler.take((500,), np.float64)) == where


def test_empty_results():
    recycler = Recycler()
    assert recycler.take((0, 12), np.float32).shape == (0, 12)
    assert recycler.take((3, 4), np.float32).shape == (3, 4)
