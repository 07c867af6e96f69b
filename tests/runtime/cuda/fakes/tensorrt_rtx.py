"""A stand-in for TensorRT-RTX 1.7; see ``fake_trt.py``."""

from fake_trt import build

globals().update(
    {name: value for name, value in vars(build("1.7.1", name="tensorrt_rtx")).items() if name != "__name__"}
)
