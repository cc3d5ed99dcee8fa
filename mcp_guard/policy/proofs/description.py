"""Describes a counterexample for people: the request, as far as the policies read it, and what is decided about it."""

from collections.abc import Iterator

from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.model import Json
from mcp_guard.policy.authoring.counterfactual import shown, value_at
from mcp_guard.policy.cedar_text import Path, is_plain, quoted
from mcp_guard.policy.proofs.prover import Counterexample
from mcp_guard.policy.ruleset import entity_text, uid_of

OF_AGENT = ("Agent", "Group")


def lines(found: Counterexample) -> Iterator[str]:
    asked = found.material["request"]
    others = [
        entity_text(*uid_of(each["uid"])) for each in found.material["entities"] if each["uid"]["type"] in OF_AGENT
    ]
    yield f"principal {entity_text(*uid_of(asked['principal']))} in {', '.join(others)}"
    yield f"action    {entity_text(*uid_of(asked['action']))}"
    yield f"resource  {entity_text(*uid_of(asked['resource']))}"
    yield from _tags(found.material)
    yield from (f"{written(path)} = {shown(value_at(found.material, path))}" for path in found.given())
    yield f"decided: {outcome_text(found.outcome)}"
    if found.was is not None:
        yield f"before:  {outcome_text(found.was)}"


def _tags(material: Json) -> Iterator[str]:
    for entity in material["entities"]:
        for key, value in entity.get("tags", {}).items():
            members = {f".{name}": member for name, member in value.items()} if isinstance(value, dict) else {"": value}
            yield from (f"resource.getTag({quoted(key)}){name} = {shown(each)}" for name, each in members.items())


def written(path: Path) -> str:
    """A path as policies have it."""
    return path[0] + "".join(f".{name}" if is_plain(name) else f"[{quoted(name)}]" for name in path[1:])


def outcome_text(outcome: PolicyOutcome) -> str:
    """`require_approval (people), because of gate`."""
    routes = f" ({', '.join(outcome.routes)})" if outcome.routes else ""
    because = ", ".join(outcome.policies) or "; ".join(outcome.errors) or "no policy permits it"
    return f"{outcome.outcome}{routes}, because of {because}"
