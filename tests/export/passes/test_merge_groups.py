"""Grouped convolutions in fewer groups compute the same."""

import numpy as np
import pytest

from posedge.errors import GraphError
from posedge.export.graph_cost import cost_of
from posedge.export.passes.base import apply_passes
from posedge.export.passes.merge_groups import MergeGroups, merge


@pytest.mark.parametrize("merged", [1, 2, 4])
@pytest.mark.parametrize(("channels", "group"), [(16, 8), (24, 8), (12, 12)])
@pytest.mark.parametrize("whole", [False, True])
def test_groups_of_any_kind_are_merged(net, rewritten, constants, attribute, channels, group, merged, whole):
    network = net(whole=whole)
    stem = network.conv("input", channels)
    grouped = network.op("Relu", network.conv(stem, 2 * channels, group=group))
    result = rewritten(network, MergeGroups(merged), network.conv(grouped, 5, 1))
    assert attribute(result, "conv1", "group") == merged
    weight = constants(result)["conv1.weight"]
    assert weight.shape == (2 * channels, channels // merged, 3, 3)
    # block-diagonal: as many values as before, the rest zero
    if not whole:
        assert np.count_nonzero(weight) == 2 * channels * (channels // group) * 9


def test_a_depthwise_convolution_becomes_an_ordinary_one(net, rewritten, constants):
    network = net()
    stem = network.conv("input", 8)
    result = rewritten(network, MergeGroups(1), network.conv(stem, 8, group=8, stride=2))
    weight = constants(result)["conv1.weight"]
    assert weight.shape == (8, 8, 3, 3)
    assert not weight[~np.eye(8, dtype=bool)].any()


@pytest.mark.parametrize("merged", [1, 3])
def test_transposed_convolutions_are_merged(net, rewritten, constants, merged):
    network = net()
    stem = network.conv("input", 12)
    up = network.transposed(stem, 18, group=6, strides=[2, 2], pads=[1] * 4)
    result = rewritten(network, MergeGroups(merged), up)
    assert constants(result)["convtranspose1.weight"].shape == (12, 18 // merged, 4, 4)


def test_what_cannot_be_merged_stays_and_is_named(net, rewritten, attribute):
    network = net()
    stem = network.conv("input", 12)
    few = network.conv(stem, 12, group=2)
    odd = network.conv(few, 12, group=3)
    even = network.conv(odd, 12, group=6)
    computed = network.op("Mul", network.random("w", 12, 3, 1, 1), network.random("factor", 1))
    last = network.op("Conv", even, computed, channels=12, group=4)
    heard: list[str] = []
    result = rewritten(network, MergeGroups(2, heard.append), last)
    names = ("conv1", "conv2", "conv3", "conv5")
    assert [attribute(result, name, "group") for name in names] == [2, 3, 2, 4]
    assert heard == [
        "1 convolutions merged into 2 groups",
        "left alone: conv2: 2 does not divide its 3 groups",
        "left alone: conv5: its weights are computed",
    ]


@pytest.mark.parametrize(
    ("groups", "wrong", "counts", "fitting"),
    [
        ([8, 8], 3, "8", "1, 2, 4"),
        ([24], 5, "24", "1, 2, 3, 4, 6, 8, 12"),
        ([4, 6, 12], 5, "6, 12", "1, 2, 3, 6"),  # 4 is fewer than 5
        ([12, 8], 7, "8, 12", "1, 2, 4"),
    ],
)
def test_a_number_that_divides_no_groups_is_refused(net, groups, wrong, counts, fitting):
    network = net()
    last = network.conv("input", 24)
    for group in groups:
        last = network.conv(last, 24, group=group)
    with pytest.raises(GraphError) as caught:
        apply_passes(network.model(last), [MergeGroups(wrong)], network.batch(1))
    assert f"--merge-groups {wrong}: the convolutions of this graph have {counts} groups" in str(caught.value)
    assert str(caught.value).endswith(f"Numbers that do: {fitting}")


def test_merging_again_or_into_more_groups_changes_nothing(net, rewritten):
    network = net()
    last = network.conv(network.conv("input", 16), 16, group=8)
    once = rewritten(network, MergeGroups(2), last)
    for groups in (2, 4):
        assert apply_passes(once, [MergeGroups(groups)], network.batch(1)) == once


def test_a_weight_that_two_layers_share_is_merged_for_the_one_that_is_grouped(net, rewritten, constants):
    network = net()
    stem = network.conv("input", 8)
    network.random("shared", 4, 4, 3, 3)
    left, right = network.split(stem, [4, 4])
    grouped = network.op("Conv", stem, "shared", channels=4, group=2, pads=[1] * 4)
    plain = network.op("Conv", network.op("Add", left, right), "shared", channels=4, pads=[1] * 4)
    result = rewritten(network, MergeGroups(1), network.op("Add", grouped, plain))
    assert constants(result)["shared"].shape == (4, 4, 3, 3)
    assert constants(result)["shared_of_conv2"].shape == (4, 8, 3, 3)


def test_what_merging_costs_is_as_documented(net, rewritten):
    network = net()
    stem = network.conv("input", 16, bias=False)
    head = network.conv(stem, 16, group=8, bias=False)
    before = cost_of(network.model(head))
    after = cost_of(rewritten(network, MergeGroups(2), head))
    stem_weights, grouped_weights = 16 * 3 * 9, 16 * 2 * 9
    assert before.parameters == stem_weights + grouped_weights
    assert after.parameters == stem_weights + grouped_weights * 8 // 2
    assert (before.macs, after.macs) == (before.parameters * 16 * 12, after.parameters * 16 * 12)


def test_less_than_one_group_is_refused():
    with pytest.raises(GraphError, match="--merge-groups 0"):
        MergeGroups(0)


def test_merge_keeps_the_type_of_the_weights():
    weight = np.arange(8, dtype=np.float16).reshape(4, 2, 1, 1)
    assert merge(weight, 2, 1)[:, :, 0, 0].tolist() == [
        [0, 1, 0, 0],
        [2, 3, 0, 0],
        [0, 0, 4, 5],
        [0, 0, 6, 7],
    ]
    assert merge(weight, 2, 1).dtype == np.float16


def test_the_merged_graph_builds_in_every_precision(net, rewritten, builds):
    network = net()
    stem = network.op("Relu", network.conv("input", 16))
    wide = network.op("Relu", network.conv(stem, 16, group=16))
    body = network.op("Add", network.conv(wide, 16, group=4), stem)
    up = network.transposed(network.op("Relu", body), 16, group=4, strides=[2, 2], pads=[1] * 4)
    result = rewritten(network, MergeGroups(2), network.conv(up, 17, 1))
    builds(result, network)
