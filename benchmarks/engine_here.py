"""Whether an engine that a job has built runs here too, and what then decides what is measured on it."""

from dataclasses import dataclass
from pathlib import Path

from ..files import sha256_bytes
from ..runtime.cuda.opening import target_with, what_an_engine_misses
from ..runtime.engine_files import engine_just_built
from ..runtime.sessions.tensorrt import TensorRTSession
from ..runtime.spec import ModelSpec
from ..runtime.target import Target
from .speed import NotMeasured


@dataclass(frozen=True, eq=False)
class EngineHere:
    """An engine that runs here. content: its bytes, read once. here: library and device that run it."""

    path: Path
    content: bytes
    here: Target

    @property
    def key(self) -> dict[str, str]:
        """What decides figures measured on it, as JSON values."""
        return {"engine": sha256_bytes(self.content), "here": str(self.here)}

    def open(self, spec: ModelSpec) -> TensorRTSession:
        """Load it on the first device. Raises what TensorRTSession raises."""
        return TensorRTSession(self.content, spec, library=self.here.library, where=str(self.path))


def engine_here(path: Path, built: Target) -> EngineHere | NotMeasured:
    """The engine that the calling job has built for ``built``, or why it does not run here.

    To load an engine is to run the code in it. This one is trusted because the same job built it; the bytes
    that are read here are those that ``key`` hashes and ``open`` loads.

    Raises BundleError when the file cannot be read.
    """
    missing = what_an_engine_misses(built, "it")
    if missing is not None:
        return NotMeasured(f"the engine was built and not run: {missing.rstrip('.')}")
    return EngineHere(path, engine_just_built(path), target_with(built.library))
