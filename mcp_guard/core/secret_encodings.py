"""The encodings in which programs print a value, undone for a whole text at once. Pure, and linear in the text.

A text is never parsed, because a secret may stand anywhere in it: each function undoes one kind of encoding wherever it
occurs. What it returns is only searched, and never passed on.
"""

import binascii
import re
from collections.abc import Callable, Container, Iterator

_PAIR = b"\0"
"""Stands for an escaped backslash while the other escapes are undone."""
_HEX4, _HEX2 = rb"[0-9A-Fa-f]{4}", rb"[0-9A-Fa-f]{2}"
_ASCII_CODES = re.compile(
    rb"\\(?:u+00([0-7][0-9A-Fa-f])|[ux]\{0*([0-7]?[0-9A-Fa-f])\}|U000000([0-7][0-9A-Fa-f])"
    rb"|x(?:00)?([0-7][0-9A-Fa-f])|0?([01][0-7]{2})|([4-7][0-7])(?![0-7]))"
)
"""Escapes by number: JSON, Java, ECMAScript, Perl, Python, C#, C and shells (octal, the last groups)."""
_RELEVANT = re.compile(rb"\\(?!u[1-9A-Fa-f]|u0[1-9A-Fa-f])")
"""Any escape but those of characters beyond ASCII, of which texts of other scripts are full."""
_STARTS_OF_CODES = (
    b"\\u00", b"\\uu", b"\\x", b"\\u{", b"\\U0", b"\\0", b"\\1", b"\\4", b"\\5", b"\\6", b"\\7",
)  # fmt: skip
_ALL_CODES = re.compile(
    rb"\\(?:u([dD][89abAB]" + _HEX2 + rb")\\u([dD][c-fC-F]" + _HEX2 + rb")"
    rb"|u+(" + _HEX4 + rb")|[ux]\{0*([0-9A-Fa-f]{1,6})\}|U([0-9A-Fa-f]{8})"
    rb"|x(?:00)?(" + _HEX2 + rb")|0?([0-3][0-7]{2})|([4-7][0-7])(?![0-7]))"
)
_BYTE_GROUP, _OCTAL_GROUP = 6, 7
_COMMON = ((b'\\"', b'"'), (b"\\n", b"\n"), (b"\\/", b"/"))
_RARE = ((b"\\\n", b""), (b"\\r", b"\r"), (b"\\t", b"\t"), (b"\\b", b"\b"), (b"\\f", b"\f"))
_OTHER = re.compile(rb"\\([^A-Za-z0-9\\])")
_HEX_ESCAPE = re.compile(rb"\\0{0,4}([2-7][0-9A-Fa-f]) ?")
"""Of LDAP (RFC 4515 §3, RFC 4514 §2.4) and CSS, which others read as octal."""
_QUOTES = b"\"'`^\\"
_ENTITIES = {
    b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'", b"excl": b"!", b"num": b"#", b"dollar": b"$",
    b"percnt": b"%", b"lpar": b"(", b"rpar": b")", b"ast": b"*", b"plus": b"+", b"comma": b",", b"period": b".",
    b"sol": b"/", b"colon": b":", b"semi": b";", b"equals": b"=", b"quest": b"?", b"commat": b"@", b"lsqb": b"[",
    b"lbrack": b"[", b"bsol": b"\\", b"rsqb": b"]", b"rbrack": b"]", b"hat": b"^", b"lowbar": b"_", b"grave": b"`",
    b"lcub": b"{", b"lbrace": b"{", b"verbar": b"|", b"vert": b"|", b"rcub": b"}", b"rbrace": b"}", b"tilde": b"~",
    b"nbsp": b" ",
}  # fmt: skip
"""HTML's names of ASCII characters, in lower case."""
_ENTITY = re.compile(
    rb"&(?:#0*([0-9]{1,7})|#[xX]0*([0-9A-Fa-f]{1,6})|((?i:%s))(?=;)|(amp|lt|gt|quot));?" % b"|".join(_ENTITIES)
)
_PERCENT_U = re.compile(rb"%[uU](" + _HEX4 + rb")")
_INDENTED = re.compile(rb"\n[ \t>|*#]+")
"""A line break and the indentation, or the marks of a quotation or comment, after it."""
_HEX_SEPARATORS = b" \t:;,.|_-+$'\"`()[]{}<>"
BASE64_ALPHABET = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_DIGITS = frozenset(b"0123456789ABCDEFabcdef")
_TO_BASE64 = bytes(
    ord("A") if byte not in BASE64_ALPHABET else b"+/"[b"-_".find(byte)] if byte in b"-_" else byte
    for byte in range(256)
)
_TO_HEX = bytes(byte if byte in _DIGITS else ord("0") for byte in range(256))
BASE64_GROUP, BASE64_BYTES = 4, 3
BYTES_PER_RUN = 256
"""A text with more than one run in so many bytes is decoded as a whole."""
PERCENT_BLOCK = 1 << 16
"""Bytes from which percent-encoding is undone at once, because the library holds two objects for each `%`."""


