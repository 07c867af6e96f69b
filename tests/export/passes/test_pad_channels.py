"""Channels padded with zeros: every operator, what must stay, and that the result is the same."""

import numpy as np
import pytest
from onnx import helper

from posedge.export.passes.channel_layout import ChannelClasses, Layout, Segment
from posedge.export.passes.pad_channels import PadChannels


def shapes(result, constants):
    return {name: value.shape for name, value in constants(result).items()}


def test_a_chain_is_padded_between_its_ends(net, rewritten, constants):
    network = net()
    hidden = network.op("Relu", network.conv("input", 10))
    result = rewritten(network, PadChannels(32), network.conv(hidden, 5, 1))
    assert shapes(result, constants) == {
        "conv0.weight": (32, 3, 3, 3),
        "conv0.bias": (32,),
        "conv2.weight": (5, 32, 1, 1),
        "conv2.bias": (5,),
    }
    values = constants(result)
    assert not values["conv0.weight"][10:].any()
    assert not values["conv0.bias"][10:].any()
    assert not values["conv2.weight"][:, 10:].any()


@pytest.mark.parametrize("whole", [False, True])
def test_split_and_concat_pad_every_branch_behind_its_own_channels(net, rewritten, constants, whole):
    """RSN's unit: four branches, each added to the next, so all segments are one class."""
    network = net(whole=whole)
    branches = network.split(network.op("Relu", network.conv("input", 12, 1)), [3, 3, 3, 3])
    last = network.conv(branches[0], 3)
    done = [last]
    for branch in branches[1:]:
        last = network.conv(network.op("Add", branch, last), 3)
        done.append(last)
    joined = network.op("Concat", *done, channels=12, axis=1)
    heard: list[str] = []
    result = rewritten(network, PadChannels(8, heard.append), network.conv(joined, 5, 1))
    values = constants(result)
    assert values["split2.sizes"].tolist() == [8, 8, 8, 8]
    kept = [8 * branch + channel for branch in range(4) for channel in range(3)]
    for name, axis, inside in (("conv0.weight", 0, 12), (f"{network.nodes[-1].name}.weight", 1, 12)):
        channels = np.moveaxis(values[name], axis, 0)
        assert channels.shape[0] == 32
        assert np.flatnonzero(channels.reshape(32, -1).any(1)).tolist() == kept
        assert len(kept) == inside
    assert heard[1:] == [
        "left alone: 1 classes of channels for the graph's input",
        "left alone: 1 classes of channels for the graph's output",
    ]


def test_uneven_splits_without_stated_sizes_get_them(net, rewritten, constants):
    network = net()
    left, right = network.split(network.conv("input", 12), [6, 6], even=True)
    # the left half is mixed with others and stays, the right one is padded
    mixed = network.op("Softmax", left, axis=1)
    result = rewritten(
        network, PadChannels(8), network.op("Add", network.conv(mixed, 5), network.conv(right, 5))
    )
    assert constants(result)["split1.split"].tolist() == [6, 8]


def test_split_of_opset_18_loses_its_count(net, rewritten, constants, attribute):
    network = net(opset=18)
    left, right = network.split(network.conv("input", 12), [6, 6], even=True, num_outputs=2)
    result = rewritten(network, PadChannels(8), network.conv(network.op("Add", left, right), 5))
    assert constants(result)["split1.split"].tolist() == [8, 8]
    assert attribute(result, "split1", "num_outputs") is None


def test_cuts_are_carried_through_everything_that_is_united(net, rewritten, constants):
    """Two ways to cut the same 12 channels: 4 + 8 before, 6 + 6 after, so segments of 4, 2 and 6."""
    network = net()
    joined = network.op("Concat", network.conv("input", 4), network.conv("input", 8), channels=12, axis=1)
    same = network.op("Relu", joined)
    left, right = network.split(same, [6, 6])
    result = rewritten(network, PadChannels(8), network.conv(network.op("Mul", left, right), 5))
    # the halves are multiplied, so 4 | 2 of the one cuts the other too
    assert constants(result)["split4.sizes"].tolist() == [16, 16]
    assert shapes(result, constants)["conv0.weight"][0] == 8
    assert shapes(result, constants)["conv1.weight"][0] == 24


