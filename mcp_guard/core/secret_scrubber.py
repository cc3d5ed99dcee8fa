"""Scrubbing: the values of secrets are taken out of what an upstream says, as bytes, before anything looks at it. Pure.

A value is looked for as it is and in the forms in which programs usually print one: escaped for JSON (once and twice),
for a URL, in base64 (wherever it stands in what was encoded), in hexadecimal. It cannot find a value that was split,
compressed or encrypted; see docs/explanation/threat-model.md.
"""

import base64
import json
import re
import threading
from collections.abc import Iterable

import orjson

MIN_SECRET_BYTES = 6
"""Bytes of a secret that can be scrubbed: a shorter one stands in too much by chance."""
MIN_PART_LENGTH = 16
"""Characters of a line or word of a secret that is looked for by itself."""
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
    """The password of an address such as `postgres://user:password@host/`."""
    found = _PASSWORD_IN_URL.match(value)
    return found.group(1) if found else None


class Scrubber:
    """Everything that must not get past, each with the mark that takes its place. False while there is nothing."""

    def __init__(self) -> None:
        self._marks: tuple[tuple[bytes, bytes], ...] = ()
        self._wires: tuple[bytes, ...] = ()
        self._known: dict[str, str] = {}
        self._learning = threading.Lock()
        self.longest = 0
        """Bytes of the longest form."""

    def __bool__(self) -> bool:
        return bool(self._wires)

    def learn(self, name: str, value: str) -> bool:
        """Look for this value from now on. False if it is too short to be looked for."""
        if len(value.encode()) < MIN_SECRET_BYTES:
            return False
        with self._learning:  # some secrets are read in threads
            self._known.setdefault(value, re.sub(r"[^A-Za-z0-9_.-]", "_", name))
            self._look_for_known()
        return True

    def forget(self, value: str) -> None:
        """A value that is no secret any more, such as a token that ended long ago."""
        with self._learning:
            if self._known.pop(value, None) is not None:
                self._look_for_known()

    def _look_for_known(self) -> None:
        found: dict[bytes, bytes] = {}
        for value, name in self._known.items():
            for part in _parts(value):
                for form in _forms(part):
                    found.setdefault(form, f"[secret {name}]".encode())
        # The longest first, so that no form leaves a rest of another behind.
        self._marks = tuple(sorted(found.items(), key=lambda item: (-len(item[0]), item)))
        self._wires = tuple(_minimal_forms(found))
        self.longest = len(self._marks[0][0]) if self._marks else 0

    def clean(self, line: bytes) -> bytes:
        """The line without secrets; the very same bytes if there was none in it."""
        for wire in self._wires:
            if wire in line:
                return self._replace(line)
        if b"\\u" in line or b"\\/" in line:
            return self._clean_spelt(line)
        return line

    def _clean_spelt(self, line: bytes) -> bytes:
        """JSON may spell any character as an escape; what it means is looked at, if it is JSON."""
        try:
            meant = orjson.dumps(orjson.loads(line))
        except orjson.JSONDecodeError:
            return line
        return self._replace(meant) if any(wire in meant for wire in self._wires) else line

    def _replace(self, line: bytes) -> bytes:
        for form, mark in self._marks:
            line = line.replace(form, mark)
        return line


def _parts(value: str) -> set[str]:
    """The value, the password in it if it is an address, and its long lines and words."""
    from urllib.parse import unquote  # where no secret is, nothing is loaded

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
    """The characters that are all of the value's own, at each of the three places that it can have in base64."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        mixed = (0, 3, 2)[(before + len(data)) % 3]
        own = encoded[(0, 2, 3)[before] : len(encoded) - mixed]
        yield own
        yield own.translate(bytes.maketrans(b"+/", b"-_"))


def _minimal_forms(forms: Iterable[bytes]) -> list[bytes]:
    """The forms that hold no other: a line without any of these holds none."""
    kept: list[bytes] = []
    for form in sorted(forms, key=len):
        if not any(shorter in form for shorter in kept):
            kept.append(form)
    return kept
