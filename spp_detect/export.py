"""A detector as ONNX graphs, for runtimes without torch: the trunk, and all that follows a map.

`trunk.onnx` turns a resized photograph into a map; `head.onnx` pools windows from the map by the
pyramid, which is ONNX's own MaxRoiPool a level, and gives scores and targets. What stays outside,
windows, resizing, projection and NMS, is told by numbers in `model.json`.
"""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spp_detect.backbones import Backbone
from spp_detect.backbones.zf5 import WithinChannelNorm
from spp_detect.detector import Detector
from spp_detect.files import replace_file, write_json
from spp_detect.heads import TINY, Heads
from spp_detect.inference_copy import freeze
from spp_detect.kernels.norm import normalise_with_torch
from spp_detect.spp import MIN_SIDE, SppExtractor

TRUNK, HEAD, NUMBERS = "trunk.onnx", "head.onnx", "model.json"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
MOST_CELLS = 5000  # a side of a map: up to here bins of every level are checked
CHECKED_SIDES = (112, 176)  # pixels of the photograph on which the graphs are checked
MOST_DIFFERENCE = 1e-4  # of the graphs' results, as a share of the largest


class ExportError(ValueError):
    """A detector that has no graphs of this kind; one line says why."""


def export_onnx(detector: Detector, folder: Path) -> None:
    """Write a detector's graphs and numbers, and check them with onnxruntime.

    Parameters
    ----------
    detector : Detector
        On SPP-net's features of the windows alone. The graphs are float32, whatever its precision.
    folder : Path
        Gets trunk.onnx, head.onnx and, last, model.json.

    Raises
    ------
    ExportError
        For a detector that cannot be exported, packages that are missing, and graphs whose results
        differ from the detector's.
    """
    check_exportable(detector)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = detector.extractor.backbone
    whole = _Trunk(backbone).eval()
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        _write_trunk(whole, made / TRUNK)
        _write_head(detector, made / HEAD)
        _check(detector, whole, made)
        for graph in (TRUNK, HEAD):  # only what was checked
            shutil.move(made / graph, folder / graph)
    write_json(folder / NUMBERS, _list_numbers(detector))


def check_exportable(detector: Detector) -> None:
    """Raise ExportError for a detector that cannot be exported, and for missing packages."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"{', '.join(missing)}: not installed; expected the extra: pip install spp-detect[onnx]"
        )
    config = detector.config
    if not isinstance(detector.extractor, SppExtractor):
        raise ExportError(f"extractor {config.extractor}: expected spp, which has one map")
    if config.parts != ("window",):
        raise ExportError(f"parts {', '.join(config.parts)}: expected the window alone")
    if detector.first is not None:
        raise ExportError("a model that looks at all windows first: expected one without --first")
    for n in config.levels:
        if not has_exact_bins(n):
            raise ExportError(
                f"level {n}: expected one whose bins ONNX's MaxRoiPool rounds as the pyramid does"
            )


def has_exact_bins(n: int) -> bool:
    """Whether edges of n bins, rounded in float32 as MaxRoiPool does, are the pyramid's own.

    The pyramid computes in whole numbers; float32 agrees for n up to 6, not for 7.
    """
    sides = np.arange(1, MOST_CELLS + 1)[:, None]
    edges = np.arange(n + 1)
    near = edges.astype(np.float32) * (sides.astype(np.float32) / np.float32(n))
    exact = edges * sides
    return bool((np.floor(near) == exact // n).all() and (np.ceil(near) == -(-exact // n)).all())


class _Trunk(nn.Module):
    """A trunk that normalises pixels itself: uint8 RGB (H, W, 3) into (1, C, h, w)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.layers = _make_plain(freeze(backbone.layers, "float32"))
        pixels = backbone.input_format
        self.turned = pixels.order == "bgr"
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(pixels.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(pixels.std)[:, None, None])

    def forward(self, photo: torch.Tensor) -> torch.Tensor:
        pixels = photo.permute(2, 0, 1).float()
        if self.turned:
            pixels = pixels.flip(0)
        maps: torch.Tensor = self.layers(((pixels - self.mean) / self.std)[None])
        return maps


