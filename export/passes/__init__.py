"""Small rewrites of an ONNX graph, one per file, each of which keeps what the graph computes."""
