"""`posedge run`: one picture through a bundle; its keypoints are drawn, or its classes printed."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import count, png_path
from .errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .runtime.pose import PoseEstimator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge run`."""
    parser.set_defaults(run=run)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument(
        "--boxes", nargs="+", metavar="L,T,R,B", help="boxes in pixels (default: the whole picture)"
    )
    parser.add_argument("--variant", help="fp32, fp16 or int8 (default: the bundle's choice)")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored picture")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="cuda runs the engine, cpu the graph (default: the GPU where it and an engine for it are)",
    )
    parser.add_argument("--engine", type=Path, help="run this engine file instead of the bundle's own")
    parser.add_argument(
        "--trust", action="store_true", help="you know who built --engine: loading it runs the code in it"
    )
    parser.add_argument("--threads", type=count, help="threads of the CPU session (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print the keypoints (or classes) as JSON too")
    parser.add_argument("-o", "--output", type=png_path, help="PNG to write (default: IMAGE_pose.png)")


def run(options: argparse.Namespace) -> int:
    """One picture through a bundle, as the bundle's task has it."""
    from .runtime.bundle import open_index
    from .runtime.images import read_image

    image = read_image(options.image)
    if open_index(options.bundle).spec.task == "classification":
        _classify(image, options)
    else:
        _estimate(image, options)
    return 0


def _classify(image: "NDArray[np.uint8]", options: argparse.Namespace) -> None:
    from .runtime.classify import Classifier

    if options.boxes or options.flip or options.output:
        raise DataError(
            f"{options.bundle} has a classifier, which sees the whole picture as it is: leave out --boxes, "
            "--flip and --output"
        )
    if options.device == "cuda" or options.engine or options.trust:
        raise DataError(
            f"{options.bundle} has a classifier, which runs on the CPU: leave out --device, --engine and "
            "--trust"
        )
    with Classifier(options.bundle, options.variant, options.threads) as classifier:
        classes, probabilities = (found.tolist() for found in classifier(image))
    if options.json:
        print(json.dumps({"classes": classes, "probabilities": probabilities}))
        return
    for index, probability in zip(classes, probabilities, strict=True):
        print(f"class {index:4d}  {probability:.4f}")


def _estimate(image: "NDArray[np.uint8]", options: argparse.Namespace) -> None:
    import numpy as np

    from .runtime.draw import draw_poses
    from .runtime.images import write_png

    if options.trust and options.engine is None:
        raise DataError("--trust is of --engine: give the engine file, or leave out --trust")
    boxes = np.array(_boxes(options.boxes, image.shape[1], image.shape[0]), np.float32)
    with _estimator(options) as pose:
        keypoints, scores = pose(image, boxes)
        where = "" if pose.device == "cpu" else f" on {pose.device}"
        note = _why_on_the_cpu(pose, options)
    picture = options.output or options.image.with_name(f"{options.image.stem}_pose.png")
    write_png(picture, draw_poses(image, keypoints, scores, boxes))
    if options.json:
        persons = [
            {"box_xyxy": box.tolist(), "keypoints": points.tolist(), "scores": score.tolist()}
            for box, points, score in zip(boxes, keypoints, scores, strict=True)
        ]
        print(json.dumps(persons))
    print(f"{len(boxes)} person(s){where} drawn into {picture}", file=sys.stderr)
    if note:
        print(note, file=sys.stderr)


def _why_on_the_cpu(pose: "PoseEstimator", options: argparse.Namespace) -> str | None:
    """For a variant with an engine that was expected to run and did not."""
    from .runtime.bundle import open_bundle

    if options.device != "auto" or pose.no_gpu is None or pose.variant is None:
        return None
    has_engine = open_bundle(options.bundle).variant(pose.variant).engine is not None
    return f"note: it ran on the CPU: {pose.no_gpu}" if has_engine else None


def _estimator(options: argparse.Namespace) -> "PoseEstimator":
    from .runtime.pose import PoseEstimator

    if options.engine is None:
        return PoseEstimator(
            options.bundle, options.variant, options.threads, options.flip, device=options.device
        )
    if options.device == "cpu":
        raise DataError("an engine runs on a GPU: leave out --engine, or --device cpu")
    from .runtime.bundle import open_bundle
    from .runtime.cuda.opening import foreign_session

    session = foreign_session(options.engine, open_bundle(options.bundle), trust=options.trust)
    return PoseEstimator.from_session(session, options.flip)


def _boxes(texts: list[str] | None, width: int, height: int) -> list[list[float]]:
    """--boxes as numbers; without it the whole picture is one box."""
    if not texts:
        return [[0.0, 0.0, float(width), float(height)]]
    boxes = []
    for text in texts:
        try:
            left, top, right, bottom = (float(part) for part in text.split(","))
        except ValueError as error:
            raise DataError(f"--boxes {text.strip()}: a box is LEFT,TOP,RIGHT,BOTTOM in pixels") from error
        boxes.append([left, top, right, bottom])
    return boxes
