"""Fixtures that several packages' tests share."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


# Modules that take a minute and more begin first, so that no process ends with one alone.
LONGEST = ("test_detecting.py", "test_whole.py", "test_documents.py", "test_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long modules begin first; skip what is marked with `gpu` where torch sees none."""
    last = len(LONGEST)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, last))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch sees no GPU"))


@pytest.fixture(scope="session")
def mini_voc() -> Path:
    """The 800 real photographs; the test skips where they are not."""
    root = SHARED / "voc2007-mini" / "VOCdevkit" / "VOC2007"
    if not root.is_dir():
        pytest.skip("the real photographs of ../shared are not here")
    return root


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of ImageNet-trained trunks; the test skips where it is not."""
    root = SHARED / "weights"
    if not root.is_dir():
        pytest.skip("the weights of ../shared are not here")
    return root
