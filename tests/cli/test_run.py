"""`mcp-guard run` up to the point where it serves: arguments, configuration, task and launch code."""

import os
from pathlib import Path

import pytest

from mcp_guard.cli import main
from mcp_guard.cli.options import read_task
from mcp_guard.cli.run import LAUNCH_VARIABLE, build_parser, read_launch_code
from mcp_guard.core.errors import ConfigError, IdentityError
from tests.live.running_guard import cli, scripted, write_config


def test_invalid_configuration_ends_it_with_a_hint(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    config.write_text(config.read_text().replace("[guard]", "[guard]\nnonesuch = 1"))
    done = cli("run", "--config", str(config), check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "nonesuch" in done.stderr
    assert "\nhint: " in done.stderr


@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("--nonesuch", 2)])
def test_help_and_usage_errors_end_it(word: str, code: int) -> None:
    assert cli("run", word, check=False).returncode == code


def test_unknown_agent_ends_it(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    done = cli("run", "--config", str(config), "--agent", "nobody", check=False)
    assert (done.returncode, done.stdout) == (8, "")
    assert "`nobody`" in done.stderr


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_task_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "task"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="--task-file"):
        read_task(build_parser().parse_args(["--task-file", str(path)]))


def test_launch_code_is_removed_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So no upstream inherits it."""
    monkeypatch.setenv(LAUNCH_VARIABLE, "launch_x")
    assert read_launch_code(None) == "launch_x"
    assert LAUNCH_VARIABLE not in os.environ
    assert read_launch_code(None) == ""


def test_launch_code_is_read_from_a_descriptor() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"launch_y")
    os.close(writing)
    assert read_launch_code(reading) == "launch_y"
    with pytest.raises(IdentityError, match="--launch-fd"):
        read_launch_code(reading)


def test_settings_are_what_the_other_commands_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` and every other command report the same configuration error."""
    config = tmp_path / "none.toml"
    done = cli("run", "--config", str(config), check=False)
    assert main(["log", "--config", str(config)]) == done.returncode
    assert capsys.readouterr().err == done.stderr
