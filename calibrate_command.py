"""`posedge calibrate`: INT8 calibration from the command line, without a measurement of accuracy."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import count
from .export_command import add_graph_options, add_source, graph_options
from .recipe_options import add_recipe_options, recipe

if TYPE_CHECKING:
    from .calibrate_job import CalibrateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge calibrate`."""
    parser.set_defaults(run=partial(run_calibrate, parser))
    add_source(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--images", type=Path, help="images of --annotations; of a classifier: any folder")
    data.add_argument("--annotations", type=Path, help="COCO keypoints to calibrate on")
    data.add_argument("--coco", type=Path, help="COCO in its usual layout: annotations/, train2017/")
    data.add_argument("--imagenet", type=Path, help="for a classifier: train/ with synset folders")
    data.add_argument("--crops", type=count, default=128, help="persons or images (default: 128)")
    add_recipe_options(parser)
    parser.add_argument(
        "--sensitivity", action="store_true", help="measure what the INT8 of each layer alone does"
    )
    add_graph_options(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out"), help="files go to OUTPUT/NAME (default: out)"
    )


def run_calibrate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Checkpoint or ONNX file to an INT8 graph."""
    _check_data(parser, options)
    from .calibrate_job import calibrate_model
    from .progress import for_terminal

    job = _job(options)
    with for_terminal() as progress:
        result = calibrate_model(job, progress)
    result.show()
    return 0


def _check_data(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 where the data are missing or given twice."""
    files = options.images is not None or options.annotations is not None
    given = [options.coco is not None, options.imagenet is not None, files]
    if sum(given) > 1:
        parser.error("give one of --coco, --imagenet, and --images with --annotations, not several")
    if not any(given) or (files and options.images is None):
        parser.error(
            "the data are missing: give --images DIR with --annotations FILE, or --coco DIR; "
            "for a classifier --images DIR or --imagenet DIR"
        )


def _job(options: argparse.Namespace) -> "CalibrateOptions":
    from .calibrate_job import CalibrateOptions

    images, annotations = _data(options)
    return CalibrateOptions(
        model=options.model,
        output=options.output,
        images=images,
        annotations=annotations,
        checkpoint=options.checkpoint,
        spec=options.spec,
        recipe=recipe(options),
        crops=options.crops,
        sensitivity=options.sensitivity,
        graph=graph_options(options),
    )


def _data(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """The images, and the annotations of a pose model. Nothing of what is measured is touched."""
    from .errors import DataError
    from .options import DataPaths, ImageNetPaths

    if options.coco is not None:
        coco = DataPaths.coco(options.coco)
        assert coco.calibration_images is not None  # the usual layout has both
        return coco.calibration_images, coco.calibration_annotations
    if options.imagenet is not None:
        images = ImageNetPaths.imagenet(options.imagenet).calibration_images
        if images is None:
            raise DataError(
                f"{options.imagenet}: there is no folder train/ in it; give any folder of images "
                "with --images DIR"
            )
        return images, None
    return options.images, options.annotations
