"""Models that go without their trunk, and those that come with the package."""

import copy
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.ops import box_iou

from data import open_dataset, read_photo
from eval import VOC_CLASSES
from spp_detect import ready_models
from spp_detect.backbones import WeightsError, build_backbone, load_weights
from spp_detect.cascade import FirstStage
from spp_detect.config import TrainingConfig
from spp_detect.detector import Detector
from spp_detect.ensemble import load_detector
from spp_detect.extractors import make_extractor
from spp_detect.fc import FcLayers
from spp_detect.heads import Heads
from spp_detect.model_folder import ModelError
from spp_detect.public_trunk import PublicTrunk, draw_pattern


@pytest.fixture(scope="module")
def detector(small_detector) -> Detector:
    """The small model, as if its trunk were a public one."""
    config = dataclasses.replace(small_detector.config, weights="public.safetensors")
    parts = small_detector.classes, small_detector.extractor, small_detector.heads
    return Detector(config, *parts)


@pytest.fixture(scope="module")
def weights(small_detector, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "public.safetensors"
    state = small_detector.extractor.backbone.layers.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return str(path)


@pytest.fixture()
def packed(detector, tmp_path):
    detector.pack(tmp_path / "packed")
    return tmp_path / "packed"


@pytest.fixture(scope="module")
def photo(small_set):
    return read_photo(small_set.photographs[0].path)


def test_a_packed_model_detects_nearly_the_same(detector, packed, weights, photo):
    again = Detector.load(packed, "cpu", weights)
    assert (again.config, again.classes) == (detector.config, detector.classes)
    whole, half = detector.detect(photo), again.detect(photo)
    windows = np.array([[10, 20, 70, 90], [90, 30, 150, 110]], np.float32)
    ours, theirs = again.score(photo, windows), detector.score(photo, windows)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=5e-3)
    assert len(whole) and abs(len(whole) - len(half)) <= 0.05 * len(whole) + 1
    np.testing.assert_allclose(whole[0].box, half[0].box, atol=0.5)


def test_it_holds_no_trunk_and_half_precision(packed):
    tensors = load_file(packed / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"heads", "public_trunk"}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert json.loads((packed / "config.json").read_text())["public_trunk"] == "imagenet"


def test_fc_layers_and_a_cascade_are_packed_too(detector, weights, photo, tmp_path):
    torch.manual_seed(0)
    length = detector.extractor.length
    config = dataclasses.replace(detector.config, feature="fc6", fc_width=8, promising=20)
    heads = Heads.empty(len(detector.classes), length, 8)
    heads.svm_coef.normal_(0, 0.1)
    fc = FcLayers(length, 8, 1)
    first = FirstStage(detector.heads.svm_coef, detector.heads.svm_intercept)
    whole = Detector(config, detector.classes, detector.extractor, heads, fc, first)
    whole.pack(tmp_path)
    again = Detector.load(tmp_path, "cpu", weights)
    windows = np.array([[10, 20, 70, 90], [90, 30, 150, 110]], np.float32)
    ours, theirs = again.score(photo, windows).scores, whole.score(photo, windows).scores
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)


def test_of_several_models_the_packed_one_is_given_the_weights(packed, small_model, weights, photo):
    together = load_detector([small_model, packed], "cpu", weights)
    assert len(together.detect(photo)) > 0
    with pytest.raises(ModelError, match="has its own trunk"):
        load_detector([small_model, small_model], "cpu", weights)


def test_packing_leaves_the_detector_as_it_was(detector, tmp_path):
    detector.pack(tmp_path)
    assert detector.heads.svm_coef.dtype == torch.float32


def test_a_packed_model_saved_is_whole_again(packed, weights, photo, tmp_path):
    again = Detector.load(packed, "cpu", weights)
    again.save(tmp_path / "whole")
    assert Detector.load(tmp_path / "whole", "cpu").detect(photo) == again.detect(photo)


