r"""Makes any text visible: two different texts never look the same because of characters that show nothing. Pure.

Whatever an agent, an upstream, a ledger of unknown origin or a configuration file wrote passes `visible` before a
person reads it: on a terminal, in the inbox, in a notification, in the message of an event, in an error and in a log
line. Characters that show nothing, that move or cover others, or that break a line are written as `\u{202e}`, and so is
the backslash of a `\u{` that the text itself contains. `original` reverses it.

Sentences are put together with `say`: its template is ours, its values are not. Where a value stands between words of
ours, `quote` keeps it from continuing the sentence.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from string import Formatter
from typing import Any

BLANK = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # joiners and fillers that are letters or marks
    "\u2800\U00013441\U00013442\U00016fe4\U0001d159"  # signs with an empty glyph
    "\u180b\u180c\u180d\u180f\u2d7f\U0001107f"  # Mongolian variation selectors, invisible joiners of two scripts
)
"""Characters that show nothing although they are letters, marks or symbols; `is_hidden` knows the ranges as well."""
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_SHOWN_CATEGORIES = frozenset("LNPS")
_REPLACED = frozenset("\ufffc\uff3c\ufe68\u2216\u29f5\u29f9\u20e5")
"""The object replacement character, and characters that can be read as the backslash of an escape."""
MAX_MARKS = 4
"""Combining marks on one base character. No orthography needs more; a flood of them covers the lines around it."""
MAX_LINE_BREAKS = 2
_PLAIN = re.compile(r"(?:(?!\\u\{)[!-~])+(?: (?:(?!\\u\{)[!-~])+)*\Z")
"""Visible ASCII with single blanks in between and no escape: most texts."""
_ESCAPE = re.compile(r"\\u\{([0-9a-f]{1,6})\}")
_PART_OF_ESCAPE = re.compile(r"\\u?\{?[0-9a-f]{0,6}\Z")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._:@/#+-]*[A-Za-z0-9_])?\Z")
_QUOTES = '"«»“”„‟″‴‶‷⁗〃❝❞❮❯〝〞〟＂\u02ba\u02dd\u02ee\u02f6\u05f4\u1cd3\u2e42\U0001f676\U0001f677\U0001f678'
_SINGLE_QUOTES = "'‘’‚‛`´′‵❛❜\u02b9\u02bc"
_QUOTE = re.compile(rf"[{_QUOTES}]|[{_SINGLE_QUOTES}]{{2,}}")
_SEPARATOR_OR_QUOTE = re.compile(rf"[{_QUOTES}{_SINGLE_QUOTES}, ]")
_CONNECTIVE = re.compile(
    r"\b(?:approved|claimed)\W{1,9}by|\bon\W{1,9}behalf|\bdue\W{1,9}to|\bunder\W{1,9}policy"
    r"|,\W{0,9}instance|\bwants\W{1,9}to|\bneeds[^\w-]{1,9}approval",
    re.IGNORECASE,
)
"""What connects the parts of the sentences that the guard composes."""
_OTHER_JSON = re.compile(r"\Z|\s*([\[{\"]|(null|true|false|[-+]?\d+(\.\d+)?(e[-+]?\d+)?)\s*\Z)", re.IGNORECASE)
"""Text that would be taken for nothing, or for a JSON value of another type."""


class VisibleText(str):
    """Text that has passed `visible`, or was put together of such text; it is not escaped again."""

    __slots__ = ()


def visible(value: object, keep: str = "") -> VisibleText:
    r"""The text of `value` (empty for None) with everything that a reader would not see written as `\u{…}`.

    Blanks at an end and before another blank are escaped, unless `keep` is a blank, for a line with columns or
    indentation. Line breaks are escaped, unless `keep` is one, for a text shown on several lines; blanks stay too then,
    except at the end of a line. Linear in the length of the text.
    """
    if isinstance(value, VisibleText):
        return value
    text = "" if value is None else str(value)
    if not text or _PLAIN.match(text):
        return VisibleText(text)
    return VisibleText("".join(c if is_shown else escape(c) for c, is_shown in _judge(text, keep)))


def visible_lines(value: object) -> VisibleText:
    """For a text that is shown on several lines: single and double line breaks inside it stay."""
    return visible(value, "\n")


def visible_line(value: object) -> VisibleText:
    """For a whole line of output: blanks stay wherever they are."""
    return visible(value, " ")


def say(template: str, *values: object, **named: object) -> VisibleText:
    """`template.format(…)` with every value made visible; a value in backticks does not end them."""
    shown = {name: visible(named[name]) for name in named}
    return VisibleText(_SENTENCES.vformat(_within_backticks(template), list(map(visible, values)), shown))


class _Sentences(Formatter):
    def convert_field(self, value: Any, conversion: str | None) -> Any:
        return value.replace("`", "\\u{60}") if conversion == "b" else value


_SENTENCES = _Sentences()


@lru_cache
def _within_backticks(template: str) -> str:
    """The template with a conversion `b` of the values that are between two backticks."""
    parts = template.split("`")
    parts[1::2] = (re.sub(r"\{(\w*)(:[^}]*)?\}", r"{\1!b\2}", part) for part in parts[1::2])
    return "`".join(parts)


def join(separator: str, values: Iterable[object]) -> VisibleText:
    """`separator.join(…)` with every value made visible."""
    return VisibleText(separator.join(map(visible, values)))


def quote(value: object, *, always: bool = False) -> VisibleText:
    r"""The value as one part of a sentence: a plain identifier as it is unless `always`, anything else in quotes.

    Quotation marks of all kinds inside it are escaped. Where words inside it could be read as words of the sentence,
    such as `, approved by`, blanks and commas, and what stands between these words, are escaped as well. The value is
    what `original` makes of the part without its quotes.
    """
    text = "" if value is None else str(value)
    if is_connective(text):
        return VisibleText(f'"{_break_connectives(text)}"')
    if not always and _IDENTIFIER.match(text):
        return VisibleText(text)
    return _in_quotes(text)


def _in_quotes(text: str) -> VisibleText:
    return VisibleText(f'"{_QUOTE.sub(lambda match: "".join(map(escape, match[0])), visible(text))}"')


def _break_connectives(text: str) -> str:
    between = {at for match in _CONNECTIVE.finditer(text) for at in range(*match.span()) if not text[at].isalnum()}
    judged = enumerate(_judge(text, ""))
    return "".join(
        c if is_shown and at not in between and not _SEPARATOR_OR_QUOTE.match(c) else escape(c)
        for at, (c, is_shown) in judged
    )


def value_text(value: object) -> VisibleText:
    """A value that stands alone, in a cell or after its name: in quotes if words in it read like a sentence of ours."""
    is_ours = isinstance(value, VisibleText) or not isinstance(value, str)
    return visible(value) if is_ours or not is_connective(str(value)) else quote(value)


def reads_as_other(value: object) -> bool:
    """Whether it is a text that without quotes reads as nothing, or as a JSON value of another type."""
    from mcp_guard.core.canonical import ExactNumber  # commands that show no JSON do not load it

    return isinstance(value, str) and not isinstance(value, ExactNumber) and _OTHER_JSON.match(value) is not None


def readable_value(value: object) -> str:
    """A JSON value that stands alone, not made visible yet. A text has quotes only if it reads as something else."""
    from mcp_guard.core.canonical import readable_json  # as above

    is_plain = isinstance(value, str) and not reads_as_other(value)
    return str(value) if is_plain else readable_json(value)


def labelled_text(value: object) -> VisibleText:
    """Text on a line of its own, after its label, or that an operator wrote, such as a policy's reason.

    In quotes if words in it read like a sentence of ours, so that it shows where it ends; its blanks stay readable.
    """
    is_ours = isinstance(value, VisibleText) or not is_connective(text := str(value))
    return visible(value) if is_ours else _in_quotes(text)


def is_connective(text: str) -> bool:
    """Whether words in it could be read as words of a sentence that the guard composes."""
    return _CONNECTIVE.search(text) is not None


def has_hidden(text: str) -> bool:
    """Whether there is a character in it that a reader would not see, beside blanks and line breaks between words."""
    return any(is_hidden(character) and character not in "\t\n\r" for character in text)


def original(text: str) -> str:
    """The text whose visible form this is."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def visible_code(text: str) -> VisibleText:
    r"""Policies or a schema, of several lines. `\u{…}` is Cedar's own escape too, so it is not escaped itself."""
    lines = map(visible_line, text.removesuffix("\n").split("\n"))
    return VisibleText("\n".join(lines).replace(escape("\\") + "u{", "\\u{"))


