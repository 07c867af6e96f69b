"""The INT8 calibrators that posedge is compared with, each as its own documentation says to use it.

All get the same crops as float32 batches and write a Q/DQ graph. None is tuned here, for better or worse.
"""

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.calibrate import quantize
from ..calibration.datasets import CocoPersons, batches
from ..calibration.recipe import Recipe
from ..runtime.preprocess import Preprocessor
from ..runtime.spec import ModelSpec

CALIBRATION_BATCH = 4

Calibrator = Callable[["Job"], None]


@dataclass(frozen=True, eq=False)
class Job:
    """Calibrate ``graph``, a float32 ONNX file, with the crops of ``persons`` and write ``output``."""

    graph: Path
    spec: ModelSpec
    persons: CocoPersons
    output: Path

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """The crops, (N, 3, H, W) each, cut out while they are asked for."""
        for part in batches(self.persons, Preprocessor(self.spec), CALIBRATION_BATCH):
            yield part.batch


@dataclass(frozen=True)
class Peer:
    """label: as tables call it. module: what must be installed. calibrate: does a job."""

    label: str
    module: str
    calibrate: Calibrator

    @property
    def installed(self) -> bool:
        """Whether the peer can run here."""
        return find_spec(self.module) is not None


class _Reader:
    """onnxruntime's CalibrationDataReader: it is asked for one feed after the other."""

    def __init__(self, job: Job) -> None:
        self._name = job.spec.input_name
        self._batches = job.batches()

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next feed; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def posedge_default(job: Job) -> None:
    """The recipe of ``posedge deploy``."""
    crops = batches(job.persons, Preprocessor(job.spec), CALIBRATION_BATCH)
    quantize(job.graph, crops, job.output)


def posedge_learned(job: Job) -> None:
    """The same, and biases learned from the float32 outputs."""
    crops = batches(job.persons, Preprocessor(job.spec), CALIBRATION_BATCH)
    quantize(job.graph, crops, job.output, Recipe(learned=True))


def onnxruntime_default(job: Job) -> None:
    """``quantize_static`` with nothing but its defaults: min-max, asymmetric, one scale for a weight."""
    _quantize_static(job)


def onnxruntime_symmetric(method: str, job: Job) -> None:
    """The form that its documentation has for GPUs and TensorRT: int8, symmetric, scales for each channel.

    method: a member of onnxruntime's CalibrationMethod.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType

    _quantize_static(
        job,
        calibrate_method=CalibrationMethod[method],
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )


def _quantize_static(job: Job, **options: Any) -> None:
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # its documentation asks for this first; symbolic inference is for graphs whose shapes are computed
    prepared = job.output.with_suffix(".prepared.onnx")
    with _quiet():
        quant_pre_process(job.graph, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, job.output, _Reader(job), **options)


def modelopt(method: str, job: Job) -> None:
    """NVIDIA's ModelOpt on the CPU; what is not INT8 stays float32, as it does with the others."""
    quantize_onnx = import_module("modelopt.onnx.quantization").quantize

    with _quiet():
        quantize_onnx(
            str(job.graph),
            quantize_mode="int8",
            calibration_data={job.spec.input_name: np.concatenate(list(job.batches()))},
            calibration_method=method,
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(job.output),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Peers print their progress between the rows of the table."""
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _onnxruntime(method: str) -> Peer:
    # a partial of a function and no closure: it goes to another process
    return Peer(f"onnxruntime {method}", "onnxruntime", partial(onnxruntime_symmetric, method))


def _modelopt(method: str) -> Peer:
    return Peer(f"ModelOpt {method}", "modelopt", partial(modelopt, method))


PEERS: dict[str, Peer] = {
    "onnxruntime-default": Peer("onnxruntime, its defaults", "onnxruntime", onnxruntime_default),
    "onnxruntime-minmax": _onnxruntime("MinMax"),
    "onnxruntime-percentile": _onnxruntime("Percentile"),
    "onnxruntime-entropy": _onnxruntime("Entropy"),
    "modelopt-max": _modelopt("max"),
    "modelopt-entropy": _modelopt("entropy"),
}
RECIPES: dict[str, Peer] = {
    "default": Peer("posedge", "onnxruntime", posedge_default),
    "learned": Peer("posedge, learned", "torch", posedge_learned),
}
