"""ONNX files: loading with clear errors, running, and the spec that travels inside."""

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from ..errors import GraphError
from ..files import write_bytes
from ..runtime.spec import METADATA_KEY, ModelSpec, spec_from_dict
from .light import without_weights

BATCH_AXIS = "n"  # the symbolic name of axis 0 in every graph that posedge writes

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # a terminal's codes, which some libraries put into messages

# of ONNX itself; onnxruntime's own ("com.microsoft") are called QLinear... as well
_QUANTISED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
}

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def load_graph(path: Path) -> ModelProto:
    """Load an ONNX file, weights in separate files included, and check that it can be a model here.

    Raises GraphError when it is missing, empty, not ONNX, rejected by onnx.checker, when its separate
    weights are missing, or when it has not exactly one input, of rank 4 and float.
    """
    model = _parse(path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises its own, the operating system's and ValueError here
        raise GraphError(
            f"{path}: its weights are in a separate file that cannot be read ({first_line(error)}). "
            "Keep that file beside the ONNX file"
        ) from error
    check_graph(model, str(path))
    return model


def save_graph(model: ModelProto, path: Path) -> None:
    """Write ``model`` whole or not at all; the same model gives the same bytes. Raises OutputError."""
    write_bytes(path, serialize(model))


def serialize(model: ModelProto) -> bytes:
    """The model as bytes, maps in a fixed order. Raises GraphError above 2 GB, protobuf's limit."""
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's class for this differs between its versions
        raise GraphError(
            f"the graph {model.graph.name!r} is too large for one ONNX file (2 GB): {first_line(error)}"
        ) from error
    return data


def check_graph(model: ModelProto, where: str) -> None:
    """onnx.checker, shape inference included, and one float input of rank 4. Raises GraphError."""
    try:
        # which would hold the weights three times more, and only reads their types and shapes
        onnx.checker.check_model(without_weights(model), full_check=True)
    except Exception as error:  # ValidationError, InferenceError, ValueError above 2 GB
        raise GraphError(f"{where}: onnx.checker rejects the graph: {first_line(error)}") from error
    input_ = graph_input(model, where)
    kind = input_.type.tensor_type
    if kind.elem_type not in _FLOATS:
        name = TensorProto.DataType.Name(kind.elem_type)
        raise GraphError(f"{where}: the input {input_.name!r} is {name}; it must be FLOAT or FLOAT16")
    shape = dims(input_)
    if shape is None or len(shape) != 4:
        rank = "no stated shape" if shape is None else f"rank {len(shape)}, {_show(shape)}"
        raise GraphError(f"{where}: the input {input_.name!r} has {rank}; it must be (N, 3, H, W)")


def graph_input(model: ModelProto, where: str) -> ValueInfoProto:
    """The only input that is not a weight. Raises GraphError when there is none or more than one."""
    weights = {weight.name for weight in model.graph.initializer}
    inputs: list[ValueInfoProto] = [value for value in model.graph.input if value.name not in weights]
    if not inputs:
        raise GraphError(f"{where}: the graph has no input, so it cannot be given an image. Export it again")
    if len(inputs) > 1:
        names = ", ".join(value.name for value in inputs)
        raise GraphError(
            f"{where}: the graph has {len(inputs)} inputs ({names}); a model here takes images only"
        )
    return inputs[0]


def dims(value: ValueInfoProto) -> list[int | str] | None:
    """The stated shape: sizes, and names of symbolic axes ("" where one has none); None when not stated."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in kind.shape.dim]


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that the graph is written in; 0 when it states none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def quantised_operator(model: ModelProto) -> str | None:
    """The first operator of the graph that quantises or computes with integers; None for a graph in float."""
    operators = (node.op_type for node in model.graph.node)
    return next((name for name in operators if name in _QUANTISED or name.startswith("QLinear")), None)


def attach_spec(model: ModelProto, spec: ModelSpec) -> None:
    """Put ``spec`` into the model's ``metadata_props``, in place of one that is there."""
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    for key, value in [*kept, (METADATA_KEY, spec.to_json())]:
        model.metadata_props.add(key=key, value=value)


def attached_spec(model: ModelProto, where: str = "the graph") -> ModelSpec | None:
    """The spec inside the model, if it carries one. Raises GraphError for one that cannot be read."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            try:
                document = json.loads(entry.value)
            except ValueError as error:
                raise GraphError(
                    f"{where}: the spec inside is not JSON ({error}). Export it again"
                ) from error
            return spec_from_dict(document, f"{where}: {METADATA_KEY}")
    return None


def spec_of(model: ModelProto, where: str = "the graph") -> ModelSpec:
    """The spec inside the model. Raises GraphError when there is none, or one that cannot be read."""
    spec = attached_spec(model, where)
    if spec is None:
        raise GraphError(
            f"{where} carries no spec ({METADATA_KEY} in its metadata). Give one with --spec model.json; "
            "`posedge spec init` writes a first one"
        )
    return spec


def check_spec(model: ModelProto, spec: ModelSpec, where: str = "the graph") -> None:
    """Compare names and stated sizes of input and outputs with ``spec``; a symbolic size fits any.

    Raises GraphError with the first contradiction.
    """
    input_ = graph_input(model, where)
    if input_.name != spec.input_name:
        raise GraphError(
            f"{where}: the graph's input is {input_.name!r}, the spec's input_name is {spec.input_name!r}. "
            "Correct the spec"
        )
    outputs = {value.name: value for value in model.graph.output}
    for name in spec.output_names:
        if name not in outputs:
            key = "output_name" if name == spec.output_name else "output_name_y"
            raise GraphError(
                f"{where}: the graph's outputs are {', '.join(map(repr, outputs))}, the spec's {key} is "
                f"{name!r}. Correct the spec"
            )
    width, height = spec.input_wh
    _compare(input_, (3, height, width), f"the spec's input_wh is {width}x{height}", where)
    for name, shape in zip(spec.output_names, spec.output_shapes, strict=True):
        _compare(outputs[name], shape, _stated_output(spec), where)


def random_batch(spec: ModelSpec, size: int, seed: int = 0) -> NDArray[np.float32]:
    """``size`` inputs (size, 3, H, W) of standard normal noise, the same for the same seed."""
    width, height = spec.input_wh
    return np.random.default_rng(seed).standard_normal((size, 3, height, width), np.float32)


def run_graph(
    model: ModelProto, batch: NDArray[Any], outputs: Sequence[str] | None = None, optimise: bool = False
) -> dict[str, NDArray[Any]]:
    """Run ``model`` once, as ``GraphRunner`` does."""
    return GraphRunner(model, outputs, optimise)(batch)


class GraphRunner:
    """``model`` on onnxruntime's CPU kernels; ``outputs`` (default: all) by name.

    ``optimise`` fuses nodes as deployment does; without it every node is computed as written. Raises
    GraphError with onnxruntime's words, here and when it is called.
    """

    def __init__(
        self, model: ModelProto, outputs: Sequence[str] | None = None, optimise: bool = False
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: warnings of unused weights and the like are no news here
        # a graph runs once or twice here: threads that spin between nodes only take the cores from others
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._outputs = list(outputs) if outputs is not None else [value.name for value in model.graph.output]
        self._input = graph_input(model, "the graph").name
        with _in_our_words():
            self._session = _session(model, options)

    def __call__(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with _in_our_words():
            values = self._session.run(self._outputs, {self._input: batch})
        return {name: np.asarray(value) for name, value in zip(self._outputs, values, strict=True)}


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except GraphError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common class of their own
        raise GraphError(f"onnxruntime cannot run the graph: {first_line(error)}") from error


def _session(model: ModelProto, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """From a file, for beside the bytes of a large model there is little room for what is made of them."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graph.onnx"
        path.write_bytes(serialize(model))
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _parse(path: Path) -> ModelProto:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise GraphError(
            f"{path}: there is no such ONNX file. Check the path, or export the model first"
        ) from error
    except OSError as error:
        raise GraphError(
            f"{path}: the ONNX file cannot be read ({error.strerror}). Give a file you may read"
        ) from error
    if not data:
        raise GraphError(f"{path} is empty. Export or copy it again")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, which has no typed home
        raise GraphError(
            f"{path} is not ONNX, or is cut short ({len(data)} bytes are there). Export or copy it again"
        ) from error
    if not model.ir_version or not model.graph.node:
        raise GraphError(
            f"{path} is not an ONNX model: no operators were found in its {len(data)} bytes. "
            "Export or copy it again"
        )
    return model


def _stated_output(spec: ModelSpec) -> str:
    """What the spec says of the outputs' sizes: "the spec's num_joints is 17 and its heatmap_wh 48x64"."""
    values = [getattr(spec, key) for key in spec.output_keys]
    words = [f"{value[0]}x{value[1]}" if isinstance(value, tuple) else str(value) for value in values]
    first, *others = map(" ".join, zip(spec.output_keys, words, strict=True))
    return " and its ".join([f"the spec's {first.replace(' ', ' is ')}", *others])


def _compare(value: ValueInfoProto, expected: tuple[int, ...], stated: str, where: str) -> None:
    shape = dims(value)
    if shape is None:
        return
    if len(shape) != 1 + len(expected):
        raise GraphError(
            f"{where}: {value.name!r} has rank {len(shape)}, {_show(shape)}; "
            f"by the spec it is (N, {', '.join(map(str, expected))}): {stated}"
        )
    for axis, size in zip(shape[1:], expected, strict=True):
        if isinstance(axis, int) and axis != size:
            raise GraphError(
                f"{where}: {value.name!r} is {_show(shape)} in the graph, but {stated}, "
                f"that is (N, {', '.join(map(str, expected))}). Correct the spec or give the right file"
            )


def _show(shape: Sequence[int | str]) -> str:
    return f"({', '.join(str(axis) or '?' for axis in shape)})"


def first_line(error: BaseException) -> str:
    """What another library's error says, without colours and short enough for one of ours."""
    text = _COLOUR.sub("", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
