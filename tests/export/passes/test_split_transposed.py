"""A padded transposed convolution is an unpadded one and a crop."""

from collections import Counter

import pytest

from posedge.export.passes.split_transposed import SplitTransposed

PADDING = ("pads", "auto_pad", "output_padding", "output_shape")


def up(network, **attributes):
    """One transposed convolution between two others."""
    kernel = attributes.pop("kernel", 4)
    group = attributes.pop("group", 1)
    stem = network.conv("input", 6)
    return network.conv(network.transposed(stem, 8, kernel, group, **attributes), 5, 1)


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},  # what pose heads have
        {"pads": [1, 2, 0, 3], "strides": [2, 2]},
        {"pads": [0, 0, 1, 0], "strides": [3, 2]},
        {"kernel": 3, "pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1]},
        {"kernel": 3, "pads": [1, 1, 1, 1], "strides": [3, 2], "output_padding": [2, 1]},  # one row is made
        {"kernel": 3, "pads": [0, 1, 0, 0], "strides": [4, 4], "output_padding": [3, 2]},
        {"kernel": 3, "pads": [2, 1, 1, 2], "strides": [4, 3], "output_padding": [3, 1], "dilations": [2, 3]},
        {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 2},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2], "kernel": 5},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2], "kernel": 5},
        {"output_shape": [31, 22], "strides": [2, 2]},
        {"pads": [1, 1, 1, 1], "strides": [2, 2], "bias": False, "kernel_shape": [4, 4]},
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_padding_becomes_a_crop(net, rewritten, attribute, attributes, whole):
    network = net(whole=whole)
    result = rewritten(network, SplitTransposed(), up(network, **attributes))
    assert operators(result) == {"Conv": 2, "ConvTranspose": 1, "Slice": 1}
    assert [attribute(result, "convtranspose1", name) for name in PADDING] == [None] * 4
    assert [node.name for node in result.graph.node][2] == "convtranspose1_crop"


@pytest.mark.parametrize(
    ("attributes", "kernel"),
    [
        ({"kernel": 2, "strides": [2, 2], "output_padding": [1, 1]}, (3, 3)),
        ({"kernel": 3, "strides": [2, 2], "output_padding": [1, 0], "pads": [0, 0, 1, 0]}, (3, 3)),
        ({"kernel": 3, "strides": [4, 4], "output_padding": [3, 0], "kernel_shape": [3, 3]}, (6, 3)),
    ],
)
def test_output_padding_alone_needs_no_crop(net, rewritten, constants, attribute, attributes, kernel):
    network = net()
    result = rewritten(network, SplitTransposed(), up(network, **attributes))
    assert operators(result) == {"Conv": 2, "ConvTranspose": 1}
    assert [attribute(result, "convtranspose1", name) for name in PADDING] == [None] * 4
    assert constants(result)["convtranspose1.weight"].shape == (6, 8, *kernel)


def test_two_layers_and_a_graph_output(net, rewritten):
    network = net()
    first = network.transposed(network.conv("input", 6), 8, strides=[2, 2], pads=[1] * 4)
    second = network.transposed(network.op("Relu", first), 5, strides=[2, 2], pads=[1] * 4)
    result = rewritten(network, SplitTransposed(), second)
    assert operators(result)["Slice"] == 2
    assert result.graph.output[0].name == second


def test_unpadded_layers_stay_as_they_are(net, rewritten):
    network = net()
    heard: list[str] = []
    result = rewritten(network, SplitTransposed(heard.append), up(network, strides=[4, 4], pads=[0] * 4))
    assert result.graph.node == network.nodes
    assert heard == ["0 transposed convolutions split into an unpadded one and a crop"]


def test_what_cannot_be_split_stays_and_is_named(net, rewritten, attribute):
    network = net()
    computed = network.op("Mul", network.random("w", 3, 4, 3, 3), network.random("factor", 1))
    heard: list[str] = []
    result = rewritten(
        network,
        SplitTransposed(heard.append),
        network.op("ConvTranspose", "input", computed, channels=4, pads=[1] * 4),
    )
    assert attribute(result, "convtranspose1", "pads") == [1] * 4
    assert heard[0] == "left alone: convtranspose1: its weights are computed"


def test_a_computed_weight_is_no_obstacle_where_the_kernel_is_stated(net, rewritten):
    network = net()
    computed = network.op("Mul", network.random("w", 3, 4, 3, 3), network.random("factor", 1))
    last = network.op(
        "ConvTranspose", "input", computed, channels=4, pads=[1] * 4, kernel_shape=[3, 3], strides=[2, 2]
    )
    result = rewritten(network, SplitTransposed(), last)
    assert operators(result)["Slice"] == 1


def test_a_shared_weight_grows_only_where_rows_are_missing(net, rewritten, constants):
    network = net()
    network.random("w", 3, 4, 3, 3)
    larger = network.op(
        "ConvTranspose", "input", "w", channels=4, strides=[2, 2], output_padding=[1, 1], pads=[0] * 4
    )
    plain = network.op("ConvTranspose", "input", "w", channels=4)
    result = rewritten(network, SplitTransposed(), larger, plain)
    assert constants(result)["w"].shape == (3, 4, 3, 3)
    assert constants(result)["w_of_convtranspose0"].shape == (3, 4, 4, 4)
    assert not constants(result)["w_of_convtranspose0"][..., 3, :].any()


def test_the_split_graph_builds_in_every_precision(net, rewritten, builds):
    network = net()
    stem = network.op("Relu", network.conv("input", 16, stride=2))
    first = network.op("Relu", network.transposed(stem, 16, strides=[2, 2], pads=[1] * 4))
    second = network.transposed(first, 16, 3, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])
    result = rewritten(network, SplitTransposed(), network.conv(network.op("Relu", second), 17, 1))
    assert operators(result)["Slice"] == 2
    builds(result, network)
