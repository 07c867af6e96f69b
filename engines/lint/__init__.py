"""What is wrong with a graph before a builder sees it, and what of that can be mended.

TensorRT's parser crashes on some malformed graphs, and takes some well-formed ones and gets them silently
wrong: a slower layer, or other numbers. Each rule here is one of these cases, cheap to check, and says how
to cure it. The package imports onnx; import it only where a graph is about to be checked.
"""

from .findings import Finding
from .hints import hints
from .mending import mend
from .rules import lint, lint_file

__all__ = ["Finding", "hints", "lint", "lint_file", "mend"]
