"""Projection and scale choice against the release's own words, in its 1-based coordinates."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_detect.projection import CellGrid, choose_scales, project_windows, unique_rows

ZF5 = CellGrid(stride=16, centre=20.0)
RELEASE_SCALES = np.array([480, 576, 688, 874, 1200], float)
PAPER_SCALES = np.array([480, 576, 688, 864, 1200], float)


def to_release(window):
    """Half-open and 0-based to the release's inclusive and 1-based."""
    x1, y1, x2, y2 = window
    return int(x1) + 1, int(y1) + 1, int(x2), int(y2)


def snap(number: Fraction) -> Fraction:
    """Exact numbers have ties that floating point may miss: leave those to the other tests."""
    nearest = Fraction(round(number))
    if number != nearest and abs(number - nearest) < Fraction(1, 10**9):
        return nearest
    return number


def release_corner(b, s, min_side, offset0, offset, stride):
    b = Fraction((b - 1) * (s - 1), min_side - 1) + 1
    near = snap((b - offset0 + offset) / stride + Fraction(1, 2))
    far = snap((b - offset0 - offset) / stride - Fraction(1, 2))
    return math.floor(near) + 1, math.ceil(far) + 1


def paper_corner(b, s, min_side, centre, stride):
    x = Fraction((b - 1) * (s - 1), min_side - 1) - centre
    return math.floor(x / stride) + 1, math.ceil(x / stride) - 1


def settle(low, high, first, last):
    """Invert to the middle, then clamp to first … last."""
    if low > high:
        low = high = (low + high) // 2
    return min(max(low, first), last), min(max(high, first), last)


def project_by_release(window, s, min_side, map_size, grid):
    x1, y1, x2, y2 = to_release(window)
    offset0 = 1 + Fraction(grid.centre)
    args = (s, min_side, offset0, Fraction(13, 2), grid.stride)
    left, right = settle(release_corner(x1, *args)[0], release_corner(x2, *args)[1], 1, map_size[1])
    top, bottom = settle(release_corner(y1, *args)[0], release_corner(y2, *args)[1], 1, map_size[0])
    return left - 1, top - 1, right - 1, bottom - 1


def project_by_paper(window, s, min_side, map_size, grid):
    x1, y1, x2, y2 = to_release(window)
    args = (s, min_side, Fraction(grid.centre), grid.stride)
    last_x, last_y = map_size[1] - 1, map_size[0] - 1
    left, right = settle(paper_corner(x1, *args)[0], paper_corner(x2, *args)[1], 0, last_x)
    top, bottom = settle(paper_corner(y1, *args)[0], paper_corner(y2, *args)[1], 0, last_y)
    return left, top, right, bottom


REFERENCES = {"release": project_by_release, "paper": project_by_paper}


def random_windows(count, width, height, seed=0, smallest=1):
    rng = np.random.default_rng(seed)
    w = rng.integers(smallest, width + 1, count)
    h = rng.integers(smallest, height + 1, count)
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    return np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)


def project(window, rule="release", grid=ZF5, factor=1.0, map_size=(42, 60)):
    cells = project_windows(np.array([window], np.float32), (factor, 1), map_size, grid, rule)
    assert cells.dtype == np.int32
    return cells[0].tolist()


@pytest.mark.parametrize("rule", ["release", "paper"])
@pytest.mark.parametrize("grid", [ZF5, CellGrid(16, 0.0), CellGrid(16, 7.5)])
@pytest.mark.parametrize(
    ("size", "s", "map_size"), [((500, 375), 688, (42, 56)), ((333, 500), 1200, (112, 74))]
)
def test_equals_the_scalar_reference(rule, grid, size, s, map_size):
    windows = random_windows(1500, *size)
    # Tiny windows too: those invert.
    small = random_windows(500, *size, seed=1)
    small[:, 2:] = np.minimum(small[:, :2] + np.random.default_rng(2).integers(1, 9, (500, 2)), 333)
    small[:, :2] = np.minimum(small[:, :2], small[:, 2:] - 1)
    windows = np.concatenate([windows, small])
    factor = (s - 1) / (min(size) - 1)
    cells = project_windows(windows, (factor, 1), map_size, grid, rule)
    wanted = [REFERENCES[rule](w, s, min(size), map_size, grid) for w in windows]
    np.testing.assert_array_equal(cells, wanted)


