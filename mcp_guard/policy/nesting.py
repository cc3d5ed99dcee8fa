"""Bounds how deep a policy's text nests: Cedar's parser recurses without a limit, and a stack that overflows ends the
process that reads the text. Pure."""

import re

MAX_BRACKETS = 64
"""Brackets open at once. Cedar's parser overflowed a stack of 8 MiB between 500 and 1,000 parentheses."""
MAX_OPERATORS = 300
"""Operators around one operand. Each of them nests the JSON form by two levels, of which Python reads about 900."""
_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|//[^\r\n]*|(\|\||&&|[-+*.(\[{)\]},;]|\b(?:if|when|unless)\b)', re.DOTALL | re.ASCII
)
_LOOSEST = {"if": 0, "||": 1, "&&": 2, "-": 3, "+": 3, "*": 4, ".": 5, "[": 5}
"""How tightly each operator binds. One that binds less tightly ends the operands of those that bind more."""
_KINDS = max(_LOOSEST.values()) + 1


def find_too_deep(text: str) -> tuple[int, str] | None:
    """Where the text nests too deep for its readers, and what is too much there; None if nothing is."""
    levels = [[0] * _KINDS]
    for match in _TOKEN.finditer(text):
        symbol = match[1]
        if symbol is None:
            continue
        if (kind := _LOOSEST.get(symbol)) is not None:
            counts = levels[-1]
            counts[kind] += 1
            counts[kind + 1 :] = [0] * (_KINDS - kind - 1)
            if sum(map(sum, levels)) > MAX_OPERATORS:
                return match.start(), f"more than {MAX_OPERATORS} operators around one operand"
        if symbol in "([{":
            levels.append([0] * _KINDS)
            if len(levels) > MAX_BRACKETS:
                return match.start(), f"more than {MAX_BRACKETS} brackets within each other"
        elif symbol in ")]}":
            if len(levels) > 1:
                levels.pop()
        elif symbol not in _LOOSEST:
            levels[-1] = [0] * _KINDS
    return None