_FAR = re.compile(r"(?<=\S) {21,}|^ {61,}", re.MULTILINE)


def reviewed_code(text: str) -> VisibleText:
    """Code for somebody who decides on it: blanks that would push what follows out of sight are counted, and letters
    that are of another script than their word are escaped."""
    from mcp_guard.core.mixed_scripts import mark_odd_letters  # which few commands need

    return VisibleText(_FAR.sub(lambda blanks: f" [{len(blanks[0])} blanks] ", mark_odd_letters(visible_code(text))))


def shorten(value: object, length: int) -> VisibleText:
    """The value made visible, and cut after `length` characters, not within an escape."""
    text = visible(value)
    if len(text) <= length:
        return text
    return VisibleText(_PART_OF_ESCAPE.sub("", text[:length]) + "…")


def visible_json(value: object, indent: int | None = None) -> VisibleText:
    r"""The value as JSON, in which hidden characters are written as JSON does, such as `\u202e`."""
    from mcp_guard.core.canonical import readable_json  # as above

    return visible_json_text(readable_json(value, indent))


def visible_json_text(text: str) -> VisibleText:
    """As `visible_json`, for JSON text or its beginning."""
    if text.isascii() and "\x7f" not in text:
        return VisibleText(text)
    judged = _judge(text, " ")
    return VisibleText("".join(c if ok or (c.isascii() and c != "\x7f") else _json_escape(c) for c, ok in judged))


