"""What activations are like on real crops: one streaming pass, memory that does not grow with the images.

Every tensor has an Observer that is updated batch by batch and holds a fixed number of figures. A further
figure (moments, per-channel extremes) is a further field of the observer and of its result.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..progress import SILENT, Progress
from .datasets import PersonCrops
from .imagenet import ImageBatch
from .topology import Topology

Batch: TypeAlias = NDArray[np.float32] | PersonCrops | ImageBatch

BINS = 8192

# more crops in one run would only take more memory: all observed tensors of a run are held at once
_CROPS_PER_RUN = 2

# below this magnitude bins stop shrinking, so that bins / range stays within float32
_SMALLEST_EXPONENT = -100


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What was seen of one tensor.

    minimum, maximum: of all values.
    count: number of values; ``zeros`` of them are exactly zero.
    histogram: int64 (BINS,), how many |values| fall into each of BINS equal bins from 0 to ``limit``; zeros
        are in the first bin.
    limit: a power of two above every |value|; 0.0 where all values are zero.
    """

    minimum: float
    maximum: float
    count: int
    zeros: int
    histogram: NDArray[np.int64]
    limit: float

    @property
    def largest(self) -> float:
        """The largest |value|."""
        return max(-self.minimum, self.maximum)

    @property
    def bin_width(self) -> float:
        """Width of a bin in the tensor's unit."""
        return self.limit / len(self.histogram)


@dataclass(frozen=True)
class Observation:
    """What one pass over the crops saw: statistics by tensor, in the order asked for, of so many crops."""

    tensors: dict[str, TensorStatistics]
    crops: int


