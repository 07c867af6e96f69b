"""Fetching from a real server on this machine: whole, in pieces, broken, changed, absent."""

import contextlib
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from posedge.errors import CheckpointError, OutputError
from posedge.export.download import cached_path, fetch
from posedge.files import cache_directory, sha256_bytes
from posedge.progress import LineProgress

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGITS = sha256_bytes(CONTENT)[:8]


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; the other attributes are the ways in which a real server disappoints."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True  # answers Range requests
        self.tells_length = True
        self.drop_after: list[int] = []  # for one request each: bytes after which the connection breaks
        self.requests: list[str] = []  # the Range of each request
        self.hold: threading.Event | None = None
        self.held = threading.Event()

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights/{name}?download=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range", "")
        self.server.requests.append(span)
        content = self.server.files.get(self.path.split("/")[-1].split("?")[0])
        if content is None:
            self.send_error(404)
            return
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.drop_after:
            body = body[: self.server.drop_after.pop(0)]
        if self.server.hold is not None:
            self.wfile.write(body[:1])
            body = body[1:]
            self.server.held.set()
            self.server.hold.wait(30)
        with contextlib.suppress(ConnectionError):  # a test may have killed who asked
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture(params=["net_coco_256x192-{}_20200727.pth", "net_b32x8_imagenet_20210429-{}.pth"])
def name(request: pytest.FixtureRequest, server: Server) -> str:
    """A file on the server, its hash before the date or behind it."""
    name: str = request.param.format(DIGITS)
    server.files[name] = CONTENT
    return name


