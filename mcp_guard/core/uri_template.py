"""Matches URIs against RFC 6570 templates in linear time. Pure.

Only the literal parts are compared: an expression may expand to any text, because which values an upstream accepts is
its own business. A matcher that backtracks takes polynomial or exponential time for hostile templates and URIs.
"""

MAX_TEMPLATE_LENGTH = 2048
MAX_URI_LENGTH = 16 * 1024
"""Longer templates and URIs match nothing, so that one match takes microseconds."""
_MAY_BE_EMPTY = "#./;?&"
"""Operators (RFC 6570 §2.2) whose expressions expand to nothing if their variables are undefined."""


class UriTemplate:
    """A template as its literal parts. A `{` without its `}` is literal text."""

    __slots__ = ("_first", "_following", "_is_usable")

    def __init__(self, template: str) -> None:
        self._is_usable = len(template) <= MAX_TEMPLATE_LENGTH
        self._following: list[tuple[int, str]] = []
        """Each literal part after an expression, with the least length of what that expression expands to."""
        self._first, *pieces = template.split("{") if self._is_usable else [""]
        for piece in pieces:
            expression, closing, literal = piece.partition("}")
            if closing:
                self._following.append((0 if expression.startswith(tuple(_MAY_BE_EMPTY)) else 1, literal))
            elif self._following:
                gap, before = self._following[-1]
                self._following[-1] = gap, f"{before}{{{piece}"
            else:
                self._first += "{" + piece

    def matches(self, uri: str) -> bool:
        """Whether some expansion of the template is this URI: each literal part is taken where it occurs first, and the
        last one at the end. No other choice can match where this one does not."""
        if not self._is_usable or len(uri) > MAX_URI_LENGTH or not uri.startswith(self._first):
            return False
        if not self._following:
            return uri == self._first
        at = len(self._first)
        for gap, literal in self._following[:-1]:
            start = uri.find(literal, at + gap)
            if start < 0:
                return False
            at = start + len(literal)
        gap, last = self._following[-1]
        return uri.endswith(last) and at + gap <= len(uri) - len(last)