@pytest.mark.parametrize(
    "operator",
    ["Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "LeakyRelu", "Elu", "Softplus", "Abs", "Neg"],
)
def test_activations(net, rewritten, constants, operator):
    network = net()
    hidden = network.op(operator, network.conv("input", 10))
    result = rewritten(network, PadChannels(16), network.conv(hidden, 5, 1))
    assert shapes(result, constants)["conv2.weight"] == (5, 16, 1, 1)


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        ("PRelu", (10, 1, 1)),
        ("Mul", (1, 10, 1, 1)),
        ("Add", (10, 1, 1)),
        ("Sub", (1,)),
        ("Max", (1, 1, 1, 1)),
        ("Min", (16, 12)),
        ("Add", (1, 10, 16, 12)),
    ],
)
def test_constants_of_each_channel_follow(net, rewritten, constants, operator, shape):
    network = net()
    hidden = network.op(operator, network.conv("input", 10), network.random("constant", *shape))
    result = rewritten(network, PadChannels(16), network.conv(hidden, 5, 1))
    assert shapes(result, constants)["conv2.weight"] == (5, 16, 1, 1)
    assert shapes(result, constants)["constant"] == tuple(16 if size == 10 else size for size in shape)


def test_a_constant_on_the_left_follows_too(net, rewritten, constants):
    network = net()
    network.random("constant", 1, 10, 1, 1)
    hidden = network.op("Sub", "constant", network.conv("input", 10), channels=10)
    result = rewritten(network, PadChannels(16), network.conv(hidden, 5, 1))
    assert shapes(result, constants)["constant"] == (1, 16, 1, 1)


