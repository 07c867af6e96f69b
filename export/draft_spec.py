"""A first spec for somebody's ONNX file: what the graph shows, what is assumed, and what no graph shows.

How images are normalised and in which colour order they are fed stands in no graph. Such keys are null in the
draft, and ``read_spec`` refuses it until they are filled in.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from ..errors import GraphError
from ..runtime.spec import COCO_FLIP_PAIRS, IMAGENET_MEAN, IMAGENET_STD, UNKNOWN_KEY, ModelSpec
from .graphs import attached_spec, dims, graph_input, load_graph, run_graph

Shapes = dict[str, tuple[int, ...]]

_CROP_SHARE = 224 / 256  # of the resized image's shorter edge, in most classifiers

_ASK = {
    "colour_order": '"rgb" or "bgr": the order in which the network was trained to see channels',
    "mean": f"three numbers from 0 to 255, in that order; ImageNet's in RGB are {list(IMAGENET_MEAN)}",
    "std": f"likewise; ImageNet's are {list(IMAGENET_STD)}",
    "flip_pairs": "pairs of left and right joints, such as [[1, 2], [3, 4]]; [] where there are none",
}


@dataclass(frozen=True)
class SpecDraft:
    """A spec with gaps.

    values: keys of ModelSpec; None where the graph does not show the value.
    assumed: one line for each value that is only likely.
    """

    values: dict[str, Any]
    assumed: tuple[str, ...]

    @property
    def unknown(self) -> dict[str, str]:
        """The keys without a value, and what to write there."""
        return {key: _ASK[key] for key, value in self.values.items() if value is None}

    def to_json(self) -> str:
        """The spec file, one key a line; gaps are null and listed under "unknown"."""
        document = dict(self.values)
        if self.unknown:
            document[UNKNOWN_KEY] = list(self.unknown)
        lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


def draft_spec(path: Path) -> SpecDraft:
    """Look at the graph at ``path``: it is run once on noise to see the shapes of its outputs.

    Heatmaps are an output (N, joints, height, width), SimCC is two outputs (N, joints, bins) that are longer
    than the input's sides by the same factor, and a single output (N, classes) is a classifier's. A spec
    inside the file is taken as it is.

    Raises GraphError when it cannot be loaded or run (see ``load_graph``), when its input is not
    (N, 3, height, width) of a stated size, and when its outputs are none of these.
    """
    model = load_graph(path)
    inside = attached_spec(model, str(path))
    if inside is not None:
        return SpecDraft(inside.to_dict(), ("everything: it is the spec that the file carries",))
    input_name, input_wh = _input(model, str(path))
    outputs, assumed = _read_outputs(_output_shapes(model, input_wh), input_wh, str(path))
    values: dict[str, Any] = {
        "name": re.sub(r"[^\w.-]+", "_", path.stem).lstrip(".") or "model",
        "input_name": input_name,
        "input_wh": list(input_wh),
        "colour_order": None,
        "mean": None,
        "std": None,
        **outputs,
    }
    if "num_joints" in outputs:
        persons, more = _persons(outputs["num_joints"])
        values |= persons
        assumed += more
    return SpecDraft(values, tuple(assumed))


def _persons(joints: int) -> tuple[dict[str, Any], list[str]]:
    """Keys of top-down models that no output shows, and what was assumed."""
    padding = f"box_padding: {ModelSpec.box_padding}, the usual one of top-down models"
    if joints != ModelSpec.num_joints:
        return {"flip_pairs": None, "box_padding": ModelSpec.box_padding}, [padding]
    pairs = [list(pair) for pair in COCO_FLIP_PAIRS]
    values = {"flip_pairs": pairs, "box_padding": ModelSpec.box_padding}
    return values, ["flip_pairs: 17 joints are taken for COCO's", padding]


def _input(model: ModelProto, where: str) -> tuple[str, tuple[int, int]]:
    value = graph_input(model, where)
    _, channels, height, width = dims(value) or ["", "", "", ""]
    if channels != 3 and isinstance(channels, int):
        hint = "; it takes channels last, export it as NCHW" if width == 3 else ""
        raise GraphError(
            f"{where}: the input {value.name!r} has {channels} channels where an image has 3{hint}"
        )
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise GraphError(
            f"{where}: the input {value.name!r} does not state its height and width ({height} x {width}). "
            "Export it with a fixed size; only the batch may be dynamic"
        )
    return value.name, (width, height)


def _output_shapes(model: ModelProto, input_wh: tuple[int, int]) -> Shapes:
    """Shapes without the batch axis, of the outputs that are numbers of a batch."""
    value = graph_input(model, "the graph")
    batch = (dims(value) or [1])[0]
    half = value.type.tensor_type.elem_type == TensorProto.FLOAT16
    size = (batch if isinstance(batch, int) and batch > 0 else 1, 3, input_wh[1], input_wh[0])
    noise = np.random.default_rng(0).standard_normal(size).astype(np.float16 if half else np.float32)
    found = run_graph(model, noise)
    return {name: output.shape[1:] for name, output in found.items() if output.shape[:1] == size[:1]}


def _read_outputs(shapes: Shapes, input_wh: tuple[int, int], where: str) -> tuple[dict[str, Any], list[str]]:
    """Keys of the spec that the outputs tell, and what was assumed on the way."""
    maps = [name for name, shape in shapes.items() if len(shape) == 3 and min(shape) > 0]
    if maps:
        return _heatmaps(maps, shapes)
    lines = [name for name, shape in shapes.items() if len(shape) == 2]
    found = [(x, y, ratio) for x in lines for y in lines if (ratio := _split_ratio(x, y, shapes, input_wh))]
    if found:
        return _simcc(found, shapes)
    if len(shapes) == 1 and [len(shape) for shape in shapes.values()] == [1]:
        return _classifier(shapes, input_wh)
    seen = ", ".join(f"{name!r} (N, {', '.join(map(str, shape))})" for name, shape in shapes.items())
    raise GraphError(
        f"{where}: the outputs are {seen or 'not of the size of the batch'}; a top-down pose model has "
        "heatmaps (N, joints, height, width), or two of SimCC (N, joints, bins), as many times longer than "
        f"the input's {input_wh[0]} and {input_wh[1]} pixels; a classifier has one, (N, classes)"
    )


def _heatmaps(names: list[str], shapes: Shapes) -> tuple[dict[str, Any], list[str]]:
    name = names[-1]
    joints, height, width = shapes[name]
    assumed = [
        'codec: "msra" reads most heatmaps; "unbiased" is for models trained with DARK, "megvii" for maps '
        "that reach 255",
        "flip_shift: mirrored maps are moved one pixel, as mmpose does for MSRA's heatmaps",
    ]
    if len(names) > 1:
        assumed.append(f"output_name: {name!r} is the last of {', '.join(map(repr, names))}")
    return {
        "codec": "msra",
        "output_name": name,
        "heatmap_wh": [width, height],
        "num_joints": joints,
        "flip_shift": True,
    }, assumed


def _simcc(found: list[tuple[str, str, float]], shapes: Shapes) -> tuple[dict[str, Any], list[str]]:
    # with a square input either of the two could be x: names that end in x and y decide, else their order
    x, y, ratio = next((pair for pair in found if pair[0].lower().endswith("x")), found[0])
    assumed = []
    if len(found) > 1:
        assumed.append(f"output_name: {x!r} is over x and {y!r} over y, judged by name and order")
    return {
        "codec": "simcc",
        "output_name": x,
        "output_name_y": y,
        "split_ratio": ratio,
        "num_joints": shapes[x][0],
    }, assumed


def _classifier(shapes: Shapes, input_wh: tuple[int, int]) -> tuple[dict[str, Any], list[str]]:
    ((name, (classes,)),) = shapes.items()
    short = round(max(input_wh) / _CROP_SHARE)
    return {
        "task": "classification",
        "output_name": name,
        "num_classes": classes,
        "resize_short": short,
    }, [f"resize_short: {short}, of which the input is the middle {_CROP_SHARE:.1%}, as of 224 in 256"]


def _split_ratio(x: str, y: str, shapes: Shapes, input_wh: tuple[int, int]) -> float:
    """Bins a pixel, the same in both directions; 0 where these two outputs are no SimCC."""
    (joints_x, bins_x), (joints_y, bins_y) = shapes[x], shapes[y]
    ratio = bins_x / input_wh[0]
    fits = bins_y == round(input_wh[1] * ratio) and joints_x == joints_y >= 1
    return ratio if x != y and fits else 0.0
