"""The policies in force: replaced whole or not at all, while sessions go on; observed instead where so configured."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_guard.core.decision import opinion
from mcp_guard.core.model import Call, Counter, Decision, Instance, Mode, Opinion, Outcome, Tool
from mcp_guard.core.rates import Value

if TYPE_CHECKING:  # so that Cedar is loaded with the first policies, not before
    from mcp_guard.policy.engine import PolicyEngine


class PoliciesInForce:
    """Implements `ports.Policies` by the latest good set. Until there is one, everything is denied, with the reason.

    `mode` is that of every tool without one of its own. `shadow` is a candidate set that is asked and not obeyed.
    """

    def __init__(self, counters: tuple[Counter, ...], mode: Mode = Mode.ENFORCE) -> None:
        self.counters = counters
        self.mode = mode
        self.why_none = "the policies are not loaded yet"
        self.shadow: PolicyEngine | None = None
        self._engine: PolicyEngine | None = None

    def replace(self, engine: "PolicyEngine") -> None:
        self._engine = engine

    @property
    def version(self) -> str:
        return self._engine.version if self._engine else "none"

    @property
    def gated(self) -> bool:
        return self._engine is not None and self._engine.gated

    def observes(self, tool: Tool | None) -> bool:
        return ((tool.rule.mode if tool else None) or self.mode) is Mode.OBSERVE

    def may_call(self, instance: Instance, tool: Tool) -> bool:
        return self._engine is not None and self._engine.may_call(instance, tool, self.observes(tool))

    def decide(self, call: Call, counts: Mapping[str, Value]) -> Decision:
        if self._engine is None:
            return Decision(Outcome.DENY, "none", reasons=(self.why_none,), counts=counts)
        decide = self._engine.observe if self.observes(call.tool) else self._engine.decide
        decision = decide(call, counts)
        return replace(decision, shadow=self._ask_shadow(call, counts)) if self.shadow else decision

    def _ask_shadow(self, call: Call, counts: Mapping[str, Value]) -> Opinion | None:
        """INVARIANT: what the shadow says, or fails to say, changes nothing for the call."""
        assert self.shadow is not None
        return opinion(self.shadow.decide(call, counts))