def test_pools_resize_reductions_and_crops(net, rewritten, constants):
    network = net()
    stem = network.conv("input", 10)
    pooled = network.op("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    pooled = network.op("AveragePool", pooled, kernel_shape=[2, 2], strides=[2, 2])
    scales = network.const("scales", np.array([1, 1, 4, 4], np.float32))
    resized = network.op("Resize", pooled, "", scales, mode="linear")
    gate = network.op("Sigmoid", network.op("GlobalAveragePool", resized))
    gate = network.op("Mul", gate, network.op("ReduceMean", resized, axes=[2, -1], keepdims=1))
    gated = network.op("Mul", resized, gate)
    bounds = [network.const(name, np.array(value)) for name, value in (("s", [1]), ("e", [9]), ("a", [2]))]
    cropped = network.op("Slice", gated, *bounds)
    limits = [network.const(name, np.float32(value)) for name, value in (("low", -1), ("high", 2))]
    last = network.conv(network.op("Clip", cropped, *limits), 5, 1)
    result = rewritten(network, PadChannels(16), last)
    assert shapes(result, constants)["conv0.weight"] == (16, 3, 3, 3)
    assert constants(result)[f"{network.nodes[-1].name}.weight"].shape == (5, 16, 1, 1)


def test_batch_norms_that_were_not_folded(net, rewritten, constants):
    network = net()
    stem = network.op("Relu", network.conv("input", 10))
    statistics = [network.random(name, 10) for name in ("scale", "bias", "mean", "variance")]
    normed = network.op("BatchNormalization", stem, *statistics)
    result = rewritten(network, PadChannels(16), network.conv(normed, 5, 1))
    assert shapes(result, constants)["scale"] == (16,)
    assert constants(result)["variance"][10:].tolist() == [1.0] * 6


def test_depthwise_convolutions_are_widened(net, rewritten, constants, attribute):
    network = net()
    wide = network.conv(network.conv("input", 10), 10, group=10)
    up = network.transposed(wide, 10, group=10, strides=[2, 2], pads=[1] * 4)
    result = rewritten(network, PadChannels(16), network.conv(up, 5, 1))
    assert attribute(result, "conv1", "group") == attribute(result, "convtranspose2", "group") == 16
    assert shapes(result, constants)["conv1.weight"] == (16, 1, 3, 3)
    assert shapes(result, constants)["convtranspose2.weight"] == (16, 1, 4, 4)


def test_transposed_convolutions_end_and_begin_a_class(net, rewritten, constants):
    network = net()
    up = network.transposed(network.conv("input", 10), 6, strides=[2, 2], pads=[1] * 4)
    result = rewritten(network, PadChannels(8), network.conv(up, 5, 1))
    assert shapes(result, constants)["convtranspose1.weight"] == (16, 8, 4, 4)
    assert shapes(result, constants)["convtranspose1.bias"] == (8,)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("grouped", "grouped Conv"),
        ("multiplier", "grouped Conv"),
        ("shuffle", "Reshape"),
        ("softmax", "Softmax"),
        ("size", "Resize to a size or of channels"),
        ("crop", "Slice of channels"),
        ("computed", "Conv with computed weights"),
        ("spread", "Mul that spreads one channel"),
        ("division", "Div"),
        ("constant", "Concat of a constant or of unknown sizes"),
    ],
)
def test_what_mixes_channels_keeps_them_and_is_named(net, rewritten, constants, kind, reason):
    network = net()
    stem = network.conv("input", 10)
    if kind == "grouped":
        hidden = network.conv(stem, 10, group=5)
    elif kind == "multiplier":
        hidden = network.conv(stem, 20, group=10)
    elif kind == "shuffle":
        shape = network.const("shape", np.array([0, 2, 5, 16, 12]))
        pairs = network.op("Transpose", network.op("Reshape", stem, shape), perm=[0, 2, 1, 3, 4])
        hidden = network.op("Reshape", pairs, network.const("back", np.array([0, 10, 16, 12])), channels=10)
    elif kind == "softmax":
        hidden = network.op("Softmax", stem, axis=1)
    elif kind == "size":
        sizes = network.const("target", np.array([2, 10, 8, 6]))
        hidden = network.op("Resize", stem, "", "", sizes)
    elif kind == "crop":
        bounds = [network.const(name, np.array([value])) for name, value in (("s", 2), ("e", 9), ("a", 1))]
        hidden = network.op("Slice", stem, *bounds, channels=7)
    elif kind == "computed":
        weight = network.op("Mul", network.random("w", 10, 10, 1, 1), network.random("factor", 1))
        hidden = network.op("Conv", stem, weight)
    elif kind == "spread":
        hidden = network.op("Mul", stem, network.conv(network.op("Relu", stem), 1))
    elif kind == "division":
        hidden = network.op("Div", stem, network.op("Exp", stem))
    else:
        network.random("grid", 2, 3, 16, 12)
        hidden = network.op("Concat", stem, "grid", channels=13, axis=1)
    heard: list[str] = []
    model = network.model(network.conv(hidden, 5, 1))
    before = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    step = PadChannels(16, heard.append)
    if kind in ("size", "constant"):  # these hold the batch size
        after = step.edit(model)
    else:
        after = rewritten(network, step, *(value.name for value in model.graph.output))
    assert any(line.endswith(f"for {reason}") for line in heard)
    if kind != "spread":  # there only the gate keeps its one channel
        assert {tensor.name: list(tensor.dims) for tensor in after.graph.initializer} == before


def test_inputs_and_outputs_of_the_graph_keep_their_channels(net, rewritten, constants):
    network = net()
    inner = network.op("Relu", network.conv("input", 10))
    head = network.conv(inner, 5, 1)
    result = rewritten(network, PadChannels(16), head, network.op("Add", inner, inner))
    assert shapes(result, constants)["conv0.weight"] == (10, 3, 3, 3)


def test_a_graph_with_control_flow_is_left_alone(net):
    network = net()
    last = network.conv(network.conv("input", 10), 5)
    body = helper.make_graph([helper.make_node("Identity", [last], ["y"])], "body", [], [])
    network.nodes.append(helper.make_node("If", ["input"], ["z"], then_branch=body, else_branch=body))
    heard: list[str] = []
    model = network.model(last)
    before = model.SerializeToString()
    assert PadChannels(16, heard.append).edit(model).SerializeToString() == before
    assert heard == ["no channels are padded: the graph has control flow"]