@pytest.mark.parametrize("rule", ["release", "paper"])
def test_equals_the_scalar_reference_on_every_short_interval(rule):
    """Unscaled, so that all ties of the roundings are met exactly."""
    windows = np.array(
        [(x, x, x + w, x + w) for x in range(60) for w in range(1, 70)], dtype=np.float32
    )
    for grid in (ZF5, CellGrid(16, 7.5), CellGrid(16, 0.0)):
        cells = project_windows(windows, (1, 1), (9, 7), grid, rule)
        wanted = [REFERENCES[rule](w, 200, 200, (9, 7), grid) for w in windows]
        np.testing.assert_array_equal(cells, wanted)


def test_paper_rule_at_overfeat_stride():
    grid = CellGrid(12, 0.0)
    windows = random_windows(300, 400, 300)
    cells = project_windows(windows, (1, 1), (25, 34), grid, "paper")
    wanted = [project_by_paper(w, 300, 300, (25, 34), grid) for w in windows]
    np.testing.assert_array_equal(cells, wanted)


def test_a_window_holds_the_cells_that_are_centred_in_it():
    """Strictly inside for the paper; within 8 − 6.5 = 1.5 pixels for the release."""
    for rule, margin in (("paper", 0.0), ("release", 1.5)):
        for x1, y1, x2, y2 in random_windows(300, 500, 400, smallest=40):
            left, top, right, bottom = project((x1, y1, x2, y2), rule, map_size=(40, 50))
            columns = [k for k in range(50) if x1 - margin < 20 + 16 * k < x2 - 1 + margin]
            rows = [k for k in range(40) if y1 - margin < 20 + 16 * k < y2 - 1 + margin]
            assert list(range(left, right + 1)) == columns
            assert list(range(top, bottom + 1)) == rows


@pytest.mark.parametrize(
    ("window", "release", "paper"),
    [
        # 1-based 1..100: floor((1-21+6.5)/16+.5)+1 = 0 -> 1; ceil((100-21-6.5)/16-.5)+1 = 6.
        # paper: floor(-20/16)+1 = -1 -> 0; ceil(79/16)-1 = 4.
        ((0, 0, 100, 100), [0, 0, 5, 5], [0, 0, 4, 4]),
        # 1-based 101..300: floor((80+6.5)/16+.5)+1 = 6; ceil((279-6.5)/16-.5)+1 = 18.
        # paper: floor(80/16)+1 = 6; ceil(279/16)-1 = 17.
        ((100, 100, 300, 300), [5, 5, 17, 17], [6, 6, 17, 17]),
        # 1-based 53..232: floor((32+6.5)/16+.5)+1 = 3; ceil((211-6.5)/16-.5)+1 = 14.
        # paper: floor(32/16)+1 = 3; ceil(211/16)-1 = 13.
        ((52, 52, 232, 232), [2, 2, 13, 13], [3, 3, 13, 13]),
        # x and y apart; paper: y floor(-10/16)+1 = 0, ceil(29/16)-1 = 1.
        # 1-based y 11..50: floor((-10+6.5)/16+.5)+1 = 1; ceil((29-6.5)/16-.5)+1 = 2.
        ((100, 10, 300, 50), [5, 0, 17, 1], [6, 0, 17, 1]),
    ],
)
def test_hand_worked_zf5(window, release, paper):
    assert project(window, "release") == release
    assert project(window, "paper") == paper


def test_rescaling_is_between_pixel_centres():
    # 1-based 101..200 at 375 -> 749 is ·2: (100·2+1, 199·2+1) = 201, 399.
    # left floor((201-21+6.5)/16+.5)+1 = 13, right ceil((399-21-6.5)/16-.5)+1 = 24.
    cells = project((100, 100, 200, 200), factor=748 / 374, map_size=(60, 60))
    assert cells == [12, 12, 23, 23]


@pytest.mark.parametrize("rule", ["release", "paper"])
def test_an_inverted_window_is_its_middle_cell(rule):
    # Pixels 110..112 lie between the cells centred on 100 and 116, 5 and 6 from 0:
    # left 6, right 5 -> (6+5) div 2 = 5 (in the release's terms (7+6) div 2 = 6, 1-based).
    assert project((110, 110, 113, 113), rule) == [5, 5, 5, 5]
    # Only the axis that inverts.
    assert project((110, 20, 113, 200), rule)[0::2] == [5, 5]
    assert project((110, 20, 113, 200), rule)[1::2] != [5, 5]


@pytest.mark.parametrize("rule", ["release", "paper"])
def test_an_inverted_window_before_the_first_cell_rounds_down_and_is_clamped(rule):
    # Pixels 7..9 lie before cell 0, between -1 (4) and 0 (20): (0 + -1) div 2 = -1 -> 0.
    assert project((7, 7, 10, 10), rule) == [0, 0, 0, 0]
    # Far right of the map.
    assert project((900, 900, 902, 902), rule, map_size=(10, 12)) == [11, 9, 11, 9]