def substitute(pattern: "re.Pattern[bytes]", replace: Callable[["re.Match[bytes]"], bytes], text: bytes) -> bytes:
    """As `pattern.sub`, without an object for each match: they would take many times the memory of the text."""
    result, end = bytearray(), 0
    for match in pattern.finditer(text):
        result += text[end : match.start()]
        result += replace(match)
        end = match.end()
    return bytes(result) + text[end:] if end else text


def undo_backslashes(text: bytes, ascii_only: bool) -> bytes:
    """Undo the escapes of JSON, JavaScript, Python, C and shells. With `ascii_only`, numbers of other characters stay,
    because a text of another script in JSON is full of them."""
    if b"\\" not in text:
        return text
    if ascii_only and _RELEVANT.search(text) is None:
        return text
    pairs = b"\\\\" in text
    if pairs:  # from the left, as every one of these languages reads them
        text = text.replace(b"\\\\", _PAIR)
    for escape, character in _COMMON:
        text = text.replace(escape, character)
    if b"\\" in text:
        text = _undo_rare(text, ascii_only)
    return text.replace(_PAIR, b"\\") if pairs else text


def _undo_rare(text: bytes, ascii_only: bool) -> bytes:
    if not ascii_only:
        text = substitute(_ALL_CODES, _character, text)
    elif any(start in text for start in _STARTS_OF_CODES):
        text = substitute(_ASCII_CODES, _ascii_character, text)
    for escape, character in _RARE:
        text = text.replace(escape, character)
    return substitute(_OTHER, lambda match: match[1], text)


def _ascii_character(match: "re.Match[bytes]") -> bytes:
    assert match.lastindex is not None
    return bytes((int(match[match.lastindex], 8 if match.lastindex >= match.re.groups - 1 else 16),))


def _character(match: "re.Match[bytes]") -> bytes:
    if match[1] is not None:
        code = 0x10000 + ((int(match[1], 16) - 0xD800) << 10) + int(match[2], 16) - 0xDC00
        return chr(code).encode()
    assert match.lastindex is not None
    number = int(match[match.lastindex], 8 if match.lastindex >= _OCTAL_GROUP else 16)
    return bytes((number,)) if match.lastindex >= _BYTE_GROUP else _encode(number, match[0])


def _encode(code: int, otherwise: bytes) -> bytes:
    return chr(code).encode("utf-8", "replace") if code < 0x110000 else otherwise


def undo_hex_escapes(text: bytes) -> bytes:
    """Undo a backslash before two hexadecimal digits."""
    if b"\\" not in text:
        return text
    return substitute(_HEX_ESCAPE, lambda match: bytes((int(match[1], 16),)), text)


def without_quotes(text: bytes) -> bytes:
    """The text without the characters that shells, SQL and CSV double, break up or escape by another of them."""
    return text.translate(None, _QUOTES)


def undo_entities(text: bytes) -> bytes:
    """Undo the character references of HTML and XML that can stand for ASCII, and numeric ones."""
    return substitute(_ENTITY, _entity, text) if b"&" in text else text


def _entity(match: "re.Match[bytes]") -> bytes:
    decimal, hexadecimal, full_name, legacy_name = match.groups()
    if name := full_name or legacy_name:  # four need no semicolon
        return _ENTITIES[name.lower()]
    return _encode(int(decimal) if decimal is not None else int(hexadecimal, 16), match[0])


