"""What is kept, and what is printed, of a message that cannot be used."""

import orjson


def without_body(message: object) -> object:
    """The part of an unusable message that tells the waiting caller that it arrived."""
    if not isinstance(message, dict):
        return None
    return {name: value for name in ("id", "method") if isinstance(value := message.get(name), str | int)}


def excerpt(value: object) -> str:
    """The beginning of a value, for a message."""
    return orjson.dumps(value, default=str)[:200].decode(errors="replace")
