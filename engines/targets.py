"""What a finished engine was built for."""

from dataclasses import replace

from ..runtime.target import PORTABLE_SMS, Target, target_here
from .flavours import flavour_named


def built_for(flavour: str, version: str, sms: tuple[int, ...] = ()) -> Target:
    """The target of an engine that was just built here.

    sms: those that the builder was asked for. Without any, an engine of a library whose builder needs no GPU
    is portable, and any other is for the GPU that built it.
    """
    here = target_here(flavour, version)
    if sms:
        return replace(here, sms=sms)
    if not flavour_named(flavour).needs_gpu:
        return replace(here, sms=PORTABLE_SMS, portable=True)
    return here
