"""Adds the `--config` of this command to the commands that it tells a person to type, so that they are about the same
guard wherever they are pasted."""

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from mcp_guard.cli import dispatch
from mcp_guard.core.visible_text import VisibleText, visible_line

_COMMAND = re.compile(r"mcp-guard((?: [a-z]+){1,3})\b(?=([^;\n]*))")
"""A command, and what may be its options: everything up to a semicolon or the next command."""
_NAMES_A_GUARD = re.compile(r" --(?:config|ledger)\b")


def add_config(text: str, config: Path) -> str:
    """The text with `--config` in each command that takes it and has none, and no `--ledger`."""
    option = f" --config {visible_line(shlex.quote(str(config)))}"

    def complete(match: "re.Match[str]") -> str:
        rest = match[2].partition("mcp-guard ")[0]
        words = match[1].split()
        count = 0 if _NAMES_A_GUARD.search(rest) else _count_words(words)
        if not count:
            return match[0]
        return " ".join(["mcp-guard", *words[:count]]) + option + "".join(f" {word}" for word in words[count:])

    completed = _COMMAND.sub(complete, text)
    return VisibleText(completed) if isinstance(text, VisibleText) else completed


def _count_words(words: Sequence[str]) -> int:
    """How many of the words name a command that takes `--config`; 0 if they name none."""
    from mcp_guard.cli import COMMANDS

    commands = COMMANDS
    for at, word in enumerate(words):
        if word not in commands:
            return 0
        handler = commands[word][0]
        if group := dispatch.load_group(handler):
            commands = group
            continue
        parser, verb = dispatch.load_parser(handler), words[at + 1] if at + 1 < len(words) else ""
        verbs = getattr(parser, "verbs", {})
        if not verbs:
            return (at + 1) * _takes_config(parser)
        return (at + 2) * _takes_config(verbs[verb]) if verb in verbs else 0
    return 0


def _takes_config(parser: argparse.ArgumentParser) -> bool:
    return "--config" in parser._option_string_actions
