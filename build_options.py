"""How engines are built, as every command takes it that builds them."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import counts, seconds

if TYPE_CHECKING:
    from .engines import BuildOptions

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", re.IGNORECASE)


def add_arguments(
    parser: argparse.ArgumentParser, usual_profile: str = "1,8,32", usual_sms: str = "portable"
) -> None:
    """The choices of ``from_options``, and two limits of a build: ``build_timeout`` and ``build_memory``.

    usual_profile, usual_sms: which batch profile and target SMs are taken without a choice, in words.
    """
    group = parser.add_argument_group(
        "engines", "What the TensorRT that is there cannot do is an error before any work, never ignored."
    )
    group.add_argument(
        "--batch-profile",
        type=_profile,
        metavar="MIN,OPT,MAX",
        help=f"batch sizes of the engines (default: {usual_profile})",
    )
    group.add_argument(
        "--workspace", type=size, metavar="SIZE", help="GPU memory for scratch, such as 512M or 2G"
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        help="0 (quick build) to 5 (long search for the fastest kernels); TensorRT's own is 3",
    )
    group.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="keep measured kernel times from build to build"
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="engines that also run on later versions of TensorRT",
    )
    group.add_argument(
        "--hardware-compatible",
        action="store_true",
        help="engines that run on every GPU from Ampere on",
    )
    group.add_argument(
        "--dla-core",
        type=_core,
        metavar="CORE",
        help="run on this DLA core; layers that it cannot run fall back to the GPU, and are listed",
    )
    group.add_argument(
        "--target-sms",
        type=_target_sms,
        metavar="SM,...",
        help="GPUs to build for, such as 86,89,120, none of which need be here (TensorRT-RTX), or portable: "
        f"Ampere and later (default: {usual_sms})",
    )
    group.add_argument(
        "--sparsity", action="store_true", help="use kernels for weights of which 2 in 4 are zero"
    )
    group.add_argument(
        "--build-timeout", type=seconds, default=1800, help="seconds an engine may take (default: 1800)"
    )
    group.add_argument(
        "--build-memory", type=size, metavar="SIZE", help="memory a build may write to, such as 4G"
    )


def from_options(options: argparse.Namespace, usual: "BuildOptions | None" = None) -> "BuildOptions":
    """What was typed for ``add_arguments``, apart from the two limits.

    usual: has the batch profile and the target SMs that are taken where none were typed.
    """
    from .engines import BatchProfile, BuildOptions

    usual = BuildOptions() if usual is None else usual
    return BuildOptions(
        profile=BatchProfile(*options.batch_profile) if options.batch_profile else usual.profile,
        workspace_bytes=options.workspace,
        optimization_level=options.optimization_level,
        timing_cache=options.timing_cache,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        dla_core=options.dla_core,
        target_sms=usual.target_sms if options.target_sms is None else options.target_sms,
        sparsity=options.sparsity,
    )


def size(text: str) -> int:
    """A number of bytes such as 512M, 1.5G or 2GiB; K, M and G are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    number = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a size such as 512M or 2G is expected")
    return number


def _core(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: a core is expected, counted from 0")
    return int(text)


def _profile(text: str) -> tuple[int, ...]:
    values = counts(text)
    if len(values) != 3 or list(values) != sorted(values):
        raise argparse.ArgumentTypeError(f"{text!r}: MIN,OPT,MAX in ascending order are expected")
    return values


def _target_sms(text: str) -> tuple[int, ...]:
    """Compute capabilities as NVIDIA writes them, 8.6, 86 or SM86; none for "portable"."""
    if text.strip().lower() == "portable":
        return ()
    values = counts(re.sub(r"(?i)\bsm_?|(?<=\d)\.(?=\d\b)", "", text))
    if len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"{text!r}: each SM once is expected")
    return values
