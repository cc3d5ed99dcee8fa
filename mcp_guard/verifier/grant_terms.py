"""What each use of a grant has in common with the request that was approved: all that the grant does not leave free."""

from typing import Any

from .files import parse_json
from .signatures import Receipt

TRACE_CONTEXT = ("traceparent", "tracestate")
CLAIMS = {"ticket": "guard_ticket", "reason": "guard_reason"}
"""What an agent claims about a call, and the argument by which a grant may leave it free."""


def kept_claims(receipt: Receipt, free: set[str]) -> list[str]:
    """Which of ticket and reason the agent claims, but for those that a grant leaves free."""
    return [name for name in receipt.get("claimed", []) if CLAIMS[name] not in free]


def bound_part(request: str, free: set[str]) -> Any:
    """A request without the arguments that a grant leaves free, and without trace context."""
    params = parse_json(request)
    arguments = {name: value for name, value in params["arguments"].items() if name not in free}
    meta = {name: value for name, value in params.get("_meta", {}).items() if name not in TRACE_CONTEXT}
    return params["name"], arguments, meta
