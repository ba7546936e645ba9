import threading
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from proposals import METHODS, ProposalError, ProposalSettings, measure_recall, propose

pytestmark = pytest.mark.filterwarnings("ignore:Applying `local_binary_pattern`")


def check_boxes(boxes: np.ndarray, photo: np.ndarray, settings: ProposalSettings) -> None:
    height, width = photo.shape[:2]
    assert boxes.dtype == np.float32
    assert boxes.ndim == 2
    assert boxes.shape[1] == 4
    assert 1 <= len(boxes) <= settings.max_windows
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides > 0).all()
    assert (sides[:, 0] >= min(settings.min_side, width)).all()
    assert (sides[:, 1] >= min(settings.min_side, height)).all()


def draw_square(height: int = 120, width: int = 160) -> np.ndarray:
    """Return a grey photograph with a red object at 40 30 100 80."""
    photo = np.full((height, width, 3), 120, np.uint8)
    photo[30:80, 40:100] = (200, 30, 30)
    return photo


SIZES = [
    (1, 1), (1, 2), (2, 1), (3, 3), (1, 500), (500, 1), (15, 15), (16, 33), (10, 30),
    (20, 500), (500, 20), (100, 243), (243, 100), (107, 342), (227, 640), (20, 2000), (2000, 3),
]  # fmt: skip


@pytest.mark.parametrize("method", ["opencv-fast", "alpacadb", "edgeboxes"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_size(method: str, height: int, width: int) -> None:
    settings = ProposalSettings(method=method)
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8)
    photos = [
        np.full((height, width, 3), 255, np.uint8),
        np.kron(blocks, np.ones((40, 40, 1), np.uint8))[:height, :width],
    ]
    for photo in photos:
        check_boxes(propose(photo, settings), photo, settings)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 90), (50, 150)])
def test_sizes_of_quality(height: int, width: int) -> None:
    settings = ProposalSettings(method="opencv-quality")
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    check_boxes(propose(photo, settings), photo, settings)


@pytest.mark.parametrize("method", METHODS)
def test_flat_photograph_gives_the_whole(method: str) -> None:
    boxes = propose(np.full((60, 90, 3), 77, np.uint8), ProposalSettings(method=method))
    np.testing.assert_array_equal(boxes, [[0, 0, 90, 60]])


@pytest.mark.parametrize("method", [m for m in METHODS if m != "edgeboxes"])
def test_selective_search_finds_the_square_to_the_pixel(method: str) -> None:
    boxes = propose(draw_square(), ProposalSettings(method=method))
    distance = np.abs(boxes - [40, 30, 100, 80]).max(axis=1).min()
    # The smoothing before the segmentation moves the border by at most a pixel.
    assert distance <= 1


def test_edge_boxes_find_the_square() -> None:
    boxes = propose(draw_square(), ProposalSettings(method="edgeboxes"))
    found = measure_recall([boxes[:50]], [[[40, 30, 100, 80]]], [0.7])
    assert found.recalls[0] == 1


def test_edge_boxes_are_not_shifted() -> None:
    # Best boxes around squares anywhere: equally far outside on all four sides, on average.
    generator = np.random.default_rng(0)
    residuals = []
    for _ in range(12):
        left, top = generator.integers(12, 60, 2)
        width, height = generator.integers(60, 110, 2)
        photo = np.full((200, 200, 3), 100, np.uint8)
        photo[top : top + height, left : left + width] = 220
        boxes = propose(photo, ProposalSettings(method="edgeboxes"))
        residuals.append(boxes[0] - [left, top, left + width, top + height])
    x1, y1, x2, y2 = np.mean(residuals, axis=0)
    assert abs(x1 + x2) < 0.8
    assert abs(y1 + y2) < 0.8


@pytest.mark.parametrize("method", ["opencv-fast", "alpacadb", "edgeboxes"])
def test_large_photograph_is_searched_small(method: str) -> None:
    photo = cv2.resize(draw_square(), (2000, 1500), interpolation=cv2.INTER_NEAREST)
    settings = ProposalSettings(method=method)
    boxes = propose(photo, settings)
    check_boxes(boxes, photo, settings)
    truth = np.array([[40, 30, 100, 80]]) * 12.5
    assert measure_recall([boxes], [truth], [0.75]).recalls[0] == 1


