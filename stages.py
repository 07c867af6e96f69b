"""Which stage made which files from what: the memory that lets an interrupted run go on."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .files import sha256_bytes, sha256_file, write_text
from .progress import Progress

_LOG = ".stages.json"


class StageLog:
    """The finished stages of one output directory.

    A stage is finished when its files are there with the content that it wrote, and it is skipped when it
    is asked for again with the same inputs. Anything else (an interrupted run, a changed file, another
    checkpoint, another version of posedge) makes it run. ``ran`` names those that did, in their order.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / _LOG
        self._finished = self._read()
        self.ran: list[str] = []

    def run(
        self, name: str, inputs: Mapping[str, Any], outputs: Sequence[str], work: Callable[[], None]
    ) -> bool:
        """Run ``work``, which writes ``outputs``, unless they were made from the same ``inputs`` before.

        name: key of the stage in the log. inputs: JSON values that decide the outputs (content hashes and
        options). outputs: paths relative to the directory. Returns True when ``work`` ran. An exception of
        ``work`` leaves the log as it was.
        """
        key = sha256_bytes(json.dumps({"posedge": __version__, **inputs}, sort_keys=True).encode())
        if self._is_finished(name, key, outputs):
            return False
        work()
        self.ran.append(name)
        made = {path: sha256_file(self._directory / path) for path in outputs}
        self._finished[name] = {"key": key, "outputs": made}
        write_text(self._path, json.dumps(self._finished, indent=1, sort_keys=True))
        return True

    def run_or_keep(
        self,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        work: Callable[[], None],
        progress: Progress,
    ) -> None:
        """``run``, and a line on ``progress`` when the stage was kept."""
        if not self.run(name, inputs, outputs, work):
            progress.note(f"{name}: nothing has changed, kept")

    def _is_finished(self, name: str, key: str, outputs: Sequence[str]) -> bool:
        entry = self._finished.get(name)
        if not isinstance(entry, dict) or entry.get("key") != key:
            return False
        made = entry.get("outputs")
        if not isinstance(made, dict) or set(made) != set(outputs):
            return False
        paths = [self._directory / path for path in outputs]
        return all(path.is_file() for path in paths) and all(
            sha256_file(path) == made[name] for path, name in zip(paths, outputs, strict=True)
        )

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}  # no log or a damaged one: every stage runs again, nothing is lost but time
        return document if isinstance(document, dict) else {}
