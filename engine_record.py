"""A finished engine as the receipt and the bundle's index tell of it."""

from .benchmarks.place import device_description
from .benchmarks.report.results import BuiltEngine
from .engines import BatchProfile, BuildOptions, BuildResult
from .engines.flavours import flavour_named
from .engines.targets import built_for
from .runtime.bundle import EngineBuild


def receipt_entry(result: BuildResult) -> BuiltEngine:
    """What the receipt says of an engine that was just built here."""
    return BuiltEngine(
        result.engine_bytes,
        round(result.seconds, 3),
        result.flavour,
        result.version,
        device_description(),
        result.gpu_layers,
    )


def index_entry(result: BuildResult, options: BuildOptions) -> EngineBuild:
    """What ``bundle.json`` says of an engine that was just built here with these options."""
    profile = options.profile
    target = built_for(result.flavour, result.version, options)
    return EngineBuild(target, (profile.min, profile.opt, profile.max))


def options_of(build: EngineBuild) -> BuildOptions:
    """The options of ``index_entry`` as far as ``bundle.json`` tells them; the others are the library's own.

    Raises BuildError for an unknown library.
    """
    target = build.target
    needs_gpu = flavour_named(target.library).needs_gpu
    return BuildOptions(
        BatchProfile(*build.profile),
        version_compatible=target.version_compatible,
        hardware_compatible=needs_gpu and target.portable,
        target_sms=() if needs_gpu or target.portable else target.sms,
    )
