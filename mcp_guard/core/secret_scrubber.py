"""Removes the values of secrets from what an upstream sends, as bytes, before anything else looks at it. Pure.

Spellings are not listed: what may be encoded is decoded, again and again, and the plain value is searched for
(`secret_encodings.py`). What is found is narrowed down to the characters that spell the secret, and nothing is passed
on until a search of it finds no more. A secret that was split over several strings or messages, reversed, compressed or
encrypted is not found; see docs/explanation/threat-model.md.
"""

import base64
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from weakref import WeakSet

import orjson

from mcp_guard.core import exact_json
from mcp_guard.core.canonical import MAX_MESSAGE_DEPTH
from mcp_guard.core.message_remains import read_remains, request_number
from mcp_guard.core.model import Json
from mcp_guard.core.secret_encodings import (
    PackedRuns,
    substitute,
    undo_backslashes,
    undo_entities,
    undo_hex_escapes,
    undo_percent,
    without_quotes,
)

MIN_SECRET_BYTES = 6
"""A shorter secret is not scrubbed, because its bytes occur by chance too often."""
MIN_PART_LENGTH = 16
"""A line or word of a secret of this length is also searched for on its own."""
MAX_LAYERS = 4
"""How many times what was decoded is decoded again: three encodings inside the JSON of the message."""
WORK_BASE, SEARCH_WORK, SCRUB_WORK = 1 << 20, 48, 96
"""Bytes that may be searched for one message to tell whether it has a secret, and to remove it: a base, and a multiple
of its size. A message that needs more is withheld."""
STEP = 512
"""What the search of the shortest text costs, in bytes."""
WINDOW = 2048
"""Bytes in which the place of an encoded secret is narrowed down."""
LONGEST_FACTOR = 12
"""How much longer than a secret its encoded form is taken to be where a text must be cut."""
GROUP = 32
"""Members of a list or object that are searched together before each of them is."""
WITHHELD = b"[withheld: too complex to search for secrets]"
SECRET_WORDS = frozenset(
    {
        "AUTH",
        "AUTHORIZATION",
        "CREDENTIAL",
        "CREDENTIALS",
        "COOKIE",
        "DSN",
        "PASS",
        "PASSPHRASE",
        "PASSWD",
        "PAT",
        "PSK",
    }
)
SECRET_ENDINGS = ("KEY", "KEYS", "PASSWORD", "PASSWORDS", "SECRET", "SECRETS", "TOKEN", "TOKENS")
_PEM_FRAME = "-----"
_NAMED = re.compile(r"""([A-Za-z][\w.-]{0,60})\s{0,9}[=:]\s{0,9}(?=("[^"]*"|'[^']*'|[^\s;,&]+))""")
_EXPONENT = re.compile(rb"[0-9]{1,20}(?:\.[0-9]{1,20})?[eE][-+]?[0-9]{1,3}")
_CREDENTIALS = re.compile(r"(?:basic|bearer|token|apikey|api-key|digest)\s+(\S+)", re.IGNORECASE)
"""An authorization header's value: a scheme and what it takes."""
_PASSWORD_IN_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]*?:([^/?#]+)@")


def looks_secret(name: str) -> bool:
    """Whether the name of a variable says that its value is a secret."""
    words = re.split(r"[^A-Z]+", name.upper())
    return any(word in SECRET_WORDS or word.endswith(SECRET_ENDINGS) for word in words if word)


def password_of(value: str) -> str | None:
    """The password in a URL such as `postgres://user:password@host/`, or None."""
    match = _PASSWORD_IN_URL.match(value)
    return match.group(1) if match else None


class _TooMuchWork(Exception):
    """A text takes more steps to search than its size justifies."""


class _Work:
    """The bytes that may still be searched for one message, and the encoded secrets that were found in it."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.encoded: dict[bytes, bytes] = {}
        """Their marks. A secret that is repeated is mostly encoded in the same way."""

    def spend(self, size: int) -> None:
        """Raises: _TooMuchWork."""
        self.left -= STEP + size
        if self.left < 0:
            raise _TooMuchWork


class Scrubber:
    """The known secrets, and the mark that replaces each. It is false while there are none.

    One with a `base` scrubs the secrets of its base as well as its own.
    """

    def __init__(self, base: "Scrubber | None" = None) -> None:
        self.base = self if base is None else base
        self._values: dict[str, str] = {}
        self._extensions: WeakSet[Scrubber] = WeakSet()
        self._lock: threading.RLock = threading.RLock() if base is None else base._lock
        self._needles_by_value: dict[tuple[str, bool], set[bytes]] = {}
        """By value, and whether all values are ASCII: finding them out takes long, and many tokens may be known."""
        self._needles: tuple[tuple[bytes, bytes], ...] = ()
        self._minimal: tuple[tuple[bytes, bytes], ...] = ()
        self._with_spaces: tuple[tuple[bytes, bytes], ...] = ()
        self._runs = PackedRuns(MIN_SECRET_BYTES, ascii_only=True)
        self._steps: tuple[Callable[[bytes], bytes], ...] = ()
        self._has_number = False
        self.longest = 0
        """How many bytes at the end of an incomplete text may be the beginning of a secret."""
        if base is not None:
            with self._lock:
                base._extensions.add(self)
                self._rebuild()

    def __bool__(self) -> bool:
        return bool(self._minimal)

    def learn(self, name: str, value: str) -> bool:
        """Scrub this value from now on. Returns False if it is too short for that."""
        if len(value.encode()) < MIN_SECRET_BYTES:
            return False
        with self._lock:  # some secrets are read in threads
            if value not in self._values:  # else another session has read it, too
                self._values[value] = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
                self._rebuild()
        return True

    def forget(self, value: str) -> None:
        """Stop scrubbing a value that is no longer a secret, such as a token that expired long ago."""
        with self._lock:
            if self._values.pop(value, None) is not None:
                self._rebuild()

    def _rebuild(self) -> None:
        values = {**self._values, **self.base._values}
        needles: dict[bytes, bytes] = {}
        is_ascii = all(value.isascii() and value.isprintable() for value in values)
        steps = (partial(undo_backslashes, ascii_only=is_ascii), undo_entities, undo_percent)
        known = {**self.base._needles_by_value, **self._needles_by_value}
        self._needles_by_value = {
            (value, is_ascii): known.get((value, is_ascii)) or _needles_of(value, steps) for value in values
        }
        for (value, _), found in self._needles_by_value.items():
            for needle in found:
                needles.setdefault(needle, f"[secret {values[value]}]".encode())
        for needle, mark in needles.items():
            if any(other in mark for other in needles):
                needles[needle] = b"[***]"  # shorter than any secret
        # Longest first, so that replacing one leaves no part of another behind.
        self._needles = tuple(sorted(needles.items(), key=lambda item: (-len(item[0]), item)))
        self._minimal = tuple(_minimal(self._needles))
        self._with_spaces = tuple(
            (needle.replace(b"+", b" "), mark) for needle, mark in self._minimal if b" " in needle
        )
        self._steps = steps
        self._has_number = any(value.isdecimal() for value in values)
        self._runs = PackedRuns(min(map(len, needles), default=MIN_SECRET_BYTES), is_ascii)
        self.longest = LONGEST_FACTOR * len(self._needles[0][0]) if needles else 0
        for extension in self._extensions:
            extension._rebuild()

    def clean(self, line: bytes) -> bytes:
        """The line without secrets; the same bytes if it has none. JSON stays JSON."""
        try:
            if self._find(line, _Work(WORK_BASE + SEARCH_WORK * len(line))) is None:
                return line
            return self._scrub(line, _Work(WORK_BASE + SCRUB_WORK * len(line)))
        except (_TooMuchWork, RecursionError):
            return _withhold(line)

    def clean_text(self, text: str) -> str:
        """A text without secrets: a library's error message may repeat parts of a request, and with it a secret."""
        return self.clean(text.encode(errors="replace")).decode(errors="replace")

    # Searching

    def _find(self, text: bytes, work: _Work) -> bytes | None:
        """The mark of a secret that the text contains, plain or encoded; None if none. Raises: _TooMuchWork."""
        work.spend(len(text))
        mark = self._find_plain(text)
        pending = [(text, MAX_LAYERS)]
        while pending and mark is None:
            text, layers = pending.pop()
            for decoded, may_be_encoded in self._decode(text):
                work.spend(len(decoded))
                if (mark := self._find_plain(decoded)) is not None:
                    return mark
                if layers > 1 and may_be_encoded:
                    pending.append((may_be_encoded, layers - 1))
        return mark

    def _decode(self, text: bytes) -> Iterator[tuple[bytes, bytes]]:
        """What the text may mean with one layer of encoding undone, and the part of it that may be encoded again.

        Runs of base64 are decoded once no other encoding is left around them.
        """
        if b"\0" in text:  # UTF-16
            text = text.translate(None, b"\0")
            yield text, b""
        if self._has_number and (decoded := substitute(_EXPONENT, _without_exponent, text)) != text:
            yield decoded, b""
        if (decoded := undo_hex_escapes(text)) != text:
            yield decoded, b""
        decoded = text
        for step in self._steps:
            if (after := step(decoded)) == decoded:
                continue
            if decoded is not text:  # what one step undoes may be text that the other made ambiguous
                yield decoded, b""
                yield step(text), b""
            decoded = after
        if decoded is not text:
            yield decoded, decoded
        else:
            yield without_quotes(text), b""
            yield from self._runs.decode(text)

    def _find_plain(self, text: bytes) -> bytes | None:
        for needle, mark in self._minimal:
            if needle in text:
                return mark
        if self._with_spaces and b"+" in text:
            text = text.replace(b"+", b" ")
            return next((mark for needle, mark in self._with_spaces if needle in text), None)
        return None

    # Removing

    def _scrub(self, line: bytes, work: _Work) -> bytes:
        """A line that contains a secret, without it. Raises: _TooMuchWork."""
        try:
            message = exact_json.loads(line)
        except orjson.JSONDecodeError:
            return self._scrub_text(line, work)
        replaced = self._replace(line, work)
        if replaced != line and _is_json(replaced) and self._find(replaced, work) is None:
            return replaced  # all else in the line stays as it was written
        scrubbed = exact_json.dumps(self._scrub_value(message, work, MAX_MESSAGE_DEPTH))
        work.spend(len(scrubbed))
        return scrubbed if self._find_plain(scrubbed) is None else self._replace(scrubbed, work)

    def _scrub_value(self, value: Any, work: _Work, depth: int) -> Any:
        if isinstance(value, str):
            return self._scrub_text(value.encode(), work).decode(errors="replace")
        if isinstance(value, dict | list):
            if not depth:
                raise _TooMuchWork
            scrub: Callable[[Any], Any] = partial(self._scrub_value, work=work, depth=depth - 1)
            if isinstance(value, list):
                return [scrub(item) if found else item for found, item in self._suspects(value, work)]
            pairs = self._suspects(list(value.items()), work)
            return dict((scrub(key), scrub(item)) if found else (key, item) for found, (key, item) in pairs)
        written = b"" if value is None or isinstance(value, bool) else exact_json.dumps(value)
        mark = self._find_plain(written)
        return value if mark is None else mark.decode()

    def _suspects(self, items: list[Any], work: _Work) -> Iterator[tuple[bool, Any]]:
        """Each item, and whether it may contain a secret."""
        for start in range(0, len(items), GROUP):
            group = items[start : start + GROUP]
            found = len(items) <= 4 or self._find(exact_json.dumps(group), work) is not None
            yield from ((found, item) for item in group)

    def _scrub_text(self, text: bytes, work: _Work) -> bytes:
        """A text without the secrets in it: those that stand in it plainly first, then each encoded one."""
        text = self._replace(text, work)
        if self._find(text, work) is None:
            return text
        size = max(WINDOW, 2 * self.longest)
        scrubbed, window = [], b""
        for start in range(0, len(text), size):
            window = self._scrub_window(self._replace(window + text[start : start + size], work), work)
            cut = max(0, len(window) - self.longest)  # what remains may be the beginning of a secret
            scrubbed.append(window[:cut])
            window = window[cut:]
        result = b"".join([*scrubbed, window])
        mark = self._find(result, work)
        return result if mark is None else mark

    def _scrub_window(self, text: bytes, work: _Work) -> bytes:
        while (mark := self._find(text, work)) is not None:
            start, end = self._narrow(text, work)
            work.encoded[text[start:end]] = mark
            text = text.replace(text[start:end], mark)
        return text

    def _narrow(self, text: bytes, work: _Work) -> tuple[int, int]:
        """The shortest part of a text with a secret that contains one."""
        end = _least(0, len(text), lambda end: self._find(text[:end], work) is not None)
        size = _least(0, end, lambda size: self._find(text[end - size : end], work) is not None)
        return end - size, end

    def _replace(self, text: bytes, work: _Work) -> bytes:
        """Replace the secrets that are plain, or encoded as one before. Raises: _TooMuchWork."""
        for needle, mark in (*self._needles, *work.encoded.items()):
            work.left -= len(text) // 8  # much faster than a search
            text = text.replace(needle, mark)
        return text


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """A number for which `holds` is true, given that it is for `high`: the least one, if it is for all above that."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def _without_exponent(number: "re.Match[bytes]") -> bytes:
    """As it is written when it is passed on."""
    return repr(float(number[0])).encode()


def _is_json(line: bytes) -> bool:
    try:
        exact_json.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _withhold(line: bytes) -> bytes:
    """What is passed on of a message that cannot be searched: to which request it belongs, and why it has no body."""
    remains = read_remains(line)
    if remains is None or remains.has_method or (id := request_number(remains.id)) is None:
        return orjson.dumps(WITHHELD.decode())
    error: Json = {"code": -32603, "message": WITHHELD.decode()}
    return orjson.dumps({"jsonrpc": "2.0", "id": id, "error": error})


def _needles_of(value: str, steps: Iterable[Callable[[bytes], bytes]]) -> set[bytes]:
    """What is searched for to find this value: it, parts of it, and what decoding it by mistake makes of each."""
    needles: set[bytes] = set()
    for part in _parts(value):
        needles.add(part.encode())
        if not part.isascii():
            needles.add(part.encode("latin-1", "ignore") if all(c < "\u0100" for c in part) else part.encode())
    for needle in tuple(needles):
        decoded = needle
        for step in (*steps,) * MAX_LAYERS:
            decoded = step(decoded)
            needles.add(decoded)
    needles |= {without_quotes(needle) for needle in needles}
    needles |= {needle.replace(b"+", b" ") for needle in needles}  # a server may take it for a form's blank
    return {needle for needle in needles if len(needle) >= MIN_SECRET_BYTES}


def _parts(value: str) -> set[str]:
    """The value, and the secrets in it: members of JSON, settings of a connection string, the credentials after their
    scheme, the password in a URL, and long lines and words."""
    from urllib.parse import unquote  # not loaded unless there is a secret

    parts = {value}
    members = _secret_members(value)
    for text in (value, *members):
        parts |= {text, *_credentials(text)}
        if password := password_of(text):
            parts |= {password, unquote(password)}
        lines = [*text.split(), *text.splitlines()] if not members or text is not value else []
        parts |= {line for part in lines if len(line := part.strip()) >= MIN_PART_LENGTH and _PEM_FRAME not in line}
    named = _NAMED.findall(value) if "=" in value or ":" in value else []  # it takes long to find none in a token
    parts |= {text.strip("'\"") for name, text in named if looks_secret(name) or name.lower() == "pwd"}
    return {part for part in parts if len(part.encode()) >= MIN_SECRET_BYTES}


def _secret_members(value: str) -> list[str]:
    """The texts in a JSON document, such as a service account's key, whose names say that they are secret."""
    try:
        pending = [("", orjson.loads(value))] if value.startswith(("{", "[")) else []
    except orjson.JSONDecodeError:
        return []
    found = []
    while pending:
        name, item = pending.pop()
        if isinstance(item, dict):
            pending += item.items()
        elif isinstance(item, list):
            pending += [(name, member) for member in item]
        elif isinstance(item, str) and looks_secret(name):
            found.append(item)
    return found


def _credentials(text: str) -> set[str]:
    """What follows the scheme in the value of an authorization header, and the user and password that it encodes."""
    if (match := _CREDENTIALS.fullmatch(text.strip())) is None:
        return set()
    try:
        pair = base64.b64decode(match[1], validate=True).decode()
    except ValueError:
        return {match[1]}
    return {match[1], pair, pair.partition(":")[2]}


def _minimal(needles: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The needles that contain no other: a text without any of these contains none of them."""
    minimal: list[tuple[bytes, bytes]] = []
    for needle, mark in sorted(needles, key=lambda item: len(item[0])):
        if not any(shorter in needle for shorter, _ in minimal):
            minimal.append((needle, mark))
    return minimal