def test_max_windows_cuts_the_same_order() -> None:
    photo = np.kron(
        np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8),
        np.ones((25, 25, 1), np.uint8),
    )
    for method in ("opencv-fast", "edgeboxes"):
        whole = propose(photo, ProposalSettings(method=method))
        assert len(whole) > 20
        first = propose(photo, ProposalSettings(method=method, max_windows=7))
        np.testing.assert_array_equal(first, whole[:7])


@pytest.mark.parametrize("method", ["opencv-fast", "opencv-dense"])
def test_seed_changes_the_order_only(method: str) -> None:
    photo = np.kron(
        np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8),
        np.ones((25, 25, 1), np.uint8),
    )
    first, second = (propose(photo, ProposalSettings(method=method, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.unique(first, axis=0), np.unique(second, axis=0))


@pytest.mark.parametrize(
    "photo",
    [
        None,
        [[[1, 2, 3]]],
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_wrong_photographs(photo: object) -> None:
    with pytest.raises(ProposalError, match="expected uint8"):
        propose(photo)  # type: ignore[arg-type]


def test_strided_and_read_only_photographs() -> None:
    photo = draw_square()
    expected = propose(photo)
    strided = np.ascontiguousarray(photo[:, ::-1])[:, ::-1]
    strided.setflags(write=False)
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(propose(strided), expected)


def read_photograph(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    photo = np.asarray(Image.open(root / "JPEGImages" / f"{name}.jpg").convert("RGB"))
    truths = []
    for thing in ElementTree.parse(root / "Annotations" / f"{name}.xml").iter("object"):
        if thing.findtext("difficult") == "1":
            continue
        x1, y1, x2, y2 = (
            float(thing.findtext(f"bndbox/{side}") or 0)
            for side in ("xmin", "ymin", "xmax", "ymax")
        )
        truths.append([x1 - 1, y1 - 1, x2, y2])
    return photo, np.array(truths).reshape(-1, 4)


def read_photographs(root: Path, count: int) -> tuple[list, list]:
    names = (root / "ImageSets/Main/test.txt").read_text().split()
    pairs = [read_photograph(root, name) for name in names[: 20 * count : 20]]
    return [photo for photo, _ in pairs], [truth for _, truth in pairs]


@lru_cache(maxsize=1)
def search_default(root: Path) -> tuple[list, list, list]:
    photos, truths = read_photographs(root, 8)
    with ThreadPoolExecutor(2) as pool:
        return photos, truths, list(pool.map(propose, photos))


@pytest.mark.parametrize(
    ("method", "count", "at_50", "average"),
    [
        ("selective-search-dense", 8, 0.85, 0.45),
        ("selective-search", 8, 0.85, 0.45),
        ("opencv-fast", 8, 0.85, 0.45),
        ("opencv-quality", 1, 0.85, 0.45),
        ("alpacadb", 2, 0.5, 0.2),
        ("edgeboxes", 8, 0.85, 0.4),
    ],
)
def test_recall_on_real_photographs(
    mini_voc: Path, method: str, count: int, at_50: float, average: float
) -> None:
    photos, truths, boxes = search_default(mini_voc)
    if method != ProposalSettings().method:
        settings = ProposalSettings(method=method)
        boxes = [propose(photo, settings) for photo in photos[:count]]
    found = measure_recall(boxes, truths[:count])
    assert found.objects >= count
    assert found.at_50 > at_50
    assert found.average > average


def test_recall_is_not_much_below_opencvs(mini_voc: Path) -> None:
    """Over 10 photographs, so chance has its say; results/ has it over 200."""
    photos, truths = read_photographs(mini_voc, 10)
    ours, theirs = (
        [propose(photo, ProposalSettings(method=method)) for photo in photos]
        for method in ("selective-search", "opencv-fast")
    )
    for best in (1000, 2000):
        found, wanted = (
            measure_recall([one[:best] for one in windows], truths) for windows in (ours, theirs)
        )
        assert found.at_50 >= wanted.at_50 - 0.03
        assert found.average >= wanted.average - 0.03


def test_threads_and_history_change_nothing(mini_voc: Path) -> None:
    photos, _, in_two_threads = search_default(mini_voc)
    before = cv2.getNumThreads()
    np.testing.assert_array_equal(propose(photos[1]), in_two_threads[1])
    result: list = []
    thread = threading.Thread(target=lambda: result.append(propose(photos[2])))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(result[0], in_two_threads[2])
    assert cv2.getNumThreads() == before