def is_hidden(character: str) -> bool:
    """Whether it shows nothing, or only changes how its neighbours are shown."""
    return (
        unicodedata.category(character) in _HIDDEN_CATEGORIES
        or character in BLANK
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0000" <= character <= "\U000e0fff"
    )


def escape(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"


def _json_escape(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def _judge(text: str, keep: str) -> Iterator[tuple[str, bool]]:
    """Every character, and whether it is shown as it is."""
    is_composed = unicodedata.is_normalized("NFC", text)
    has_base, marks, breaks = False, 0, 0
    for index, character in enumerate(text):
        kind = unicodedata.category(character)
        breaks = breaks + 1 if character == "\n" else 0
        if kind in ("Mn", "Mc"):
            marks += 1
            yield character, has_base and is_composed and marks <= MAX_MARKS and not is_hidden(character)
            continue
        marks, has_base = 0, _is_base(text, index, kind, is_composed)
        if character == " ":
            yield character, _is_shown_blank(text, index, keep)
        elif character == "\n":
            yield character, keep == "\n" and 0 < index < len(text) - 1 and breaks <= MAX_LINE_BREAKS
        else:
            yield character, has_base


def _is_shown_blank(text: str, index: int, keep: str) -> bool:
    after = text[index + 1 : index + 2]
    if keep == "\n":
        return after not in ("", "\n")
    return keep == " " or (index > 0 and after not in ("", " "))


def _is_base(text: str, index: int, kind: str, is_composed: bool) -> bool:
    """Whether a character that is no mark is visible, and may carry marks."""
    character = text[index]
    if character == "\\":
        return not text.startswith("u{", index + 1)
    if kind[0] not in _SHOWN_CATEGORIES or character in _REPLACED or is_hidden(character):
        return False
    if is_composed or character.isascii():
        return True
    return not "\u1100" <= character <= "\u11ff" and unicodedata.is_normalized("NFC", character)
