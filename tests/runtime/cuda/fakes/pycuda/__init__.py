"""A stand-in for PyCUDA, which cannot be installed without CUDA's headers; see ``driver.py``."""

VERSION_TEXT = "2026.1 (stand-in)"
