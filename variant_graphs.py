"""The float16 and the INT8 graph of a bundle, made from its float32 graph and real crops."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .benchmarks.report.float_layers import float_lines, share_line
from .benchmarks.tasks import TaskData
from .calibration.recipe import Recipe
from .files import sha256_file, write_text
from .progress import Progress
from .runtime.spec import ModelSpec
from .stages import StageLog

CALIBRATION_FILE = "calibration.json"
SEARCH_FILE = "search.json"

_CALIBRATION_BATCH = 4  # the more crops at once, the more memory for activations
_HALF_CROPS = 16  # extremes of activations, taken with a wide margin, need few crops
_HALF_LAYERS = "measurements/fp16.float32_layers.json"
_INT8_LAYERS = "measurements/int8.float_layers.json"
_NAMED_LAYERS = 5

Stage = Callable[[str, Mapping[str, Any], tuple[str, ...], Callable[[], None]], None]
"""Run a named stage with its inputs, outputs and work, unless it is finished."""


@dataclass(frozen=True, eq=False)
class VariantGraphs:
    """What the graphs of one bundle are made from.

    directory: of the bundle, with the float32 graph ``reference`` in it.
    calibration_data: crops for INT8, and for the ranges of float16, which does without where it is None.
    data: the images on which accuracy is measured. budget: the drop within which INT8 is searched; None for
        INT8 everywhere, whatever it costs.
    """

    directory: Path
    reference: Path
    spec: ModelSpec
    recipe: Recipe
    calibration_data: TaskData | None
    data: TaskData
    flip_test: bool
    budget: float | None
    stage: Stage
    stages: StageLog
    progress: Progress

    def write(self, variants: tuple[str, ...]) -> None:
        """Write the graphs of ``variants``; that of the reference is there."""
        if "fp16" in variants:
            self.half()
        if "int8" in variants:
            self.int8()

    def half(self) -> None:
        """Write fp16.onnx. Where there are crops, they show which layers must stay float32."""
        from .calibration.half import write_float16

        data = self.calibration_data

        def work() -> None:
            crops = None if data is None else data.batches(self.spec, _CALIBRATION_BATCH)
            observed = None if crops is None else islice(crops, _HALF_CROPS // _CALIBRATION_BATCH)
            kept = write_float16(self.reference, self.directory / "fp16.onnx", observed)
            write_text(self.directory / _HALF_LAYERS, json.dumps([asdict(layer) for layer in kept], indent=1))

        inputs = {
            "graph": sha256_file(self.reference),
            "images": None if data is None else data.images_sha256,
        }
        self.stage("fp16", inputs, ("fp16.onnx", _HALF_LAYERS), work)

    def int8(self) -> None:
        """Write int8.onnx and its calibration table."""
        data = self._crops
        inputs = {
            "graph": sha256_file(self.reference),
            "images": data.images_sha256,
            "recipe": asdict(self.recipe),
        }
        outputs = ("int8.onnx", CALIBRATION_FILE)
        if self.budget is None:
            self.stage("int8", inputs, outputs, lambda: self._quantize(data))
        else:
            searched = {"budget": self.budget, "flip_test": self.flip_test, **self.data.content}
            searched["record"] = 3  # its rules and form
            self.stage("int8", inputs | searched, (*outputs, SEARCH_FILE), lambda: self._search(data))
        self._list_float_layers()

    def notes(self, variants: tuple[str, ...]) -> tuple[str, ...]:
        """What a reader of the report must know of the graphs of ``variants``."""
        lines = [*(self._half_notes() if "fp16" in variants else ())]
        if "int8" in variants:
            from .calibration.observers import few_crops_note

            note = few_crops_note(self._crops.count)
            lines += [note] if note else []
            lines += [*self._int8_notes(), *self._search_notes()]
        return tuple(lines)

    def described(self) -> str:
        """How INT8 was calibrated, in one line."""
        data = self._crops
        line = self.recipe.described(data.described)
        shared = len(data.image_paths & self.data.image_paths)
        flatters = f", {shared} of whose images are measured too: the INT8 figures flatter" if shared else ""
        return line + flatters

    @property
    def _crops(self) -> TaskData:
        assert self.calibration_data is not None  # without any, INT8 is refused before work
        return self.calibration_data

    def _quantize(self, data: TaskData) -> None:
        from .calibration.calibrate import quantize

        crops, images = data.batches(self.spec, _CALIBRATION_BATCH), data.images_sha256
        int8 = self.directory / "int8.onnx"
        table = quantize(self.reference, crops, int8, self.recipe, images, self.progress, data.count)
        table.save(self.directory / CALIBRATION_FILE)

    def _search(self, data: TaskData) -> None:
        from .search_job import SearchJob

        assert self.budget is not None  # a search has one
        job = SearchJob(
            self.stages,
            self.directory,
            self.reference,
            self.spec,
            self.recipe,
            data,
            self.data,
            self.flip_test,
            self.progress,
        )
        job.run(self.budget, self.directory / SEARCH_FILE)

    def _list_float_layers(self) -> None:
        """Write what int8.onnx has in INT8 and what not; apart from int8, which is calibrate's too."""
        graph, table = self.directory / "int8.onnx", self.directory / CALIBRATION_FILE

        def work() -> None:
            from .calibration.calibrate import Calibration, equalized_graph
            from .calibration.macs import int8_share
            from .calibration.table import load_table
            from .export.graphs import load_graph

            found = load_table(table)
            layers = Calibration(found, equalized_graph(self.reference, found)).placement().float_layers
            share = int8_share(load_graph(graph))
            document = {"int8_share": share, "float_layers": [asdict(layer) for layer in layers]}
            write_text(self.directory / _INT8_LAYERS, json.dumps(document, indent=1))

        inputs = {
            "graph": sha256_file(self.reference),
            "int8": sha256_file(graph),
            "table": sha256_file(table),
        }
        self.stage("int8 layers", inputs, (_INT8_LAYERS,), work)

    def _int8_notes(self) -> tuple[str, ...]:
        from .calibration.placement import FloatLayer

        found = json.loads((self.directory / _INT8_LAYERS).read_text("utf-8"))
        layers = [FloatLayer(**layer) for layer in found["float_layers"]]
        return share_line(found["int8_share"]), *float_lines(layers)

    def _half_notes(self) -> tuple[str, ...]:
        seen = self.calibration_data is not None
        unseen = () if seen else ("fp16: ranges were not looked at, for there are no images to calibrate on",)
        record = self.directory / _HALF_LAYERS
        layers = json.loads(record.read_text("utf-8")) if record.is_file() else []
        if not layers:
            return unseen
        first = "; ".join(f"{layer['node']} ({layer['reason']})" for layer in layers[:_NAMED_LAYERS])
        more = f"; and {len(layers) - _NAMED_LAYERS} more" if len(layers) > _NAMED_LAYERS else ""
        return (f"fp16 keeps {len(layers)} layers in float32: {first}{more}", *unseen)

    def _search_notes(self) -> tuple[str, ...]:
        if self.budget is None:
            return ()
        found = json.loads((self.directory / SEARCH_FILE).read_text("utf-8"))
        parts = " and ".join(
            f"{name} {found[name]['images']} (SHA-256 {found[name]['sha256'][:12]})"
            for name in ("searched", "confirming")
        )
        return (
            f"INT8 search: {found['verdict']}.",
            *(f"INT8 search, on the searched images: {line}." for line in found["curve"]),
            f"INT8 search, every other image: {parts}.",
        )
