"""ONNX graphs: run by onnxruntime and NumPy alone, beside the detector."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from data import read_photo
from spp_detect import cli, export
from spp_detect.backbones import build_backbone
from spp_detect.config import make_config
from spp_detect.detector import Detector
from spp_detect.export import ExportError, export_onnx, has_exact_bins
from spp_detect.extractors import make_extractor
from spp_detect.fc import build_fc
from spp_detect.heads import Heads

pytest.importorskip("onnxruntime")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def make_detector(backbone="small5", seed=0, **changes):
    """Of random weights in float32: two classes, a scale."""
    torch.manual_seed(seed)
    settings = {"scales": (200,), "precision": "float32", "fc_width": 24} | changes
    config = make_config(backbone=backbone, **settings)
    extractor = make_extractor(build_backbone(backbone), config, torch.device("cpu"))
    fc = build_fc(config, extractor.length)
    described = fc.length if fc else extractor.length
    softmax = config.scores == "softmax"
    heads = Heads.empty(2, extractor.length, described, softmax=softmax)
    for values in heads.buffers():
        values.normal_(0, 0.03)
    return Detector(config, ("cat", "dog"), extractor, heads, fc)


def read_example():
    """The function that the documentation has for those without torch."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    names = {}
    exec(block, names)
    return names["score_windows"]


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("small5", {}),
        ("small5", {"feature": "fc7", "levels": (4, 2)}),
        ("small5", {"feature": "fc7", "scores": "softmax"}),
        ("zf5", {}),
        ("mobilenet_v3_large", {}),
    ],
)
def test_graphs_score_as_the_detector(tmp_path, small_set, backbone, changes):
    detector = make_detector(backbone, **changes)
    export_onnx(detector, tmp_path / "graphs")
    photo = read_photo(small_set.photographs[0].path)
    random = np.random.default_rng(1)
    corners = np.sort(random.random((60, 2, 2)), axis=1) * photo.shape[1::-1]
    windows = corners.reshape(-1, 4).astype(np.float32)
    windows[:, 2:] += 1
    scores, targets = read_example()(tmp_path / "graphs", photo, windows)
    wanted = detector.score(photo, windows)
    expected = wanted.scores.numpy()
    assert scores.shape == (60, 2) and targets.shape == (60, 2, 4)
    np.testing.assert_allclose(scores, expected, atol=1e-3 * np.abs(expected).max())
    moved = wanted.features.float().numpy()[wanted.inverse]
    moved = np.einsum("nd,cdk->nck", moved, detector.heads.regression_coef.numpy())
    moved = moved + detector.heads.regression_intercept.numpy()
    np.testing.assert_allclose(targets, moved, atol=1e-3 * np.abs(moved).max())


@pytest.mark.parametrize("n", range(1, 7))
def test_bins_are_exact(n):
    assert has_exact_bins(n)


def test_a_level_whose_bins_are_rounded_otherwise_is_refused(tmp_path):
    assert not has_exact_bins(7)
    with pytest.raises(ExportError, match="level 7: expected one whose bins"):
        export_onnx(make_detector(levels=(7, 1)), tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()


def test_features_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(ExportError, match="extractor rcnn: expected spp"):
        export_onnx(make_detector(extractor="rcnn"), tmp_path / "graphs")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnx" else object())
    with pytest.raises(ExportError, match=r"^onnx: not installed; expected the extra: pip install"):
        export_onnx(make_detector(), tmp_path / "graphs")


def test_a_graph_that_computes_otherwise_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(ExportError, match=r"trunk.onnx: onnxruntime's results differ by"):
        export_onnx(make_detector(), tmp_path / "graphs")
    assert not any((tmp_path / "graphs").iterdir())


def test_the_command(small_model, tmp_path, monkeypatch, capsys):
    out = tmp_path / "graphs"
    monkeypatch.setattr("sys.argv", ["spp-detect", "export", str(small_model), "--onnx", str(out)])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    assert {path.name for path in out.iterdir()} == {"trunk.onnx", "head.onnx", "model.json"}
    assert str(out) in capsys.readouterr().out