def test_no_windows():
    for rule in ("release", "paper"):
        cells = project_windows(np.zeros((0, 4), np.float32), (1, 1), (5, 6), ZF5, rule)
        assert cells.shape == (0, 4)
        assert cells.dtype == np.int32


@given(
    x=st.floats(-50, 3000, width=32),
    y=st.floats(-50, 3000, width=32),
    w=st.floats(0.125, 3000, width=32),
    h=st.floats(0.125, 3000, width=32),
    factor=st.floats(0.01, 20),
    height=st.integers(1, 100),
    width=st.integers(1, 100),
    grid=st.sampled_from([ZF5, CellGrid(16, 0.0), CellGrid(16, 7.5), CellGrid(12, 4.0)]),
    rule=st.sampled_from(["release", "paper"]),
)
def test_a_window_is_never_empty_and_inside_the_map(x, y, w, h, factor, height, width, grid, rule):
    left, top, right, bottom = project((x, y, x + w, y + h), rule, grid, factor, (height, width))
    assert 0 <= left <= right < width
    assert 0 <= top <= bottom < height


def test_6_5_instead_of_8_changes_17_9_percent_of_windows_per_axis():
    """A corner changes in 1.5 of 16 pixels: 1 − (14.5/16)² = 0.179 of the pairs of corners."""
    rng = np.random.default_rng(0)
    low = rng.random((40_000, 2)) * 400
    windows = np.hstack([low, low + 40 + rng.random((40_000, 2)) * 400]).astype(np.float32)
    # Pixels −400 is a cell's centre and the map is wide: nothing is clamped.
    grid = CellGrid(16, -400.0)
    release = project_windows(windows, (687, 374), (200, 200), grid, "release")
    paper = project_windows(windows, (687, 374), (200, 200), grid, "paper")
    changed = release != paper
    for first, last in ((0, 2), (1, 3)):
        assert (changed[:, first] | changed[:, last]).mean() == pytest.approx(0.179, abs=0.008)
    assert np.abs(release - paper).max() == 1


def choose_by_release(window, scales, short_side):
    """In 1-based terms: round(13 · 16 · min side / sqrt(area)), the nearest scale, first wins."""
    x1, y1, x2, y2 = to_release(window)
    expected = math.floor(13 * 16 * short_side / math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1)) + 0.5)
    return min(range(len(scales)), key=lambda i: abs(scales[i] - expected))


def choose_by_paper(window, scales, short_side):
    x1, y1, x2, y2 = (int(v) for v in window)
    areas = [Fraction((x2 - x1) * (y2 - y1) * int(s) ** 2, short_side**2) for s in scales]
    return min(range(len(scales)), key=lambda i: abs(areas[i] - 224**2))


@pytest.mark.parametrize(
    ("rule", "scales", "reference"),
    [
        ("release", RELEASE_SCALES, choose_by_release),
        ("paper", PAPER_SCALES, choose_by_paper),
        ("release", RELEASE_SCALES[::-1], choose_by_release),
        ("paper", PAPER_SCALES[2:3], choose_by_paper),
    ],
)
def test_scales_equal_the_scalar_reference(rule, scales, reference):
    windows = random_windows(2000, 500, 333)
    chosen = choose_scales(windows, scales, 333, rule)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == [reference(w, scales, 333) for w in windows]


@pytest.mark.parametrize(
    ("side", "release", "paper"),
    [
        # Short side 400. Release: 208·400/side; paper: side · s/400 squared nearest to 224².
        (50, 4, 4),  # wanted 1664; 60² … 150² all below 224²
        (80, 4, 4),  # wanted 1040, nearer to 1200 (160) than to 874 (166); 240² against 172.8²
        # wanted 832 -> 874; 224² = 50176: 172² = 29584 (688), 216² = 46656 (864)
        (100, 3, 3),
        # wanted 594 -> 576; 201.6² = 40643 (9533 away), 240.8² = 57985 (7809 away) -> 688
        (140, 1, 2),
        (200, 0, 0),  # wanted 416 -> 480; 240² nearest
        (400, 0, 0),
    ],
)
def test_scales_hand_worked(side, release, paper):
    window = np.array([[10, 20, 10 + side, 20 + side]], np.float32)
    assert choose_scales(window, RELEASE_SCALES, 400, "release").tolist() == [release]
    assert choose_scales(window, PAPER_SCALES, 400, "paper").tolist() == [paper]


def squares(sides):
    zeros = np.zeros_like(sides)
    return np.stack([zeros, zeros, sides, sides], axis=1).astype(np.float32)


