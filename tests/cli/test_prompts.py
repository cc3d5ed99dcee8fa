"""Ctrl-C and Ctrl-D at the questions of the command line: one plain line and the documented exit code."""

import os
import pty
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.conftest import Past
from tests.live.preloaded_cli import Forked

CTRL_C, CTRL_D = b"\x03", b"\x04"
ON_TERMINAL = """
import fcntl, os, signal, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def answer(words: list[str], *answers: tuple[bytes, bytes]) -> tuple[int, str]:
    """Run a command on a terminal of its own, and type each answer once its question is there.

    Returns the exit code, and what follows the last answer.
    """
    ours, theirs = pty.openpty()
    process = Forked(words, stdin=theirs, stdout=theirs, stderr=theirs, prelude=ON_TERMINAL)
    os.close(theirs)
    for question, typed in answers:
        printed = b""
        while question not in printed:
            printed += os.read(ours, 4096)
        os.write(ours, typed)
    rest = b""
    with suppress(OSError):  # the terminal ends with its last process
        while read := os.read(ours, 4096):
            rest += read
    os.close(ours)
    return process.wait(), rest.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D], ids=["Ctrl-C", "Ctrl-D"])
@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["approvers", "add", "bob"], [(b"a passphrase for bob's new key: ", b"")]),
        (["approvers", "add", "bob"], [(b"a passphrase for", b"long enough\n"), (b"repeat the passphrase: ", b"")]),
        (["secrets", "set", "mcp-guard/token"], [(b"secret (not shown): ", b"")]),
        (["init", "guard"], [(b"who owns the agent", b"")]),
    ],
    ids=["passphrase", "repeated", "secret", "init"],
)
def test_an_unanswered_question_ends_the_command_with_one_line(
    past: Past, tmp_path: Path, words: list[str], answers: list[tuple[bytes, bytes]], key: bytes
) -> None:
    if words[0] == "approvers":
        words = [*words, "--config", str(past.config), "--key-file", str(tmp_path / "bob.key")]
    words = [str(tmp_path / word) if word == "guard" else word for word in words]
    *before, (question, _) = answers
    code, printed = answer(words, *before, (question, key))
    assert (code, printed.removeprefix("^C").split("\n", 1)[-1]) == (
        130,
        "mcp-guard: interrupted: the question was not answered\n",
    )
    assert list(tmp_path.glob("*")) == []


def test_a_short_passphrase_is_refused_before_it_is_repeated(past: Past, tmp_path: Path) -> None:
    words = ["approvers", "add", "bob", "--config", str(past.config), "--key-file", str(tmp_path / "bob.key")]
    code, printed = answer(words, (b"a passphrase for bob's new key: ", b"short\n"))
    assert code == 7
    assert "a passphrase must have at least 8 characters" in printed
    assert "repeat" not in printed
