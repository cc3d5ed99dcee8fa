"""Matches URIs against RFC 6570 templates in linear time. Pure.

Only the literal parts are compared: an expression may expand to any text, or to nothing (§3.2.1: undefined variables),
because which values an upstream accepts is its own business. An expression at the end that has an operator, such as
`{?page}`, expands to nothing or to text that begins with the operator (§3.2.4 to §3.2.9). A matcher that backtracks
takes polynomial or exponential time for hostile templates and URIs.
"""

MAX_TEMPLATE_LENGTH = 2048
MAX_URI_LENGTH = 16 * 1024
"""Longer templates and URIs match nothing, so that one match takes microseconds."""
_PREFIXING = "#./;?&"
"""Operators (RFC 6570 §2.2) whose expansions begin with the operator, if they are not empty."""


def may_fit(template: str, uri: str) -> bool:
    """Whether some server could take the URI for one of the template, however it reads the template."""
    return len(template) > MAX_TEMPLATE_LENGTH or UriTemplate(template).matches(uri)


class UriTemplate:
    """A template as its literal parts. A `{` without its `}` is literal text."""

    __slots__ = ("_first", "_following", "_is_usable", "_tails")

    def __init__(self, template: str) -> None:
        self._is_usable = len(template) <= MAX_TEMPLATE_LENGTH
        self._first, *pieces = template.split("{") if self._is_usable else [""]
        expressions: list[str] = []
        literals: list[str] = []
        for piece in pieces:
            expression, closing, literal = piece.partition("}")
            if closing:
                expressions.append(expression)
                literals.append(literal)
            elif literals:
                literals[-1] += "{" + piece
            else:
                self._first += "{" + piece
        self._tails = ""
        """With what the text after the last literal part may begin, beside the end of the URI."""
        while literals and not literals[-1] and expressions[-1].startswith(tuple(_PREFIXING)):
            self._tails += expressions.pop()[0]
            literals.pop()
        self._following = literals
        """Each literal part after an expression."""

    def matches(self, uri: str) -> bool:
        """Whether some expansion of the template is this URI: each literal part is taken where it occurs first, and the
        last one where the URI ends or its tail begins. No other choice can match where this one does not."""
        if not self._is_usable or len(uri) > MAX_URI_LENGTH or not uri.startswith(self._first):
            return False
        at = len(self._first)
        if not self._following:
            return len(uri) == at or uri[at] in self._tails
        for literal in self._following[:-1]:
            start = uri.find(literal, at)
            if start < 0:
                return False
            at = start + len(literal)
        last = self._following[-1]
        if uri.endswith(last) and at <= len(uri) - len(last):
            return True
        return any(uri.find(last + tail, at) >= 0 for tail in set(self._tails))
