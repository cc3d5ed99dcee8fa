"""Lets the commands of a document start in 30 ms and not in 300: `mcp-guard` is then a small program that hands over
its arguments, folder, environment and files to a process forked from that of tests/live/preloaded_cli.py.

Commands that serve, that start a whole demonstration, or that ask for a passphrase on the terminal run as they are.
"""

import atexit
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.live.preloaded_cli import STAND_IN, socket_path

COMMAND = """#!{python} -IS
import os, sys
words = sys.argv[1:]
asks = words[:1] in (["approvals"], ["approvers"], ["secrets"]) and "--passphrase-file" not in words
if asks and words[1:2] not in (["list"], ["watch"], ["show"], ["code"], ["remove"]) or words[:1] in (
    ["run"], ["serve"], ["connect"], ["demo"], ["inbox"]
):
    os.execv({real!r}, ["mcp-guard", *words])
sys.argv[1:] = [{socket!r}, "m" if words[:1] == ["call"] else "c", "", *words]
"""
SERVER = """#!{python} -IS
import sys
sys.argv[1:1] = [{socket!r}, "s", {real!r}]
"""
PROGRAMS = {"mcp-guard": COMMAND, "mcp-server-git": SERVER}


@cache
def warm_bin(folder: Path) -> Path:
    """A folder with programs that do what those in `folder` do."""
    warm = Path(tempfile.mkdtemp(prefix="warm"))
    atexit.register(shutil.rmtree, warm)
    for name, begin in PROGRAMS.items():
        text = begin.format(python=sys.executable, real=str(folder / name), socket=socket_path())
        (warm / name).write_text(text + STAND_IN)
        (warm / name).chmod(0o755)
    python = warm / "python"  # no link: it would find no packages from here
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return warm
