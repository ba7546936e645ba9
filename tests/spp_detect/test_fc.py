"""The fc layers: their order, and what they start from."""

import torch
from torch.nn import functional

from spp_detect.config import make_config
from spp_detect.fc import FcLayers, build_fc

LEVELS = (3, 2, 1)
CHANNELS = 4


def trained_layers(side, width):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "fc6.weight": (width, CHANNELS * side * side),
        "fc6.bias": (width,),
        "fc7.weight": (width, width),
        "fc7.bias": (width,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_fc7_is_two_layers_with_relu():
    torch.manual_seed(0)
    fc = FcLayers(10, 6, 2).eval()
    x = torch.randn(5, 10)
    six = functional.relu(x @ fc.layers.fc6.weight.T + fc.layers.fc6.bias)
    seven = functional.relu(six @ fc.layers.fc7.weight.T + fc.layers.fc7.bias)
    torch.testing.assert_close(fc(x), seven)
    torch.testing.assert_close(fc.cut(1).eval()(x), six)


def test_dropout_only_in_training():
    fc = FcLayers(20, 64, 1)
    x = torch.rand(3, 20) + 1
    assert torch.equal(fc.eval()(x), fc(x))
    assert not torch.equal(fc.train()(x), fc(x))


def test_each_feature_has_its_depth():
    assert build_fc(make_config(feature="pool5"), 10) is None
    for feature, layers in (("fc6", {"fc6"}), ("fc7", {"fc6", "fc7"})):
        fc = build_fc(make_config(feature=feature, fc_width=8), 10)
        assert {name.split(".")[1] for name in fc.state_dict()} == layers
        assert fc.length == 8


def test_a_trained_fc6_answers_the_same_on_its_level():
    """The net's own fc6 took the 3 × 3 map, channel-major; the pyramid's first level is that."""
    trained = trained_layers(3, 5)
    fc = FcLayers(CHANNELS * 14, 5, 2).eval()
    assert fc.start_from(trained, CHANNELS, LEVELS)
    maps = torch.rand(2, CHANNELS, 3, 3)
    pooled = torch.zeros(2, CHANNELS * 14)
    pooled[:, : CHANNELS * 9] = maps.flatten(1)
    expected = functional.relu(maps.flatten(1) @ trained["fc6.weight"].T + trained["fc6.bias"])
    torch.testing.assert_close(fc.cut(1)(pooled), expected)
    expected = functional.relu(expected @ trained["fc7.weight"].T + trained["fc7.bias"])
    torch.testing.assert_close(fc(pooled), expected)
    beside = fc.layers.fc6.weight[:, CHANNELS * 9 :]
    assert 0 < beside.abs().max() < 0.01


def test_the_level_is_found_wherever_it_stands():
    trained = trained_layers(2, 5)
    fc = FcLayers(CHANNELS * 14, 5, 2)
    assert fc.start_from(trained, CHANNELS, LEVELS)
    assert torch.equal(fc.layers.fc6.weight[:, 36:52], trained["fc6.weight"])


def test_what_does_not_fit_is_left():
    fc = FcLayers(CHANNELS * 14, 5, 2)
    before = {name: tensor.clone() for name, tensor in fc.state_dict().items()}
    assert not fc.start_from(trained_layers(4, 5), CHANNELS, LEVELS)  # no 4 × 4 level
    assert not fc.start_from(trained_layers(3, 6), CHANNELS, LEVELS)  # other width
    assert all(torch.equal(tensor, before[name]) for name, tensor in fc.state_dict().items())


def test_from_components_nothing_of_their_span_is_lost():
    generator = torch.Generator().manual_seed(1)
    components = torch.linalg.qr(torch.randn(12, 4, generator=generator)).Q.T.contiguous()
    mean = torch.rand(12, generator=generator)
    fc = FcLayers(12, 8, 2).eval()
    fc.start_from_components(components, mean, 0.5)
    x = torch.randn(30, 12, generator=generator)
    wanted = 0.5 * (x - mean) @ components.T
    for layers in (fc, fc.cut(1).eval()):
        described = layers(x)
        assert (described >= 0).all()
        torch.testing.assert_close(described[:, :4] - described[:, 4:], wanted)


def test_units_without_a_component_keep_their_weights():
    fc = FcLayers(6, 9, 2).eval()
    before = fc.layers.fc6.weight.clone()
    fc.start_from_components(torch.eye(6)[:2], torch.zeros(6), 1.0)
    assert torch.equal(fc.layers.fc6.weight[4:], before[4:])
    assert not torch.equal(fc.layers.fc6.weight[:4], before[:4])
    assert torch.equal(fc.layers.fc7.weight, torch.eye(9))


def test_describing_in_bfloat16_is_near():
    torch.manual_seed(0)
    fc = FcLayers(200, 50, 2).eval()
    x = torch.rand(7, 200)
    exact = fc.infer(x, "float32")
    assert torch.equal(exact, fc(x))
    rounded = fc.infer(x, "bfloat16")
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02 * float(exact.max()))


def test_factors_of_full_rank_change_nothing_and_of_less_little():
    torch.manual_seed(0)
    whole = FcLayers(30, 10, 2).eval()
    with torch.no_grad():  # four strong directions and noise
        strong = torch.randn(10, 4) @ torch.randn(4, 30)
        whole.layers.fc6.weight.copy_(strong + 1e-3 * torch.randn(10, 30))
        whole.layers.fc6.bias.normal_()
    x = torch.randn(6, 30)
    torch.testing.assert_close(whole.factorise(10)(x), whole(x), atol=1e-4, rtol=1e-4)
    four, three = (whole.factorise(rank)(x) for rank in (4, 3))
    scale = whole(x).abs().max()
    assert (four - whole(x)).abs().max() < 0.01 * scale
    assert (three - whole(x)).abs().max() > 0.01 * scale
    shapes = [tuple(p.shape) for p in whole.factorise(4).layers[0].parameters()]
    assert shapes == [(4, 30), (10, 4), (10,)]
    torch.testing.assert_close(whole.cut(1).eval().factorise(10)(x), whole.cut(1).eval()(x))
