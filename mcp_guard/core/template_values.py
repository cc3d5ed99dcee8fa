"""Reads the values of a URI template's variables (RFC 6570) out of a URI. Pure.

RFC 6570 says how a template becomes a URI, and leaves the way back open (§1.4); servers differ in it. Read is what the
official Python SDK reads, and what others do beyond that: `{var}` is any text within a segment of the path, `{var*}` is
like `{+var}`, and what an operator begins (`{/var}`, `{.var}`) may be missing. Everything takes linear time: a template
becomes a few patterns that have only `{var}`, one `{+var}` for several segments, and `{;var}` for `=value` or nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from mcp_guard.core.uri_template import MAX_TEMPLATE_LENGTH

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_CAPTURE = re.compile(r"\{([+;]?)([^{}]*)\}")


class _Expression(NamedTuple):
    """`names` are its variables, those of `exploded` with a `*`."""

    operator: str
    names: tuple[str, ...]
    exploded: frozenset[str]

    @property
    def is_optional(self) -> bool:
        return self.operator in ("/", ".", ";", "?", "&")

    def pattern(self, with_exploded: bool) -> str:
        """What it expands to if its variables are defined, those with a `*` only `with_exploded`."""
        names = [name for name in self.names if with_exploded or name not in self.exploded]
        captures = [f"{{+{name}}}" if self._is_deep(name) else f"{{{name}}}" for name in names]
        match self.operator:
            case "/" | ".":
                return "".join(self.operator + capture for capture in captures)
            case ";":
                return "".join(f";{name}{{;{name}}}" for name in names)
            case "?" | "&":
                values = [f"{name}={capture}" for name, capture in zip(names, captures, strict=True)]
                return self.operator + "&".join(values)
            case "#":
                return "#" + ",".join(captures)
        return ",".join(captures)

    def _is_deep(self, name: str) -> bool:
        """Whether its value may have several segments of the path."""
        return self.operator in ("+", "#") or (name in self.exploded and self.operator in ("", "/"))


def _read_expression(body: str) -> _Expression | None:
    operator = body[:1] if body[:1] in ("+", "#", ".", "/", ";", "?", "&") else ""
    words = body[len(operator) :].split(",")
    names = tuple(word.removesuffix("*") for word in words)
    exploded = frozenset(word[:-1] for word in words if word.endswith("*"))
    if not all(map(_VARIABLE.fullmatch, names)) or (exploded and operator in (";", "&")):
        return None
    return _Expression(operator, names, exploded)


class Reading(NamedTuple):
    """The values of variables in a URI, still encoded; `is_ambiguous` if others are possible."""

    values: dict[str, str]
    is_ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class TemplateReader:
    """`patterns` are the forms that its URIs may have, without the names in `query`; the one with all variables first.

    `required` are the parameters that every URI of it has, and `optional` those that it may have.
    """

    patterns: tuple[str, ...]
    query: frozenset[str] | None
    required: tuple[str, ...]
    optional: tuple[str, ...]

    def read(self, uri: str) -> Reading | None:
        """None if the URI does not fit. A query may have names that are not in the template, as servers ignore them."""
        whole, query = uri, ""
        if self.query is not None:
            whole, _, query = uri.partition("?")
        found = next((found for pattern in self.patterns if (found := _match(pattern, whole)) is not None), None)
        if found is None:
            return None
        values, is_ambiguous = found
        for pair in filter(None, query.split("&")):
            name, _, value = pair.partition("=")
            if name in (self.query or ()):
                is_ambiguous = is_ambiguous or name in values
                values[name] = value
        return Reading(values, is_ambiguous)


@lru_cache(maxsize=4096)
def template_reader(template: str) -> TemplateReader | None:
    """None if servers may read the template in ways that are not known."""
    if len(template) > MAX_TEMPLATE_LENGTH:
        return None
    literals, bodies = _EXPRESSION.split(template)[::2], _EXPRESSION.findall(template)
    expressions = [expression for body in bodies if (expression := _read_expression(body)) is not None]
    names = [name for expression in expressions for name in expression.names]
    if len(expressions) < len(bodies) or len({*names}) < len(names) or any("{" in literal for literal in literals):
        return None
    path = _path_length(literals, expressions)
    query = [name for expression in expressions[path:] for name in expression.names]
    patterns = tuple(dict.fromkeys(_patterns(literals[: path + 1], expressions[:path])))
    if not patterns or "}{" in patterns[0] or patterns[0].count("{+") > 1:
        return None
    optional = [name for expression in expressions[:path] if expression.is_optional for name in expression.names]
    return TemplateReader(
        tuple(pattern for pattern in patterns if "}{" not in pattern),
        frozenset(query) if path < len(expressions) else None,
        tuple(name for name in names if name not in (*optional, *query)),
        (*optional, *query),
    )


def _path_length(literals: list[str], expressions: list[_Expression]) -> int:
    """How many expressions come before `{?a}{&b}` at the end; all, if it does not end so or has a `?` before."""
    path = len(expressions)
    while path and expressions[path - 1].operator in ("?", "&") and not literals[path]:
        path -= 1
    has_query = path < len(expressions) and expressions[path].operator == "?"
    before = "".join(literals[: path + 1]) + "".join(expression.operator for expression in expressions[:path])
    return path if has_query and "?" not in before and "#" not in before else len(expressions)


def _patterns(literals: list[str], expressions: list[_Expression]) -> Iterator[str]:
    for with_others, with_exploded in product((True, False), repeat=2):
        pattern = literals[0]
        for expression, literal in zip(expressions, literals[1:], strict=True):
            is_there = with_others or not expression.is_optional or bool(expression.exploded)
            pattern += (expression.pattern(with_exploded or not expression.is_optional) if is_there else "") + literal
        yield pattern


def _match(pattern: str, uri: str) -> Reading | None:
    segments, expected = uri.split("/"), pattern.split("/")
    deep = next((place for place, text in enumerate(expected) if "{+" in text), None)
    if len(segments) < len(expected) or (deep is None and len(segments) > len(expected)):
        return None
    if deep is not None:
        after = len(segments) - (len(expected) - deep - 1)
        segments = [*segments[:deep], "/".join(segments[deep:after]), *segments[after:]]
    values: dict[str, str] = {}
    is_ambiguous = False
    for text, segment in zip(expected, segments, strict=True):
        if (found := _match_segment(text, segment)) is None:
            return None
        values |= found.values
        is_ambiguous = is_ambiguous or found.is_ambiguous
    return Reading(values, is_ambiguous)


def _match_segment(pattern: str, segment: str) -> Reading | None:
    """The variables of one segment: each literal part is looked for from the left and from the right, and where these
    differ, the segment fits in more than one way."""
    parts = _CAPTURE.split(pattern)
    literals, signs, names = parts[::3], parts[1::3], parts[2::3]
    if not names:
        return Reading({}) if segment == pattern else None
    begin, end = len(literals[0]), len(segment) - len(literals[-1])
    if begin > end or not segment.startswith(literals[0]) or not segment.endswith(literals[-1]):
        return None
    first, last = [begin], [end]
    for literal in literals[1:-1]:
        if (place := segment.find(literal, first[-1], end)) < 0:
            return None
        first += [place, place + len(literal)]
    for literal in reversed(literals[1:-1]):
        place = segment.rfind(literal, begin, last[0])
        last[:0] = [place, place + len(literal)]
    first, last = [*first, end], [begin, *last]
    values: dict[str, str] = {}
    for place, (sign, name) in enumerate(zip(signs, names, strict=True)):
        value = segment[first[2 * place] : first[2 * place + 1]]
        if sign == ";" and value and value[0] != "=":
            return None
        values[name] = value[1:] if sign == ";" else value
    return Reading(values, first != last)
