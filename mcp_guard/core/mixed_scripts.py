"""Finds letters that can be taken for others: a Cyrillic one within a Latin word, or a word wholly of Cyrillic letters
that look like Latin ones. Pure."""

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
_LATIN = frozenset({"LATIN"})
_WORD = re.compile(r"[^\W_]+")
_PASSAGE = re.compile(r'[^"\n]+')
"""What is read together: a line, or what is between quotation marks."""
_CHUNK = re.compile(r"\S+")
MAX_WORDS = 5
_LIKE_LATIN = frozenset(
    "ЅІЈАВЕКМНОРСТУХЬагеорсухѕіјѡѴѵҮүһҽӀӏԁԌԛԜԝꙇ"
    "ͿΑΒΕΖΗΙΚΜΝΟΡΤΥΧαγινορσυϜϳϺᴦⲅⲎⲒⲔⲘⲚⲞⲟⲢⲣⲤⲥⲦⲨⲬⳐ"
    "ՍՏՕագզհոռսցքօყჿ"
    "ᎠᎡᎢᎥᎩᎪᎫᎬᎳᎷᎻᎽᏀᏂᏃᏏᏒᏔᏕᏙᏚᏞᏟᏢᏦᏧᏳᏴꭵꮁꮃꮓꮩꮪꮯ"
    "ꓐꓑꓒꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴᐯᑌᑭᑯᑲᒍᒪᕁᕼᕽᖇᖯᖴᗅᗞᗪᗰᗷ"
)
"""Letters of other scripts that Unicode TR 39 (confusables.txt) takes for one letter of ASCII."""
_PHONETIC = frozenset("ɑɡɪʏᴄᴏᴑᴜᴠᴡᴢᶃᶌỿꜱꞘꞙꞟꞲꞳꞴꬲꬵꬽꭇꭈꭎꭒꭚ")
"""Latin letters that it takes for one of ASCII, and that no language writes."""


@lru_cache(4096)
def _scripts_of(character: str) -> frozenset[str]:
    """By the first word of the Unicode names of what it is composed of; empty for what is no letter."""
    named = {unicodedata.name(c, "").split(" ")[0] for c in unicodedata.normalize("NFKC", character) if c.isalpha()}
    return frozenset(named - {"", "MODIFIER", "MASCULINE", "FEMININE"})


def find_mixed_scripts(word: str) -> frozenset[str]:
    """The scripts of its letters if they are not used together, else none."""
    mixed = _scripts_of_word(word)
    return mixed if len(mixed) > 1 and not any(mixed <= together for together in _MIXABLE_SCRIPTS) else frozenset()


def mark_odd_letters(text: str) -> str:
    r"""The text with its odd letters written as `\u{…}`: those of a word that are not of its main script, all of a word
    that only looks like a Latin one, and phonetic ones. Linear."""
    parts, end = [], 0
    for word, marked in _odd_words(text):
        parts += [text[end : word.start()], marked]
        end = word.end()
    return "".join((*parts, text[end:]))


def marked_words(text: str) -> tuple[str, ...]:
    """The first words of a text that have odd letters, with these marked."""
    return tuple(dict.fromkeys(islice((marked for _, marked in _odd_words(text)), MAX_WORDS)))


@lru_cache(4096)
def _scripts_of_word(word: str) -> frozenset[str]:
    if word.isascii():
        return frozenset() if word.isdigit() else _LATIN
    return frozenset[str]().union(*map(_scripts_of, word))


def _odd_words(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each word with odd letters, and the same with these marked.

    A word that looks like a Latin one is none where another word of the passage is of its script without a doubt, as in
    a Russian sentence; but beside a Latin word, as in an address, it always is.
    """
    for passage in () if text.isascii() else _PASSAGE.finditer(text):
        if passage[0].isascii():
            continue
        chunks = [list(_WORD.finditer(text, *chunk.span())) for chunk in _CHUNK.finditer(text, *passage.span())]
        written = frozenset[str]().union(*(_sure_scripts(word[0]) for chunk in chunks for word in chunk))
        for chunk in chunks:
            is_latin = any(_scripts_of_word(word[0]) >= _LATIN for word in chunk)
            for word in chunk:
                if (marked := _mark(word[0], frozenset() if is_latin else written)) != word[0]:
                    yield word, marked


def _sure_scripts(word: str) -> frozenset[str]:
    """Those that it is written in; none if that can be in doubt."""
    return frozenset() if find_mixed_scripts(word) or _is_like_latin(word) else _scripts_of_word(word)


def _is_like_latin(word: str) -> bool:
    letters = [] if word.isascii() else [c for c in unicodedata.normalize("NFKC", word) if c.isalpha()]
    return bool(letters) and _LIKE_LATIN.issuperset(letters)


def _mark(word: str, written: frozenset[str]) -> str:
    """`written` are the scripts in which a word that looks like a Latin one is none."""
    if word.isascii():
        return word
    if find_mixed_scripts(word):
        counts = Counter(script for character in word for script in _scripts_of(character))
        main = max(counts, key=lambda script: (counts[script], script == "LATIN", script))
        return "".join(c if _scripts_of(c) <= {main} else _escape(c) for c in word)
    if _is_like_latin(word) and not _scripts_of_word(word) <= written:
        return "".join(_escape(c) if c.isalpha() else c for c in word)
    return "".join(_escape(c) if c in _PHONETIC else c for c in word)


def _escape(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"
