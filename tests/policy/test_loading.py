"""Loading policies: every mistake is reported by file and policy before anything takes effect."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, FactsRule, Mode, Outcome, Redaction, ResourceRule, ToolRule
from mcp_guard.policy.engine import PolicyEnvironment, load_policies, rule_text
from mcp_guard.policy.files import digest_of_files
from mcp_guard.policy.source import read_files
from tests.policy.fixtures import PERMIT, load, make_call, make_tool, object_of

TOOL = make_tool(object_of(s={"type": "string"}))


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ("permit (principal, action, resource)", "test.cedar:1:37: unexpected end of the file; `;` is missing"),
        ("permit (principal, action, resource);", 'every policy needs an @id("…")'),
        (PERMIT + PERMIT, '@id("all") is already in test.cedar'),
        ('@id("g") @require_approval("people") permit (principal, action, resource);', "g: @require_approval belongs"),
        ('@id("g") @require_approval("") forbid (principal, action, resource);', "g: @require_approval names no route"),
        ('@id("g") @require_approval("cfo") forbid (principal, action, resource);', "g: route `cfo` is not in"),
        ('@id("t") permit (principal == ?principal, action, resource);', "templates are not supported"),
        ('@id("t") permit (principal, action == Action::"up__tol", resource);', "t: "),
        ('@id("t") permit (principal, action in Action::"server:upp", resource);', "t: "),
        ('@id("t") permit (principal, action, resource) when { context.inptu.s == "x" };', "t: "),
        ('@id("t") permit (principal, action, resource) when { principal.owner == 5 };', "t: "),
        ('@id("t") permit (principal, action, resource) when { context.rate.writes > 5 };', "t: "),
    ],
)
def test_mistake_is_named(tmp_path: Path, policies: str, expected: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, policies, TOOL)
    assert expected in caught.value.message
    assert caught.value.hint


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_text("permit (principal, action, resource);")
    (tmp_path / "b.cedar").write_text('@id("g") @require_approval("cfo") forbid (principal, action, resource);')
    with pytest.raises(PolicyError) as caught:
        load_policies(tmp_path, PolicyEnvironment((TOOL,)))
    assert "a.cedar:" in caught.value.message
    assert "b.cedar:1:" in caught.value.message


def test_a_folder_without_policies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no `\\*\\.cedar` file"):
        load_policies(tmp_path, PolicyEnvironment((TOOL,)))
    with pytest.raises(PolicyError, match="cannot read the policies"):
        load_policies(tmp_path / "none.cedar", PolicyEnvironment((TOOL,)))


@pytest.mark.parametrize(
    "scope",
    [
        'principal, action == Action::"gone__tool", resource',
        'principal, action in [Action::"gone__a", Action::"gone__b"], resource',
        'principal, action in Action::"server:gone", resource',
        'principal, action in Action::"read", resource',
        'principal, action in [Action::"destructive", Action::"gone__a"], resource',
        "principal, action, resource is Deal",
        'principal, action, resource == Deal::"7"',
    ],
)
def test_policy_for_an_unlisted_tool_is_dormant_and_harmless(tmp_path: Path, scope: str) -> None:
    """A dead upstream fails its own calls and nobody else's."""
    attributes = {"Deal": {"amount": "number"}}
    engine = load(tmp_path, f'{PERMIT} @id("later") forbid ({scope});', TOOL, attributes=attributes, absent=("gone",))
    assert engine.dormant == ("later",)
    assert engine.decide(make_call(TOOL, {}), {}).outcome is Outcome.ALLOW


def test_dormant_policy_applies_once_its_tools_are_listed(tmp_path: Path) -> None:
    policies = f'{PERMIT} @id("later") forbid (principal, action in Action::"read", resource is Deal);'
    attributes = {"Deal": {"amount": "number"}}
    reader = make_tool(object_of(id={"type": "string"}), "get", Effect.READ, ResourceRule("Deal", "/id"))
    assert load(tmp_path, policies, TOOL, attributes=attributes).dormant == ("later",)
    engine = load(tmp_path, policies, TOOL, reader, attributes=attributes)
    assert engine.dormant == ()
    assert engine.decide(make_call(reader, {"id": "1"}), {}).policies == ("later",)


def make_pipe(file: Path) -> None:
    os.mkfifo(file)


def make_dangling_link(file: Path) -> None:
    file.symlink_to(file.with_name("gone"))


@pytest.mark.parametrize("make", [make_pipe, make_dangling_link, Path.mkdir])
def test_what_is_named_as_a_policy_file_and_is_none_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "a.cedar").write_text(PERMIT)
    make(tmp_path / "z.cedar")
    with pytest.raises(PolicyError, match=re.escape(f"cannot read `{tmp_path / 'z.cedar'}`: ")):
        read_files(tmp_path)
    assert digest_of_files(tmp_path)


def test_a_link_to_a_policy_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(PERMIT)
    (tmp_path / "a.cedar").symlink_to(tmp_path / "real")
    assert read_files(tmp_path) == {"a.cedar": PERMIT}


def test_every_policy_is_dormant_without_tools(tmp_path: Path) -> None:
    assert load(tmp_path, PERMIT, absent=("gone",)).dormant == ("all",)


def test_the_version_names_everything_a_decision_depends_on(tmp_path: Path) -> None:
    base = load(tmp_path, PERMIT, TOOL).version
    assert load(tmp_path, PERMIT, TOOL).version == base
    other = make_tool(object_of(n={"type": "number"}), "other")
    assert load(tmp_path, PERMIT, TOOL, other).version == load(tmp_path, PERMIT, other, TOOL).version
    others = [
        load(tmp_path, PERMIT + "\n", TOOL),
        load(tmp_path, PERMIT, make_tool(object_of(s={"type": "integer"}))),
        load(tmp_path, PERMIT, make_tool(object_of(s={"type": "string"}), effect=Effect.DESTRUCTIVE)),
        load(tmp_path, PERMIT, TOOL, attributes={"Deal": {"a": "string"}}),
    ]
    assert len({base, *(engine.version for engine in others)}) == 5


def test_the_hashed_text_of_a_tools_configuration_never_changes() -> None:
    """Policy versions of earlier releases stay the same, so that an upgrade makes no pending approval stale."""
    rule = ToolRule(
        effect=Effect.WRITE,
        resource=ResourceRule("Deal", "/deal_id"),
        facts=FactsRule("crm__get", {"id": "/deal_id"}, "/deal", {"a": "b"}),
        ask=("ticket",),
        sensitive=("amount",),
        verb="updated deal",
        mode=Mode.OBSERVE,
        returns=("untrusted",),
        trusted=("/a/*",),
        sinks=("to",),
        redaction=Redaction(("/a",), ("/b",), ("/c",)),
    )
    assert rule_text(rule) == (
        "ToolRule(effect=<Effect.WRITE: 'write'>, resource=ResourceRule(type='Deal', id='/deal_id'), "
        "facts=FactsRule(tool='crm__get', arguments={'id': '/deal_id'}, result='/deal', fields={'a': 'b'}), "
        "ask=('ticket',), sensitive=('amount',), deed='updated deal', mode=<Mode.OBSERVE: 'observe'>, "
        "returns=('untrusted',), trusted=('/a/*',), sinks=('to',), "
        "redaction=Redaction(arguments=('/a',), facts=('/b',), result=('/c',)))"
    )
