"""The TensorRT libraries, and which of them is installed.

Two libraries share most of one Python API: TensorRT, whose builder needs a GPU, and TensorRT-RTX, whose
builder does not. What their versions offer stands in releases.py.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import cast

from ..errors import BuildError, MissingExtraError
from .library import Library
from .options import BuildOptions
from .releases import TENSORRT, TENSORRT_KNOWN_BAD, TENSORRT_RTX, Release


@dataclass(frozen=True)
class Flavour:
    """A TensorRT library.

    name: what bundles and messages call it; module: what is imported.
    distributions: the packages that may have installed it, asked for its version.
    install: how to get it.
    needs_gpu: whether its builder works only where a GPU is.
    magic: the first bytes of its engine files, or None where they are not documented or measured.
    size_offset: where the header holds the file's size as a little-endian 64-bit number, or None.
    known_bad: how versions begin that build but should not be used, and why.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    install: str
    needs_gpu: bool
    releases: tuple[Release, ...]
    magic: bytes | None = None
    size_offset: int | None = None
    known_bad: tuple[tuple[str, str], ...] = ()

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
        ranges = ", ".join(
            f"{_dotted(each.first)} to before {_dotted(each.before)}" for each in self.releases
        )
        raise BuildError(
            f"{self.module} {version} is not supported: posedge builds with {self.module} {ranges}. "
            f"Install one of these: {self.install}"
        )

    def check(self, version: str, options: BuildOptions) -> None:
        """Raise BuildError for an option that this version does not honour: none is ever ignored."""
        release = self.release(version)
        for name in options.asked():
            if name in release.cannot:
                raise BuildError(
                    f"{self.module} {version} has no {name.replace('_', ' ')}: {release.cannot[name]}. "
                    "Leave the option out"
                )
        unknown = sorted(set(options.target_sms) - set(release.target_sms))
        if unknown:
            raise BuildError(
                f"{self.module} {version} cannot build for SM {', '.join(map(str, unknown))}; "
                f"it has {', '.join(map(str, release.target_sms))}"
            )

    def warnings(self, version: str) -> tuple[str, ...]:
        """What is known against a version that builds all the same."""
        return tuple(
            f"{self.module} {version}: {reason}"
            for start, reason in self.known_bad
            if f"{version}.".startswith(f"{start}.")
        )


# The order is the order of choice: full TensorRT wins where it is installed.
FLAVOURS = (
    Flavour(
        name="tensorrt",
        module="tensorrt",
        distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        install="TensorRT comes with JetPack on Jetson and from NVIDIA's repositories elsewhere",
        needs_gpu=True,
        releases=TENSORRT,
        known_bad=TENSORRT_KNOWN_BAD,
    ),
    Flavour(
        name="tensorrt_rtx",
        module="tensorrt_rtx",
        distributions=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
        install="pip install 'posedge[tensorrt-rtx]'",
        needs_gpu=False,
        releases=TENSORRT_RTX,
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


def import_first(flavours: Sequence[Flavour]) -> tuple[Flavour, Library]:
    """Import the first flavour that can be imported; returns it with its module.

    ``tensorrt`` on the package index is a stub that installs and then fails to import, so being installed
    is not enough. Raises MissingExtraError, with the reasons, when all fail.
    """
    reasons = []
    for flavour in flavours:
        try:
            return flavour, cast(Library, importlib.import_module(flavour.module))
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{flavour.module} cannot be imported ({error})")
    raise MissingExtraError(
        f"{'; '.join(reasons)}. An engine is built by TensorRT, and what is installed of it does not work: "
        f"install it again, or uninstall it. {_cures(flavours)}"
    )


def check_options(options: BuildOptions, wanted: str | None = None) -> None:
    """Raise BuildError when no TensorRT here honours the options, so that it is not found after an hour.

    Only what the packages say of their versions is asked; without a TensorRT here nothing is known and
    nothing raised. A build asks the library itself.
    """
    refusals = []
    try:
        flavours = installed_flavours(wanted)
    except MissingExtraError:
        return
    for flavour in flavours:
        version = installed_version(flavour)
        if version is None:
            return
        try:
            flavour.check(version, options)
        except BuildError as error:
            refusals.append(str(error))
        else:
            return
    raise BuildError("; ".join(refusals))


def _missing(choice: Sequence[Flavour]) -> MissingExtraError:
    return MissingExtraError(f"an engine is built by TensorRT, which is not installed. {_cures(choice)}")


def _cures(choice: Sequence[Flavour]) -> str:
    return "; ".join(f"{flavour.module}: {flavour.install}" for flavour in choice)


def _on_path(module: str) -> bool:
    # a directory that happens to have the name is a namespace package, without an origin
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)
