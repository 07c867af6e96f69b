"""What each TensorRT library offers, as data, and which of them is installed.

Two libraries share most of one Python API: TensorRT, whose builder needs a GPU, and TensorRT-RTX, whose
builder does not. All that differs between them and between their versions is in the tables here; the
worker asks the tables and never compares version numbers itself.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from ..errors import BuildError, MissingExtraError


@dataclass(frozen=True)
class Release:
    """What the versions from ``first`` up to, but not including, ``before`` offer (major, minor).

    network_flags: names in NetworkDefinitionCreationFlag to set. Their values differ between versions
        (STRONGLY_TYPED is 1 in TensorRT 10 and 0 in 11), so they are looked up by name.
    progress_monitor: whether the builder reports through IProgressMonitor.
    """

    first: tuple[int, int]
    before: tuple[int, int]
    network_flags: tuple[str, ...]
    progress_monitor: bool = True


@dataclass(frozen=True)
class Flavour:
    """A TensorRT library.

    name: what bundles and messages call it; module: what is imported.
    distributions: the packages that may have installed it, asked for its version.
    install: how to get it.
    needs_gpu: whether its builder works only where a GPU is.
    magic: the first bytes of its engine files, or None where they are not documented or measured.
    size_offset: where the header holds the file's size as a little-endian 64-bit number, or None.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    install: str
    needs_gpu: bool
    releases: tuple[Release, ...]
    magic: bytes | None = None
    size_offset: int | None = None

    def release(self, version: str) -> Release:
        """The entry for a version such as "10.3.0". Raises BuildError for one that is not supported."""
        try:
            major, minor = (int(part) for part in version.split(".")[:2])
        except ValueError as error:
            raise BuildError(
                f"{self.module} says that its version is {version!r}, which is no version"
            ) from error
        for release in self.releases:
            if release.first <= (major, minor) < release.before:
                return release
        raise BuildError(
            f"{self.module} {version} is not supported: posedge builds with {self.module} from "
            f"{_dotted(self.releases[0].first)} up to, but not including, "
            f"{_dotted(self.releases[-1].before)}. Install one of these: {self.install}"
        )


# The order is the order of choice: full TensorRT wins where it is installed.
FLAVOURS = (
    Flavour(
        name="tensorrt",
        module="tensorrt",
        distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        install="TensorRT comes with JetPack on Jetson and from NVIDIA's repositories elsewhere",
        needs_gpu=True,
        releases=(
            Release(first=(10, 0), before=(11, 0), network_flags=("STRONGLY_TYPED",)),
            # always strongly typed, so there is nothing to ask for
            Release(first=(11, 0), before=(12, 0), network_flags=()),
        ),
    ),
    Flavour(
        name="tensorrt_rtx",
        module="tensorrt_rtx",
        distributions=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
        install="pip install 'posedge[tensorrt-rtx]'",
        needs_gpu=False,
        releases=(Release(first=(1, 7), before=(2, 0), network_flags=()),),
        magic=b"vtrt",
        size_offset=16,
    ),
)


def flavour_named(name: str) -> Flavour:
    """The flavour of that name. Raises BuildError, with the known names, for any other."""
    for flavour in FLAVOURS:
        if flavour.name == name:
            return flavour
    raise BuildError(f"{name!r} is no TensorRT flavour; choose {' or '.join(repr(f.name) for f in FLAVOURS)}")


def installed_flavours(wanted: str | None = None) -> tuple[Flavour, ...]:
    """The flavours (or only the one ``wanted``) whose module is on the import path, best first.

    Nothing is imported: the libraries weigh hundreds of megabytes. So a package that is there but broken
    counts here, and shows itself when a build imports it.

    Raises MissingExtraError when there is none, BuildError for an unknown name.
    """
    choice = FLAVOURS if wanted is None else (flavour_named(wanted),)
    found = tuple(flavour for flavour in choice if _on_path(flavour.module))
    if not found:
        raise _missing(choice)
    return found


def available_flavour(wanted: str | None = None) -> Flavour:
    """The flavour that a build will try first; see installed_flavours for what is checked and raised."""
    return installed_flavours(wanted)[0]


def installed_version(flavour: Flavour) -> str | None:
    """The version that the package's metadata states, or None where it has none (a system package)."""
    for distribution in flavour.distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def import_first(flavours: Sequence[Flavour]) -> tuple[Flavour, Any]:
    """Import the first flavour that can be imported; returns it with its (untyped) module.

    ``tensorrt`` on the package index is a stub that installs and then fails to import, so being installed
    is not enough. Raises MissingExtraError, with the reasons, when all fail.
    """
    reasons = []
    for flavour in flavours:
        try:
            return flavour, importlib.import_module(flavour.module)
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{flavour.module} cannot be imported ({error})")
    raise MissingExtraError("; ".join([*reasons, str(_missing(flavours))]))


def network_flags(trt: Any, release: Release) -> int:
    """The argument of ``create_network``: one bit per flag, at the place that this version gives it."""
    flags = 0
    for name in release.network_flags:
        flags |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, name))
    return flags


def _missing(choice: Sequence[Flavour]) -> MissingExtraError:
    cures = "; ".join(f"{flavour.module}: {flavour.install}" for flavour in choice)
    return MissingExtraError(f"an engine is built by TensorRT, which is not installed. {cures}")


def _on_path(module: str) -> bool:
    # a directory that happens to have the name is a namespace package, without an origin
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)
