"""Points in time on the command line (`core/times.py`)."""

import argparse
from datetime import UTC, datetime

from mcp_guard.core.model import Micros
from mcp_guard.core.times import EXAMPLES, read_span

__all__ = ["EXAMPLES", "since", "until"]


def since(text: str) -> Micros:
    """When the time that `text` names begins. Raises: argparse.ArgumentTypeError."""
    return _read(text)[0]


def until(text: str) -> Micros:
    """The last moment of the time that `text` names: of a day its end. Raises: argparse.ArgumentTypeError."""
    return _read(text)[1]


def _read(text: str) -> tuple[Micros, Micros]:
    try:
        return read_span(text, datetime.now(UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