def test_the_cache_is_in_the_home_and_can_be_moved(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() == cache
    monkeypatch.delenv("POSEDGE_CACHE")
    assert cache_directory() == Path.home() / ".cache" / "posedge"


def test_a_file_is_fetched_once(
    server: Server, name: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fetch(server.address(name), LineProgress())
    assert path == cache / name == cached_path(server.address(name))
    assert path.read_bytes() == CONTENT
    assert os.listdir(cache) == [name]
    assert f"fetch {name}: done" in capsys.readouterr().err
    assert fetch(server.address(name)) == path
    assert server.requests == [""]


def test_a_break_within_a_run_is_mended(server: Server, name: str) -> None:
    server.drop_after = [300_000, 200_000]
    assert fetch(server.address(name)).read_bytes() == CONTENT
    assert server.requests == ["", "bytes=300000-", "bytes=500000-"]


def test_a_break_that_stays_is_reported_and_the_next_run_goes_on(
    server: Server, name: str, cache: Path
) -> None:
    server.drop_after = [300_000, 0]
    with pytest.raises(CheckpointError, match=r"broke after 300000 bytes.*goes on from there"):
        fetch(server.address(name))
    assert (cache / f"{name}.part").read_bytes() == CONTENT[:300_000]
    assert not (cache / name).exists()
    assert fetch(server.address(name)).read_bytes() == CONTENT
    assert server.requests == ["", "bytes=300000-", "bytes=300000-"]
    assert os.listdir(cache) == [name]


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, name: str, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{name}.part").write_bytes(b"x" * 1000)
    server.ranges = False
    assert fetch(server.address(name)).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_a_server_without_ranges_that_breaks_does_not_go_on_for_ever(server: Server, name: str) -> None:
    server.ranges = False
    server.drop_after = [1000] * 50
    with pytest.raises(CheckpointError, match="broke after 1000 bytes"):
        fetch(server.address(name))
    assert len(server.requests) == 2


def test_a_server_that_does_not_say_how_much_it_sends(server: Server, name: str) -> None:
    server.tells_length = False
    assert fetch(server.address(name)).read_bytes() == CONTENT


def test_a_run_that_ended_before_the_rename_has_everything(server: Server, name: str, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{name}.part").write_bytes(CONTENT)
    assert fetch(server.address(name)).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_dropped(server: Server, name: str, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{name}.part").write_bytes(CONTENT + b"more")
    assert fetch(server.address(name)).read_bytes() == CONTENT


@pytest.mark.parametrize("resumed", [False, True])
def test_a_download_with_another_hash_is_deleted_and_named(
    server: Server, name: str, cache: Path, resumed: bool
) -> None:
    if resumed:  # the file on the server has changed, or what was there was of another file
        cache.mkdir()
        (cache / f"{name}.part").write_bytes(b"x" * 1000)
    else:
        server.files[name] = b"<html>sign in to the network</html>"
    found = b"x" * 1000 + CONTENT[1000:] if resumed else server.files[name]
    with pytest.raises(CheckpointError) as caught:
        fetch(server.address(name))
    digits = hashlib.sha256(found).hexdigest()[:8]
    assert name in str(caught.value)
    assert f"begins with {digits}, not {DIGITS}" in str(caught.value)
    assert "deleted" in str(caught.value)
    assert os.listdir(cache) == []


def test_a_file_that_was_put_there_is_used_after_its_check(server: Server, name: str, cache: Path) -> None:
    cache.mkdir()
    (cache / name).write_bytes(CONTENT)
    assert fetch(server.address(name)) == cache / name
    (cache / name).write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match=rf"{name} is not the file.*It was deleted\. Run"):
        fetch(server.address(name))
    assert os.listdir(cache) == []
    assert server.requests == []
    assert fetch(server.address(name)).read_bytes() == CONTENT


def test_what_the_server_does_not_have(server: Server, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"answers 404 Not Found.*put it at .*net-00000000\.pth"):
        fetch(server.address("net-00000000.pth"))


def test_without_a_network_it_says_where_to_put_which_file(cache: Path) -> None:
    address = "http://127.0.0.1:9/net-0123abcd.pth"  # a port that nothing listens on
    with pytest.raises(CheckpointError) as caught:
        fetch(address)
    message = str(caught.value)
    assert "cannot be reached" in message
    assert "refused" in message
    assert f"download {address} elsewhere and put it at {cache / 'net-0123abcd.pth'}" in message
    assert os.listdir(cache) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1/net.pth", "file:///etc/net-0123abcd.pth"])
def test_what_could_not_be_checked_is_not_fetched(address: str) -> None:
    with pytest.raises(CheckpointError, match="--checkpoint FILE"):
        fetch(address)


def test_a_full_disk_is_named(server: Server, name: str, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{name}.part").symlink_to("/dev/full")  # takes no byte, as a full disk
    with pytest.raises(OutputError, match=r"No space left.*POSEDGE_CACHE"):
        fetch(server.address(name))
    assert not (cache / name).exists()


def test_a_cache_that_cannot_be_made_is_named(server: Server, name: str, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(OutputError, match="POSEDGE_CACHE"):
        fetch(server.address(name))


def start(address: str) -> "subprocess.Popen[str]":
    """Fetch in a process of its own, saying on standard error how far it has come."""
    program = (
        "import sys; from pathlib import Path; from posedge.export.download import fetch; "
        "from posedge.progress import LineProgress; print(fetch(sys.argv[1], LineProgress()))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("spoilt", [False, True], ids=["whole", "spoilt"])
def test_of_two_processes_one_fetches_and_the_other_waits(
    server: Server, name: str, cache: Path, spoilt: bool
) -> None:
    server.hold = threading.Event()
    if spoilt:  # the first brings something else, which is deleted; the second does not take it
        server.files[name] = b"<html>sign in to the network</html>"
    with start(server.address(name)) as first:
        assert server.held.wait(30)
        with start(server.address(name)) as second:
            assert second.stderr is not None
            assert "another posedge run is fetching it; this one waits" in second.stderr.readline()
            server.files[name] = CONTENT
            server.hold.set()
            said, _ = second.communicate(timeout=30)
        _, reason = first.communicate(timeout=30)
    assert second.returncode == 0
    assert said.strip() == str(cache / name)
    assert (cache / name).read_bytes() == CONTENT
    assert os.listdir(cache) == [name]
    assert first.returncode == (1 if spoilt else 0)
    assert ("They were deleted" in reason) == spoilt
    assert server.requests == ([""] * 2 if spoilt else [""])


def test_a_process_that_is_killed_leaves_what_arrived_and_no_lock(
    server: Server, name: str, cache: Path
) -> None:
    server.hold = threading.Event()
    with start(server.address(name)) as first:
        assert server.held.wait(30)
        part = cache / f"{name}.part"
        while not part.is_file() or part.stat().st_size == 0:
            time.sleep(0.01)
        first.kill()
    server.hold.set()
    server.hold = None
    assert fetch(server.address(name)).read_bytes() == CONTENT
    assert server.requests == ["", "bytes=1-"]
