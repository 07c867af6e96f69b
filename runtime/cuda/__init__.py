"""The runtime on a CUDA device: kernels, their compilation, and the driver. Imported on demand only."""
