"""From a network's outputs on the device to keypoints: which kernels run, and the memory between them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DataError, GraphError
from ..blur import gaussian_weights
from ..heatmaps import mirrored_joints
from ..spec import ModelSpec
from .kernels import (
    BLUR_LOW_MAPS,
    BLUR_PATCHES,
    DECODE_MEGVII,
    DECODE_MSRA,
    DECODE_SIMCC,
    DECODE_UNBIASED,
    FIND_BLURRED_MAXIMA,
    FIND_MAXIMA,
    MERGE_FLIP,
    DecodeArguments,
    Launch,
    MergeArguments,
    ScanArguments,
    SimccArguments,
    threads,
)

_PEAK_BYTES = 8  # struct Peak of kernels.cu
_PATCH = 25  # pixels that the unbiased decoder reads around a peak
_ALIGNMENT = 256  # that of device allocations
_SIMCC_COLUMNS = 32  # threads that share the search of one distribution: a warp reads whole cache lines


class Decoder:
    """The decoding of one model's outputs for up to ``max_batch`` persons, as lists of launches.

    flip_test: average with the outputs of the mirrored crops first.
    half: whether the outputs are float16, else float32.

    workspace_bytes: how much device memory the launches need beside outputs and keypoints.
    constants: bytes to copy to the start of that memory once, before the first launch.

    Raises GraphError for a model that finds no joints.
    """

    def __init__(
        self, spec: ModelSpec, max_batch: int, *, flip_test: bool = False, half: bool = False
    ) -> None:
        if spec.task != "pose":
            raise GraphError(f"{spec.name} is a {spec.task} model; there are no joints in its outputs.")
        self._spec, self._max_batch, self._flip_test, self._half = spec, max_batch, flip_test, half
        partner = mirrored_joints(spec.num_joints, spec.flip_pairs).astype(np.int32)
        weights = gaussian_weights(spec.blur_kernel).astype(np.float32)
        self.constants = partner.tobytes() + weights.tobytes()
        self._weights = partner.nbytes
        self._arrays: dict[str, int] = {}
        self.workspace_bytes = _aligned(len(self.constants))
        maps = max_batch * spec.num_joints
        for output, (height, width) in enumerate(self._map_sizes()):
            self._add(f"peaks {output}", maps * self._columns(width) * _PEAK_BYTES)
            if flip_test:
                self._add(f"merged {output}", maps * height * width * 4)
            if spec.codec in ("megvii", "unbiased"):
                self._add("blurred", maps * width * _PEAK_BYTES)
        if spec.codec == "unbiased":
            self._add("patches", maps * _PATCH * 4)

    def launches(
        self,
        count: int,
        outputs: Sequence[int],
        mirrored: Sequence[int],
        crops: int,
        keypoints: int,
        workspace: int,
        *,
        clip: bool = True,
    ) -> list[Launch]:
        """What decodes a batch of ``count`` persons, in the order in which it must run; nothing for 0.

        outputs: addresses of the network's outputs in the order of the spec's ``output_names``.
        mirrored: those of the mirrored crops; empty without the flip test.
        crops: address of the records of CROP. keypoints: of the result (count, K, 3) float32: x and y in
        image pixels, score. workspace: of ``workspace_bytes`` bytes.
        clip: bring the scores to 0 to 1, and those that are not finite to 0, as PoseEstimator does.

        Raises DataError for a batch larger than ``max_batch``.
        """
        if not 0 <= count <= self._max_batch:
            raise DataError(
                f"a batch of {count} persons; this decoder was made for {self._max_batch} at most."
            )
        maps = count * self._spec.num_joints
        found = []
        half = self._half
        if self._flip_test:
            for output in range(len(outputs)):
                found += self._merge(count, output, outputs[output], mirrored[output], workspace)
            outputs = [self._at(workspace, f"merged {output}") for output in range(len(outputs))]
            half = False
        scan = FIND_BLURRED_MAXIMA if self._spec.codec == "megvii" else FIND_MAXIMA
        for output, (height, width) in enumerate(self._map_sizes()):
            columns = self._columns(width)
            scanned = ScanArguments(
                maps=outputs[output],
                peaks=self._at(workspace, f"peaks {output}"),
                blurred=self._at(workspace, "blurred"),
                count=maps,
                size=height * width,
                columns=columns,
                half=half,
            )
            found += threads(scan, maps * columns, scanned)
        arguments: dict[str, Any] = {
            "crops": crops,
            "keypoints": keypoints,
            "persons": count,
            "joints": self._spec.num_joints,
            "clip": clip,
        }
        if self._spec.codec == "simcc":
            return found + threads(DECODE_SIMCC, maps, self._simcc(arguments, workspace))
        decoded = self._heatmaps(arguments, outputs[0], half, workspace)
        if self._spec.codec == "megvii":
            return found + threads(DECODE_MEGVII, maps, decoded)
        if self._spec.codec == "msra":
            return found + threads(DECODE_MSRA, maps, decoded)
        found += threads(BLUR_PATCHES, maps * _PATCH, decoded)
        found += threads(BLUR_LOW_MAPS, maps * decoded.width, decoded)
        return found + threads(DECODE_UNBIASED, maps, decoded)

    def _merge(self, count: int, output: int, plain: int, mirrored: int, workspace: int) -> list[Launch]:
        height, width = self._map_sizes()[output]
        joints = self._spec.num_joints
        simcc = self._spec.codec == "simcc"
        arguments = MergeArguments(
            maps=plain,
            mirrored=mirrored,
            partner=workspace,
            merged=self._at(workspace, f"merged {output}"),
            persons=count,
            joints=joints,
            height=height,
            width=width,
            half=self._half,
            turn=not (simcc and output == 1),  # only x runs the other way in a mirrored image
            shift=self._spec.flip_shift and not simcc,
        )
        return threads(MERGE_FLIP, count * joints * height * width, arguments)

    def _heatmaps(self, arguments: dict[str, Any], maps: int, half: bool, workspace: int) -> DecodeArguments:
        width, height = self._spec.heatmap_wh
        return DecodeArguments(
            **arguments,
            maps=maps,
            peaks=self._at(workspace, "peaks 0"),
            blurred=self._at(workspace, "blurred"),
            weights=workspace + self._weights,
            patches=self._at(workspace, "patches"),
            height=height,
            width=width,
            half=half,
            reach=self._spec.blur_kernel // 2,
        )

    def _simcc(self, arguments: dict[str, Any], workspace: int) -> SimccArguments:
        width, height = self._spec.input_wh
        columns = [self._columns(bins) for _, bins in self._map_sizes()]
        return SimccArguments(
            **arguments,
            x=self._at(workspace, "peaks 0"),
            y=self._at(workspace, "peaks 1"),
            x_columns=columns[0],
            y_columns=columns[1],
            width=width,
            height=height,
            split_ratio=self._spec.split_ratio,
        )

    def _map_sizes(self) -> list[tuple[int, int]]:
        """Height and width of a map of each output; a distribution is a map of height 1."""
        return [
            (shape[1], shape[2]) if len(shape) == 3 else (1, shape[1]) for shape in self._spec.output_shapes
        ]

    def _columns(self, width: int) -> int:
        """How many threads search one map: one for each column, or a fixed number for a distribution."""
        return min(_SIMCC_COLUMNS, width) if self._spec.codec == "simcc" else width

    def _add(self, name: str, size: int) -> None:
        self._arrays[name] = self.workspace_bytes
        self.workspace_bytes += _aligned(size)

    def _at(self, workspace: int, name: str) -> int:
        """The address of an array of the workspace; 0 where this model has no such array."""
        return workspace + self._arrays[name] if name in self._arrays else 0


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
