"""What the terminal is told by escape codes, and when: never in a pipe, on a dumb terminal, or against NO_COLOR."""

import os
import sys


def is_coloured() -> bool:
    """Whether standard output takes styles. https://no-color.org; FORCE_COLOR and CLICOLOR_FORCE are for pipes."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE", "") not in ("", "0"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
