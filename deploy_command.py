"""`posedge deploy`: the main job from the command line."""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import build_options
from .arguments import count, counts, fraction
from .export_command import add_graph_options, add_source, graph_options
from .recipe_options import add_recipe_options, recipe

if TYPE_CHECKING:
    from .options import DataPaths, ImageNetPaths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge deploy`."""
    parser.set_defaults(run=partial(run_deploy, parser))
    add_source(parser)
    _add_data(parser)
    _add_work(parser)
    add_recipe_options(parser)
    build_options.add_arguments(parser)
    add_graph_options(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out"), help="bundles go to OUTPUT/NAME (default: out)"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--coco", type=Path, help="COCO in its usual layout: annotations/, val2017/, train2017/"
    )
    data.add_argument("--images", type=Path, help="images of --annotations")
    data.add_argument("--annotations", type=Path, help="COCO keypoints to measure accuracy on")
    data.add_argument("--calibration-annotations", type=Path, help="COCO keypoints to calibrate on")
    data.add_argument(
        "--calibration-images",
        type=Path,
        help="their images (default: --images); of a classifier: any folder of images",
    )
    data.add_argument(
        "--imagenet",
        type=Path,
        help="for a classifier: val/ and train/ with synset folders, or val/ with val.txt",
    )
    data.add_argument(
        "--imagenet-labels", type=Path, metavar="FILE", help="NAME.JPEG LABEL a line, for a flat folder"
    )
    data.add_argument("--boxes", default="gt", help="gt, or a COCO detections file (default: gt)")
    data.add_argument("--limit", type=count, help="measure on so many persons or images only")


def _add_work(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("work")
    work.add_argument(
        "--precision", type=_precisions, default=("fp32", "fp16", "int8"), help="default: fp32,fp16,int8"
    )
    work.add_argument(
        "--max-drop",
        type=fraction,
        help="drop of AP or top-1 that is acceptable: INT8 leaves as many layers in float as that takes "
        "(default: all of INT8; a drop above 0.01 is reported)",
    )
    work.add_argument("--no-flip", dest="flip", action="store_false", help="without the flip test")
    work.add_argument("--calibration-crops", type=count, default=128, help="default: 128")
    work.add_argument("--batch-sizes", type=counts, default=(1, 8), help="batch sizes to time (default: 1,8)")
    work.add_argument("--threads", type=count, help="threads of the CPU session (default: all cores)")


def run_deploy(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Checkpoint to measured bundle."""
    _check_data(parser, options)
    from .deploy import deploy
    from .options import MAX_DROP, DeployOptions
    from .progress import for_terminal

    deploy_options = DeployOptions(
        model=options.model,
        output=options.output,
        data=_data(options),
        checkpoint=options.checkpoint,
        spec=options.spec,
        boxes=options.boxes,
        flip_test=options.flip,
        precisions=options.precision,
        max_drop=MAX_DROP if options.max_drop is None else options.max_drop,
        search=options.max_drop is not None and "int8" in options.precision,
        build=build_options.from_options(options),
        recipe=recipe(options),
        calibration_crops=options.calibration_crops,
        limit=options.limit,
        batch_sizes=options.batch_sizes,
        threads=options.threads,
        build_timeout_s=options.build_timeout,
        build_memory_bytes=options.build_memory,
        graph=graph_options(options),
    )
    with for_terminal() as progress:
        outcome = deploy(deploy_options, progress)
    outcome.show()
    return 0


def _check_data(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 where the data are missing or given twice."""
    plain = (options.images, options.annotations, options.calibration_annotations)
    if options.coco is not None and any(path is not None for path in plain):
        parser.error("give --coco, or --images with --annotations, not both")
    if options.imagenet is not None:
        if options.coco is not None or any(path is not None for path in plain):
            parser.error("give --imagenet for a classifier, or persons for a pose model, not both")
    elif options.imagenet_labels is not None:
        parser.error("--imagenet-labels goes with --imagenet DIR")
    elif options.coco is None and (options.images is None or options.annotations is None):
        parser.error(
            "the data are missing: give --coco DIR, or --images DIR with --annotations FILE; "
            "for a classifier --imagenet DIR"
        )


def _data(options: argparse.Namespace) -> "DataPaths | ImageNetPaths":
    from .options import DataPaths, ImageNetPaths

    if options.imagenet is not None:
        images = ImageNetPaths.imagenet(options.imagenet, options.imagenet_labels)
        if options.calibration_images is not None:
            images = replace(images, calibration_images=options.calibration_images)
        return images
    if options.coco is not None:
        paths = DataPaths.coco(options.coco)
        train = paths.calibration_annotations
        if "int8" not in options.precision and train is not None and not train.is_file():
            return replace(paths, calibration_annotations=None)  # float16 can do without what nobody named
        return paths
    return DataPaths(
        options.annotations, options.images, options.calibration_annotations, options.calibration_images
    )


def _precisions(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in ("fp32", "fp16", "int8"):
            raise argparse.ArgumentTypeError(f"{name!r} is none of fp32, fp16, int8")
    return names
