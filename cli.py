"""The command `posedge`: one function a command, each importing what it needs when it runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__
from .arguments import count, fraction, marked_numbers, png_path, seconds
from .errors import DataError, PosedgeError
from .extras import missing_extra
from .interrupts import watched_interrupts

INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 1 after an error that was printed; misuse exits with 2."""
    options = _parse(arguments)
    with watched_interrupts() as interrupts:
        try:
            result: int = options.run(options)
            return result
        except KeyboardInterrupt:
            return _interrupted()
        except BrokenPipeError:  # `posedge zoo | head`
            sys.stderr.close()
            return 1
        except Exception as error:
            if interrupts.pressed:  # a library took the interrupt for a failure of its own
                return _interrupted()
            shown = missing_extra(error) if isinstance(error, ImportError) else error
            if options.debug or not isinstance(shown, PosedgeError):
                raise
            print(f"posedge: {shown}", file=sys.stderr)
            return 1


def _interrupted() -> int:
    print(
        "posedge: interrupted. Finished stages are kept; the same command goes on from there.",
        file=sys.stderr,
    )
    return INTERRUPTED


def run_deploy(options: argparse.Namespace) -> int:
    """Checkpoint to measured bundle."""
    from .deploy import deploy
    from .engines import BatchProfile
    from .options import DataPaths, DeployOptions
    from .progress import for_terminal

    if options.coco is not None:
        data = DataPaths.coco(options.coco)
    else:
        data = DataPaths(
            options.annotations, options.images, options.calibration_annotations, options.calibration_images
        )
    deploy_options = DeployOptions(
        model=options.model,
        output=options.output,
        data=data,
        checkpoint=options.checkpoint,
        spec=options.spec,
        boxes=options.boxes,
        flip_test=options.flip,
        precisions=options.precision,
        max_drop=options.max_drop,
        profile=BatchProfile(*options.batch_profile),
        calibration_method=options.calibration_method,
        calibration_crops=options.calibration_crops,
        limit=options.limit,
        batch_sizes=options.batch_sizes,
        threads=options.threads,
        build_timeout_s=options.build_timeout,
    )
    with for_terminal() as progress:
        outcome = deploy(deploy_options, progress)
    outcome.show()
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """The main job on drawn pictures and the network that the package carries."""
    from .demo import NEXT, demo
    from .progress import for_terminal

    with for_terminal() as progress:
        outcome = demo(options.output, progress)
    outcome.show()
    print(NEXT)
    return 0


def run_estimate(options: argparse.Namespace) -> int:
    """Keypoints of one picture, drawn into a copy of it."""
    import json

    import numpy as np

    from .runtime.draw import draw_poses
    from .runtime.images import read_image, write_png
    from .runtime.pose import PoseEstimator

    image = read_image(options.image)
    boxes = np.array(_boxes(options.boxes, image.shape[1], image.shape[0]), np.float32)
    with PoseEstimator(options.bundle, options.variant, options.threads, options.flip) as pose:
        keypoints, scores = pose(image, boxes)
    picture = options.output or options.image.with_name(f"{options.image.stem}_pose.png")
    write_png(picture, draw_poses(image, keypoints, scores, boxes))
    if options.json:
        persons = [
            {"box_xyxy": box.tolist(), "keypoints": points.tolist(), "scores": score.tolist()}
            for box, points, score in zip(boxes, keypoints, scores, strict=True)
        ]
        print(json.dumps(persons))
    print(f"{len(boxes)} person(s) drawn into {picture}", file=sys.stderr)
    return 0


