"""The timing cache: shared by builds, whole or set aside, and never one of another GPU or version."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from posedge.engines import BuildOptions, build_engine
from posedge.engines.timing_cache import TimingCacheFile
from posedge.errors import BuildError
from posedge.progress import LineProgress


class Notes(LineProgress):
    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def timed(conv_chain, saved, out):
    """Builds with a timing cache; returns the layers that had to be timed, and what was noted."""

    def build(layers: int = 2, name: str = "model.engine") -> tuple[list[str], list[str]]:
        progress = Notes()
        graph = saved(conv_chain(layers=layers))
        build_engine(graph, out / name, BuildOptions(timing_cache=out / "times"), progress=progress)
        return json.loads((out / name).read_text())["timed"], progress.notes

    return build


@pytest.mark.parametrize("version", ["8.6.2", "11.4.1"])
def test_a_second_build_times_only_what_is_new(version, stand_in, timed):
    stand_in(version)
    assert timed(2) == (["conv0", "relu0", "conv1", "relu1"], [])
    assert timed(3) == (["conv2", "relu2"], [])
    assert timed(2) == ([], [])


def test_a_damaged_cache_is_set_aside_with_a_note(stand_in, timed, out):
    """The library never sees it: the stand-in would abort."""
    stand_in("10.3.0")
    timed()
    broken = (out / "times").read_bytes()[:-9]
    (out / "times").write_bytes(broken)
    layers, notes = timed()
    assert len(layers) == 4
    assert notes == [f"the timing cache {out / 'times'} was damaged; it is now times.damaged"]
    assert (out / "times.damaged").read_bytes() == broken
    assert timed() == ([], [])


def test_every_damage_is_seen(tmp_path):
    path = tmp_path / "times"
    TimingCacheFile(path, "tensorrt 10.3.0").update(lambda stored: b"1.0 ms")
    whole = path.read_bytes()
    magic = whole.index(b"\n") + 1
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(magic, len(whole))]
    for broken in [b"", whole + b"\n", *flipped, *(whole[:size] for size in range(magic, len(whole)))]:
        path.write_bytes(broken)
        cache = TimingCacheFile(path, "tensorrt 10.3.0")
        assert cache.load() == b""
        assert cache.notes
        assert not path.exists()


def test_a_file_of_somebody_else_is_left_alone(stand_in, timed, out):
    stand_in("10.3.0")
    (out / "times").write_bytes(b"a diary")
    with pytest.raises(BuildError, match="no timing cache of posedge, and it stays as it is"):
        timed()
    assert (out / "times").read_bytes() == b"a diary"
    assert not (out / "model.engine").exists()


def test_times_of_another_version_or_gpu_are_not_used(stand_in, timed):
    stand_in("10.3.0")
    timed()
    stand_in("10.13.3")
    layers, notes = timed()
    assert len(layers) == 4
    assert [note.split(" is ")[1] for note in notes] == ["of tensorrt 10.3.0; a new one takes its place"]
    stand_in("10.13.3", device="elsewhere")
    layers, notes = timed()
    assert len(layers) == 4
    assert notes == ["the timing cache is of another GPU; a new one takes its place"]
    assert timed() == ([], [])


def test_an_engine_is_kept_when_its_times_cannot_be(stand_in, conv_chain, saved, out):
    stand_in("10.3.0")
    progress = Notes()
    (out / "file").write_bytes(b"")
    options = BuildOptions(timing_cache=out / "file" / "times")
    with pytest.raises(BuildError, match="cannot be read"):
        build_engine(saved(conv_chain()), out / "model.engine", options, progress=progress)
    (out / ".times.lock").mkdir()
    build_engine(
        saved(conv_chain()), out / "model.engine", BuildOptions(timing_cache=out / "times"), progress=progress
    )
    assert (out / "model.engine").exists()
    assert [note.split(":")[0] for note in progress.notes] == ["the timing cache was not kept"]


def test_builds_at_the_same_time_lose_nothing(tmp_path):
    """Each adds a line to what is there by then."""

    def add(number: int) -> None:
        TimingCacheFile(tmp_path / "times", "tensorrt 10.3.0").update(
            lambda stored: stored + f"{number}\n".encode()
        )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(40)))
    kept = TimingCacheFile(tmp_path / "times", "tensorrt 10.3.0").load()
    assert sorted(map(int, kept.split())) == list(range(40))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".times.lock", "times"]
