"""`posedge doctor`: what this machine has, lacks and can do."""

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .doctor import Diagnosis

_JOBS = ("run", "deploy", "checkpoint", "build")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be typed after `posedge doctor`."""
    parser.set_defaults(run=run_doctor)
    parser.add_argument(
        "--job",
        choices=_JOBS,
        default="deploy",
        help="exit with 0 if this can be done here, else with 1 (default: deploy)",
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def run_doctor(options: argparse.Namespace) -> int:
    """0 when the job that was named can be done here, else 1."""
    from .doctor import examine
    from .progress import for_terminal

    with for_terminal() as progress:
        diagnosis = examine(progress)
    print(json.dumps(diagnosis.to_dict(), indent=1) if options.json else "\n".join(_lines(diagnosis)))
    return 1 if diagnosis.job(options.job).problem else 0


def _lines(found: "Diagnosis") -> Iterator[str]:
    memory = "" if found.memory_bytes is None else f", {found.memory_bytes / 1e9:.1f} GB of memory free"
    yield f"posedge {found.posedge}, Python {found.python}, {found.system}{memory}"
    for space in found.spaces:
        yield f"disk         {space.free_bytes / 1e9:.1f} GB free {space.use} ({space.path})"
    yield from _gpu_lines(found)
    installed = ", ".join(f"{name} {version}" for name, version in found.libraries.items() if version)
    yield f"libraries    {installed}"
    for group, modules in found.missing_extras.items():
        yield f"missing      {', '.join(modules)}: pip install 'posedge[{group}]'"
    yield ""
    yield "tried on a graph of ten nodes:"
    width = max(len(trial.library) for trial in found.trials)
    for trial in found.trials:
        yield f"  {trial.library:{width}}  {trial.precision:6}  {trial.verdict:9}  {trial.detail}"
    yield ""
    for job in found.jobs:
        yield f"{job.name:12} {'yes' if not job.problem else 'no'}: {job.description}"
        if job.problem:
            yield f"{'':12} {job.problem}"


def _gpu_lines(found: "Diagnosis") -> Iterator[str]:
    for gpu in found.gpus.gpus:
        yield f"GPU          {gpu.name}, SM {gpu.sm}, {gpu.memory_bytes / 1e9:.1f} GB"
    if found.gpus.problem:
        yield f"GPU          none: {found.gpus.problem}"
    else:
        yield f"driver       {found.driver or 'of unknown version'}, serves CUDA {found.gpus.cuda}"
    yield f"JetPack      {found.jetpack or 'this is no Jetson'}"
    dla = f"{len(found.dla)} device files; which layers it takes is for the builder to say"
    yield f"DLA          {dla if found.dla else 'none'}"