def test_another_trunk_is_refused(packed, tmp_path):
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_file(build_backbone("small5").layers.state_dict(), other)
    with pytest.raises(ModelError) as error:
        Detector.load(packed, "cpu", str(other))
    assert str(error.value).startswith(f"{other}: not the trunk of {packed}: its maps differ by ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "refused"), [(1.001, False), (1.1, True)])
def test_rounding_is_let_through_and_a_change_of_one_layer_is_not(
    packed, weights, tmp_path, change, refused
):
    tensors = load_file(weights)
    tensors["conv4.0.weight"] *= change
    tensors["conv4.1.running_var"] /= 4 if refused else 1
    save_file(tensors, tmp_path / "changed.safetensors")
    if refused:
        with pytest.raises(ModelError, match="not the trunk"):
            Detector.load(packed, "cpu", str(tmp_path / "changed.safetensors"))
    else:
        Detector.load(packed, "cpu", str(tmp_path / "changed.safetensors"))


def test_weights_that_are_not_there(packed):
    with pytest.raises(WeightsError, match="torchvision has none for small5"):
        Detector.load(packed, "cpu")


def test_a_whole_model_takes_no_weights(small_model, weights):
    with pytest.raises(ModelError, match="has its own trunk"):
        Detector.load(small_model, "cpu", weights)


def test_a_packed_models_trunk_is_trained_on_when_it_is_whole_again(
    detector, packed, weights, tmp_path
):
    trunk = build_backbone(detector.config.backbone)
    with pytest.raises(WeightsError, match=r"packed: a packed model, .* expected the fold"):
        load_weights(trunk, str(packed))
    Detector.load(packed, "cpu", weights).save(tmp_path / "whole")
    load_weights(trunk, str(tmp_path / "whole"))
    state = detector.extractor.backbone.layers.state_dict()
    assert all(torch.equal(tensor, state[k]) for k, tensor in trunk.layers.state_dict().items())


def test_own_trunks_are_not_packed(small_detector, detector, tmp_path):
    with pytest.raises(ModelError, match="trunk is its own"):
        small_detector.pack(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_tuned_trunk_keeps_what_learnt(detector, weights, tmp_path):
    extractor = make_extractor(
        copy.deepcopy(detector.extractor.backbone), detector.config, torch.device("cpu")
    )
    training = TrainingConfig(train_from="conv5", finetune_iterations=1)
    parts = detector.config, detector.classes, extractor, detector.heads
    tuned = Detector(*parts, training=training)
    with torch.no_grad():
        for parameter in extractor.backbone.layers.conv5.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tuned.pack(tmp_path / "tuned")
    detector.pack(tmp_path / "frozen")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("tuned", "frozen")]
    values = sum(p.numel() for p in extractor.backbone.layers.conv5.state_dict().values())
    assert sizes[0] - sizes[1] == pytest.approx(2 * values, rel=0.05)
    loaded = Detector.load(tmp_path / "tuned", "cpu", weights)
    assert PublicTrunk.of(extractor.backbone).differs(loaded.extractor.backbone) < 1e-3
    assert PublicTrunk.of(detector.extractor.backbone).differs(loaded.extractor.backbone) > 0.02
    changed = load_file(weights)
    changed["conv4.0.weight"] *= 2
    save_file(changed, tmp_path / "changed.safetensors")
    with pytest.raises(ModelError, match="not the trunk"):
        Detector.load(tmp_path / "tuned", "cpu", str(tmp_path / "changed.safetensors"))


def test_the_pattern_stays_as_it_is():
    """Models in the world hold what their trunks make of it."""
    pattern = draw_pattern()
    assert (pattern.shape, pattern.dtype) == ((96, 96, 3), np.uint8)
    digest = hashlib.sha256(np.ascontiguousarray(pattern).tobytes()).hexdigest()
    assert digest == "fb69c5c1120f877252324501e19faf8759679b288ce783f0e2587780da2f5592"


def test_folded_batch_norms_are_the_same_trunk():
    """torchvision's weights and ours, whose batch norms are folded, compute the same."""
    torch.manual_seed(0)
    whole, folded = build_backbone("small5"), build_backbone("small5")
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    state = dict(whole.layers.state_dict())
    for i in range(1, 6):
        scale = state[f"conv{i}.1.weight"] / (state[f"conv{i}.1.running_var"] + 1e-5).sqrt()
        state[f"conv{i}.0.weight"] = state[f"conv{i}.0.weight"] * scale[:, None, None, None]
        state[f"conv{i}.1.bias"] = (
            state[f"conv{i}.1.bias"] - state[f"conv{i}.1.running_mean"] * scale
        )
        state[f"conv{i}.1.weight"] = torch.ones_like(scale)
        state[f"conv{i}.1.running_mean"] = torch.zeros_like(scale)
        state[f"conv{i}.1.running_var"] = torch.ones_like(scale) - 1e-5
    folded.layers.load_state_dict(state)
    assert PublicTrunk.of(whole).differs(folded) < 1e-3


@pytest.fixture()
def animals(packed, monkeypatch):
    """A ready model "animals" of the package."""
    packed.rename(packed.parent / "animals")
    monkeypatch.setattr(ready_models, "FOLDER", packed.parent)
    return packed.parent / "animals"


def test_a_ready_model_is_loaded_by_its_name(animals, weights, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Detector.load("animals", "cpu", weights).classes
    (tmp_path / "elsewhere" / "animals").mkdir()  # a folder of that name is what was meant
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        Detector.load("animals", "cpu", weights)
    with pytest.raises(ModelError, match="plants: no such model folder"):
        Detector.load("plants", "cpu", weights)


def test_ready_models_are_described(animals):
    (one,) = ready_models.describe_models()
    assert (one.name, one.backbone, one.measured) == ("animals", "small5", {})
    assert one.size == sum(path.stat().st_size for path in animals.iterdir())
    (animals / "metrics.json").write_text('{"mAP": 0.5}')
    assert ready_models.describe_models()[0].measured == {"mAP": 0.5}


@pytest.mark.parametrize(("name", "size"), [("voc2007", 4e6), ("voc2007_tuned", 8e6)])
def test_the_models_that_come_with_the_package(mini_voc, shared_weights, tmp_path, name, size):
    """On photographs of VOC's test split: what it is surest of is there, and well placed."""
    weights = shared_weights / "resnet18_conv1_layer3.safetensors"
    detector = Detector.load(name, "cpu", str(weights))
    assert detector.classes == tuple(sorted(VOC_CLASSES))
    dataset = open_dataset(mini_voc, "test", detector.classes)
    right = []
    for photograph in dataset.photographs[::10]:
        best = detector.detect(photograph.path)[0]
        own = photograph.labels.boxes[photograph.labels.classes == best.label]
        overlaps = box_iou(torch.from_numpy(best.box)[None], torch.from_numpy(own))
        right.append(bool((overlaps >= 0.5).any()))
    assert np.mean(right) >= 0.7
    (described,) = [one for one in ready_models.describe_models() if one.name == name]
    assert described.size < size
    assert described.measured["photographs"] == 4952
    tensors = load_file(weights)
    public = [name for name in tensors if not name.startswith("layer3")]
    tensors[max(public, key=lambda name: tensors[name].numel())] *= 1.5
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not the trunk"):
        Detector.load(name, "cpu", str(tmp_path / "other.safetensors"))
