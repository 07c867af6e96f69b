"""Every command that a message or a page names is one that the command line has."""

import ast
import re
from pathlib import Path

import pytest

import posedge
from posedge.cli import main

ROOT = Path(posedge.__file__).resolve().parent
# in prose any word may follow "posedge"; a command stands in brackets, in backticks or at the start of a line
COMMAND = re.compile(r"(?:[(`]|^\s*|\n\s*\$?\s*)posedge ([a-z]+)")


def texts(path: Path) -> list[str]:
    if path.suffix == ".md":
        return [path.read_text("utf-8")]
    tree = ast.parse(path.read_text("utf-8"))
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def named_commands() -> dict[str, str]:
    """Command -> a file that names it."""
    code = (path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ("tests", "build"))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    files = [path for path in (*code, *pages) if not path.relative_to(ROOT).parts[0].startswith(".")]
    return {word: str(path.name) for path in files for text in texts(path) for word in COMMAND.findall(text)}


def test_some_commands_are_named() -> None:
    assert {"deploy", "demo", "run"} <= set(named_commands())


@pytest.mark.parametrize(("command", "file"), sorted(named_commands().items()))
def test_a_named_command_exists(command: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0, f"{file} names `posedge {command}`, which is no command"
    assert f"posedge {command}" in capsys.readouterr().out
