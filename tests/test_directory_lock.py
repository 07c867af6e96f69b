"""A job owns its output directory while it runs, and one that is refused leaves nothing there."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from posedge.calibrate_job import CalibrateOptions, calibrate_model
from posedge.deploy import deploy
from posedge.errors import DataError, OutputError
from posedge.files import directory_lock
from posedge.options import DeployOptions


def test_directories_that_were_made_for_nothing_go_again(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with directory_lock(tmp_path / "here" / "out" / "name"):
        assert (tmp_path / "here" / "out" / "name").is_dir()
    assert not list((tmp_path / "here").iterdir())
    with directory_lock(tmp_path / "here"):
        pass
    assert not list((tmp_path / "here").iterdir())


def test_what_a_job_has_written_stays_however_it_ends(tmp_path: Path) -> None:
    def interrupted() -> None:
        with directory_lock(tmp_path / "out" / "name"):
            (tmp_path / "out" / "name" / "result").write_text("kept")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "out" / "name" / "result").read_text() == "kept"
    with directory_lock(tmp_path / "out" / "other"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["name"]


def test_a_second_owner_is_refused_and_takes_nothing_away(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    with directory_lock(directory):
        for _ in range(2):
            with pytest.raises(OutputError, match="another posedge run"), directory_lock(directory):
                pass
    with directory_lock(directory):
        pass


def test_owners_that_come_and_go_never_meet(tmp_path: Path) -> None:
    """Each deletes the lock's file when it goes; whoever comes then must not take the deleted one."""
    owners, most, turns = 0, 0, 0
    count = threading.Lock()

    def work() -> None:
        nonlocal owners, most, turns
        for _ in range(200):
            try:
                with directory_lock(tmp_path / "out"):
                    with count:
                        owners, turns = owners + 1, turns + 1
                        most = max(most, owners)
                    time.sleep(0)  # lets the others try
                    with count:
                        owners -= 1
            except OutputError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert turns >= 1
    # who comes while the directory is still there takes it for an older one, and leaves it
    assert not list(tmp_path.rglob("*lock*"))


def test_a_refused_job_leaves_no_directory(options: DeployOptions, tmp_path: Path) -> None:
    missing = replace(options.data, annotations=tmp_path / "absent.json")
    with pytest.raises(DataError, match=r"absent\.json"):
        deploy(replace(options, data=missing))
    assert not options.output.exists()
    job = CalibrateOptions(
        model=options.model,
        output=options.output,
        images=options.data.images,
        annotations=tmp_path / "absent.json",
        spec=options.spec,
    )
    with pytest.raises(DataError, match=r"absent\.json"):
        calibrate_model(job)
    assert not options.output.exists()