def test_the_rules_differ_between_their_boundaries_only():
    """Between neighbouring scales a and b the release changes over at 208 / ((a + b) / 2) of the
    short side, the paper at 224 / sqrt((a² + b²) / 2)."""
    sides = np.linspace(30, 750, 20_001)
    release = choose_scales(squares(sides), RELEASE_SCALES, 375, "release")
    paper = choose_scales(squares(sides), PAPER_SCALES, 375, "paper")
    by_release = 375 * 208 / ((RELEASE_SCALES[1:] + RELEASE_SCALES[:-1]) / 2)
    by_paper = 375 * 224 / np.sqrt((PAPER_SCALES[1:] ** 2 + PAPER_SCALES[:-1] ** 2) / 2)
    assert (by_release < by_paper).all()
    between = (sides[:, None] > by_release) & (sides[:, None] < by_paper)
    # The release rounds the side it wants to whole pixels.
    unsure = (np.abs(sides[:, None] / by_release - 1) < 0.5 / 528).any(axis=1)
    unsure |= (np.abs(sides[:, None] / by_paper - 1) < 1e-6).any(axis=1)
    assert unsure.mean() < 0.01
    np.testing.assert_array_equal((release != paper)[~unsure], between.any(axis=1)[~unsure])
    # They agree for 95.7% of sides spread evenly up to twice the short side.
    assert (release == paper).mean() == pytest.approx(0.957, abs=0.01)


def test_scales_of_no_windows():
    for rule in ("release", "paper"):
        assert choose_scales(np.zeros((0, 4), np.float32), PAPER_SCALES, 300, rule).shape == (0,)


def test_a_window_without_area_does_no_harm():
    flat = np.array([[5, 5, 5, 9]], np.float32)
    assert choose_scales(flat, RELEASE_SCALES, 300, "release").tolist() == [4]
    assert 0 <= choose_scales(flat, PAPER_SCALES, 300, "paper")[0] < 5


INT32 = np.iinfo(np.int32)


@given(
    st.sampled_from(
        [
            st.integers(-2, 2),
            st.sampled_from([INT32.min, -1, 0, 1, INT32.max]),  # three spans of 2³² do not fit
            st.sampled_from([0, 1 << 20, (1 << 21) - 1]),  # three of 2²¹ fit exactly
            st.sampled_from([0, 1, 1 << 21]),
        ]
    ).flatmap(lambda value: st.lists(st.lists(value, min_size=3, max_size=3), max_size=40)),
    st.sampled_from([np.int32, np.float32]),
)
def test_unique_rows(rows, kind):
    rows = np.array(rows, kind).reshape(-1, 3)
    first, inverse = unique_rows(rows)
    assert first.dtype == inverse.dtype == np.int64
    assert inverse.shape == (len(rows),)
    np.testing.assert_array_equal(rows[first][inverse], rows)
    assert len({tuple(r) for r in rows.tolist()}) == len(first)
    assert (np.diff(first) > 0).all()
    for k, row in zip(first, rows[first], strict=True):
        assert not (rows[:k] == row).all(axis=1).any()  # the first of its kind


def test_unique_rows_hand_worked():
    first, inverse = unique_rows(np.array([[5, 5], [1, 1], [5, 5], [0, 9], [1, 1]], np.int32))
    assert first.tolist() == [0, 1, 3]
    assert inverse.tolist() == [0, 1, 0, 2, 1]


def test_ties_are_exact():
    """A corner in the middle between two cells, read in fractions; a rounded factor errs here."""
    grid, wrong, ties = CellGrid(16, 20.0), 0, 0
    for short, side in [(251, 576), (133, 688), (235, 688), (375, 688), (375, 874)]:
        corners = np.arange(0, 600)
        windows = np.stack([corners, corners, corners + 81, corners + 81], 1).astype(np.float32)
        cells = project_windows(windows, (side - 1, short - 1), (10**6, 10**6), grid)
        factor = Fraction(side - 1, short - 1)
        for corner, (left, _, right, _) in zip(corners.tolist(), cells.tolist(), strict=True):
            first = (corner * factor - 20 + Fraction(13, 2)) / 16 + Fraction(1, 2)
            last = ((corner + 80) * factor - 20 - Fraction(13, 2)) / 16 - Fraction(1, 2)
            expected = max(0, math.floor(first)), max(0, math.ceil(last))
            if math.floor(first) <= math.ceil(last):
                assert (left, right) == expected
            ties += first.denominator == 1
            rounded = ((side - 1) / (short - 1) * corner - 20 + 6.5) / 16 + 0.5
            wrong += math.floor(rounded) != math.floor(first)
    assert ties > 0
    assert wrong > 0
