"""What a deployer decides about an engine, apart from the graph."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BuildError

OPTIMIZATION_LEVELS = range(6)  # of IBuilderConfig.builder_optimization_level


@dataclass(frozen=True)
class BatchProfile:
    """The batch sizes an engine accepts (min to max) and the one it is tuned for (opt)."""

    min: int = 1
    opt: int = 8
    max: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise BuildError(
                f"batch profile min {self.min}, opt {self.opt}, max {self.max}: "
                "they must be positive and in this order"
            )


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. What is None, empty or False is left to the library.

    profile: its batch sizes.
    workspace_bytes: GPU memory that one layer may use for scratch.
    optimization_level: 0 (a quick build) to 5 (a long search for the fastest kernels); TensorRT's own is 3.
    timing_cache: a file in which measured kernel times are kept from build to build.
    version_compatible: the engine also runs on later versions of the library.
    hardware_compatible: the engine runs on every GPU from Ampere on and not only on this one.
    dla_core: run on this DLA core; layers that it cannot run fall back to the GPU.
    target_sms: compute capabilities to build for, such as (86, 89), where the GPU need not be there.
    sparsity: use kernels for weights of which 2 in every 4 are zero.

    REFIT is no option: it makes TensorRT leave Q/DQ nodes where it would fuse them.

    Raises BuildError for values that no library takes, and for a DLA core with a batch that varies: "DLA does
    not support dynamic dimensions" (TensorRT's documentation, DLA layer restrictions).
    """

    profile: BatchProfile = field(default_factory=BatchProfile)
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    target_sms: tuple[int, ...] = ()
    sparsity: bool = False

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise BuildError(f"a workspace of {self.workspace_bytes} bytes: it must be positive")
        if self.optimization_level is not None and self.optimization_level not in OPTIMIZATION_LEVELS:
            raise BuildError(
                f"optimization level {self.optimization_level}: choose one from {OPTIMIZATION_LEVELS[0]} to "
                f"{OPTIMIZATION_LEVELS[-1]}"
            )
        if min(self.target_sms, default=1) < 1 or len(set(self.target_sms)) < len(self.target_sms):
            raise BuildError(
                f"target SMs {', '.join(map(str, self.target_sms))}: name each compute capability once, such "
                "as 86 or 120"
            )
        if self.dla_core is not None:
            self._check_dla(self.dla_core)

    def _check_dla(self, core: int) -> None:
        if core < 0:
            raise BuildError(f"DLA core {core}: cores are counted from 0")
        if self.profile.min != self.profile.max:
            raise BuildError(
                f"the DLA takes one batch size only, the profile asks for {self.profile.min} to "
                f"{self.profile.max}. Make min, opt and max of the profile the same number"
            )

    def asked(self) -> tuple[str, ...]:
        """Names of the fields that ask the library for more than batch sizes."""
        plain = BuildOptions(self.profile)
        return tuple(
            each.name
            for each in dataclasses.fields(self)
            if getattr(self, each.name) != getattr(plain, each.name)
        )

    def key(self) -> dict[str, Any]:
        """What decides the engine, as JSON values. The timing cache only decides how long it takes."""
        values = dataclasses.asdict(self)
        del values["timing_cache"]
        values["target_sms"] = sorted(self.target_sms)
        return values


def as_options(given: BuildOptions | BatchProfile | None) -> BuildOptions:
    """A batch profile alone stands for options with that profile, None for all defaults."""
    if given is None:
        return BuildOptions()
    return BuildOptions(given) if isinstance(given, BatchProfile) else given
