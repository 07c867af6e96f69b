"""ModelSpec: all that must be known of a model to feed it and to read its output.

It travels as JSON: beside an ONNX file, inside it (``metadata_props["posedge.spec"]``) and in a bundle.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GraphError

METADATA_KEY = "posedge.spec"
UNKNOWN_KEY = "unknown"  # in a spec file: the keys that are null until somebody fills them in

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# left and right joints of COCO's 17: eyes, ears, shoulders, elbows, wrists, hips, knees, ankles
COCO_FLIP_PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))

TASKS = ("pose", "classification")
CODECS = ("msra", "unbiased", "megvii", "simcc")
COLOUR_ORDERS = ("rgb", "bgr")
NMS_MODES = ("oks", "soft", "none")


@dataclass(frozen=True)
class ModelSpec:
    """How a model is fed and read.

    name: what reports call it.
    task: "pose" (top-down), or "classification", which reads no field of joints, boxes and decoding.
    input_wh, heatmap_wh: width and height in pixels of the input and of an output map; "simcc" has no maps.
    colour_order: channel order of the input tensor; images are BGR until they are packed.
    mean, std: per channel in ``colour_order``, on the 0 to 255 scale; input = (pixel - mean) / std.
    codec: decoder of the heatmaps, "msra", "unbiased" (DARK) or "megvii"; "simcc" for two distributions a
        joint, over x and over y (RTMPose).
    split_ratio: bins of a "simcc" distribution for each pixel of the input.
    blur_kernel: side of the Gaussian of the "unbiased" decoder in heatmap pixels, 11 at 64x48, 17 at 96x72;
        the other decoders do not read it.
    num_joints: number of output maps, or of distributions over x.
    num_classes: number of logits of a classifier.
    resize_short: the image of a classifier is resized until its shorter edge has so many pixels (Pillow's
        bilinear), and the middle of ``input_wh`` is cut out of it.
    flip_pairs: joint indices that change places in a mirrored image.
    flip_shift: move the mirrored maps one pixel right before averaging (mmpose's ``shift_heatmap``).
    box_padding: factor by which a box grows before it is cropped.
    keypoint_threshold, nms, nms_threshold: how COCO's evaluation scores and thins instances: the instance
        score is the box score times the mean of the joint scores above ``keypoint_threshold``; "oks" or
        "soft" NMS drops near duplicates, which only detection boxes have.
    input_name, output_name: tensors of the graph. With "simcc" output_name has the distributions over x and
        output_name_y those over y; the others do not read the latter.
    """

    name: str
    task: str = "pose"
    input_wh: tuple[int, int] = (192, 256)
    heatmap_wh: tuple[int, int] = (48, 64)
    colour_order: str = "rgb"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    codec: str = "msra"
    blur_kernel: int = 11
    num_joints: int = 17
    flip_pairs: tuple[tuple[int, int], ...] = COCO_FLIP_PAIRS
    flip_shift: bool = True
    box_padding: float = 1.25
    keypoint_threshold: float = 0.2
    nms: str = "none"
    nms_threshold: float = 0.9
    input_name: str = "input"
    output_name: str = "heatmaps"
    output_name_y: str = "simcc_y"
    split_ratio: float = 2.0
    num_classes: int = 1000
    resize_short: int = 256

    def __post_init__(self) -> None:
        _require_choice("task", self.task, TASKS)
        _require_choice("codec", self.codec, CODECS)
        _require_choice("colour_order", self.colour_order, COLOUR_ORDERS)
        _require_choice("nms", self.nms, NMS_MODES)
        for field in ("input_wh", "heatmap_wh"):
            width, height = getattr(self, field)
            if width < 1 or height < 1:
                raise GraphError(f"spec: {field} is {width}x{height}; both sides must be positive")
        if not all(math.isfinite(m) for m in self.mean) or not all(0 < s < math.inf for s in self.std):
            raise GraphError(
                "spec: mean must be finite and std positive, three numbers each on the 0 to 255 scale"
            )
        if self.task == "classification":
            if self.num_classes < 1:
                raise GraphError(f"spec: num_classes is {self.num_classes}; a classifier has some")
            if self.resize_short < max(self.input_wh):
                raise GraphError(
                    f"spec: resize_short is {self.resize_short}; the input of {self.input_wh[0]}x"
                    f"{self.input_wh[1]} cannot be cut out of a smaller image"
                )
        if self.num_joints < 1:
            raise GraphError(f"spec: num_joints is {self.num_joints}; a pose model has at least one")
        if self.blur_kernel < 1 or self.blur_kernel % 2 == 0:
            raise GraphError(f"spec: blur_kernel is {self.blur_kernel}; it must be odd and positive")
        if not 0 < self.split_ratio < math.inf:
            raise GraphError(f"spec: split_ratio is {self.split_ratio}; it must be positive (2 is usual)")
        if self._is_simcc and self.output_name == self.output_name_y:
            raise GraphError(
                f"spec: output_name and output_name_y are both {self.output_name!r}; SimCC's distributions "
                "over x and y are two outputs"
            )
        if not 0 < self.box_padding < math.inf:
            raise GraphError(f"spec: box_padding is {self.box_padding}; it must be positive (1.25 is usual)")
        joints = [joint for pair in self.flip_pairs for joint in pair]
        if len(set(joints)) != len(joints) or not all(0 <= joint < self.num_joints for joint in joints):
            raise GraphError(
                f"spec: flip_pairs must name each joint at most once, in 0 to {self.num_joints - 1}; "
                f"got {list(self.flip_pairs)}"
            )

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs in the order in which a session returns them."""
        return (self.output_name, self.output_name_y) if self._is_simcc else (self.output_name,)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Their shapes without the batch axis: (K, h, w); (K, bins of x) and (K, bins of y); (classes,)."""
        if self.task == "classification":
            return ((self.num_classes,),)
        if self._is_simcc:
            return tuple((self.num_joints, round(side * self.split_ratio)) for side in self.input_wh)
        width, height = self.heatmap_wh
        return ((self.num_joints, height, width),)

    @property
    def output_keys(self) -> tuple[str, ...]:
        """The keys of the spec that those shapes come from."""
        if self.task == "classification":
            return ("num_classes",)
        return ("num_joints", "input_wh", "split_ratio") if self._is_simcc else ("num_joints", "heatmap_wh")

    @property
    def _is_simcc(self) -> bool:
        return self.task == "pose" and self.codec == "simcc"

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON types."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return document

    def to_json(self) -> str:
        """The spec as one line of JSON with sorted keys, the same text for the same spec."""
        return json.dumps(self.to_dict(), sort_keys=True)


def spec_from_dict(document: object, where: str) -> ModelSpec:
    """Read a spec from JSON types; ``where`` names the source in messages.

    Raises GraphError for an unknown key (with the nearest known one), a missing name or a value of the
    wrong type.
    """
    if not isinstance(document, dict):
        raise GraphError(f"{where}: a spec is a JSON object, this is {type(document).__name__}")
    fields = {field.name: field for field in dataclasses.fields(ModelSpec)}
    for key in document:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(fields)}"
            raise GraphError(f"{where}: unknown key {key!r}{hint}")
    if "name" not in document:
        raise GraphError(f"{where}: the key 'name' is missing")
    values = {key: _convert(key, str(fields[key].type), value, where) for key, value in document.items()}
    try:
        return ModelSpec(**values)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error


def read_spec(path: Path) -> ModelSpec:
    """Read a spec file.

    Raises GraphError when it is missing, not JSON, or not a spec, and when a value is still null, as
    `posedge spec init` writes what it could not know.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise GraphError(f"{path}: the spec cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise GraphError(f"{path}: the spec is not JSON ({error})") from error
    if isinstance(document, dict):
        gaps = [key for key, value in document.items() if value is None]
        if gaps:
            raise GraphError(
                f"{path}: {', '.join(gaps)} {'is' if len(gaps) == 1 else 'are'} not known yet (null). "
                "Fill in what the model was trained with"
            )
        document.pop(UNKNOWN_KEY, None)
    return spec_from_dict(document, str(path))


def _require_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise GraphError(f"spec: {field} is {value!r}; it must be one of {', '.join(choices)}")


_TYPES_IN_WORDS = {
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "tuple[int, int]": "a list of 2 whole numbers",
    "tuple[float, float, float]": "a list of 3 numbers",
    "tuple[tuple[int, int], ...]": "a list of pairs of whole numbers",
}


def _convert(key: str, kind: str, value: Any, where: str) -> Any:
    """JSON has neither tuples nor a difference between 1 and 1.0; bring ``value`` to the field's type."""
    kind = kind.removeprefix("<class '").removesuffix("'>")
    try:
        return _CONVERSIONS[kind](value)
    except (TypeError, ValueError) as error:
        raise GraphError(f"{where}: {key} should be {_TYPES_IN_WORDS[kind]}, not {value!r}") from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _whole_number(value: Any) -> int:
    if _number(value) != int(value):
        raise ValueError
    return int(value)


def _of_type(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return check


def _list_of(item: Callable[[Any], Any], length: int | None = None) -> Callable[[Any], tuple[Any, ...]]:
    def convert(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise TypeError
        return tuple(map(item, value))

    return convert


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "str": _of_type(str),
    "bool": _of_type(bool),
    "int": _whole_number,
    "float": _number,
    "tuple[int, int]": _list_of(_whole_number, 2),
    "tuple[float, float, float]": _list_of(_number, 3),
    "tuple[tuple[int, int], ...]": _list_of(_list_of(_whole_number, 2)),
}
