"""The public names of TensorRT's classes, by version, as far as a build meets them.

Sources: the bindings in NVIDIA's repository (pyCore.cpp, pyOnnx.cpp), the Python API reference of 8.6.1 and
of 11.0, and "Removed Python APIs and Replacements" of the migration guide to 11.
"""

Names = dict[str, str]

_8_6: Names = {
    "Builder": """build_engine build_serialized_network create_builder_config create_network
        create_optimization_profile error_recorder get_plugin_registry gpu_allocator is_network_supported
        logger max_DLA_batch_size max_batch_size max_threads num_DLA_cores platform_has_fast_fp16
        platform_has_fast_int8 platform_has_tf32 reset""",
    "BuilderFlag": """DEBUG DIRECT_IO DISABLE_TIMING_CACHE ENABLE_TACTIC_HEURISTIC EXCLUDE_LEAN_RUNTIME FP16
        FP8 GPU_FALLBACK INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS REFIT
        REJECT_EMPTY_ALGORITHMS SAFETY_SCOPE SPARSE_WEIGHTS TF32 VERSION_COMPATIBLE""",
    "DeviceType": "GPU DLA",
    "HardwareCompatibilityLevel": "NONE AMPERE_PLUS",
    "IBuilderConfig": """DLA_core add_optimization_profile algorithm_selector avg_timing_iterations
        builder_optimization_level can_run_on_DLA clear_flag clear_quantization_flag create_timing_cache
        default_device_type engine_capability flags get_calibration_profile get_device_type get_flag
        get_memory_pool_limit get_preview_feature get_quantization_flag get_tactic_sources get_timing_cache
        hardware_compatibility_level int8_calibrator is_device_type_set max_aux_streams max_workspace_size
        min_timing_iterations num_optimization_profiles plugins_to_serialize profile_stream
        profiling_verbosity quantization_flags reset reset_device_type set_calibration_profile
        set_device_type set_flag set_memory_pool_limit set_preview_feature set_quantization_flag
        set_tactic_sources set_timing_cache""",
    "ILayer": "get_input get_output metadata name num_inputs num_outputs type",
    "ILogger": "ERROR INFO INTERNAL_ERROR Severity VERBOSE WARNING log",
    # without the methods that add layers, which a parser calls and a build does not
    "INetworkDefinition": """error_recorder get_input get_layer get_output has_explicit_precision
        has_implicit_batch_dimension mark_output mark_output_for_shapes name num_inputs num_layers num_outputs
        remove_tensor set_weights_name unmark_output unmark_output_for_shapes""",
    "ITensor": """allowed_formats dtype get_dimension_name is_execution_tensor is_network_input
        is_network_output is_shape_tensor location name set_dimension_name shape""",
    "ITimingCache": "combine reset serialize",
    "MemoryPoolType": "DLA_GLOBAL_DRAM DLA_LOCAL_DRAM DLA_MANAGED_SRAM TACTIC_DRAM WORKSPACE",
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH",
    "OnnxParser": """clear_errors clear_flag flags get_error get_flag get_used_vc_plugin_libraries num_errors
        parse parse_from_file parse_with_weight_descriptors set_flag supports_model supports_operator""",
    "OnnxParserFlag": "NATIVE_INSTANCENORM",
    "ParserError": "code desc file func line node",
    "ProfilingVerbosity": "DETAILED LAYER_NAMES_ONLY NONE",
}


def _changed(names: Names, changes: dict[str, tuple[str, str]]) -> Names:
    """``names`` with those of each class that went and came; a class with no names left is gone."""
    changed = dict(names)
    for kind, (went, came) in changes.items():
        changed[kind] = " ".join(
            sorted(set(changed.get(kind, "").split()) - set(went.split()) | set(came.split()))
        )
    return {kind: listed for kind, listed in changed.items() if listed}


_10_3 = _changed(
    _8_6,
    {
        "Builder": ("build_engine max_batch_size", "build_engine_with_config"),
        "BuilderFlag": (
            "ENABLE_TACTIC_HEURISTIC",
            """BF16 DISABLE_COMPILATION_CACHE ERROR_ON_TIMING_CACHE_MISS INT4 REFIT_IDENTICAL STRIP_PLAN
            WEIGHTLESS WEIGHT_STREAMING""",
        ),
        "IBuilderConfig": (
            "max_workspace_size min_timing_iterations",
            "progress_monitor runtime_platform",
        ),
        "INetworkDefinition": (
            "has_explicit_precision",
            "builder flags get_flag is_debug_tensor mark_debug unmark_debug",
        ),
        "IProgressMonitor": ("", "phase_finish phase_start step_complete"),
        "MemoryPoolType": ("", "TACTIC_SHARED_MEMORY"),
        "NetworkDefinitionCreationFlag": ("", "STRONGLY_TYPED"),
        "OnnxParser": (
            "",
            """get_layer_output_tensor get_subgraph_nodes is_subgraph_supported num_subgraphs
            supports_model_v2""",
        ),
        "ParserError": ("", "local_function_stack local_function_stack_size node_name node_operator"),
    },
)
_10_13 = _changed(
    _10_3,
    {
        "Builder": ("", "build_serialized_network_to_stream"),
        "BuilderFlag": (
            "",
            "DISTRIBUTIVE_INDEPENDENCE EDITABLE_TIMING_CACHE FP4 MONITOR_MEMORY REFIT_INDIVIDUAL STRICT_NANS",
        ),
        "HardwareCompatibilityLevel": ("", "SAME_COMPUTE_CAPABILITY"),
        "IBuilderConfig": ("", "l2_limit_for_tiling max_num_tactics tiling_optimization_level"),
        "ITimingCache": ("", "query queryKeys update"),
        "NetworkDefinitionCreationFlag": ("", "PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS"),
    },
)
_11_4 = _changed(
    _10_13,
    {
        "Builder": (
            "build_engine_with_config platform_has_fast_fp16 platform_has_fast_int8 platform_has_tf32",
            "",
        ),
        "BuilderFlag": (
            """BF16 DIRECT_IO FP16 FP4 FP8 INT4 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS
            REJECT_EMPTY_ALGORITHMS WEIGHTLESS""",
            "REQUIRE_USER_ALLOCATION",
        ),
        "IBuilderConfig": (
            """algorithm_selector clear_quantization_flag get_calibration_profile get_quantization_flag
            int8_calibrator quantization_flags set_calibration_profile set_quantization_flag""",
            "all_build_routes build_route",
        ),
        "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", ""),
    },
)

# the value of each flag that a network is made with: one of them moved
FLAG_VALUES = {
    "8.6": {"EXPLICIT_BATCH": 0},
    "10.3": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "10.13": {
        "EXPLICIT_BATCH": 0,
        "STRONGLY_TYPED": 1,
        "PREFER_JIT_PYTHON_PLUGINS": 2,
        "PREFER_AOT_PYTHON_PLUGINS": 3,
    },
    "11.4": {"STRONGLY_TYPED": 0, "PREFER_JIT_PYTHON_PLUGINS": 1, "PREFER_AOT_PYTHON_PLUGINS": 2},
}
VERSIONS = {"8.6": _8_6, "10.3": _10_3, "10.13": _10_13, "11.4": _11_4}
