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

    from .runtime.sessions import Session


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
    parser.add_argument("--threads", type=count, help="threads of the CPU session (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print the keypoints (or classes) as JSON too")
    parser.add_argument("-o", "--output", type=png_path, help="PNG to write (default: IMAGE_pose.png)")


def run(options: argparse.Namespace) -> int:
    """One picture through a bundle, as the bundle's task has it."""
    from .runtime.bundle import open_bundle
    from .runtime.images import read_image
    from .runtime.sessions.onnxruntime import OnnxRuntimeSession

    image = read_image(options.image)
    bundle = open_bundle(options.bundle)
    graph = bundle.path(bundle.variant(options.variant or bundle.default_variant).graph)
    with OnnxRuntimeSession(graph, bundle.spec, options.threads) as session:
        if session.spec.task == "classification":
            _classify(session, image, options)
        else:
            _estimate(session, image, options)
    return 0


def _classify(session: "Session", image: "NDArray[np.uint8]", options: argparse.Namespace) -> None:
    from .runtime.classify import Classifier

    if options.boxes or options.flip or options.output:
        raise DataError(
            f"{session.spec.name} is a classifier, which sees the whole picture as it is: leave out --boxes, "
            "--flip and --output"
        )
    classes, probabilities = (found.tolist() for found in Classifier.from_session(session)(image))
    if options.json:
        print(json.dumps({"classes": classes, "probabilities": probabilities}))
        return
    for index, probability in zip(classes, probabilities, strict=True):
        print(f"class {index:4d}  {probability:.4f}")


def _estimate(session: "Session", image: "NDArray[np.uint8]", options: argparse.Namespace) -> None:
    import numpy as np

    from .runtime.draw import draw_poses
    from .runtime.images import write_png
    from .runtime.pose import PoseEstimator

    boxes = np.array(_boxes(options.boxes, image.shape[1], image.shape[0]), np.float32)
    keypoints, scores = PoseEstimator.from_session(session, flip_test=options.flip)(image, boxes)
    picture = options.output or options.image.with_name(f"{options.image.stem}_pose.png")
    write_png(picture, draw_poses(image, keypoints, scores, boxes))
    if options.json:
        persons = [
            {"box_xyxy": box.tolist(), "keypoints": points.tolist(), "scores": score.tolist()}
            for box, points, score in zip(boxes, keypoints, scores, strict=True)
        ]
        print(json.dumps(persons))
    print(f"{len(boxes)} person(s) drawn into {picture}", file=sys.stderr)


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