class Observer:
    """Gathers the statistics of one tensor, batch by batch, in constant memory.

    The histogram's range is the power of two just above the largest |value| so far. When it must grow,
    neighbouring bins are merged, which is exact: the result does not depend on the order of the batches.
    """

    def __init__(self) -> None:
        self._minimum = np.inf
        self._maximum = -np.inf
        self._count = 0
        self._zeros = 0
        self._histogram = np.zeros(BINS, np.int64)
        self._exponent: int | None = None

    def update(self, values: NDArray[Any]) -> None:
        """Take in float values of any shape. Raises CalibrationError at NaN and infinity."""
        if values.size == 0:
            return
        values = np.asarray(values, np.float32)
        minimum, maximum = float(values.min()), float(values.max())
        if not np.isfinite(minimum) or not np.isfinite(maximum):
            raise CalibrationError("it holds NaN or infinity")
        self._minimum = min(self._minimum, minimum)
        self._maximum = max(self._maximum, maximum)
        self._count += values.size
        largest = max(-minimum, maximum)
        if largest > 0:
            self._grow(max(int(np.frexp(largest)[1]), _SMALLEST_EXPONENT))
        if self._exponent is None:
            self._zeros += values.size
            return
        # a power of two, so the product is exact and a value's bin does not depend on the batch
        magnitudes = np.abs(values.reshape(-1))
        self._zeros += magnitudes.size - int(np.count_nonzero(magnitudes))
        magnitudes *= np.float32(BINS * 2.0**-self._exponent)
        self._histogram += np.bincount(magnitudes.astype(np.intp), minlength=BINS)

    def result(self) -> TensorStatistics:
        """The statistics so far. Raises CalibrationError when nothing was seen."""
        if self._count == 0:
            raise CalibrationError("no value of it was observed")
        histogram = self._histogram.copy()
        limit = 0.0
        if self._exponent is None:
            histogram[0] = self._zeros
        else:
            limit = 2.0**self._exponent
        return TensorStatistics(self._minimum, self._maximum, self._count, self._zeros, histogram, limit)

    def _grow(self, exponent: int) -> None:
        """Widen the range to 2**exponent."""
        if self._exponent is None:
            self._exponent = exponent
            self._histogram[0] = self._zeros
        while self._exponent < exponent:
            merged = self._histogram.reshape(-1, 2).sum(axis=1)
            self._histogram[: BINS // 2] = merged
            self._histogram[BINS // 2 :] = 0
            self._exponent += 1


def observe(
    model: onnx.ModelProto,
    batches: Iterable[Batch],
    tensors: Sequence[str],
    progress: Progress = SILENT,
    crops: int | None = None,
) -> Observation:
    """Run ``batches`` through ``model`` on the CPU and gather statistics of the named tensors.

    batches: float32 (N, 3, H, W) each, or the batches of a dataset, whose names messages then use.
    crops: how many crops will come, where that is known: for the progress display only.

    Raises CalibrationError when there is nothing to run, when a tensor does not exist, when a batch does not
    fit the graph, and at NaN or infinity, naming the tensor and the crop.
    """
    session, feed = _observing_session(model, tensors)
    computed = [tensor for tensor in tensors if tensor != feed]
    observers = {tensor: Observer() for tensor in tensors}
    done = 0
    with progress.task("observing activations", crops) as task:
        for pixels, names in _pieces(batches):
            values = dict(zip(computed, _run(session, computed, feed, pixels, names), strict=True))
            for tensor, observer in observers.items():
                _update(observer, tensor, values.get(tensor, pixels), names)
            done += len(pixels)
            task.update(done)
    if not done:
        raise CalibrationError("there are no crops to calibrate with; give more images")
    return Observation({tensor: observer.result() for tensor, observer in observers.items()}, done)


def _observing_session(model: onnx.ModelProto, tensors: Sequence[str]) -> tuple[Any, str]:
    """A session that returns ``tensors``, and the name of its input."""
    import onnxruntime as ort

    topology = Topology(model)
    unknown = [tensor for tensor in tensors if tensor not in topology.names()]
    if unknown:
        raise CalibrationError(f"the graph has no tensor {unknown[0]!r} to observe")
    if len(topology.inputs) != 1:
        raise CalibrationError(
            f"calibration feeds one input, the graph has {len(topology.inputs)}: {', '.join(topology.inputs)}"
        )
    observing = onnx.ModelProto()
    observing.CopyFrom(model)
    del observing.graph.output[:]
    # without a type: onnxruntime infers it
    observing.graph.output.extend(
        onnx.ValueInfoProto(name=tensor) for tensor in tensors if tensor != topology.inputs[0]
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # each pruned node would be a warning
    # the arena keeps the largest run's memory of every size it ever saw
    options.enable_cpu_mem_arena = False
    try:
        session = ort.InferenceSession(
            observing.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no common base
        raise CalibrationError(f"onnxruntime cannot load the graph: {error}") from error
    return session, topology.inputs[0]


def _pieces(
    batches: Iterable[Batch],
) -> Iterator[tuple[NDArray[np.float32], tuple[str, ...]]]:
    """Cut batches into runs of a few crops, each with the names of its crops."""
    for number, batch in enumerate(batches):
        if isinstance(batch, PersonCrops | ImageBatch):
            pixels, names = batch.batch, batch.names
        else:
            pixels = np.asarray(batch)
            names = tuple(f"batch {number}, crop {i}" for i in range(len(pixels)))
        if pixels.ndim != 4 or pixels.dtype != np.float32:
            raise CalibrationError(
                f"batch {number} is {pixels.dtype} of shape {pixels.shape}; "
                "calibration takes float32 of shape (N, 3, H, W)"
            )
        for start in range(0, len(pixels), _CROPS_PER_RUN):
            piece = slice(start, start + _CROPS_PER_RUN)
            yield pixels[piece], names[piece]


def _run(
    session: Any, computed: list[str], feed: str, pixels: NDArray[np.float32], names: tuple[str, ...]
) -> list[NDArray[Any]]:
    if not computed:
        return []
    try:
        outputs: list[NDArray[Any]] = session.run(computed, {feed: pixels})
    except Exception as error:  # onnxruntime's errors have no common base
        raise CalibrationError(
            f"the graph cannot run crops of shape {pixels.shape} ({names[0]}): {error}"
        ) from error
    return outputs


def _update(observer: Observer, tensor: str, values: NDArray[Any], names: tuple[str, ...]) -> None:
    try:
        observer.update(values)
    except CalibrationError as error:
        where = " or ".join(names)
        if values.ndim and len(values) == len(names):
            finite = np.isfinite(values).reshape(len(names), -1).all(axis=1)
            where = names[int(np.argmin(finite))]
        raise CalibrationError(
            f"tensor {tensor!r} cannot be calibrated: {error} for {where}. "
            "Check the checkpoint for NaN weights and the spec's mean and std."
        ) from error
