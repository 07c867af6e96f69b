"""A finished engine as the receipt and the bundle's index tell of it."""

from .benchmarks.place import device_description
from .benchmarks.report.results import BuiltEngine
from .engines import BuildOptions, BuildResult
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
