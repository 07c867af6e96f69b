"""What `posedge export` refuses of a model, its file and its options before it works."""

from pathlib import Path

import pytest

from posedge.cli import main


def test_another_models_official_file_is_refused_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of both input sizes have the same keys and shapes, so nothing else would show it."""
    path = tmp_path / "resnext50_coco_384x288-412c848f_20200727.pth"
    path.write_bytes(b"anything")
    assert main(["export", "pose_resnext_50_256x192", "--checkpoint", str(path)]) == 1
    assert "the official file of pose_resnext_50_384x288" in capsys.readouterr().err


def test_a_wrong_number_of_groups_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSEDGE_CACHE", str(tmp_path / "cache"))
    assert main(["export", "resnext50-32x4d", "--merge-groups", "5"]) == 1
    assert "Numbers that do: 1, 2, 4, 8, 16" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
