"""Recorded decisions, and the policy versions that made them, ready to be evaluated again.

A receipt commits to the complete Cedar request (`material`), and the ledger stores the text and schema of every policy
version. This module turns both into values; it reads no storage, calls no tool and records nothing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cedarpy import Entities, Schema

from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.describe import HIDDEN, NO_SUCH_TOOL
from mcp_guard.core.model import NO_HISTORY, Json, Outcome
from mcp_guard.policy.reads import reads_of
from mcp_guard.policy.request import history_context
from mcp_guard.policy.ruleset import Principal, Ruleset, action_groups, read_principal
from mcp_guard.policy.schema import TOOL, with_time
from mcp_guard.policy.source import Policy, parse_texts
from mcp_guard.policy.time_of_call import UTC_NAME, read_micros, time_context

DECIDING = ("decision", "intent")
"""Kinds of receipts that contain a decision, except for those of the guard's own look-ups."""


class CedarRequest(NamedTuple):
    """A request in the form that Cedar evaluates."""

    request: Json
    entities: Entities
    principal: Principal


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One decision in the ledger: its receipt, and the request that the policies evaluated, if it is stored.

    `material` is None if no policy was evaluated (`asked` is then False), and if the request was erased or partly
    redacted: what is left is not the request that was decided.
    """

    receipt: Json
    material: Json | None

    @property
    def asked(self) -> bool:
        return "material" in self.receipt

    @property
    def unlisted(self) -> bool:
        """Refused because the tool was not listed for this instance, although an upstream has it."""
        return self.receipt.get("reasons", [""])[0] in (NO_SUCH_TOOL, HIDDEN) and "definition" in self.receipt


def read_decision(
    receipt: Json, payloads: Mapping[str, bytes | None], time_zone: str = UTC_NAME
) -> RecordedDecision | None:
    """The decision in a receipt, or None if there is none.

    A request whose policies did not read `context.time` gets that of its receipt, in this zone, so that other policies
    can be tried on it.
    """
    if receipt["kind"] not in DECIDING or receipt.get("purpose"):
        return None
    material = payloads.get("material") if "material" in receipt else None
    is_whole = not any(pointer.startswith("/material") for pointer in receipt.get("redacted", ()))
    if not material or not is_whole:
        return RecordedDecision(receipt, None)
    request = json.loads(material)
    if "time" not in request["request"]["context"]:
        request["request"]["context"]["time"] = time_context(read_micros(receipt["time"]), time_zone)
    return RecordedDecision(receipt, request)


COUNTED = ("rate", "sequence")
"""The members of the context that depend on the configuration of the time."""
ADDED_LATER: Json = {"history": history_context(NO_HISTORY), "input_inexact": []}
"""Members of the context that a recorded request may lack, with their values in such a call."""


class PolicyVersion:
    """The policies of one version, with the schema recorded at the time."""

    def __init__(
        self, version: str, policies: Mapping[str, Policy], schema: Json, parsed: Schema | None = None
    ) -> None:
        """`parsed` is the schema, if it was parsed before."""
        self.version = version
        self.schema = schema
        self.rules = Ruleset(policies, action_groups(schema))
        self._counted: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        """The rates and sequences that policies read, by the ids of these policies."""
        self._parsed = parsed or Schema.from_json_str(json.dumps(schema))

    def under(self, policies: Mapping[str, Policy]) -> "PolicyVersion":
        """Other policies under the same schema."""
        return PolicyVersion("candidate", policies, self.schema, self._parsed)

    def build_request(self, material: Json) -> CedarRequest:
        """The recorded request as a Cedar request. Raises: ValueError if it does not match the recorded schema."""
        request, entities = material["request"], material["entities"]
        if not ADDED_LATER.keys() <= request["context"].keys():  # recorded without what these policies may read
            request = {**request, "context": {**ADDED_LATER, **request["context"]}}
        parsed = Entities.from_json_str(json.dumps(entities), self._parsed)
        return CedarRequest(request, parsed, read_principal(request["principal"], entities))

    def decide(self, request: CedarRequest) -> PolicyOutcome:
        """Policies that read a rate or sequence which the request was recorded without deny, also behind a `has`: a
        guard that has these policies knows it."""
        policy_slice = self.rules.slice(request.request["action"]["id"], request.principal)
        if policy_slice.ids not in self._counted:
            reads = {path[1:3] for id in policy_slice.ids for path in reads_of(self.rules.policies[id])}
            self._counted[policy_slice.ids] = sorted(path for path in reads if path[0] in COUNTED and len(path) == 2)
        context = request.request["context"]
        for kind, name in self._counted[policy_slice.ids]:
            if name not in context.get(kind, {}):
                return PolicyOutcome(Outcome.DENY, (), errors=(f"`context.{kind}.{name}` was not recorded",))
        return self.rules.decide(*request)

    def could_list(self, action: str, principal: Iterable[Json] | None) -> bool:
        """Whether the tool could be listed for this principal (its entities), or for any principal if None."""
        if principal is None:
            return any(self.rules.policies[id].body["effect"] == "permit" for id in self.rules.policies_for(action))
        entities = list(principal)
        applies = self.schema[""]["actions"].get(action, {}).get("appliesTo", {}).get("resourceTypes", [])
        resource = (TOOL, action) if applies == [TOOL] else None
        parsed = Entities.from_json_str(json.dumps(entities), self._parsed)
        return self.rules.could_be_permitted(action, read_principal(entities[0]["uid"], entities), resource, parsed)


def read_version(version: str, material: bytes) -> PolicyVersion:
    """A version as stored in the ledger; policies that were dormant at the time are left out."""
    stored = json.loads(material)
    source, _ = parse_texts(stored["policies"], None)
    dormant = set(stored.get("dormant", ()))
    active = {id: policy for id, policy in source.policies.items() if id not in dormant}
    return PolicyVersion(version, active, with_time(stored["schema"]))
