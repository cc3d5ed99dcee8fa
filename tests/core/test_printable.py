"""Text from others is made safe to print on a terminal."""

import pytest

from mcp_guard.app import note
from mcp_guard.core.printable import printable
from mcp_guard.downstream.stdio import StdioDownstreamTransport


@pytest.mark.parametrize(
    ("text", "shown"), [("a\x1b[2J", "a\\x1b[2J"), ("a\nb", "a\\nb"), ("\u202eb", "\\u202eb"), (None, ""), (5, "5")]
)
def test_control_characters_are_escaped(text: object, shown: str) -> None:
    assert printable(text) == shown


def test_notes_keep_line_breaks_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    for tell in (note, StdioDownstreamTransport(1, note).note):
        tell("notification `\x1b[2J` is new\nhint: look")
        assert capsys.readouterr().err == "mcp-guard: notification `\\x1b[2J` is new\nhint: look\n"
