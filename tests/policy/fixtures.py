"""Small setups for policy engine tests: tools from JSON schemas, policies from text, one decision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import (
    Agent,
    Call,
    Decision,
    Effect,
    Facts,
    Instance,
    Json,
    Outcome,
    RateCounter,
    ResourceRule,
    Task,
    Tool,
    ToolCallRequest,
    ToolRule,
)
from mcp_guard.core.names import listed_name
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.upstream.catalog import definition_hash

NOW = 1_790_000_000_000_000
INSTANCE = Instance("run_1", Agent("agent", "bob", ("workers",)), "dana", Task("INC-1"), NOW, 2 * NOW, "", "cred")
PERMIT = '@id("all") permit (principal, action, resource);'


def make_tool(
    schema: Any,
    name: str = "tool",
    effect: Effect = Effect.WRITE,
    resource: ResourceRule | None = None,
    server: str = "up",
) -> Tool:
    definition = {"name": name, "inputSchema": schema}
    rule = ToolRule(effect=effect, resource=resource)
    return Tool(server, name, listed_name(server, name), definition, definition_hash(definition), rule, effect)


def object_of(**properties: Any) -> Json:
    return {"type": "object", "properties": properties}


def load(
    folder: Path,
    policies: str,
    *tools: Tool,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
    counters: tuple[RateCounter, ...] = (),
    absent: tuple[str, ...] = (),
) -> PolicyEngine:
    path = folder / "test.cedar"
    path.write_text(policies)
    return load_policies(path, PolicyEnvironment(tools, attributes or {}, counters, ("people", "security"), absent))


def make_call(tool: Tool, arguments: Json, facts: Json | None = None, instance: Instance = INSTANCE) -> Call:
    call = describe(DescriptionRules(), "call_1", instance, ToolCallRequest(tool.listed_as, arguments), tool)
    known = Facts(facts, "sha256:0") if facts is not None else None
    return DescriptionRules().assess(call, known)


def decide(folder: Path, policies: str, tool: Tool, arguments: Json, facts: Json | None = None) -> Decision:
    """Load the policies for this one tool and decide one call of it."""
    engine, call = load(folder, policies, tool), make_call(tool, arguments, facts)
    return Decision(Outcome.DENY, "", reasons=call.problems) if call.problems else engine.decide(call, {})
