"""CalibrationTable: the ranges of one graph as a JSON file, tied to the graph and the crops they come from.

    {
      "schema": 3,
      "graph_sha256": "...",          SHA-256 of the float32 ONNX file
      "images_sha256": "..." | null,  CocoPersons.image_list_sha256 of the crops
      "method": "percentile 99.99",
      "crops": 304,
      "tensors": {                    every quantised activation, in the order of the graph
        "input": {"minimum": -2.1, "maximum": 2.6, "amax": 2.6}
      },
      "excluded": {"relu_7": "it was zero on every crop"},
      "channel_factors": {            what equalisation multiplies each channel by; {} without it
        "input": [1.0, 1.0, 1.0]
      },
      "target": "tensorrt-rtx",       for whom layers were chosen: a key of targets.TARGETS
      "bias_corrections": {           what is added to the biases of layers; {} without it
        "conv_1": [0.01, -0.02]
      },
      "float_layers": ["conv_9"]      layers that stay in float because they cost too much accuracy
    }

Ranges are those of the equalised graph, which follows from the float32 graph and ``channel_factors``. Of a
residual shortcut they are those of the part that the Relu after the Add lets through (``shortcuts.py``).

``amax`` is the largest magnitude that INT8 represents: scale = amax / 127.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CalibrationError
from ..files import sha256_file, write_text
from .targets import DEFAULT_TARGET, TARGETS

SCHEMA = 3


@dataclass(frozen=True)
class TensorRange:
    """Smallest and largest value seen, and the largest magnitude that INT8 shall represent."""

    minimum: float
    maximum: float
    amax: float


@dataclass(frozen=True)
class CalibrationTable:
    """Activation ranges of one graph; the module's docstring describes the fields and the file."""

    graph_sha256: str
    images_sha256: str | None
    method: str
    crops: int
    tensors: Mapping[str, TensorRange]
    excluded: Mapping[str, str]
    channel_factors: Mapping[str, tuple[float, ...]]
    target: str = DEFAULT_TARGET
    bias_corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    float_layers: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the table as JSON. Raises OutputError."""
        write_text(path, json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")

    def require_graph(self, graph: Path) -> None:
        """Raise CalibrationError unless the table was made from exactly this graph file."""
        actual = sha256_file(graph)
        if actual != self.graph_sha256:
            raise CalibrationError(
                f"{graph}: the calibration table belongs to another graph (SHA-256 "
                f"{self.graph_sha256[:12]}..., this file is {actual[:12]}...). Calibrate this graph."
            )


def load_table(path: Path) -> CalibrationTable:
    """Read a calibration table. Raises CalibrationError when it is missing, damaged or of another schema."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CalibrationError(f"{path}: the calibration table cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CalibrationError(f"{path}: the calibration table is not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise CalibrationError(
            f"{path}: not a calibration table of schema {SCHEMA} (found {found!r}). Calibrate again."
        )
    try:
        return _from_document(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(
            f"{path}: the calibration table is damaged ({type(error).__name__}: {error}). Calibrate again."
        ) from error


def _from_document(document: dict[str, Any]) -> CalibrationTable:
    tensors = {name: TensorRange(**entry) for name, entry in document["tensors"].items()}
    for name, entry in tensors.items():
        if not all(math.isfinite(value) for value in asdict(entry).values()) or entry.amax <= 0:
            raise ValueError(f"tensor {name!r} has the range {asdict(entry)}; amax must be positive")
    images, excluded = document["images_sha256"], document["excluded"]
    if not isinstance(document["graph_sha256"], str) or not isinstance(images, str | None):
        raise TypeError("a SHA-256 is a string")
    if document["target"] not in TARGETS:
        raise ValueError(f"unknown target {document['target']!r}; there are {', '.join(TARGETS)}")
    return CalibrationTable(
        document["graph_sha256"],
        images,
        str(document["method"]),
        int(document["crops"]),
        tensors,
        {str(name): str(reason) for name, reason in excluded.items()},
        {str(name): tuple(map(float, found)) for name, found in document["channel_factors"].items()},
        document["target"],
        {str(name): tuple(map(float, found)) for name, found in document["bias_corrections"].items()},
        tuple(map(str, document["float_layers"])),
    )
