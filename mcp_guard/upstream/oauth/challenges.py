"""Reads `WWW-Authenticate` (RFC 9110 §11.6.1): several challenges in a header, in any legal spelling."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"?|[^\s,"]*)')
_SCHEME = re.compile(rf"({_WORD})(?=[\s,]|$)")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
"""One scope (RFC 6749 §3.3)."""
MAX_LENGTH = 16 * 1024
MAX_SCOPES = 64
SCHEMES = ("bearer", "dpop")


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` and the names of parameters are in small letters."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def scopes(self) -> tuple[str, ...]:
        return read_scopes(self.parameters.get("scope"))


def read_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges in these headers, in their order. What is none is skipped."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        text, at = header[:MAX_LENGTH], 0
        while at < len(text):
            if parameter := _PARAMETER.match(text, at):
                if not found:
                    found.append(("", {}))
                found[-1][1].setdefault(parameter[1].lower(), _unquote(parameter[2]))
                at = parameter.end()
            elif scheme := _SCHEME.match(text, at):
                found.append((scheme[1].lower(), {}))
                at = scheme.end()
            else:
                at += 1
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def find_challenge(headers: Iterable[str], parameter: str) -> Challenge | None:
    """The challenge for a token that has this parameter; one without a scheme that is known counts last."""
    having = [challenge for challenge in read_challenges(headers) if challenge.parameters.get(parameter)]
    return next((challenge for challenge in having if challenge.scheme in SCHEMES), having[0] if having else None)


def read_scopes(text: object) -> tuple[str, ...]:
    """The scopes in a text, or in a list of texts as metadata has it."""
    words = text if isinstance(text, list) else text.split() if isinstance(text, str) else []
    scopes = [word for word in words if isinstance(word, str) and _SCOPE.fullmatch(word)]
    return tuple(dict.fromkeys(scopes))[:MAX_SCOPES]


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:].removesuffix('"')) if value.startswith('"') else value
