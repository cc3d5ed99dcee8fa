"""Approvals by the people whose own request it was, which a route allows by `unsafe_self_approval`."""

from collections.abc import Iterable

from .signatures import Receipt


def is_own(vote: Receipt) -> bool:
    """Whether the guard says so, or the names that the approver has signed do: of the agent's owner and its user."""
    return vote["approver"] in (vote.get("owner"), vote.get("on_behalf_of")) or bool(vote.get("self_approved"))


def is_self_approved(rules: Iterable[Receipt], votes: Iterable[Receipt]) -> bool:
    """Whether nobody but the requesters themselves has approved, on some route."""
    others = {vote["approver"] for vote in votes if not is_own(vote)}
    return any(others.isdisjoint(rule["approvers"]) for rule in rules)
