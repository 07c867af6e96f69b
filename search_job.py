"""The search for the INT8 variant within a budget, as stages of a job: an interrupted one goes on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from .benchmarks.bootstrap import PerImage, paired_drop
from .benchmarks.tasks import TaskData
from .calibration.calibrate import Calibration, calibrate
from .calibration.macs import convolution_macs
from .calibration.recipe import Recipe
from .calibration.search import Drop, SearchResult, search_placement, share_in_int8
from .calibration.sensitivity import LayerSensitivity, measure_sensitivity
from .export.graphs import save_graph
from .files import sha256_bytes, sha256_file, write_text
from .progress import LabelledProgress, Progress
from .runtime.sessions.onnxruntime import OnnxRuntimeSession
from .runtime.spec import ModelSpec
from .stages import StageLog

_DIRECTORY = "search"
_CALIBRATION_BATCH = 4


@dataclass(frozen=True, eq=False)
class SearchJob:
    """A float32 graph, the crops that calibrate it, and the images that its accuracy is measured on.

    latency: milliseconds that the device takes for a graph; with it the fastest variant is searched, without
        it the one with the most INT8. Asked anew in every run, for the device may be another.
    directory: of the bundle; what a second run can use goes to search/ in it, graphs that were tried too.
    data: every other image of it is searched, those between confirm.
    """

    stages: StageLog
    directory: Path
    graph: Path
    spec: ModelSpec
    recipe: Recipe
    calibration_data: TaskData
    data: TaskData
    flip_test: bool
    progress: Progress
    latency: Callable[[Path], float] | None = None

    def run(self, budget: float, record: Path) -> SearchResult:
        """Search, write int8.onnx and calibration.json of the choice, and the curve to ``record``.

        Raises DataError when there are too few images to divide.
        """
        searched, confirming = self.data.halves()
        result = search_placement(
            self._layers,
            self._macs,
            budget,
            lambda kept: self._drop(kept, searched, "searched", budget),
            lambda kept: self._drop(kept, confirming, "confirming", budget),
            None if self.latency is None else self._milliseconds,
        )
        self.progress.note("search: INT8 share against drop on the searched images, with its 95 % interval:")
        for line in result.curve:
            self.progress.note(f"  {line}")
        self.progress.note(f"search: {result.verdict}")
        found = self._calibration.keeping_float(result.chosen.float_layers)
        save_graph(found.quantized(), self.directory / "int8.onnx")
        found.table.save(self.directory / "calibration.json")
        document = {
            "searched": {"images": searched.described, "sha256": searched.images_sha256},
            "confirming": {"images": confirming.described, "sha256": confirming.images_sha256},
            "verdict": result.verdict,
            "curve": result.curve,
            **asdict(result),
        }
        write_text(record, json.dumps(document, indent=1))
        return result

    @cached_property
    def _calibration(self) -> Calibration:
        data = self.calibration_data
        crops = data.batches(self.spec, _CALIBRATION_BATCH)
        return calibrate(self.graph, crops, self.recipe, data.images_sha256, self.progress, data.count)

    @cached_property
    def _macs(self) -> dict[str, int]:
        return convolution_macs(self._calibration.model)

    @cached_property
    def _inputs(self) -> Mapping[str, Any]:
        return {
            "graph": sha256_file(self.graph),
            "calibration": self.calibration_data.images_sha256,
            "recipe": asdict(self.recipe),
        }

    @cached_property
    def _layers(self) -> tuple[LayerSensitivity, ...]:
        record = f"{_DIRECTORY}/sensitivity.json"

        def work() -> None:
            crops = self.calibration_data.batches(self.spec, _CALIBRATION_BATCH)
            layers = measure_sensitivity(self._calibration, crops, self.spec, self.progress)
            write_text(self.directory / record, json.dumps([asdict(layer) for layer in layers], indent=1))

        # a record with other figures, of an earlier posedge, is measured again
        inputs = {**self._inputs, "figures": [figure.name for figure in fields(LayerSensitivity)]}
        self.stages.run("search sensitivity", inputs, (record,), work)
        return tuple(
            LayerSensitivity(**layer) for layer in json.loads((self.directory / record).read_text("utf-8"))
        )

    def _milliseconds(self, kept: tuple[str, ...]) -> float:
        """The latency of the variant with ``kept`` in float."""
        assert self.latency is not None  # the search asks only then
        found = self.latency(self._trial_graph(kept))
        self.progress.note(f"search: {len(kept)} layers in float: {found:.3f} ms")
        return found

    def _trial_graph(self, kept: tuple[str, ...]) -> Path:
        """The graph of a variant, where that of the trial before was."""
        graph = self.directory / _DIRECTORY / "trial.onnx"
        save_graph(self._calibration.quantized(kept), graph)
        return graph

    def _drop(self, kept: tuple[str, ...], part: TaskData, name: str, budget: float) -> Drop:
        """The drop of the variant with ``kept`` in float on one part of the images."""
        reference = self._found(None, part, name)
        drop = paired_drop(reference, self._found(kept, part, name))
        result = Drop(drop.drop, drop.low, drop.high, len(reference.images))
        share = 100 * share_in_int8(self._layers, self._macs, kept)
        self.progress.note(
            f"search: {len(kept)} layers in float on the {name} images: "
            f"{share:.1f} % of the convolutions' MACs in INT8, {result.against(budget)}"
        )
        return result

    def _found(self, kept: tuple[str, ...] | None, part: TaskData, name: str) -> PerImage:
        """What a variant finds on ``part``; None stands for the float32 graph."""
        variant = "fp32" if kept is None else sha256_bytes("\n".join(kept).encode())[:12]
        record = f"{_DIRECTORY}/{variant}.{name}.npz"

        def work() -> None:
            graph = self.graph if kept is None else self._trial_graph(kept)
            with OnnxRuntimeSession(graph, self.spec) as session:
                progress = LabelledProgress(f"search, {name} images", self.progress)
                part.accuracy(session, self.flip_test, progress, self.directory / record)

        inputs = {**self._inputs, **part.content, "kept": kept, "flip_test": self.flip_test}
        self.stages.run(f"search {variant} {name}", inputs, (record,), work)
        return part.per_image(self.spec, self.directory / record)
