"""A stand-in for TensorRT 10.3; see ``fake_trt.py``."""

from fake_trt import build

globals().update({name: value for name, value in vars(build("10.3.0")).items() if name != "__name__"})
