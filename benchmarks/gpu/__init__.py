"""Speed on a CUDA device, as ratios of figures of one run: ``python -m posedge.benchmarks.gpu``."""
