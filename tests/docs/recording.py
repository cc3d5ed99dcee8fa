"""The README's session as a picture: `make recording` runs its commands and writes what they print to docs/images."""

import io
import re
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.docs.page import ROOT, Block, blocks, run

TARGET = ROOT / "docs" / "images" / "session.svg"
WIDTH = 118
MAX_LINES = 20
"""Of what one command prints."""
UNFETCHED = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""rich's frame without fonts from elsewhere: whoever looks at it has a monospaced one."""


def session() -> list[tuple[str, str]]:
    """Each command from the first call on, with its output."""
    lines = [Block(f"{line}\n", None) for block in blocks(ROOT / "README.md") for line in block.commands.splitlines()]
    first = next(n for n, line in enumerate(lines) if line.commands.startswith("mcp-guard demo"))
    last = next(n for n, line in enumerate(lines) if line.commands.startswith("mcp-guard verify"))
    with tempfile.TemporaryDirectory() as folder:
        printed = run(lines[first : last + 1], Path(folder), Path(folder))
    return [(line.commands, said) for line, said in zip(lines[first:], printed, strict=False)][2:]


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    for command, said in session():
        console.print(Text("$ ", "bold green") + Text(command.strip(), "bold"))
        lines = said.strip().expandtabs(2).splitlines()
        for line in lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "…"]:
            console.print(Text(line if len(line) < 2 * WIDTH else f"{line[: WIDTH - 1]}…"))
    TARGET.write_text(console.export_svg(title="mcp-guard", code_format=UNFETCHED))


if __name__ == "__main__":
    main()
