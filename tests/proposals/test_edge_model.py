import gzip
from pathlib import Path

import numpy as np
import pytest

from proposals import ProposalError, ProposalSettings, propose


def write_model(path: Path, **options: int) -> Path:
    """Write a forest of one tree: an edge at a patch's centre where the gradient is strong.

    Feature 3 * 256 + 8 * 16 + 8 is the gradient's magnitude at the middle of the 16 x 16 grid.
    """
    values = {
        "stride": 2,
        "shrinkNumber": 2,
        "patchSize": 32,
        "patchInnerSize": 16,
        "numberOfGradientOrientations": 4,
        "gradientSmoothingRadius": 0,
        "regFeatureSmoothingRadius": 2,
        "ssFeatureSmoothingRadius": 8,
        "gradientNormalizationRadius": 4,
        "selfsimilarityGridSize": 5,
        "numberOfTrees": 1,
        "numberOfTreesToEvaluate": 1,
        **options,
    }
    centre = [row * 16 + column for row in (7, 8) for column in (7, 8)] * 12
    lines = ["%YAML:1.0", "options:"]
    lines += [f"    {name}: {value}" for name, value in values.items()]
    lines += ["childs:", "    - [ 2, 0, 0 ]"]
    lines += ["featureIds:", f"    - [ {3 * 256 + 8 * 16 + 8}, 0, 0 ]"]
    lines += ["thresholds:", "    - [ 0.5, 0., 0. ]"]
    lines += ["edgeBoundaries:", f"    - [ 0, 0, 0, {len(centre)} ]"]
    lines += ["edgeBins:", f"    - [ {', '.join(map(str, centre))} ]"]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["model.yml", "model.yml.gz"])
def test_a_model_is_used(tmp_path: Path, name: str) -> None:
    photo = np.full((150, 200, 3), 60, np.uint8)
    photo[40:110, 50:140] = 220
    settings = ProposalSettings(method="edgeboxes", edge_model=write_model(tmp_path / name))
    boxes = propose(photo, settings)
    assert np.abs(boxes[0] - [50, 40, 140, 110]).max() <= 6
    without = propose(photo, ProposalSettings(method="edgeboxes"))
    assert not np.array_equal(boxes, without)


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (33, 31), (17, 300), (600, 4)])
def test_small_photographs_with_a_model(tmp_path: Path, shape: tuple[int, int]) -> None:
    settings = ProposalSettings(method="edgeboxes", edge_model=write_model(tmp_path / "model.yml"))
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    boxes = propose(photo, settings)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [shape[1], shape[0]]).all()


def test_damaged_models(tmp_path: Path) -> None:
    photo = np.zeros((40, 40, 3), np.uint8)
    path = tmp_path / "model.yml"
    whole = write_model(path).read_bytes()
    write_model(path, stride=0)
    contents = [path.read_bytes(), b"", b"no model", whole[: len(whole) // 3], b"%YAML:1.0\na: 1\n"]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ProposalError, match=r"model\.yml: ") as caught:
            propose(photo, ProposalSettings(method="edgeboxes", edge_model=path))
        assert "\n" not in str(caught.value)
