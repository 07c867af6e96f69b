"""What activations are like on real crops: one streaming pass, memory that does not grow with the images.

Every tensor has an Observer that is updated batch by batch and holds a fixed number of figures.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..memory import large_blocks_returned
from ..progress import SILENT, Progress
from .datasets import PersonCrops
from .imagenet import ImageBatch
from .patches import PatchMoments, PatchObserver
from .shortcuts import surviving
from .statistics import Observer, TensorStatistics
from .topology import Topology

Batch: TypeAlias = NDArray[np.float32] | PersonCrops | ImageBatch

# fewer crops than this leave ranges to chance
_FEW_CROPS = 8


@dataclass(frozen=True, eq=False)
class LayerPatches:
    """The moments of a layer's patches, and the tensor that it reads."""

    tensor: str
    moments: PatchMoments


@dataclass(frozen=True)
class Observation:
    """What one pass over the crops saw.

    tensors: statistics by tensor, in the order asked for. crops: how many there were; first: its name.
    patches: what the layers saw that were asked for.
    """

    tensors: dict[str, TensorStatistics]
    crops: int
    first: str
    patches: dict[str, LayerPatches]


def observe(
    model: onnx.ModelProto,
    batches: Iterable[Batch],
    tensors: Sequence[str],
    progress: Progress = SILENT,
    crops: int | None = None,
    patches: Mapping[str, PatchObserver] = MappingProxyType({}),
    branches: Mapping[str, str] = MappingProxyType({}),
) -> Observation:
    """Run ``batches`` through ``model`` on the CPU and gather statistics of the named tensors.

    batches: float32 (N, 3, H, W) each, or the batches of a dataset, whose names messages then use.
    crops: how many crops will come, where that is known: for the progress display only.
    patches: observers by layer, each of which reads one of ``tensors``.
    branches: shortcuts among ``tensors`` of which only what survives counts, as ``rectified_shortcuts`` has
        them.

    Raises CalibrationError when there is nothing to run, when a tensor does not exist, when a batch does not
    fit the graph, at NaN or infinity, naming the tensor and the crop, and when all crops are blank.
    """
    fetched = list(dict.fromkeys((*tensors, *branches.values())))
    session, feed = _observing_session(model, fetched)
    computed = [tensor for tensor in fetched if tensor != feed]
    observers = {tensor: Observer() for tensor in tensors}
    watchers: dict[str, list[PatchObserver]] = {}
    for watcher in patches.values():
        watchers.setdefault(watcher.tensor, []).append(watcher)
    done, first, shades = 0, "", _Shades()
    # onnxruntime makes every tensor anew for each crop; what glibc keeps of those that were freed differs
    # from run to run, by 80 MB for a model of 5 MB
    with large_blocks_returned(), progress.task("observing activations", crops) as task:
        for pixels, name in single_crops(batches):
            first = first or name
            shades.update(pixels)
            values = dict(zip(computed, _run(session, computed, feed, pixels, name), strict=True))
            for shortcut, branch in branches.items():
                values[shortcut] = surviving(values[shortcut], values[branch])
            for tensor, observer in observers.items():
                # each tensor is freed once it is observed, or the next run would come on top of this one's
                found = values.pop(tensor, pixels)
                _update(observer, tensor, found, name)
                for watcher in watchers.get(tensor, ()):
                    watcher.update(found)
            done += 1
            task.update(done)
    if not done:
        raise CalibrationError("there are no crops to calibrate with; give more images")
    shades.require_a_picture(first)
    return Observation(
        {tensor: observer.result() for tensor, observer in observers.items()},
        done,
        first,
        {layer: LayerPatches(watcher.tensor, watcher.result()) for layer, watcher in patches.items()},
    )


def few_crops_note(count: int) -> str | None:
    """What to say of a calibration with ``count`` crops; None where they are enough."""
    if count >= _FEW_CROPS:
        return None
    crops = "1 crop" if count == 1 else f"{count} crops"
    return (
        f"INT8 ranges come from {crops} only and may not hold for other images; calibrate with {_FEW_CROPS} "
        "at least, better with 100"
    )


class _Shades:
    """The extremes of each channel (3,) of the crops, which show whether there is a picture in any of them.

    The layer that reads the input may be one that is not quantised, so no observer need have seen it.
    """

    def __init__(self) -> None:
        self._darkest = self._brightest = np.zeros(0, np.float32)

    def update(self, pixels: NDArray[np.float32]) -> None:
        darkest, brightest = pixels.min((0, 2, 3)), pixels.max((0, 2, 3))
        seen = len(self._darkest) > 0
        self._darkest = np.minimum(self._darkest, darkest) if seen else darkest
        self._brightest = np.maximum(self._brightest, brightest) if seen else brightest

    def require_a_picture(self, first: str) -> None:
        """Raise CalibrationError when every pixel of every crop is the same; ``first`` names one of them.

        Black pixels are not zero behind a normalisation, so what they give looks like any other range.
        """
        if (self._darkest == self._brightest).all():
            colour = ", ".join(f"{value:.3g}" for value in self._darkest)
            raise CalibrationError(
                f"the crops are blank: every pixel of every crop, from {first} on, is the same "
                f"({colour} as the model is fed). Check the images, and the spec's mean and std."
            )


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


def single_crops(batches: Iterable[Batch]) -> Iterator[tuple[NDArray[np.float32], str]]:
    """Each crop as a batch of its own, (1, 3, H, W), with its name.

    More crops in one run take more memory, for all observed tensors of a run are held at once, and no less
    time.
    """
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
        for index, name in enumerate(names):
            yield pixels[index : index + 1], name


def _run(
    session: Any, computed: list[str], feed: str, pixels: NDArray[np.float32], name: str
) -> list[NDArray[Any]]:
    if not computed:
        return []
    try:
        outputs: list[NDArray[Any]] = session.run(computed, {feed: pixels})
    except Exception as error:  # onnxruntime's errors have no common base
        raise CalibrationError(
            f"the graph cannot run crops of shape {pixels.shape} ({name}): {error}"
        ) from error
    return outputs


def _update(observer: Observer, tensor: str, values: NDArray[Any], name: str) -> None:
    try:
        observer.update(values)
    except CalibrationError as error:
        raise CalibrationError(
            f"tensor {tensor!r} cannot be calibrated: {error} for {name}. "
            "Check the checkpoint for NaN weights and the spec's mean and std."
        ) from error
