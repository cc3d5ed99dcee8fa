"""Decisions of the past, run again: from the kept request and the kept text of the policies that decided it.

A receipt commits to the complete Cedar request (`material`), and the ledger keeps the text and the schema of every
policy version; both are read here as values. Nothing is called and nothing is recorded.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cedarpy import Entities, Schema

from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.describe import NO_SUCH_TOOL
from mcp_guard.core.model import NO_HISTORY, Json
from mcp_guard.policy.request import history_context
from mcp_guard.policy.ruleset import Principal, Ruleset, action_groups, read_principal
from mcp_guard.policy.schema import TOOL
from mcp_guard.policy.source import Policy, parse_texts

DECIDING = ("decision", "intent")
"""Kinds of receipts that hold a decision; the guard's own look-ups hold none."""


class CedarRequest(NamedTuple):
    """A request as Cedar takes it."""

    request: Json
    entities: Entities
    principal: Principal


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One decision of the ledger: its receipt, and what was put to the policies, if that is kept.

    `material` is None if nothing was put to them (`asked` is then False), or if it has been erased, or was redacted in
    part before it was kept: then it is another request than the one that was decided.
    """

    receipt: Json
    material: Json | None

    @property
    def asked(self) -> bool:
        return "material" in self.receipt

    @property
    def unlisted(self) -> bool:
        """Refused because the tool was not listed for this instance, though an upstream has it."""
        return self.receipt.get("reasons") == [NO_SUCH_TOOL] and "definition" in self.receipt


def read_decision(receipt: Json, payloads: Mapping[str, bytes | None]) -> RecordedDecision | None:
    """The decision in a receipt, or None if there is none."""
    if receipt["kind"] not in DECIDING or receipt.get("purpose"):
        return None
    kept = payloads.get("material") if "material" in receipt else None
    whole = not any(place.startswith("/material") for place in receipt.get("redacted", ()))
    return RecordedDecision(receipt, json.loads(kept) if kept and whole else None)


class PolicyVersion:
    """The policies of one version with the schema of then."""

    def __init__(self, version: str, policies: Mapping[str, Policy], schema: Json) -> None:
        self.version = version
        self.schema = schema
        self.rules = Ruleset(policies, action_groups(schema))
        self._parsed = Schema.from_json_str(json.dumps(schema))

    def under(self, policies: Mapping[str, Policy]) -> "PolicyVersion":
        """Other policies in the same world."""
        return PolicyVersion("candidate", policies, self.schema)

    def build_request(self, material: Json) -> CedarRequest:
        """Raises: ValueError for a request that does not fit the schema of then."""
        request, entities = material["request"], material["entities"]
        if "history" not in request["context"]:  # nothing was followed then, and these policies may ask for it
            request = {**request, "context": {**request["context"], "history": history_context(NO_HISTORY)}}
        parsed = Entities.from_json_str(json.dumps(entities), self._parsed)
        return CedarRequest(request, parsed, read_principal(request["principal"], entities))

    def decide(self, request: CedarRequest) -> PolicyOutcome:
        return self.rules.decide(*request)

    def could_list(self, action: str, principal: Iterable[Json] | None) -> bool:
        """Whether the tool could be listed for this principal (its entities); for an unknown one, for any."""
        if principal is None:
            return any(self.rules.policies[id].body["effect"] == "permit" for id in self.rules.policies_for(action))
        entities = list(principal)
        applies = self.schema[""]["actions"].get(action, {}).get("appliesTo", {}).get("resourceTypes", [])
        resource = (TOOL, action) if applies == [TOOL] else None
        parsed = Entities.from_json_str(json.dumps(entities), self._parsed)
        return self.rules.could_be_permitted(action, read_principal(entities[0]["uid"], entities), resource, parsed)


def read_version(version: str, material: bytes) -> PolicyVersion:
    """A version as the ledger keeps it; policies that slept then sleep here."""
    kept = json.loads(material)
    source, _ = parse_texts(kept["policies"], None)
    asleep = set(kept.get("dormant", ()))
    active = {id: policy for id, policy in source.policies.items() if id not in asleep}
    return PolicyVersion(version, active, kept["schema"])
