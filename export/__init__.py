"""A checkpoint becomes an ONNX graph that is proven equal to it."""
