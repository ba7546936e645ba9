"""Weights for a trunk: torchvision's download, a state dict in a file, or none."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from spp_detect.backbones.base import Backbone
from spp_detect.backbones.timm_nets import download_weights, rename_weights
from spp_detect.config import TIMM
from spp_detect.progress import is_shown

# torchvision's names of what the paper calls fc6 and fc7; those of our own classifiers.
FC_LAYERS = {
    "alexnet": ("classifier.1", "classifier.4"),
    "vgg16": ("classifier.0", "classifier.3"),
}
OWN_FC_LAYERS = ("fc.layers.fc6", "fc.layers.fc7")
# Before the names of trunks in the folders of our classifiers and of our detectors.
OWN_TRUNKS = ("trunk.layers.", "trunk.")
PACKED = "public_trunk."  # before the names of what a packed detector has in their place


class WeightsError(ValueError):
    """Weights that cannot be had, read or used; one line says which and what was expected."""


def load_weights(backbone: Backbone, source: str) -> str:
    """Load a trunk's weights and name them.

    Parameters
    ----------
    backbone : Backbone
        The trunk; its weights are replaced.
    source : str
        "imagenet" for torchvision's download, or timm's for its trunks, "none" to keep the fresh
        weights, the folder of a classifier that `pretrain` made, or of a detector, whose trunk may
        have learnt (packed models lack theirs), or the path of a .safetensors or .pth state dict
        under torchvision's, or timm's, names. Later layers that the trunk does not have may be
        there or not.

    Returns
    -------
    str
        The name to record: "imagenet", "none" or the file's or folder's name.

    Raises
    ------
    WeightsError
        Where the download or the file cannot be read, or does not fit the trunk.
    """
    if source == "none":
        return "none"
    state = _find(backbone.name, source)
    if backbone.name.startswith(TIMM) and not backbone.layers.state_dict().keys() <= state.keys():
        state = rename_weights(backbone.layers, state)
    _fit(backbone, state, source)
    return source if source == "imagenet" else Path(source).name


def read_fc_weights(name: str, source: str) -> dict[str, torch.Tensor] | None:
    """Read the fc layers that a net had for its task: fc6 and fc7, weight and bias each.

    Parameters
    ----------
    name : str
        The trunk's.
    source : str
        As `load_weights` takes it.

    Returns
    -------
    dict of str to torch.Tensor, or None
        By "fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"; None where the net has none or the
        file is without them.
    """
    is_own = source != "imagenet" and Path(source).is_dir()
    layers = OWN_FC_LAYERS if is_own else FC_LAYERS.get(name)
    if layers is None or source == "none":
        return None
    state = _find(name, source)
    names = {
        f"{ours}.{part}": f"{theirs}.{part}"
        for ours, theirs in zip(("fc6", "fc7"), layers, strict=True)
        for part in ("weight", "bias")
    }
    if not all(theirs in state for theirs in names.values()):
        return None
    return {ours: state[theirs] for ours, theirs in names.items()}


def _find(name: str, source: str) -> dict[str, torch.Tensor]:
    return _download(name) if source == "imagenet" else _read(Path(source))


def _download(name: str) -> dict[str, torch.Tensor]:
    if name.startswith(TIMM):
        return _download_by_timm(name)
    try:
        weights = torchvision.models.get_model_weights(name)
    except ValueError as error:
        raise WeightsError(
            f"weights imagenet: torchvision has none for {name}; give --weights FILE or none"
        ) from error
    best = weights["IMAGENET1K_V1"]
    try:
        state: dict[str, torch.Tensor] = best.get_state_dict(progress=is_shown(), check_hash=True)
    except Exception as error:  # no network, a wrong hash, a damaged file in the cache
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"weights imagenet: cannot download {best.url} ({reason}); "
            f"fetch that file by other means and give --weights {Path(best.url).name}"
        ) from error
    return state


def _download_by_timm(name: str) -> dict[str, torch.Tensor]:
    try:
        return download_weights(name)
    except Exception as error:  # no network, no weights of that name, a damaged file in the cache
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"weights imagenet: timm cannot download those of {name} ({reason}); "
            "give --weights FILE or none"
        ) from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.is_dir():
        own = _read(path / "model.safetensors")
        if any(name.startswith(PACKED) for name in own):
            raise WeightsError(
                f"{path}: a packed model, without its trunk's public weights; expected the folder "
                "it was packed from, or one that Detector.load and save make of it"
            )
        return {_drop_trunk(name): tensor for name, tensor in own.items()}
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file; --weights takes imagenet, none, a .safetensors or .pth file, "
            "or the folder of a classifier or a detector"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses about foreign bytes
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the legacy unpickler raises nearly anything on foreign bytes
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else "unreadable"
        raise WeightsError(
            f"{path}: not a whole state dict of tensors (.safetensors or .pth): {reason}"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise WeightsError(f"{path}: expected a state dict, a mapping of names to tensors")
    return state


def _drop_trunk(name: str) -> str:
    prefix = next((one for one in OWN_TRUNKS if name.startswith(one)), "")
    return name.removeprefix(prefix)


def _fit(backbone: Backbone, state: dict[str, torch.Tensor], source: str) -> None:
    layers: nn.Module = backbone.layers
    wanted = layers.state_dict()
    # A trunk whose batch norm was folded away needs no running counts.
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if name not in state]
    if missing:
        raise WeightsError(
            f"{source}: not the weights of {backbone.name}: {len(missing)} of {len(needed)} "
            f"tensors are missing, the first {missing[0]}"
        )
    for name in needed:
        if state[name].shape != wanted[name].shape:
            raise WeightsError(
                f"{source}: not the weights of {backbone.name}: {name} has shape "
                f"{tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}"
            )
    layers.load_state_dict({name: state[name] for name in needed}, strict=False)
