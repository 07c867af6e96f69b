"""The command `posedge`: one function a command, each importing what it needs when it runs."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import __version__, picture
from .errors import OutputError, PosedgeError

if TYPE_CHECKING:
    from .export.graph_options import GraphOptions

INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 1 after an error that was printed; misuse exits with 2."""
    options = _parse(arguments)
    try:
        result: int = options.run(options)
        return result
    except PosedgeError as error:
        if options.debug:
            raise
        print(f"posedge: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "posedge: interrupted. Finished stages are kept; the same command goes on from there.",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:  # `posedge zoo | head`
        sys.stderr.close()
        return 1


def run_deploy(options: argparse.Namespace) -> int:
    """Checkpoint to measured bundle."""
    from .deploy import deploy
    from .engines import BatchProfile
    from .options import DataPaths, DeployOptions, ImageNetPaths
    from .progress import for_terminal

    data: DataPaths | ImageNetPaths
    if options.imagenet is not None:
        data = ImageNetPaths.imagenet(options.imagenet, options.imagenet_labels)
        if options.calibration_images is not None:
            data = replace(data, calibration_images=options.calibration_images)
    elif options.coco is not None:
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
        graph=_graph_options(options),
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


def run_export(options: argparse.Namespace) -> int:
    """Checkpoint to a verified ONNX file."""
    from .export.source import open_source
    from .progress import for_terminal

    source = open_source(options.model, options.checkpoint, options.spec, _graph_options(options))
    output = options.output or Path(f"{source.spec.name}.onnx")
    _check_output(output, (Path(options.model), options.checkpoint))
    with for_terminal() as progress:
        source.fetch(progress)
        source.export(output, None, progress)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, verified on random input")
    return 0


def run_zoo(options: argparse.Namespace) -> int:
    """What there is."""
    from .export.zoo import ZOO
    from .export.zoo_table import listing, markdown

    print(markdown(ZOO.values()) if options.markdown else listing(ZOO.values()))
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Every file of a bundle against its seal."""
    from .runtime.bundle import open_bundle

    bundle = open_bundle(options.bundle)
    print(f"{bundle.directory}: every file is as it was sealed (variants: {', '.join(bundle.variants)})")
    return 0


def _check_output(output: Path, inputs: Sequence[Path | None]) -> None:
    """Refuse before the work what could not be written after it."""
    if output.is_dir():
        raise OutputError(f"{output} is a directory; name a file in it with -o")
    for path in inputs:
        if path is not None and path.exists() and output.exists() and output.samefile(path):
            raise OutputError(f"{output}: the result would replace {path}; name another file with -o")


def _graph_options(options: argparse.Namespace) -> "GraphOptions":
    """What ``_add_graph_options`` added to the command line."""
    from .export.graph_options import GraphOptions

    return GraphOptions(options.pad_channels, options.dla_friendly, options.merge_groups)


def run_spec_init(options: argparse.Namespace) -> int:
    """A first spec of an ONNX file, with gaps where the graph does not tell."""
    from .errors import OutputError, require
    from .files import write_text

    require("onnx", "export")
    from .export.draft_spec import draft_spec

    path = options.output or options.model.with_suffix(".json")
    if path.exists():
        raise OutputError(f"{path} is there already and may have been filled in; name another with -o FILE")
    draft = draft_spec(options.model)
    write_text(path, draft.to_json())
    print(f"{path} is written.")
    for title, lines in (
        ("To fill in, null in the file:", [f"{key}: {hint}" for key, hint in draft.unknown.items()]),
        ("Assumed, to be corrected where it is wrong:", draft.assumed),
    ):
        if lines:
            print("\n  ".join([title, *lines]))
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.split(","))
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: positive numbers separated by commas are expected")
    return values


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a positive whole number is expected")
    return int(text)


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
    options = parser.parse_args(arguments)
    if options.run is run_deploy:
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
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="posedge", description="Vision models from checkpoint to edge engine.")
    parser.add_argument("--version", action="version", version=f"posedge {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_deploy(commands.add_parser("deploy", help="checkpoint or ONNX to engines, measured"))
    _add_export(commands.add_parser("export", help="checkpoint to a verified ONNX file"))
    _add_demo(commands.add_parser("demo", help="the main job on drawn pictures that the package carries"))
    picture.add_arguments(
        commands.add_parser("run", help="keypoints of one picture, drawn into it; or its classes")
    )
    zoo = commands.add_parser("zoo", help="models known by name")
    zoo.add_argument("--markdown", action="store_true", help="the published figures as tables in Markdown")
    zoo.set_defaults(run=run_zoo)
    verify = commands.add_parser("verify", help="check every file of a bundle")
    verify.add_argument("bundle", type=Path)
    verify.set_defaults(run=run_verify)
    spec = commands.add_parser("spec", help="how an ONNX file is fed and read")
    _add_spec_init(
        spec.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
            "init", help="write a first spec by looking at the graph"
        )
    )
    return parser


def _add_spec_init(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_spec_init)
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("-o", "--output", type=Path, help="spec file to write (default: MODEL.json)")


def _add_deploy(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_deploy)
    _add_source(parser)
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
    data.add_argument("--limit", type=int, help="measure on so many persons or images only")
    work = parser.add_argument_group("work")
    work.add_argument(
        "--precision", type=_precisions, default=("fp32", "fp16", "int8"), help="default: fp32,fp16,int8"
    )
    work.add_argument(
        "--max-drop", type=float, default=0.01, help="drop of AP or top-1 that is acceptable (default: 0.01)"
    )
    work.add_argument("--no-flip", dest="flip", action="store_false", help="without the flip test")
    work.add_argument("--calibration-method", choices=("percentile", "minmax"), default="percentile")
    work.add_argument("--calibration-crops", type=int, default=128, help="default: 128")
    work.add_argument("--batch-profile", type=_profile, default=(1, 8, 32), help="MIN,OPT,MAX of the engines")
    work.add_argument(
        "--batch-sizes", type=_numbers, default=(1, 8), help="batch sizes to time (default: 1,8)"
    )
    work.add_argument("--threads", type=int, help="threads of the CPU session (default: all cores)")
    work.add_argument("--build-timeout", type=float, default=1800, help="seconds an engine may take")
    _add_graph_options(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out"), help="bundles go to OUTPUT/NAME (default: out)"
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name of the zoo (posedge zoo), or an ONNX file with --spec")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="weights of a zoo model (.pth, .safetensors; default: fetch the official)",
    )
    parser.add_argument("--spec", type=Path, help="how the ONNX file is fed and read (JSON)")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_export)
    _add_source(parser)
    parser.add_argument("-o", "--output", type=Path, help="ONNX file to write (default: NAME.onnx)")
    _add_graph_options(parser)


def _add_graph_options(parser: argparse.ArgumentParser) -> None:
    graph = parser.add_argument_group("graph", "rewrites that keep what the model computes")
    graph.add_argument(
        "--pad-channels", action="store_true", help="pad channels with zeros to multiples of 32"
    )
    graph.add_argument(
        "--dla-friendly", action="store_true", help="crop behind transposed convolutions, not pad in them"
    )
    graph.add_argument(
        "--merge-groups", type=_positive, metavar="N", help="merge convolutions of more groups into N"
    )


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_demo)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/demo"), help="default: out/demo")


if __name__ == "__main__":
    sys.exit(main())
