"""A model on onnxruntime's CPU provider."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GraphError, SessionError, require
from ..spec import METADATA_KEY, ModelSpec, spec_from_dict
from . import Outputs
from .float16 import holds_float16, rounding_in_float32

_FLOAT_TYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeSession:
    """A loaded ONNX graph with one image input and the outputs of its spec.

    graph: path of an ONNX file, or its bytes.
    spec: how the model is fed and read; None reads it from the file's ``metadata_props``.
    threads: threads inside a node; None takes every core that this process may use.
    simulate_int8: how a Q/DQ graph is computed. False, the default, lets onnxruntime fuse Q and DQ into its
        int8 kernels: the fast way, and the one to time; its sums are integers like TensorRT's, and its
        rescaling in between can round a step differently. True computes each node as the graph writes it,
        dequantised to float32: no faster than the float32 model, so its speed means nothing, and without
        integer kernels that differ between CPUs.

    A float16 graph is run in float32 with every result rounded to float16 (``float16.py`` says why).
    ``simulated`` is then True: accuracy is what a device would have, speed is not.

    Raises GraphError when the graph is missing, no ONNX, has no usable input or output, or contradicts the
    spec; SessionError when onnxruntime cannot load it; MissingExtraError without onnxruntime.
    """

    name = "onnxruntime"

    def __init__(
        self,
        graph: Path | bytes,
        spec: ModelSpec | None = None,
        threads: int | None = None,
        *,
        simulate_int8: bool = False,
    ) -> None:
        ort = require("onnxruntime", "cpu")
        self.threads = _thread_count(threads)
        self._where = "the ONNX graph" if isinstance(graph, bytes) else str(graph)
        model = graph if isinstance(graph, bytes) else _read(graph)
        if not model:
            raise GraphError(f"{self._where}: the file is empty. Export the model again.")
        is_float16 = holds_float16(model)
        if is_float16:
            model = rounding_in_float32(model, self._where)
        self._backend: Any = _load(ort, model, _options(ort, self.threads, simulate_int8), self._where)
        self._spec = _embedded_spec(self._backend, self._where) if spec is None else spec
        self._input_type = _check_input(self._backend, self._spec, self._where)
        _check_outputs(self._backend, self._spec, self._where)
        self._simulated = is_float16 or simulate_int8

    @property
    def spec(self) -> ModelSpec:
        """How the model is fed and read."""
        return self._spec

    @property
    def simulated(self) -> bool:
        """Whether float16 or int8 is imitated in float32, so that its speed means nothing."""
        return self._simulated

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """The spec's outputs, float32 (N, ...) each, of a batch (N, 3, H, W) float32; N may be 0.

        Values that are not finite (a float16 overflow) are handed on as they are. Raises SessionError when
        the session is closed, the batch does not fit or onnxruntime fails; GraphError when an output turns
        out to have another shape than the spec says.
        """
        if self._backend is None:
            raise SessionError(f"{self._where}: the session is closed. Open it again to run it.")
        width, height = self._spec.input_wh
        if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1:] != (3, height, width):
            raise SessionError(
                f"{self._where}: a batch is float32 (N, 3, {height}, {width}), not {batch.dtype} "
                f"{batch.shape}. Make it with Preprocessor(session.spec)."
            )
        names = self._spec.output_names
        expected = [(len(batch), *shape) for shape in self._spec.output_shapes]
        if len(batch) == 0:
            return tuple(np.zeros(shape, np.float32) for shape in expected)
        feed = {self._spec.input_name: batch.astype(self._input_type, copy=False)}
        try:
            outputs = self._backend.run(list(names), feed)
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise SessionError(
                f"{self._where}: onnxruntime failed on {batch.shape}: {_words(error)}"
            ) from error
        for name, output, shape in zip(names, outputs, expected, strict=True):
            if output.shape != shape:
                raise GraphError(
                    f"{self._where}: the output {name!r} has shape {output.shape}, but by the spec it is "
                    f"{shape}. Correct {', '.join(self._spec.output_keys)} or output_name in the spec."
                )
        return tuple(np.asarray(output, np.float32) for output in outputs)

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        self._backend = None

    def __enter__(self) -> "OnnxRuntimeSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _thread_count(threads: int | None) -> int:
    if threads is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux only
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if threads < 1:
        raise SessionError(f"threads is {threads}. Give at least 1, or None for every core")
    return threads


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise GraphError(f"{path}: there is no such ONNX file. Check the path.") from error
    except OSError as error:
        raise GraphError(
            f"{path}: the ONNX file cannot be read ({error.strerror}). Give a file you may read."
        ) from error


def _options(ort: Any, threads: int, simulate_int8: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what matters comes as an exception
    # A spinning worker takes the core on which the next batch is being prepared.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # U8S8 kernels of CPUs without VNNI saturate sums at 16 bits; this takes kernels that do not.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1" if simulate_int8 else "0")
    return options


def _load(ort: Any, model: bytes, options: Any, where: str) -> Any:
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        kind = type(error).__name__
        if kind == "InvalidProtobuf" or "No graph was found" in str(error):
            raise GraphError(
                f"{where}: this is not an ONNX file, or it is damaged. Export the model again."
            ) from error
        if kind in ("InvalidGraph", "InvalidArgument"):
            raise GraphError(f"{where}: onnxruntime finds the graph invalid: {_words(error)}") from error
        raise SessionError(
            f"{where}: onnxruntime {ort.__version__} cannot load the graph: {_words(error)}"
        ) from error


def _words(error: Exception) -> str:
    """onnxruntime's message on one line, without its status prefix."""
    return " ".join(str(error).split()).rsplit("[ONNXRuntimeError] : ", 1)[-1][:500]


