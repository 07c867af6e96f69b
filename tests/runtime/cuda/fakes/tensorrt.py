"""A stand-in for TensorRT 10.3; see ``fake_trt.py``, and ``fake_builder.py`` for what builds engines."""

from fake_trt import build

globals().update({name: value for name, value in vars(build("10.3.0")).items() if name != "__name__"})

_OF_THE_BUILDER = (
    *("Builder", "OnnxParser", "IProgressMonitor"),
    *("NetworkDefinitionCreationFlag", "ProfilingVerbosity"),
)


def __getattr__(name):
    """The builder, where it is asked for: it takes onnx, and running an engine does not."""
    if name not in _OF_THE_BUILDER:
        raise AttributeError(name)
    import fake_builder

    return getattr(fake_builder, name)