def undo_percent(text: bytes) -> bytes:
    """Undo percent-encoding (RFC 3986 §2.1), complete or partial, and the `%uXXXX` of JavaScript's `escape`."""
    if b"%" not in text:
        return text
    from urllib.parse import unquote_to_bytes  # not loaded unless there is a secret

    if b"%u" in text or b"%U" in text:
        text = substitute(_PERCENT_U, lambda match: _encode(int(match[1], 16), match[0]), text)
    result, start = bytearray(), 0
    while start < len(text):
        end = text.find(b"%", start + PERCENT_BLOCK)
        end = len(text) if end < 0 else end
        result += unquote_to_bytes(text[start:end])
        start = end
    return bytes(result)


class Runs:
    """Finds the parts of a text that consist of certain bytes and have at least `least` of them."""

    def __init__(self, kinds: Container[int], least: int) -> None:
        self._least = least
        self._table = bytes(65 if byte in kinds else 32 for byte in range(256))
        self._mark = b"A" * least
        members = b"".join(re.escape(bytes((byte,))) for byte in range(256) if byte in kinds)
        self._run = re.compile(b"[%b]{%d,}" % (members, least))

    def find(self, text: bytes, separator: bytes) -> bytes:
        """These parts, joined; the whole text if they are many; empty if there are none."""
        mapped = text.translate(self._table)
        runs: list[bytes] = []
        start, most = mapped.find(self._mark), 16 + len(text) // BYTES_PER_RUN
        while start >= 0:
            end = mapped.find(b" ", start + self._least)
            runs.append(text[start:] if end < 0 else text[start:end])
            start = -1 if end < 0 else mapped.find(self._mark, end)
            if len(runs) > most:
                return separator.join(self._run.findall(text))
        return separator.join(runs)


class PackedRuns:
    """Undoes base64 (RFC 4648 §4 and §5) and hexadecimal, wherever a run is long enough to hold `shortest` bytes.

    With `ascii_only`, only ASCII can be text that is encoded once more.
    """

    def __init__(self, shortest: int, ascii_only: bool) -> None:
        self._base64 = Runs(BASE64_ALPHABET, -(-shortest * BASE64_GROUP // BASE64_BYTES))
        self._hex = Runs(_DIGITS, 2 * shortest)
        printable = {*b"\t\n\r", *range(0x20, 0x7F)}
        self._text = Runs(printable if ascii_only else printable | {*range(0x80, 0x100)}, shortest)

    def decode(self, text: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Everything that the runs of the text decode to, and what of it can be text, for each alignment.

        One call decodes all of them; where two runs meet, the result means nothing. Line breaks in a run, with the
        indentation after them, are skipped.
        """
        text = _unwrap(text)
        if packed := self._base64.find(text, b" "):
            packed = packed.translate(_TO_BASE64) + b"AAAA"
            for start in range(BASE64_GROUP):
                end = start + (len(packed) - start) // BASE64_GROUP * BASE64_GROUP
                yield self._with_texts(binascii.a2b_base64(packed[start:end]))
        # With or without separators, as dumps, lists and fingerprints have them.
        for prefix in (b"0x", b"0X", b"U+"):
            text = text.replace(prefix, b"") if prefix in text else text
        if digits := self._hex.find(text.translate(None, _HEX_SEPARATORS), b" "):
            digits = digits.translate(_TO_HEX) + b"0"
            for start in range(2):
                yield self._with_texts(binascii.unhexlify(digits[start : start + (len(digits) - start) // 2 * 2]))

    def _with_texts(self, decoded: bytes) -> tuple[bytes, bytes]:
        if b"\0" in decoded:  # UTF-16
            decoded = decoded + decoded.translate(None, b"\0")
        return decoded, self._text.find(decoded, b"\x7f")


def _unwrap(text: bytes) -> bytes:
    """The text without line breaks, and the indentation or marks after them."""
    text = text.replace(b"\r", b"") if b"\r" in text else text
    if b"\n" not in text:
        return text
    return substitute(_INDENTED, lambda _: b"", text).replace(b"\n", b"")
