"""The inspector's JSON, from documents written after NVIDIA's documentation: no GPU has made them."""

import json
from typing import Any

import pytest

from posedge.engines.inspection.inspector_json import io_tensors, read_inspector

SPELLED = {
    "Int8": "Thirty-two wide channel vectorized row major Int8 format",
    "Half": "Channel major FP16 format where channel % 8 == 0",
    "Float": "Row major linear FP32",
}
PRECISIONS = {"Int8": "INT8", "Half": "FP16", "Float": "FP32"}


def convolution(
    kind: str, weight: str | None = None, metadata: str = "[ONNX Layer: conv1]"
) -> dict[str, Any]:
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 8, 16, 16], "Format/Datatype": kind}
    layer = {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor],
        "Outputs": [{**tensor, "Name": "y"}],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "Weights": {"Type": weight or kind, "Count": 576},
        "Bias": {"Type": "Float", "Count": 8},
        "Activation": "RELU",
        "TacticName": "sm80_xmma_fprop_implicit_gemm",
        "StreamId": 0,
        "Metadata": metadata,
    }
    return layer if metadata else {key: value for key, value in layer.items() if key != "Metadata"}


def only(layer: Any) -> Any:
    reading = read_inspector(json.dumps({"Layers": [layer], "Bindings": ["x", "y"]}), "the inspector")
    assert reading.layers is not None
    (found,) = reading.layers
    return found


@pytest.mark.parametrize("kind", PRECISIONS)
@pytest.mark.parametrize("spelled", [False, True], ids=["short", "spelled out"])
def test_the_precision_of_a_convolution(kind: str, spelled: bool) -> None:
    layer = convolution(SPELLED[kind] if spelled else kind, kind)
    found = only(layer)
    assert (found.precision, found.multiplies) == (PRECISIONS[kind], True)
    assert found.weight_bytes == 576 * {"Int8": 1, "Half": 2, "Float": 4}[kind]


@pytest.mark.parametrize("separator", [" ", "\x1e", "\x1f", ""])
def test_the_nodes_of_a_fused_layer(separator: str) -> None:
    metadata = separator.join(f"[ONNX Layer: {name}]" for name in ("conv1", "a/b + c", "conv1"))
    assert only(convolution("Int8", metadata=metadata)).nodes == ("conv1", "a/b + c")


def test_without_metadata_a_layer_is_called_after_its_nodes() -> None:
    layer = convolution("Int8", metadata="")
    layer["Name"] = "conv1 + PWN(relu1)"
    assert only(layer).nodes == ("conv1", "relu1")


def test_a_float_activation_makes_a_float_product() -> None:
    assert only(convolution("Float", "Int8")).precision == "FP32"


def test_a_product_of_myelin_lists_its_weights_as_an_input() -> None:
    inputs = [{"Name": name, "Format/Datatype": kind} for name, kind in (("x", "Int8"), ("w", "Int8"))]
    layer = {"Name": "fc_myl0_3", "LayerType": "gemm", "Inputs": inputs, "Metadata": "[ONNX Layer: fc]"}
    assert (only(layer).precision, only(layer).weight_bytes) == ("INT8", None)
    inputs[1]["Format/Datatype"] = "Half"
    assert only(layer).precision == "FP16"


@pytest.mark.parametrize("kind", ["Reformat", "kgen", "NoOp", "Convert"])
def test_what_stands_around_a_convolution_does_not_multiply(kind: str) -> None:
    layer = {**convolution("Int8"), "LayerType": kind}
    assert (only(layer).multiplies, only(layer).precision) == (False, None)


@pytest.mark.parametrize(
    "change", [{"Inputs": []}, {"Inputs": None}, {"Weights": {}}, {"Inputs": [{"Name": "x"}]}]
)
def test_a_layer_that_does_not_say_its_types_has_no_precision(change: dict[str, Any]) -> None:
    assert only({**convolution("Int8"), **change}).precision is None


def test_an_unknown_type_is_not_taken_for_a_known_one() -> None:
    assert only(convolution("E8M0", "E8M0")).precision is None


def test_names_alone_say_how_to_know_more() -> None:
    reading = read_inspector(json.dumps({"Layers": ["conv1 + relu1", "pool1"]}), "the inspector")
    assert reading.layers is not None
    assert [layer.nodes for layer in reading.layers] == [("conv1", "relu1"), ("pool1",)]
    assert [layer.precision for layer in reading.layers] == [None, None]
    assert "detailed profiling verbosity" in reading.source


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"Layers": {}}', "{}"])
def test_what_is_no_inspectors_json_is_not_known(text: str) -> None:
    reading = read_inspector(text, "the inspector")
    assert reading.layers is None
    assert reading.source.startswith("not known: ")


def test_inputs_and_outputs_of_both_schemas() -> None:
    entries = [{"Name": "x", "IOMode": "Input", "DataType": "Float"}, {"Name": "y", "IOMode": "Output"}]
    assert io_tensors(json.dumps({"Layers": [], "Bindings": ["x", "y"]})) == ("x", "y")
    assert io_tensors(json.dumps({"Layers": [], "I/O Tensors": entries})) == ("x", "y")