def test_weights_shared_by_layers_of_different_layout(net, rewritten, constants):
    network = net()
    network.random("shared", 10, 10, 1, 1)
    stem = network.conv("input", 10)
    inner = network.op("Conv", stem, "shared")
    mixed = network.op("Softmax", network.op("Conv", inner, "shared"), axis=1)
    result = rewritten(network, PadChannels(16), network.conv(mixed, 5, 1))
    sizes = sorted(shape for name, shape in shapes(result, constants).items() if name.startswith("shared"))
    assert sizes == [(10, 16, 1, 1), (16, 16, 1, 1)]


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(net, rewritten, seed):
    """Twenty operators at random upon whatever fits them; every third tensor is looked at as an output."""
    network = net()
    rng = np.random.default_rng(seed)
    tensors = [network.conv("input", int(rng.integers(2, 20))) for _ in range(2)]
    for _ in range(20):
        source = str(rng.choice(tensors))
        size = network.channels[source]
        alike = [name for name in tensors if network.channels[name] == size]
        kind = rng.choice(["conv", "grouped", "relu", "add", "mul", "concat", "split", "softmax", "pool"])
        if kind == "conv":
            tensors.append(network.conv(source, int(rng.integers(2, 20)), int(rng.choice([1, 3]))))
        elif kind == "grouped":
            divisors = [group for group in range(1, size + 1) if size % group == 0]
            tensors.append(network.conv(source, size, group=int(rng.choice(divisors))))
        elif kind == "relu":
            tensors.append(network.op("Relu", source))
        elif kind in ("add", "mul"):
            tensors.append(network.op(kind.title(), source, str(rng.choice(alike))))
        elif kind == "concat" and size < 40:
            other = str(rng.choice(tensors))
            total = size + network.channels[other]
            tensors.append(network.op("Concat", source, other, channels=total, axis=1))
        elif kind == "split" and size > 3:
            cut = int(rng.integers(1, size))
            tensors += network.split(source, [cut, size - cut])
        elif kind == "softmax":
            tensors.append(network.op("Softmax", source, axis=1))
        elif kind == "pool":
            gate = network.op("Sigmoid", network.op("GlobalAveragePool", source))
            tensors.append(network.op("Mul", source, gate))
    heads = [network.conv(name, 4, 1) for name in tensors[-6:]]
    rewritten(network, PadChannels(int(rng.choice([4, 8, 32]))), *heads, tensors[len(tensors) // 2])


def test_the_padded_graph_builds_in_every_precision(net, rewritten, builds):
    network = net()
    stem = network.op("Relu", network.conv("input", 26))
    parts = network.split(network.op("Relu", network.conv(stem, 26, 1)), [13, 13])
    left = network.op("Relu", network.conv(parts[0], 13))
    right = network.conv(network.op("Add", parts[1], left), 13)
    joined = network.op("Concat", left, right, channels=26, axis=1)
    body = network.op("Relu", network.op("Add", network.conv(joined, 26, 1), stem))
    wide = network.op("Relu", network.conv(body, 26, group=26))
    up = network.op("Relu", network.transposed(wide, 20, strides=[2, 2], pads=[1] * 4))
    result = rewritten(network, PadChannels(32), network.conv(up, 17, 1))
    builds(result, network)


def test_layouts_of_classes():
    classes = ChannelClasses({"whole": 7, "left": 3, "right": 4, "other": 4})
    classes.link("whole", "left", 0, 0, 3)
    classes.link("whole", "right", 3, 0, 4)
    classes.link("right", "other")
    classes.fix("other", "a reason")
    layouts, kept = classes.layouts(8)
    assert layouts["whole"] == Layout((Segment(3, 8), Segment(4, 4)))
    assert (layouts["left"].padded, layouts["right"].padded) == (8, 4)
    assert kept == {"a reason": 1}
    expanded = layouts["whole"].expand(np.arange(1, 8), 0)
    assert expanded.tolist() == [1, 2, 3, 0, 0, 0, 0, 0, 4, 5, 6, 7]
