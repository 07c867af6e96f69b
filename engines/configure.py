"""Build options as TensorRT takes them: flags, limits and devices of a builder's configuration."""

from typing import TYPE_CHECKING

from ..errors import BuildError
from .library import Library
from .options import BatchProfile, BuildOptions
from .releases import Release

if TYPE_CHECKING:
    import tensorrt as trt


def network_flags(library: Library, release: Release) -> int:
    """The argument of ``create_network``: one bit per flag, at the place that this version gives it."""
    flags = 0
    for name in release.network_flags:
        flags |= 1 << int(getattr(library.NetworkDefinitionCreationFlag, name))
    return flags


def require_dla_core(builder: "trt.Builder", core: int, name: str) -> None:
    """Raise BuildError unless the device has that DLA core; the device is asked, whatever its version."""
    cores = builder.num_DLA_cores
    if core >= cores:
        has = f"cores 0 to {cores - 1}" if cores > 1 else "core 0 only" if cores else "no DLA"
        raise BuildError(f"{name}: DLA core {core} was asked for, and this device has {has}")


def set_profile(
    builder: "trt.Builder",
    config: "trt.IBuilderConfig",
    network: "trt.INetworkDefinition",
    profile: BatchProfile,
) -> None:
    """Tell the builder the batch sizes. A graph of one fixed batch takes only the profile that says so."""
    images = network.get_input(0)
    batch, *rest = (int(side) for side in images.shape)
    if min(rest, default=1) < 1:
        raise BuildError(
            f"input {images.name!r} has the shape {[batch, *rest]}: only the batch axis may be dynamic (-1). "
            "Export the graph with a fixed input size"
        )
    if batch > 0:
        if (profile.min, profile.opt, profile.max) != (batch,) * 3:
            raise BuildError(
                f"input {images.name!r} has a fixed batch of {batch}, the profile asks for {profile.min} to "
                f"{profile.max}. Export the graph with a dynamic batch, or make all three numbers {batch}"
            )
        return
    for output in (network.get_output(index) for index in range(network.num_outputs)):
        if len(output.shape) == 0 or output.shape[0] > 0:
            raise BuildError(
                f"output {output.name!r} has the shape {[int(side) for side in output.shape]} although the "
                "batch of the input is dynamic: a Reshape or a constant fixes it. Export the graph again "
                "with a dynamic batch throughout"
            )
    shapes = builder.create_optimization_profile()
    shapes.set_shape(images.name, (profile.min, *rest), (profile.opt, *rest), (profile.max, *rest))
    config.add_optimization_profile(shapes)


def set_options(
    library: Library,
    config: "trt.IBuilderConfig",
    options: BuildOptions,
    release: Release,
    precision_flags: tuple[str, ...],
) -> None:
    """Set everything but the profile, the timing cache and the DLA. The release has been asked for each."""
    if release.profiling_verbosity is not None:
        config.profiling_verbosity = getattr(library.ProfilingVerbosity, release.profiling_verbosity)
    flags = list(precision_flags)
    flags += ["VERSION_COMPATIBLE"] if options.version_compatible else []
    flags += ["SPARSE_WEIGHTS"] if options.sparsity else []
    for name in flags:
        config.set_flag(getattr(library.BuilderFlag, name))
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible:
        config.hardware_compatibility_level = library.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.target_sms:
        _set_targets(library, config, options.target_sms)


def use_dla(
    library: Library, config: "trt.IBuilderConfig", network: "trt.INetworkDefinition", core: int
) -> tuple[str, ...]:
    """Run on a DLA core what can run there; returns the names of the layers that fall back to the GPU.

    To be called after the precision flags are set, on which the answers depend. Raises BuildError when
    nothing at all could run there.
    """
    config.default_device_type = library.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(library.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    fall_back = tuple(layer.name for layer in layers if not config.can_run_on_DLA(layer))
    if len(fall_back) == len(layers):
        raise BuildError(
            f"none of the graph's {len(layers)} layers can run on the DLA, which knows float16 and int8 "
            "only. Build a float16 graph for it, or build for the GPU"
        )
    return fall_back


def _set_targets(library: Library, config: "trt.IBuilderConfig", sms: tuple[int, ...]) -> None:
    config.num_compute_capabilities = len(sms)
    for index, sm in enumerate(sorted(sms)):
        if not config.set_compute_capability(getattr(library.ComputeCapability, f"SM{sm}"), index):
            raise BuildError(f"the library refuses to build for SM {sm}. Leave it out")
