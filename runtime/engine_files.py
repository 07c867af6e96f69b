"""Engines as bytes that may be deserialised.

An engine is a program: whoever deserialises one runs what is in it. So the only way to an engine of a bundle
is through its hash, and the bytes that were hashed are the bytes that are handed out: the file is read once,
so that nothing can change between check and use.
"""

from pathlib import Path

from ..errors import BundleError
from .bundle import Bundle, rebuild_command
from .regular_file import read_regular
from .target import Target, mismatch

_LARGEST_ENGINE = 16 << 30


def trusted_engine(bundle: Bundle, variant: str, here: Target) -> bytes:
    """The engine of a variant, fit to be deserialised on the device ``here`` (``target_here``).

    Its size is checked first, then its SHA-256, then the version and the device: what it says of itself
    counts only when it is what was sealed.

    Raises BundleError: an unknown variant, one without an engine, a file that is not as it was sealed, and an
    engine for another library, version or GPU, with what was built, what is here and the command that builds
    it anew.
    """
    files = bundle.variant(variant)
    command = rebuild_command(bundle.directory, variant)
    if files.engine is None or files.built is None:
        raise BundleError(f"{bundle.directory}: {variant} has no engine. Build one: {command}")
    engine = bundle.read(files.engine)
    reason = mismatch(files.built.target, here)
    if reason is not None:
        raise BundleError(
            f"{bundle.path(files.engine)}: {reason}.\n  built: {files.built.target}\n  here:  {here}\n"
            f"Build it for what is here: {command}"
        )
    return engine


def engine_just_built(path: Path) -> bytes:
    """The bytes of an engine that the caller's own job has built; nothing else vouches for it.

    Raises BundleError for a link, a device and what cannot be read.
    """
    return read_regular(path, _LARGEST_ENGINE, "Run the job again; it builds the engine anew.")


def foreign_engine(path: Path, *, trust: bool = False) -> bytes:
    """The bytes of an engine file that no bundle vouches for.

    Raises BundleError unless the caller says ``trust``, and for a link, a device and what cannot be read.
    """
    if not trust:
        raise BundleError(
            f"{path}: no bundle vouches for this engine. To deserialise an engine is to run the code in it, "
            "with your rights. If you know who built it, say so with --trust (trust=True); else build the "
            "engine from its graph: posedge build BUNDLE"
        )
    return read_regular(path, _LARGEST_ENGINE, "Give the path of an engine file.")
