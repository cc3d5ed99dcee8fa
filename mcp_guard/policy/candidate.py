"""A whole candidate out of suggestions: written into the policies, validated, and replayed before it is shown.

INVARIANT: of the decisions replayed, none is more permissive under the candidate but those of requests that a person or
observe mode let. A suggestion that would let more is taken back, and said to be.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json
from mcp_guard.policy.past import Past, Version
from mcp_guard.policy.replay import Replay, Versions, replay
from mcp_guard.policy.source import Policy, outside, parse_texts, validate
from mcp_guard.policy.suggest import Group, Suggestion, Suggestions, Terms, group_of, suggest, with_exception


@dataclass(frozen=True, slots=True)
class Materials:
    """What a candidate is made from: the policy files in use, the routes, the latest version, and all of them."""

    texts: Mapping[str, str]
    routes: Collection[str]
    latest: Version
    versions: Versions


@dataclass(frozen=True, slots=True)
class Candidate:
    """The files of the candidate, by name; what is suggested in them; and the replay that they stood."""

    texts: dict[str, str]
    suggestions: Suggestions
    replay: Replay


def candidate(past: list[Past], materials: Materials, terms: Terms, permits: str) -> Candidate:
    """`permits` names the file that new permits go to."""
    made = suggest(past, materials.latest, terms)
    while True:
        for suggestion in list(made.made):
            if why := _unusable(suggestion, materials):
                _take_back(made, suggestion, why)
        texts, policies = _write(made.made, materials, permits)
        done = replay(past, materials.versions, policies)
        beyond = _beyond(done, past, made.made)
        over = [each for each in made.made if each.group in beyond]
        if not over:
            return Candidate(texts, made, done)
        for suggestion in over:
            _take_back(made, suggestion, f"it would also let receipt {beyond[suggestion.group]}, which nobody let")


def _take_back(made: Suggestions, suggestion: Suggestion, why: str) -> None:
    made.made.remove(suggestion)
    made.left[suggestion.group] = why


def _unusable(suggestion: Suggestion, materials: Materials) -> str:
    """Why it cannot be written into these files, if it cannot: each is tried by itself."""
    try:
        _write([suggestion], materials, "suggested.cedar")
    except (ValueError, PolicyError) as error:
        return f"it does not fit the policies in use: {error}".splitlines()[0]
    return ""


def _write(made: list[Suggestion], materials: Materials, permits: str) -> tuple[dict[str, str], dict[str, Policy]]:
    """The files with these suggestions, and the policies in them. Raises: PolicyError, ValueError."""
    texts = dict(materials.texts)
    files = {id: policy.file for id, policy in parse_texts(texts, None)[0].policies.items()}
    for suggestion in made:
        for gate in suggestion.gates:
            if gate not in files:
                raise PolicyError(f"there is no gate `{gate}` any more")
            texts[files[gate]] = with_exception(texts[files[gate]], gate, suggestion.exception())
    new = "\n".join(suggestion.permit() for suggestion in made if not suggestion.gates)
    if new:
        texts[permits] = f"{texts[permits]}\n{new}" if permits in texts else new
    source, problems = parse_texts(texts, materials.routes)
    if problems:
        raise PolicyError("; ".join(problems))
    known = {id: policy for id, policy in source.policies.items() if not outside(policy, materials.latest.schema)}
    validate(known, json.dumps(materials.latest.schema), Path())
    return texts, dict(source.policies)


def _beyond(done: Replay, past: list[Past], made: list[Suggestion]) -> dict[Group, int]:
    """Groups of which more would be let than was let before, with one receipt of it."""
    let = {_request(each) for suggestion in made for each in suggestion.basis}
    asked = {each.receipt["seq"]: _request(each) for each in past if each.material is not None}
    looser = [each.receipt for each in done.differences if each.looser and asked[each.receipt["seq"]] not in let]
    return {group_of(receipt): receipt["seq"] for receipt in [*looser, *done.listed]}


def _request(past: Past) -> str:
    """What makes two requests the same for a person who approves: who, what, on what, with which arguments."""
    material: Json = past.material or {}
    request = material["request"]
    who = past.receipt["agent"], past.receipt.get("on_behalf_of")
    return json.dumps([who, request["action"], request["resource"], request["context"]["input"]], sort_keys=True)
