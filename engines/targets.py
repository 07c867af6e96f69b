"""What a finished engine was built for."""

from dataclasses import replace

from ..runtime.target import PORTABLE_SMS, Target, target_here
from .flavours import flavour_named
from .options import BuildOptions


def built_for(flavour: str, version: str, options: BuildOptions) -> Target:
    """The target of an engine that was just built here with these options.

    With target SMs it is these. An engine of a library whose builder needs no GPU is portable without them,
    and so is a hardware-compatible one. Any other is for the GPU that built it.
    """
    here = target_here(flavour, version)
    if options.target_sms:
        target = replace(here, sms=tuple(sorted(options.target_sms)))
    elif options.hardware_compatible or not flavour_named(flavour).needs_gpu:
        target = replace(here, sms=PORTABLE_SMS, portable=True)
    else:
        target = here
    return replace(target, version_compatible=options.version_compatible)
