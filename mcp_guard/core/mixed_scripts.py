"""Finds words with letters of scripts that are not used together, such as a Cyrillic one within a Latin word. Pure."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

_MIXABLE_SCRIPTS = (
    frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "LATIN"}),
    frozenset({"CJK", "HANGUL", "LATIN"}),
)
_WORD = re.compile(r"[^\W_]+")
MAX_WORDS = 5


@lru_cache(4096)
def _scripts_of(character: str) -> frozenset[str]:
    """By the first word of the Unicode names of what it is composed of; empty for what is no letter."""
    named = {unicodedata.name(c, "").split(" ")[0] for c in unicodedata.normalize("NFKC", character) if c.isalpha()}
    return frozenset(named - {"", "MODIFIER", "MASCULINE", "FEMININE"})


def find_mixed_scripts(word: str) -> frozenset[str]:
    """The scripts of its letters if they are not used together, else none."""
    mixed = frozenset[str]().union(*map(_scripts_of, word))
    return mixed if len(mixed) > 1 and not any(mixed <= together for together in _MIXABLE_SCRIPTS) else frozenset()


def mark_odd_letters(text: str) -> str:
    r"""The text with the letters of a word that are not of its main script written as `\u{…}`. Linear."""
    return text if text.isascii() else _WORD.sub(lambda word: _mark(word[0]), text)


def marked_words(text: str) -> tuple[str, ...]:
    """The first words of a text that mix scripts, with their odd letters marked."""
    return tuple(islice(_marked(text), MAX_WORDS))


def _marked(text: str) -> Iterator[str]:
    for word in () if text.isascii() else _WORD.finditer(text):
        if (marked := _mark(word[0])) != word[0]:
            yield marked


def _mark(word: str) -> str:
    if word.isascii() or not find_mixed_scripts(word):
        return word
    counts = Counter(script for character in word for script in _scripts_of(character))
    main = max(counts, key=lambda script: (counts[script], script == "LATIN", script))
    return "".join(c if _scripts_of(c) <= {main} else f"\\u{{{ord(c):x}}}" for c in word)