def _embedded_spec(backend: Any, where: str) -> ModelSpec:
    text = backend.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise GraphError(
            f"{where}: the file carries no spec (metadata {METADATA_KEY!r}). Say how the model is fed with "
            "--spec model.json, or pass spec=ModelSpec(...)."
        )
    try:
        document = json.loads(text)
    except ValueError as error:
        raise GraphError(f"{where}: the spec inside the file is not JSON ({error}). Pass --spec.") from error
    return spec_from_dict(document, f"{where}: the spec inside the file")


def _check_input(backend: Any, spec: ModelSpec, where: str) -> type[np.generic]:
    inputs = {value.name: value for value in backend.get_inputs()}
    if not inputs:
        raise GraphError(f"{where}: the graph has no inputs, so no image can be fed to it.")
    if spec.input_name not in inputs:
        raise GraphError(_no_such_name(where, "input", spec.input_name, list(inputs)))
    if len(inputs) > 1:
        raise GraphError(
            f"{where}: the graph has inputs {', '.join(inputs)}; a pose model has the image only."
        )
    width, height = spec.input_wh
    value = inputs[spec.input_name]
    _check_shape(where, "input", value, (3, height, width), "input_wh")
    return _float_type(where, "input", value)


def _check_outputs(backend: Any, spec: ModelSpec, where: str) -> None:
    outputs = {value.name: value for value in backend.get_outputs()}
    for name, shape in zip(spec.output_names, spec.output_shapes, strict=True):
        if name not in outputs:
            raise GraphError(_no_such_name(where, "output", name, list(outputs)))
        _check_shape(where, "output", outputs[name], shape, " or ".join(spec.output_keys))
        _float_type(where, "output", outputs[name])


def _no_such_name(where: str, kind: str, name: str, available: list[str]) -> str:
    return (
        f"{where}: the spec's {kind}_name is {name!r}, but the graph's {kind}s are "
        f"{', '.join(map(repr, available))}. Correct {kind}_name in the spec."
    )


def _check_shape(where: str, kind: str, value: Any, expected: tuple[int, ...], keys: str) -> None:
    """Compare what the graph fixes with the spec; symbolic sizes (names or None) fit anything."""
    shape = list(value.shape)
    if len(shape) != 1 + len(expected):
        raise GraphError(
            f"{where}: the {kind} {value.name!r} has {len(shape)} dimensions {shape}; by the spec it has "
            f"{1 + len(expected)}: [batch, {', '.join(map(str, expected))}]."
        )
    if isinstance(shape[0], int):
        raise GraphError(
            f"{where}: the batch size of {kind} {value.name!r} is fixed at {shape[0]}. Export the model with "
            "a dynamic batch."
        )
    if any(isinstance(size, int) and size != want for size, want in zip(shape[1:], expected, strict=True)):
        raise GraphError(
            f"{where}: the {kind} {value.name!r} is {shape}, but by the spec it is [batch, "
            f"{', '.join(map(str, expected))}]. Correct {keys} in the spec."
        )


def _float_type(where: str, kind: str, value: Any) -> type[np.generic]:
    if value.type not in _FLOAT_TYPES:
        raise GraphError(
            f"{where}: the {kind} {value.name!r} is a {value.type}; float32 and float16 are supported."
        )
    return _FLOAT_TYPES[value.type]
