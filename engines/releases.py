"""What each version of each TensorRT library offers, as data.

All that differs between versions stands in the tables of this file; the code that builds asks them and
compares no version numbers. Sources: NVIDIA's API reference and release notes of each version, and for
TensorRT-RTX what version 1.7.1 did when it was asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Release:
    """What the versions from ``first`` up to, but not including, ``before`` offer (major, minor).

    network_flags: names in NetworkDefinitionCreationFlag to set. Their values differ between versions
        (STRONGLY_TYPED is 1 in TensorRT 10 and 0 in 11), so they are looked up by name.
    precision_flags: names in BuilderFlag to set, by the precision that the graph has ("fp16", "int8"). Only
        where networks are not strongly typed: there a type in the graph is a wish until its flag is set.
    progress_monitor: whether the builder reports through IProgressMonitor.
    parser_names_nodes: whether the parser's errors carry the node's name; otherwise they have its index.
    profiling_verbosity: name in ProfilingVerbosity to set, or None. Without DETAILED the engine inspector
        has names alone.
    portable_parser_flags: names in OnnxParserFlag that version- or hardware-compatible engines need.
    cannot: fields of BuildOptions that these versions do not honour, each with the reason.
    target_sms: compute capabilities that can be built for without that GPU.
    """

    first: tuple[int, int]
    before: tuple[int, int]
    network_flags: tuple[str, ...] = ()
    precision_flags: tuple[tuple[str, str], ...] = ()
    progress_monitor: bool = True
    parser_names_nodes: bool = True
    profiling_verbosity: str | None = "DETAILED"
    portable_parser_flags: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)
    target_sms: tuple[int, ...] = ()


_THIS_GPU_ONLY = {"target_sms": "it builds for the GPU of this machine; build there, or use 'tensorrt_rtx'"}

TENSORRT = (
    Release(
        first=(8, 6),  # JetPack 6.0
        before=(9, 0),  # 9 was for language models on servers alone
        network_flags=("EXPLICIT_BATCH",),
        precision_flags=(("fp16", "FP16"), ("int8", "INT8")),
        progress_monitor=False,
        parser_names_nodes=False,
        portable_parser_flags=("NATIVE_INSTANCENORM",),  # on by default from 10 on
        cannot=_THIS_GPU_ONLY,
    ),
    Release(
        first=(10, 0),  # JetPack 6.1 and 6.2: 10.3
        before=(11, 0),
        network_flags=("STRONGLY_TYPED",),
        cannot=_THIS_GPU_ONLY,
    ),
    # always strongly typed, so there is nothing to ask for
    Release(first=(11, 0), before=(12, 0), cannot=_THIS_GPU_ONLY),
)

TENSORRT_RTX = (
    Release(
        first=(1, 7),
        before=(2, 0),
        profiling_verbosity=None,
        cannot={
            "optimization_level": "its engines are the same at every level; kernels are chosen where it runs",
            "timing_cache": "it times nothing when it builds; it has a cache of its own at run time",
            "version_compatible": "the lean runtime that this takes is no part of it",
            "hardware_compatible": "it has target SMs instead, and builds for Ampere and later without them",
            "dla_core": "it runs on RTX GPUs, which have no DLA",
            "sparsity": "its engines are the same with and without it",
        },
        target_sms=(75, 80, 86, 89, 120, 121),
    ),
)

# Versions that build, and should not be used: how they begin, and why.
TENSORRT_KNOWN_BAD = (
    (
        "10.2.0",
        "other exporters refuse this version for a bug of its own (ultralytics, pull request 14240); "
        "10.3 or later is better",
    ),
)
