"""Finding: one thing that is wrong with a graph."""

from dataclasses import dataclass, replace

EXPORT = "Export the model again (posedge deploy)"
REQUANTISE = "Quantise the graph again (posedge deploy)"
MENDABLE = "Mend it (posedge inspect GRAPH --mend OUT.onnx)"


@dataclass(frozen=True)
class Finding:
    """A reason not to build a graph, or a hint about one that may be built.

    code: the rule, in kebab-case; node: the node or tensor, "" for the graph as a whole.
    message: what is wrong; cure: what to do about it.
    """

    code: str
    node: str
    message: str
    cure: str

    def __str__(self) -> str:
        place = f" at {self.node!r}" if self.node else ""
        return f"{self.code}{place}: {self.message}. {self.cure}"


def unmendable(finding: Finding) -> Finding:
    """The same for a place where nothing is mended: inside a node."""
    return replace(finding, cure=EXPORT) if finding.cure == MENDABLE else finding


def first_line(error: Exception) -> str:
    """What another library says first, without what surrounds it."""
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
