"""Finds encoded text in a value, so that an approver reads what a server would decode. Pure.

It is a help for people, not a check: whoever wants to hide text finds an encoding that this does not know.
"""

import base64
import binascii
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from mcp_guard.core.visible_text import is_hidden

MAX_SEARCHED = 10_000
"""Characters of a value that are searched."""
MAX_FOUND = 3
_WORD = re.compile(r"[A-Za-z0-9+/_%-]{16,}={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){12,}")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")


def decoded_texts(value: str) -> list[tuple[str, str]]:
    """The encoding and the text of each word in the value that is encoded text, at most `MAX_FOUND`."""
    found: list[tuple[str, str]] = []
    for match in _WORD.finditer(value[:MAX_SEARCHED]):
        reading = next((reading for decode in DECODERS if (reading := decode(match[0])) is not None), None)
        if reading is not None:
            found.append(reading)
            if len(found) == MAX_FOUND:
                break
    return found


def _percent(word: str) -> tuple[str, str] | None:
    if len(_PERCENT.findall(word)) < 2:
        return None
    return _readable("percent-encoding", unquote_to_bytes(word))


def _hex(word: str) -> tuple[str, str] | None:
    return _readable("hex", bytes.fromhex(word)) if _HEX.fullmatch(word) else None


def _base64(word: str) -> tuple[str, str] | None:
    letters = word.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _readable("base64", base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True))
    except binascii.Error:
        return None


def _readable(encoding: str, data: bytes) -> tuple[str, str] | None:
    """The text, if it is one: words, without characters that show nothing."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if any(is_hidden(character) and character not in "\t\r\n" for character in text) else (encoding, text)


DECODERS: tuple[Callable[[str], tuple[str, str] | None], ...] = (_percent, _hex, _base64)
