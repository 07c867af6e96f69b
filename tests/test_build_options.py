"""The engines' options on the command line."""

import argparse

import pytest

from posedge.build_options import add_arguments, from_options, size
from posedge.cli import main
from posedge.engines import BatchProfile, BuildOptions


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_nothing_typed_means_the_defaults():
    options = parsed()
    assert from_options(options) == BuildOptions()
    assert (options.build_timeout, options.build_memory) == (1800, None)


def test_everything_typed_arrives(tmp_path):
    typed = parsed(
        *("--batch-profile", "4,4,4", "--workspace", "512M", "--optimization-level", "5"),
        *("--timing-cache", str(tmp_path / "times"), "--version-compatible", "--hardware-compatible"),
        *("--dla-core", "1", "--target-sms", "8.6,SM89,120", "--sparsity"),
        *("--build-timeout", "60", "--build-memory", "1.5GiB"),
    )
    assert from_options(typed) == BuildOptions(
        BatchProfile(4, 4, 4), 512 << 20, 5, tmp_path / "times", True, True, 1, (86, 89, 120), True
    )
    assert (typed.build_timeout, typed.build_memory) == (60, 3 << 29)


def test_the_usual_profile_and_sms_give_way_to_what_was_typed():
    usual = BuildOptions(BatchProfile(1, 2, 4), target_sms=(86, 89))
    assert from_options(parsed(), usual) == usual
    typed = parsed("--batch-profile", "1,1,1", "--target-sms", "portable")
    assert from_options(typed, usual) == BuildOptions(BatchProfile(1, 1, 1))


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("7", 7), ("2k", 2048), ("512M", 1 << 29), ("2G", 1 << 31), ("2 GiB", None), ("1GB", 1 << 30)],
)
def test_sizes(text, bytes_):
    if bytes_ is None:
        with pytest.raises(argparse.ArgumentTypeError, match="512M or 2G"):
            size(text)
    else:
        assert size(text) == bytes_


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workspace", "much"], "a size such as 512M or 2G"),
        (["--workspace", "0"], "a size such as 512M or 2G"),
        (["--optimization-level", "6"], "invalid choice"),
        (["--target-sms", "86,86"], "each SM once"),
        (["--target-sms", "ampere"], "'ampere' is not a number"),
        (["--dla-core", "-1"], "--dla-core"),
        (["--dla-core", "a"], "counted from 0"),
        (["--batch-profile", "8,1,4"], "MIN,OPT,MAX in ascending order"),
        (["--build-memory", "1T"], "a size such as"),
    ],
)
def test_misuse_exits_with_2_and_says_what_is_expected(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["deploy", "model.onnx", "--coco", "data", *arguments])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_what_the_library_here_cannot_do_ends_the_job_before_it_begins(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    model = tmp_path / "absent.onnx"
    assert (
        main(["deploy", str(model), "--coco", str(tmp_path), "--sparsity", "-o", str(tmp_path / "out")]) == 1
    )
    assert "has no sparsity: its engines are the same with and without it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