class _PlainNorm(nn.Module):
    """The within-channel normalisation in operators that every runtime has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalise_with_torch(x)


def _make_plain(layers: nn.Module) -> nn.Module:
    """Copy a network with torch's own layers where ours compute by kernels."""
    plain = copy.deepcopy(layers).cpu().eval()
    for parent in list(plain.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.MaxPool2d):
                sizes = layer.kernel_size, layer.stride, layer.padding
                setattr(parent, name, nn.MaxPool2d(*sizes, ceil_mode=layer.ceil_mode))
            elif isinstance(layer, WithinChannelNorm):
                setattr(parent, name, _PlainNorm())
    return plain


def _write_trunk(whole: _Trunk, path: Path) -> None:
    example = torch.zeros((*CHECKED_SIDES, 3), dtype=torch.uint8)
    sides = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings(), replace_file(path) as new:
            warnings.simplefilter("ignore")
            torch.onnx.export(
                whole,
                (example,),
                new,
                input_names=["photo"],
                output_names=["map"],
                dynamic_shapes=(sides,),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


@dataclass
class _Graph:
    """Nodes and constants of a graph that is being written."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and name what it gives."""
        from onnx import helper

        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [name], name, **attributes))
        return name

    def hold(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _write_head(detector: Detector, path: Path) -> None:
    """Write the graph from a map and windows' cells to scores and targets."""
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph()
    pooled = _add_pyramid(graph, detector.config.levels)
    described = _add_fc(graph, detector, pooled)
    heads = detector.heads
    scores = _add_scores(graph, heads, described)
    targets = _add_targets(graph, heads, described if heads.is_softmax else pooled)
    classes, channels = len(detector.classes), detector.extractor.backbone.channels
    graph.nodes.append(helper.make_node("Identity", [scores], ["scores"]))
    graph.nodes.append(helper.make_node("Identity", [targets], ["targets"]))
    inputs = [
        helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, channels, "h", "w"]),
        helper.make_tensor_value_info("cells", TensorProto.INT64, ["n", 4]),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes]),
        helper.make_tensor_value_info("targets", TensorProto.FLOAT, ["n", classes, 4]),
    ]
    made = helper.make_graph(graph.nodes, "head", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    with replace_file(path) as new:
        onnx.save(model, new)


def _add_pyramid(graph: _Graph, levels: tuple[int, ...]) -> str:
    """Pool each level by MaxRoiPool, whose regions are (0, left, top, right, bottom)."""
    corners = graph.add("Cast", "cells", to=1)  # float32
    bounds = (("starts", 0), ("ends", 1), ("axes", 1))
    first_column = [graph.hold(name, np.array([value], np.int64)) for name, value in bounds]
    photograph = graph.add(
        "Mul",
        graph.add("Slice", corners, *first_column),
        graph.hold("nought", np.array(0, np.float32)),
    )
    regions = graph.add("Concat", photograph, corners, axis=1)
    parts = [
        graph.add("Flatten", graph.add("MaxRoiPool", "map", regions, pooled_shape=[n, n]), axis=1)
        for n in levels
    ]
    return graph.add("Concat", *parts, axis=1)


def _add_fc(graph: _Graph, detector: Detector, pooled: str) -> str:
    described = pooled
    layers = detector.fc.layers.modules() if detector.fc is not None else ()
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            weights = [graph.hold(f"weight{i}", _to_numpy(layer.weight))]
            if layer.bias is not None:
                weights.append(graph.hold(f"bias{i}", _to_numpy(layer.bias)))
            described = graph.add("Gemm", described, *weights, transB=1)
        elif isinstance(layer, nn.ReLU):
            described = graph.add("Relu", described)
    return described


def _add_scores(graph: _Graph, heads: Heads, described: str) -> str:
    weights = graph.hold("score_weight", _to_numpy(heads.svm_coef))
    biases = graph.hold("score_bias", _to_numpy(heads.svm_intercept))
    scores = graph.add("Gemm", described, weights, biases, transB=1)
    if not heads.is_softmax:
        return scores
    last = (("from", 0), ("to", -1), ("axis", 1))  # all but the background
    bounds = [graph.hold(name, np.array([value], np.int64)) for name, value in last]
    likely = graph.add("Slice", graph.add("LogSoftmax", scores, axis=1), *bounds)
    bounded = graph.add("Min", likely, graph.hold("least", np.array(-TINY, np.float32)))
    one = graph.hold("one", np.array(1, np.float32))
    unlikely = graph.add("Log", graph.add("Sub", one, graph.add("Exp", bounded)))
    return graph.add("Sub", likely, unlikely)


def _add_targets(graph: _Graph, heads: Heads, features: str) -> str:
    coef = _to_numpy(heads.regression_coef)
    classes, length = coef.shape[:2]
    weights = graph.hold("target_weight", coef.transpose(1, 0, 2).reshape(length, 4 * classes))
    biases = graph.hold("target_bias", _to_numpy(heads.regression_intercept).reshape(-1))
    shape = graph.hold("target_shape", np.array([-1, classes, 4], np.int64))
    return graph.add("Reshape", graph.add("Gemm", features, weights, biases), shape)


def _to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return values


@torch.inference_mode()
def _check(detector: Detector, whole: _Trunk, folder: Path) -> None:
    """Compare the graphs with torch on a photograph of noise and a dozen windows."""
    import onnxruntime

    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (*CHECKED_SIDES, 3), np.uint8)
    provider = ["CPUExecutionProvider"]
    trunk = onnxruntime.InferenceSession(folder / TRUNK, providers=provider)
    head = onnxruntime.InferenceSession(folder / HEAD, providers=provider)
    (found,) = trunk.run(None, {"photo": photo})
    wanted = whole(torch.from_numpy(photo))
    _compare(TRUNK, found, wanted)
    cells = np.sort(random.integers(0, min(wanted.shape[2:]), (12, 2, 2)), axis=1).reshape(12, 4)
    given = {"map": wanted.numpy(), "cells": cells}
    scores, targets = head.run(None, given)
    extractor = detector.extractor
    assert isinstance(extractor, SppExtractor)
    windows = torch.from_numpy(cells.astype(np.int32))
    pooled = extractor.pyramids[0].pool_windows(wanted[0].permute(1, 2, 0).contiguous(), windows)
    fc = copy.deepcopy(detector.fc).cpu() if detector.fc is not None else None
    described = fc(pooled) if fc is not None else pooled
    heads = copy.deepcopy(detector.heads).cpu()
    _compare(HEAD, scores, heads.score(described))
    features = described if heads.is_softmax else pooled
    moves = torch.einsum("nd,cdk->nck", features, heads.regression_coef)
    _compare(HEAD, targets, moves + heads.regression_intercept)


def _compare(name: str, found: NDArray[np.float32], wanted: torch.Tensor) -> None:
    values = wanted.float().numpy()
    difference = float(np.abs(found - values).max() / max(np.abs(values).max(), 1e-12))
    if not difference <= MOST_DIFFERENCE:
        raise ExportError(
            f"{name}: onnxruntime's results differ by {difference:.1e} of the largest; "
            f"expected at most {MOST_DIFFERENCE:.0e}"
        )


def _list_numbers(detector: Detector) -> dict[str, Any]:
    """List what whoever runs the graphs needs beside them."""
    config, grid = detector.config, detector.extractor.backbone.grid
    told = ("scales", "long_side_limit", "long_side_rounding", "projection", "scale_rule")
    names = (*told, "levels", "regression_inclusive", "scores", "score_threshold", "nms_iou")
    return {
        "classes": [*detector.classes],
        "stride": grid.stride,
        "centre": grid.centre,
        "least_side": MIN_SIDE,
        **{name: getattr(config, name) for name in names},
    }
