"""What was measured of a model's variants: the one source of table, receipt, CSV and plot.

A figure is either there, with where it was measured, or it is ``NotMeasured`` with a reason. There is no
third state, and no number stands for "unknown".
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...runtime.spec import ModelSpec
from ..coco import CocoFigures
from ..imagenet import ImageNetFigures
from ..self_test import SelfTest
from ..speed import NotMeasured, Speed

# a variant that has lost this share of the reference's accuracy is broken, not merely over its budget
_COLLAPSE = 0.25


@dataclass(frozen=True)
class Wording:
    """What a task's figures are called.

    key: the field of the figures that drops are counted in, and its key in receipt and CSV. label: the same
    for people. unit: what is counted and timed. result: where the pipeline ends. place: of accuracy figures.
    """

    key: str
    label: str
    unit: str
    result: str
    place: str


WORDINGS = {
    "pose": Wording("ap", "AP", "persons", "keypoints", "COCO keypoint"),
    "classification": Wording("top1", "top-1", "images", "classes", "classification"),
}


@dataclass(frozen=True)
class MeasuredAccuracy:
    """COCO's or ImageNet's figures, and with what and on what device they were measured."""

    figures: CocoFigures | ImageNetFigures
    measured_on: str

    @property
    def headline(self) -> float:
        """The figure that drops are counted in: AP or top-1."""
        return self.figures.ap if isinstance(self.figures, CocoFigures) else self.figures.top1


@dataclass(frozen=True)
class Interval:
    """The ends between which 95 % of the drops on 1000 samples of the images lie (``bootstrap``)."""

    low: float
    high: float


@dataclass(frozen=True)
class MeasuredSpeed:
    """Speed by batch size, ascending, and with what and on what device it was measured."""

    by_batch: tuple[Speed, ...]
    measured_on: str

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.by_batch, key=lambda speed: speed.batch))
        object.__setattr__(self, "by_batch", ordered)

    @property
    def smallest(self) -> Speed:
        """At the smallest batch: the one whose latency matters."""
        return self.by_batch[0]

    @property
    def fastest(self) -> Speed:
        """At the batch size with the most persons per second."""
        return max(self.by_batch, key=lambda speed: speed.persons_per_second)


@dataclass(frozen=True)
class BuiltEngine:
    """A TensorRT engine: its size, how long its build took, by which library, and where.

    gpu_layers: with a DLA core, the names of the layers that run on the GPU because the DLA cannot.
    """

    engine_bytes: int
    build_seconds: float
    flavour: str
    version: str
    built_on: str
    gpu_layers: tuple[str, ...] = ()


_NOT_COMPARED = NotMeasured("it was compared with no other variant")
NOT_TESTED = NotMeasured("posedge verify --run has not been run")


@dataclass(frozen=True)
class VariantReport:
    """One precision of a model.

    graph_bytes: size of its ONNX file.
    session_speed: the network alone in the backend that ``measured_on`` names. pipeline_speed: from decoded
    image to keypoints in the same backend. engine_speed: the network alone in its TensorRT engine.
    drop_interval: how sure the drop of AP or top-1 from the reference is. self_test: whether it runs as it
    should. int8_share: of the convolutions' multiply-accumulates, what the graph computes in INT8, 0 to 1.
    """

    name: str
    graph_bytes: int
    accuracy: MeasuredAccuracy | NotMeasured
    engine: BuiltEngine | NotMeasured
    session_speed: MeasuredSpeed | NotMeasured
    pipeline_speed: MeasuredSpeed | NotMeasured
    engine_speed: MeasuredSpeed | NotMeasured
    drop_interval: Interval | NotMeasured = _NOT_COMPARED
    self_test: SelfTest | NotMeasured = NOT_TESTED
    int8_share: float = 0.0


@dataclass(frozen=True)
class EvaluatedData:
    """What accuracy was measured on: file name of the annotations, counts, source of the boxes, flip test."""

    annotations: str
    images: int
    persons: int
    boxes: str
    flip_test: bool


@dataclass(frozen=True)
class EvaluatedImages:
    """What a classifier was measured on: name of the label file or folder, and how many images."""

    labels: str
    images: int


@dataclass(frozen=True)
class Report:
    """Everything that is reported of one model.

    calibration: one line that says on what and how ranges were found.
    versions: library name to version. device: the machine that measured.
    max_drop: the drop of AP or top-1 that the user accepts. reference: the variant that drops are counted
        from.
    notes: what a reader must know, such as that pictures are drawn.
    """

    model: str
    spec: ModelSpec
    data: EvaluatedData | EvaluatedImages
    calibration: str
    versions: Mapping[str, str]
    device: str
    max_drop: float
    variants: tuple[VariantReport, ...]
    notes: tuple[str, ...] = ()
    reference: str = "fp32"

    @property
    def wording(self) -> Wording:
        """What the figures of the model's task are called."""
        return WORDINGS[self.spec.task]

    def drop(self, variant: VariantReport) -> float | NotMeasured:
        """The reference's AP (top-1 of a classifier) minus the variant's: positive when that is worse."""
        reference = self._reference_accuracy()
        if isinstance(variant.accuracy, NotMeasured):
            return variant.accuracy
        if isinstance(reference, NotMeasured):
            return NotMeasured(
                f"the {self.wording.label} of {self.reference}, which drops are counted from, was not "
                "measured"
            )
        return reference.headline - variant.accuracy.headline

    @property
    def recommended(self) -> str:
        """The fastest variant that was timed and keeps the accepted drop; the reference where none did."""
        best, best_rate = self.reference, 0.0
        for variant in self.variants:
            drop, speed = self.drop(variant), variant.pipeline_speed
            if isinstance(speed, NotMeasured) or isinstance(drop, NotMeasured) or drop > self.max_drop:
                continue
            rate = speed.fastest.persons_per_second
            if rate > best_rate:
                best, best_rate = variant.name, rate
        return best

    @property
    def warnings(self) -> tuple[str, ...]:
        """One loud line for each variant that loses more accuracy than the user accepts."""
        lines = (self._warning(variant) for variant in self.variants)
        return tuple(line for line in lines if line)

    def _warning(self, variant: VariantReport) -> str:
        reference = self._reference_accuracy()
        if isinstance(variant.accuracy, NotMeasured) or isinstance(reference, NotMeasured):
            return ""
        before, after = reference.headline, variant.accuracy.headline
        drop = before - after
        if drop <= self.max_drop:
            return ""
        verdict = "COLLAPSED" if drop > _COLLAPSE * before else "OVER BUDGET"
        return (
            f"{variant.name.upper()} {verdict}: {self.wording.label} {after:.3f} of {before:.3f}, "
            f"a drop of {drop:.3f} where {self.max_drop:.3f} is accepted"
        )

    def _reference_accuracy(self) -> MeasuredAccuracy | NotMeasured:
        for variant in self.variants:
            if variant.name == self.reference:
                return variant.accuracy
        return NotMeasured(f"there is no variant {self.reference}")