def run_zoo(options: argparse.Namespace) -> int:
    """What there is."""
    from .export.zoo import ZOO

    for entry in ZOO.values():
        width, height = entry.spec.input_wh
        size = f"{height}x{width}"
        print(f"{entry.name:28} {entry.spec.task:14} {size}  {entry.published}  {entry.checkpoint}")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Every file of a bundle against its seal."""
    from .runtime.bundle import open_bundle

    bundle = open_bundle(options.bundle)
    print(f"{bundle.directory}: every file is as it was sealed (variants: {', '.join(bundle.variants)})")
    return 0


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


def _numbers(text: str) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.split(","))
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: positive numbers separated by commas are expected")
    return values


def _precisions(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in ("fp32", "fp16", "int8"):
            raise argparse.ArgumentTypeError(f"{name!r} is none of fp32, fp16, int8")
    return names


def _profile(text: str) -> tuple[int, ...]:
    values = _numbers(text)
    if len(values) != 3 or list(values) != sorted(values):
        raise argparse.ArgumentTypeError(f"{text!r}: MIN,OPT,MAX in ascending order are expected")
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(marked_numbers(sys.argv[1:] if arguments is None else arguments))
    if options.run is run_deploy:
        plain = (options.images, options.annotations, options.calibration_annotations)
        if options.coco is not None and any(path is not None for path in plain):
            parser.error("give --coco, or --images with --annotations, not both")
        if options.coco is None and (options.images is None or options.annotations is None):
            parser.error("the data are missing: give --coco DIR, or --images DIR with --annotations FILE")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="posedge", description="Pose models from checkpoint to edge engine.")
    parser.add_argument("--version", action="version", version=f"posedge {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_deploy(commands.add_parser("deploy", help="checkpoint or ONNX to engines, measured"))
    _add_demo(commands.add_parser("demo", help="the main job on drawn pictures that the package carries"))
    _add_run(commands.add_parser("run", help="keypoints of one picture, drawn into it"))
    zoo = commands.add_parser("zoo", help="models known by name")
    zoo.set_defaults(run=run_zoo)
    verify = commands.add_parser("verify", help="check every file of a bundle")
    verify.add_argument("bundle", type=Path)
    verify.set_defaults(run=run_verify)
    return parser


def _add_deploy(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_deploy)
    parser.add_argument("model", help="a name of the zoo (posedge zoo), or an ONNX file with --spec")
    parser.add_argument("--checkpoint", type=Path, help="weights of a zoo model (.pth)")
    parser.add_argument("--spec", type=Path, help="how the ONNX file is fed and read (JSON)")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--coco", type=Path, help="COCO in its usual layout: annotations/, val2017/, train2017/"
    )
    data.add_argument("--images", type=Path, help="images of --annotations")
    data.add_argument("--annotations", type=Path, help="COCO keypoints to measure accuracy on")
    data.add_argument("--calibration-annotations", type=Path, help="COCO keypoints to calibrate on")
    data.add_argument("--calibration-images", type=Path, help="their images (default: --images)")
    data.add_argument("--boxes", default="gt", help="gt, or a COCO detections file (default: gt)")
    data.add_argument("--limit", type=count, help="measure on so many persons only")
    work = parser.add_argument_group("work")
    work.add_argument(
        "--precision", type=_precisions, default=("fp32", "fp16", "int8"), help="default: fp32,fp16,int8"
    )
    work.add_argument(
        "--max-drop", type=fraction, default=0.01, help="AP drop that is acceptable (default: 0.01)"
    )
    work.add_argument("--no-flip", dest="flip", action="store_false", help="without the flip test")
    work.add_argument("--calibration-method", choices=("percentile", "minmax"), default="percentile")
    work.add_argument("--calibration-crops", type=count, default=128, help="default: 128")
    work.add_argument("--batch-profile", type=_profile, default=(1, 8, 32), help="MIN,OPT,MAX of the engines")
    work.add_argument(
        "--batch-sizes", type=_numbers, default=(1, 8), help="batch sizes to time (default: 1,8)"
    )
    work.add_argument("--threads", type=count, help="threads of the CPU session (default: all cores)")
    work.add_argument("--build-timeout", type=seconds, default=1800, help="seconds an engine may take")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out"), help="bundles go to OUTPUT/NAME (default: out)"
    )


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_demo)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/demo"), help="default: out/demo")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_estimate)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument(
        "--boxes", nargs="+", metavar="L,T,R,B", help="boxes in pixels (default: the whole picture)"
    )
    parser.add_argument("--variant", help="fp32, fp16 or int8 (default: the bundle's choice)")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored picture")
    parser.add_argument("--threads", type=count, help="threads of the CPU session (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print the keypoints as JSON too")
    parser.add_argument("-o", "--output", type=png_path, help="PNG to write (default: IMAGE_pose.png)")


if __name__ == "__main__":
    sys.exit(main())
