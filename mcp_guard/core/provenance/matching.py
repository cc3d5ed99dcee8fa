"""Finds a value in a text in spite of disguises: case, spaces, percent- and base64-encoding, splitting. Pure.

*Strict* matching is for trusted texts: the value must appear literally between word boundaries, ignoring only case and
white space. *Generous* matching is for untrusted texts: punctuation is ignored and both sides are decoded, so that a
disguise does not hide the origin of a value. Generous matching can only make a decision stricter.
"""

import binascii
import re
from functools import cache, lru_cache
from itertools import islice

from mcp_guard.core.errors import TooMuchMatching
from mcp_guard.core.normal_form import normalize
from mcp_guard.core.secret_encodings import BASE64_ALPHABET, Runs

MIN_PIECE = 5
"""Minimum length of a part of a split value, so that no value is assembled from accidental matches."""
MAX_PIECES = 4
MAX_SPLIT_LENGTH = 500
"""Longer values are not searched for in parts."""
MIN_SQUEEZED = 8
"""Minimum length for ignoring punctuation: shorter values would match by accident."""
MIN_PHRASE = 8
"""How many letters and digits several words need to be distinctive."""
MIN_DIGITS = 6
MIN_MIXED = 5
"""How long one word needs to be that has more than letters in it."""
MIN_HYPHENATED = 12
MAX_MESSAGE = 10_000
"""Characters of a text that is searched for `contacts`; longer ones are documents, with names of many kinds in them."""
MAX_NAME_WORDS = 5
"""With more words than this, a text is no name."""
MAX_DECODING_DEPTH = 2
"""How many nested encodings are decoded."""

