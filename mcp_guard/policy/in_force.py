"""The policies in force: replaced whole or not at all, while sessions go on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcp_guard.core.model import Call, Counter, Decision, Instance, Outcome, Tool
from mcp_guard.core.rates import Value

if TYPE_CHECKING:  # so that Cedar is loaded with the first policies, not before
    from mcp_guard.policy.engine import PolicyEngine


class PoliciesInForce:
    """Implements `ports.Policies` by the latest good set. Until there is one, everything is denied, with the reason."""

    def __init__(self, counters: tuple[Counter, ...]) -> None:
        self.counters = counters
        self.why_none = "the policies are not loaded yet"
        self._engine: PolicyEngine | None = None

    def replace(self, engine: "PolicyEngine") -> None:
        self._engine = engine

    @property
    def version(self) -> str:
        return self._engine.version if self._engine else "none"

    @property
    def gated(self) -> bool:
        return self._engine is not None and self._engine.gated

    def may_call(self, instance: Instance, tool: Tool) -> bool:
        return self._engine is not None and self._engine.may_call(instance, tool)

    def decide(self, call: Call, counts: Mapping[str, Value]) -> Decision:
        if self._engine is None:
            return Decision(Outcome.DENY, "none", reasons=(self.why_none,), counts=counts)
        return self._engine.decide(call, counts)
