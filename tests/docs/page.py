"""Reads a document, runs its commands in order as a reader would paste them, and compares what they print.

A block marked `sh` is commands; a block marked `text` straight after it is what they print. In it `…` stands for
anything in a line, a line of `…` alone for any lines, and columns may be as wide as they like.
"""

import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from tests.docs.warm_commands import warm_bin

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
NPM = ROOT / "tests" / "node" / "node_modules" / ".bin"
"""As `npm install --global` would put servers on PATH."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PASSPHRASE = b"only the approver knows this\n"
MARK = "-- block "


@dataclass(frozen=True)
class Block:
    """Commands, and the output that the document shows for them."""

    commands: str
    prints: str | None

    @property
    def name(self) -> str:
        """The first line of the block that is a command."""
        return next(line for line in self.commands.splitlines() if not line.startswith("#"))


def fences(path: Path) -> list[tuple[str, str]]:
    """Language and text of each code block."""
    return [(item[1], item[2]) for item in FENCE.finditer(path.read_text())]


def blocks(path: Path) -> list[Block]:
    text, made = path.read_text(), []
    for found in FENCE.finditer(text):
        if found[1] == "sh":
            after = FENCE.match(text, len(text) - len(text[found.end() :].lstrip()))
            made.append(Block(found[2], after[2] if after and after[1] == "text" else None))
    return made


def run(wanted: list[Block], folder: Path, home: Path) -> list[str]:
    """The output of each block. Blocks share a shell, and a terminal for passphrases; the first failure stops."""
    script = home / "document.sh"
    lines = ["set -e", *(f"printf '\\n{MARK}{n}\\n'\n{block.commands}" for n, block in enumerate(wanted))]
    script.write_text("\n".join(lines))
    warm = warm_bin(BIN)
    env = {"PATH": f"{warm}:{BIN}:{NPM}:/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C.UTF-8"}
    master, terminal = pty.openpty()
    words = ["setsid", "--ctty", "--wait", "bash", str(script)]
    with subprocess.Popen(
        words, cwd=folder, env=env, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as shell:
        os.close(terminal)
        Thread(target=give_passphrases, args=(master,), daemon=True).start()
        try:
            printed = shell.communicate(timeout=300)[0]
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            raise
    assert shell.returncode == 0, printed
    return [item.partition("\n")[2] for item in re.split(rf"^{MARK}", printed, flags=re.MULTILINE)[1:]]


def give_passphrases(terminal: int) -> None:
    """Type the passphrase whenever something asks for it on the terminal."""
    with suppress(OSError):  # the terminal ends with its last process
        while asked := os.read(terminal, 1024):
            if b"passphrase" in asked or b"once more" in asked:
                os.write(terminal, PASSPHRASE)
    os.close(terminal)


def fits(shown: str, printed: str) -> bool:
    """Whether the printed text matches the shown text completely."""
    pattern = ""
    for line in shown.strip().splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += re.escape(squeeze(line)).replace("…", ".*") + r"\n"
    text = "".join(f"{squeeze(line)}\n" for line in printed.strip().splitlines())
    return re.fullmatch(pattern, text) is not None


def squeeze(line: str) -> str:
    return " ".join(line.split())
