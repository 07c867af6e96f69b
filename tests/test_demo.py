"""The demo draws for one run at a time, and without leftovers of a killed one. The README tests run it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from posedge.demo import demo
from posedge.errors import OutputError
from posedge.files import directory_lock
from posedge.progress import SilentProgress, Task


class StopsAtFirstTask(SilentProgress):
    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        raise KeyboardInterrupt
        yield


def test_a_second_demo_is_refused_before_it_draws(tmp_path: Path) -> None:
    with directory_lock(tmp_path), pytest.raises(OutputError, match="another posedge run"):
        demo(tmp_path, StopsAtFirstTask())
    assert not (tmp_path / "pictures").exists()


def test_leftovers_of_a_killed_demo_are_removed(tmp_path: Path) -> None:
    images = tmp_path / "pictures" / "measured" / "images"
    images.mkdir(parents=True)
    leftover, picture = images / ".000001.jpg.abcd.tmp", images / "000001.jpg"
    leftover.write_bytes(b"half")
    picture.write_bytes(b"whole")
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path, StopsAtFirstTask())
    assert not leftover.exists()
    assert picture.exists()