SHORT_TEXT = 200
"""Characters up to which a regular expression is faster than several searches."""
LONG_TEXT = 10_000
"""Characters from which the normal form of a text is remembered: it is needed several times for one call."""
MAX_OVERLAP = 4 << 20
"""Characters of a value that may be compared with places in a text where it is part of a longer word."""
FEW_PARTS, PART_CHARACTERS = 2, 16
"""What each further part of a name, up to the next full stop, counts as: a name may begin at any."""
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_SPACE = re.compile(r"\s")
_DIGIT = re.compile(r"\d")
_NOT_WORD = re.compile(r"[\W_]+")
_ASCII_NOT_WORD = {code: None for code in range(128) if not chr(code).isalnum()}
MIN_BASE64 = 12
"""Minimum length of a run of characters that is decoded as base64."""
_BASE64 = Runs(BASE64_ALPHABET, MIN_BASE64)
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_REFERENCE = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")
"""What `html.unescape` replaces."""
_PADDED = re.compile(r"(?<=#)([xX]?)0+(?=[0-9a-fA-F])")
MAX_REFERENCE = 40
_NO_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")
_SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]{0,20}://|mailto:|tel:)", re.IGNORECASE)
_TOPS = "com|net|org|io|info|biz|app|dev|xyz|site|online|shop|top|me|co|ai|cloud|link|click|page|edu|gov"
_PART = r"[\w-]{1,63}"  # every repetition is bounded, so that no text takes more than linear time
_REST = r"[^\s<>\"'`)\]}]"
_ADDRESS = re.compile(
    rf"(?<![\w.+-])[\w.+-]{{1,64}}@{_PART}(?:\.{_PART}){{1,8}}"  # an e-mail address
    rf"|https?://{_REST}+"
    rf"|\b(?:{_PART}\.){{1,8}}(?:{_TOPS})\b(?:[/:?#]{_REST}*)?"
    rf"|\b(?:www\.(?:{_PART}\.){{0,8}}{_PART}|(?:{_PART}\.){{1,8}}[a-z]{{2,24}}/){_REST}*",
    re.IGNORECASE,
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b", re.IGNORECASE)
"""An IBAN and what looks like one."""
_NUMBER = re.compile(
    rf"{_IBAN.pattern}"
    r"|\b0x[0-9a-f]{16,128}\b|\b(?!\d{4}-\d\d-\d\d)\d(?:[ -]?\d){8,30}\b",  # accounts, cards, telephones; no dates
    re.IGNORECASE,
)
_MAY_BE_NUMBER = re.compile(r"\d[ -]?\d[\d -]{4}|0x[0-9a-f]{8}|[A-Z]{2}\d{2}", re.IGNORECASE)
_END = ".,;:!?"
_LONG_WORD = re.compile(r"[^\W\d_]{2,}")
_PUNCTUATED = re.compile(r"[.,;:!?] |[!?]$|\w\w\w\.$")
_IDENTIFIER = re.compile(r"(?![\w-]*[^\W_]{20})#?[\w-]{1,64}")
_FILES = "txt|md|py|docx?|xlsx?|pptx?|pdf|csv|json|html?|js|ts|toml|ya?ml|png|jpe?g|xml|log|ics|eml"
_CONTACT = re.compile(
    rf"(?<![\w.+-])(?:{_PART}\.){{1,8}}(?!(?:{_FILES})\b)[a-z]{{2,24}}(?![\w-])"  # what may be a host
    r"|(?<!\w)(?=\w*\d)(?=\w*[a-z])[a-z0-9]{20,128}(?!\w)"  # a wallet, a token
    r"|(?<![\w.-])(?!\d{4}-\d\d-\d\d)\+?\d(?:[ ()/-]{0,2}\d){6,30}(?![\w-])"  # a telephone number
    r"|\b[\w-]{2,63}[ \[({]{1,3}dot[ \])}]{1,3}[a-z]{2,24}\b",  # a host in words
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """A normal form: NFKC, case-folded, without invisible characters, single spaces."""
    return _plain(text) if len(text) < LONG_TEXT else _plain_long(text)


def _plain(text: str) -> str:
    if not text.isascii():
        text = _HIDDEN.sub("", normalize("NFKC", text)).casefold()
    return " ".join(text.lower().split())


_plain_long = lru_cache(maxsize=2)(_plain)


def spelling(text: str) -> str:
    """What tells names apart that have one normal form: everything but white space."""
    return " ".join(text.split())


def squeeze(text: str) -> str:
    """Only the letters and digits of a plain text."""
    return text.translate(_ASCII_NOT_WORD) if text.isascii() else _NOT_WORD.sub("", text)


squeeze_value = lru_cache(maxsize=2)(squeeze)
"""The same for a value, which is compared with one passage after the other."""


def has_digit(text: str) -> bool:
    """Whether a text has any digit. Most of what looks for numbers in a text is much slower than this."""
    if len(text) < SHORT_TEXT:
        return _DIGIT.search(text) is not None
    return any(digit in text for digit in "0123456789") or (not text.isascii() and _DIGIT.search(text) is not None)


def decodings(text: str, depth: int = MAX_DECODING_DEPTH) -> list[str]:
    """The text decoded in each way that changes it; empty if it is not encoded."""
    if not depth or (len(text) < MIN_BASE64 and "%" not in text and "&" not in text):
        return []
    decoded_texts = [decoded for decoded in (_from_percent(text), _from_html(text)) if decoded != text]
    runs = _BASE64.find(text.encode("ascii", "replace"), b" ").translate(_FROM_URL_SAFE)
    decoded_texts += [decoded for run in runs.split() if (decoded := _from_base64(run))]
    return [*decoded_texts, *(inner for decoded in decoded_texts for inner in decodings(decoded, depth - 1))]


def _from_percent(text: str) -> str:
    """As `urllib.parse.unquote`, which takes seconds for a long text of nothing but escapes. Quoted-printable (RFC 2045
    §6.7) has another sign, and its decoder is compiled."""
    if "%" not in text:
        return text
    quoted = _NO_ESCAPE.sub("=25", text.replace("=", "=3D")).replace("%", "=")
    return binascii.a2b_qp(quoted.encode(errors="surrogatepass")).decode(errors="replace")


def _from_html(text: str) -> str:
    if "&" not in text:
        return text
    decode = cache(_character)
    return _REFERENCE.sub(lambda reference: decode(reference.group()), text)


def _character(reference: str) -> str:
    """As `html.unescape`, which raises an error for numbers of thousands of digits."""
    import html  # imported on demand: its entity table takes as much memory as all of core

    reference = _PADDED.sub(r"\1", reference)
    return html.unescape(reference) if len(reference) <= MAX_REFERENCE else "\ufffd"


def _from_base64(run: bytes) -> str | None:
    if len(run) % 4 == 1:
        return None
    data = binascii.a2b_base64(run + b"=" * (-len(run) % 4))
    text = data.decode(errors="replace")  # faster than an error for most runs
    return text if text.isprintable() and ("\ufffd" not in text or text.encode() == data) else None


def contains_value(value: str, text: str) -> bool:
    """Strict matching of plain texts: the value starts and ends at a word (or address) boundary.

    Raises: TooMuchMatching where the value overlaps itself again and again within a word.
    """
    within = "@._+-" if "@" in value or "." in value else ""
    at, left = text.find(value), MAX_OVERLAP
    while at >= 0:
        left -= len(value)
        if left < 0:
            raise TooMuchMatching("a value occurs too often inside of words that the agent has seen")
        end = at + len(value)
        before = at > 0 and value[0].isalnum() and (text[at - 1].isalnum() or text[at - 1] in within)
        if not before and not (value[-1].isalnum() and _goes_on(text, end, within)):
            return True
        at = text.find(value, at + 1)
    return False


def _goes_on(text: str, end: int, within: str) -> bool:
    """Whether the word or address continues; a full stop before a space ends both."""
    if end >= len(text) or text[end].isalnum():
        return end < len(text)
    return text[end] in within and end + 1 < len(text) and text[end + 1].isalnum()


def bare(value: str) -> str:
    """A plain address without its scheme and trailing punctuation."""
    return _SCHEME.sub("", value).rstrip("/" + _END)


def addresses(text: str) -> list[str]:
    """URLs and their hosts, e-mail addresses and account numbers in a text, as written."""
    found = (match.group() for word in _address_words(text) for match in _ADDRESS.finditer(word))
    addresses_found = [address.rstrip(_END) for address in found]
    for address in tuple(addresses_found):
        rest = _SCHEME.sub("", address)
        if "@" not in rest.split("/")[0] and (host := re.split(r"[/:?#]", rest, maxsplit=1)[0]) not in ("", rest):
            addresses_found.append(host)
    if has_digit(text) and _MAY_BE_NUMBER.search(text):
        addresses_found += _NUMBER.findall(text)
    return list(dict.fromkeys(addresses_found))


def contacts(text: str) -> list[str]:
    """What is less surely an address than those of `addresses`: it is one if others wrote it, and no file name is."""
    return [match.group() for match in _CONTACT.finditer(text)] if len(text) <= MAX_MESSAGE else []


def is_identifier(text: str) -> bool:
    """Whether a value can only name something at the server that takes it: no address, no phrase, no long token."""
    return _IDENTIFIER.fullmatch(text.strip()) is not None and not is_address(text)


def is_party(value: str) -> bool:
    """Whether a plain value is the address of a person or an account, and not of a page."""
    return is_one_word(value) and ("@" in value or _IBAN.fullmatch(value) is not None) and is_address(value)


def is_address(text: str) -> bool:
    """Whether a value is an e-mail address, a URL, a host or an IBAN: the address of somebody."""
    value = text.strip()
    return is_one_word(value) and (_ADDRESS.fullmatch(value) or _IBAN.fullmatch(value)) is not None


def address_characters(text: str) -> int:
    """How many characters of a text `addresses` looks at closely. Many parts of one name count as more."""
    return sum(len(word) + PART_CHARACTERS * max(0, word.count(".") - FEW_PARTS) for word in _address_words(text))


def _address_words(text: str) -> list[str]:
    """The words that may contain a URL, a host or an e-mail address."""
    if "@" not in text and "." not in text:
        return []
    return [word for word in text.split() if "@" in word or "." in word[1:-1]]


def is_one_word(value: str) -> bool:
    """Whether it contains no space: an id, account or address rather than prose."""
    return _SPACE.search(value) is None


def is_distinctive(value: str) -> bool:
    """Whether a plain value is unlikely to occur in a text by accident, by its length, rarity and type."""
    if " " in value:
        return len(squeeze_value(value)) >= MIN_PHRASE
    if not any(map(str.isalpha, value)):
        return sum(map(str.isdigit, value)) >= MIN_DIGITS
    if not value.replace("-", "").replace("'", "").replace("’", "").isalpha():
        return len(value) >= MIN_MIXED
    return not value.isalpha() and len(value) >= MIN_HYPHENATED


def is_plain_phrase(value: str) -> bool:
    """Whether a plain value is several words of letters, as any sentence has them."""
    return " " in value and not any(character.isdigit() or character in "@/" for character in value)


def is_sentence(value: str) -> bool:
    """Whether a plain value says something, which a name, an id or an amount does not."""
    return (
        len([*islice(_LONG_WORD.finditer(value), MAX_NAME_WORDS + 1)]) > MAX_NAME_WORDS
        or _PUNCTUATED.search(value) is not None
    )


def is_assembled_from(value: str, texts: list[str]) -> bool:
    """Whether a squeezed value can be assembled from a few parts of squeezed texts, as if split to hide it."""
    at = 0
    if len(value) > MAX_SPLIT_LENGTH:
        return False
    for _ in range(MAX_PIECES):
        length = max((_longest(value, at, text) for text in texts), default=0)
        if length < MIN_PIECE and at + length < len(value):
            return False
        at += length
        if at >= len(value):
            return True
        if length == 0:
            return False
    return False


def _longest(value: str, at: int, text: str) -> int:
    """Length of the longest prefix of `value[at:]` that the text contains, by binary search."""
    low, high = 0, len(value) - at
    while low < high:
        middle = (low + high + 1) // 2
        if value[at : at + middle] in text:
            low = middle
        else:
            high = middle - 1
    return low
