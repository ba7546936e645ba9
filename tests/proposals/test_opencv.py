import cv2
import numpy as np
import pytest

import proposals.opencv
from proposals import METHODS, ProposalError, ProposalSettings, check_opencv, propose
from proposals.opencv import search_opencv


def test_this_installation_is_whole() -> None:
    check_opencv()


def test_two_builds_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"opencv-python": "4.9.0.80", "opencv-contrib-python-headless": "4.9.0.80"}

    def version(name: str) -> str:
        if name not in installed:
            raise proposals.opencv.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(proposals.opencv.importlib.metadata, "version", version)
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(ProposalError) as caught:
        check_opencv()
    text = str(caught.value)
    assert "\n" not in text
    assert "opencv-python 4.9.0.80, opencv-contrib-python-headless 4.9.0.80" in text
    assert (
        "pip uninstall -y opencv-python opencv-contrib-python-headless && "
        "pip install --force-reinstall opencv-contrib-python-headless"
    ) in text


@pytest.mark.filterwarnings("ignore:Applying `local_binary_pattern`")
def test_propose_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc")
    photo = np.zeros((4, 4, 3), np.uint8)
    for method in METHODS:
        if not method.startswith(("opencv", "edge")):
            assert len(propose(photo, ProposalSettings(method=method))) == 1
            continue
        with pytest.raises(ProposalError, match="ximgproc"):
            propose(photo, ProposalSettings(method=method))


def test_an_old_opencv_would_not_fail_on_elongated_photographs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenCV sees no ratio above 2, so the failure above 1 + sqrt(2) cannot come up."""
    seen = []
    create = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation

    class Spy:
        def __init__(self) -> None:
            self.search = create()

        def setBaseImage(self, photo: np.ndarray) -> None:  # noqa: N802
            seen.append(photo.shape[:2])
            self.search.setBaseImage(photo)

        def __getattr__(self, name: str) -> object:
            return getattr(self.search, name)

    monkeypatch.setattr(cv2.ximgproc.segmentation, "createSelectiveSearchSegmentation", Spy)
    for shape in ((1, 1), (1, 500), (33, 100), (100, 33), (400, 161)):
        search_opencv(np.zeros((*shape, 3), np.uint8), "fast")
    assert len(seen) == 5
    assert all(max(size) <= 2 * min(size) for size in seen)
