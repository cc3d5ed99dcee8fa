"""Reads `Accept` headers (RFC 9110 §12.5.1): media types in any case, with parameters, and wildcards."""

from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache

JSON, EVENT_STREAM = "application/json", "text/event-stream"


class ReplyFormat(Enum):
    """A JSON document, a stream of events, or whichever suits the reply."""

    ANY = auto()
    DOCUMENT = auto()
    STREAM = auto()


def accepts(header: str | None, media_type: str) -> bool:
    """Whether the client reads this media type. A client that sends no `Accept` reads any."""
    if not header or not header.strip():
        return True
    wildcards = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    ranges = dict(_ranges(header))
    return next((ranges[name] for name in wildcards if name in ranges), False)


@lru_cache(maxsize=16)
def read_format(header: str | None) -> ReplyFormat:
    """The form in which the client reads a reply. MCP demands both, but programs leave out one."""
    reads_json, reads_events = accepts(header, JSON), accepts(header, EVENT_STREAM)
    if reads_json == reads_events:
        return ReplyFormat.ANY
    return ReplyFormat.DOCUMENT if reads_json else ReplyFormat.STREAM


def _ranges(header: str) -> Iterator[tuple[str, bool]]:
    """Each media range, and whether it is accepted: a weight of zero excludes it."""
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights = (parameter[2:] for parameter in parameters if parameter.startswith("q="))
        yield name, next(weights, "1").strip("0.") != ""
