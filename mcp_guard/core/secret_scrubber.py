"""Removes the values of secrets from what an upstream sends, as bytes, before anything else looks at it. Pure.

A value is searched for as it is, and in the forms in which programs usually print it: escaped for JSON (once and
twice), for a URL, in base64 (at any offset of what was encoded), in hexadecimal. A value that was split, compressed or
encrypted is not found; see docs/explanation/threat-model.md.
"""

import base64
import json
import re
import threading
from collections.abc import Iterable

import orjson

MIN_SECRET_BYTES = 6
"""A shorter secret is not scrubbed, because its bytes occur by chance too often."""
MIN_PART_LENGTH = 16
"""A line or word of a secret of this length is also searched for on its own."""
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
_PASSWORD_IN_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]*?:([^/?#]+)@")


def looks_secret(name: str) -> bool:
    """Whether the name of a variable says that its value is a secret."""
    words = re.split(r"[^A-Z]+", name.upper())
    return any(word in SECRET_WORDS or word.endswith(SECRET_ENDINGS) for word in words if word)


def password_of(value: str) -> str | None:
    """The password in a URL such as `postgres://user:password@host/`, or None."""
    match = _PASSWORD_IN_URL.match(value)
    return match.group(1) if match else None


class Scrubber:
    """The known secrets, and the mark that replaces each. It is false while there are none."""

    def __init__(self) -> None:
        self._marks: tuple[tuple[bytes, bytes], ...] = ()
        self._minimal: tuple[bytes, ...] = ()
        self._values: dict[str, str] = {}
        self._lock = threading.Lock()
        self.longest = 0
        """Length of the longest form in bytes."""

    def __bool__(self) -> bool:
        return bool(self._minimal)

    def learn(self, name: str, value: str) -> bool:
        """Scrub this value from now on. Returns False if it is too short for that."""
        if len(value.encode()) < MIN_SECRET_BYTES:
            return False
        with self._lock:  # some secrets are read in threads
            self._values.setdefault(value, re.sub(r"[^A-Za-z0-9_.-]", "_", name))
            self._rebuild()
        return True

    def forget(self, value: str) -> None:
        """Stop scrubbing a value that is no longer a secret, such as a token that expired long ago."""
        with self._lock:
            if self._values.pop(value, None) is not None:
                self._rebuild()

    def _rebuild(self) -> None:
        marks: dict[bytes, bytes] = {}
        for value, name in self._values.items():
            for part in _parts(value):
                for form in _forms(part):
                    marks.setdefault(form, f"[secret {name}]".encode())
        # Longest first, so that replacing one form leaves no part of another behind.
        self._marks = tuple(sorted(marks.items(), key=lambda item: (-len(item[0]), item)))
        self._minimal = tuple(_minimal_forms(marks))
        self.longest = len(self._marks[0][0]) if self._marks else 0

    def clean(self, line: bytes) -> bytes:
        """The line without secrets; the same bytes if it has none."""
        for form in self._minimal:
            if form in line:
                return self._replace(line)
        if b"\\u" in line or b"\\/" in line:
            return self._clean_escaped(line)
        return line

    def _clean_escaped(self, line: bytes) -> bytes:
        """JSON can write any character as an escape, so the decoded text is searched, if the line is JSON."""
        try:
            decoded = orjson.dumps(orjson.loads(line))
        except orjson.JSONDecodeError:
            return line
        return self._replace(decoded) if any(form in decoded for form in self._minimal) else line

    def _replace(self, line: bytes) -> bytes:
        for form, mark in self._marks:
            line = line.replace(form, mark)
        return line


def _parts(value: str) -> set[str]:
    """The value, the password in it if it is a URL, and its long lines and words."""
    from urllib.parse import unquote  # not loaded unless there is a secret

    parts = {value}
    if password := password_of(value):
        parts |= {password, unquote(password)}
    parts |= {part for part in value.split() if len(part) >= MIN_PART_LENGTH}
    parts |= {line.strip() for line in value.splitlines() if len(line.strip()) >= MIN_PART_LENGTH}
    return {part for part in parts if len(part.encode()) >= MIN_SECRET_BYTES}


def _forms(value: str) -> set[bytes]:
    from urllib.parse import quote, quote_plus

    escaped = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    escaped |= {json.dumps(form)[1:-1] for form in escaped}
    urls = {quote(value), quote(value, safe=""), quote_plus(value)}
    urls |= {re.sub(r"%..", lambda code: code.group().lower(), url) for url in urls}
    texts = {value, *escaped, *(form.replace("/", r"\/") for form in escaped), *urls}
    data = value.encode()
    return {text.encode() for text in texts} | {data.hex().encode(), data.hex().upper().encode()} | set(_base64(data))


def _base64(data: bytes) -> Iterable[bytes]:
    """For each of the three offsets in base64: the characters that depend on the value alone."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        mixed = (0, 3, 2)[(before + len(data)) % 3]
        own = encoded[(0, 2, 3)[before] : len(encoded) - mixed]
        yield own
        yield own.translate(bytes.maketrans(b"+/", b"-_"))


def _minimal_forms(forms: Iterable[bytes]) -> list[bytes]:
    """The forms that contain no other: a line without any of these contains none of the forms."""
    minimal: list[bytes] = []
    for form in sorted(forms, key=len):
        if not any(shorter in form for shorter in minimal):
            minimal.append(form)
    return minimal
