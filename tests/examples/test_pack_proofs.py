"""What a shipped policy pack promises holds for every request, and no longer once the policy behind it is loosened."""

import json
from functools import cache
from pathlib import Path

import pytest

from examples.crm.server import listing
from mcp_guard.config import load
from mcp_guard.core.model import Tool
from mcp_guard.policy.engine import PolicyEnvironment, load_policies
from mcp_guard.policy.proofs.claims import Never, NeverMorePermissive
from mcp_guard.policy.proofs.prover import ProofVerdict, Prover, overall
from mcp_guard.policy.proofs.selection import select_calls
from mcp_guard.policy.source import Policy, read_files
from mcp_guard.policy_environments import policy_environment
from mcp_guard.upstream.catalog import make_tool
from tests.proof_size import sized

ROOT = Path(__file__).parent.parent.parent
PACKS = ROOT / "examples" / "packs"
PROMISES = [
    # pack, route without which no such call happens ("" for never), action, condition, text, and how it is loosened
    ("crm", "crm-approvers", "crm__update_deal",
     'context.change.fields.contains("stage") && context.input has stage && '
     '["Closed Won", "Closed Lost"].contains(context.input.stage)', '"Closed Won", "Closed Lost"', '"Closed Won"'),
    ("crm", "crm-approvers", "crm__refund", None,
     '"crm__refund", resource)', '"crm__refund", resource) when { false }'),
    ("crm", "", "server:crm", 'context.change.fields.containsAny(["billing_contact_email", "discount_rate"])',
     '["billing_contact_email", "discount_rate"]', '["discount_rate"]'),
    ("crm", "", "crm__delete_deal", None,
     'Action::"crm__refund"]', 'Action::"crm__refund", Action::"crm__delete_deal"]'),
    ("high-risk", "security-approvals", "write", "context.risk.score >= 60", '"high"', '"medium"'),
    ("access", "system-owners", "access__grant_access", 'context.input.role != "reader"', '== "reader"', 'like "rea*"'),
    ("access", "", "access__grant_access", "context.input.user == principal.owner",
     "context.input.user == principal.owner ||", "false ||"),
    ("refunds", "billing-leads", "billing__refund", 'context.input.amount.greaterThan(decimal("100.0"))',
     "100.0", "100.01"),
    ("refunds", "", "billing__refund", 'context.input.amount.lessThan(decimal("0.0"))',
     'context.input.amount.greaterThan(decimal("0.0"))', 'context.input.amount != decimal("0.0")'),
    ("incidents", "incident-commanders", "incidents__close_incident", "resource has severity && resource.severity <= 2",
     "resource.severity > 2", "resource.severity > 1"),
    ("merging", "maintainers", "forge__merge_pull_request", 'resource has base && resource.base == "main"',
     'resource.base like "agent/*"', 'resource.base like "*a*"'),
    ("merging", "", "forge__push_commits", 'context.input.branch == "main"',
     'branch like "agent/*"', 'branch like "*"'),
    ("production-config", "platform-oncall", "settings__set_setting", 'context.input.environment == "production"',
     '"test", "staging"', '"test", "production"'),
    ("production-config", "", "write", 'context.input.key like "auth*"', 'context.input.key like "auth*" ||', ""),
    ("git", "", "git__git_create_branch", '!(context.input.branch_name like "agent/*")', '"agent/*"', '"*/*"'),
    ("filesystem", "", "files__write_file", 'context.input.path like "*/../*"',
     'has path && context.input.path like "*..*"', 'has path && context.input.path like "*/.."'),
    ("general", "", "write", "!context.history.sinks.instructed.isEmpty()",
     "unless { context.history.sinks.instructed.isEmpty() }", "when { false }"),
    ("sequences", "", "desk__update_order", "!context.sequence.order_was_read",
     "unless { context.sequence.order_was_read }", "unless { true }"),
    ("sequences", "finance", "desk__refund", "context.sequence.refund_was_refused", "desk-leads,finance", "desk-leads"),
    ("coding-agent", "", "host__Bash", "context.input.force_push", "when { context.input.force_push }",
     "when { context.input.force_push && context.input.installs }"),
]  # fmt: skip


@cache
def environment(pack: str) -> PolicyEnvironment:
    """What the pack's server lists, without a process."""
    folder = ROOT / "examples" / "crm" if pack in ("crm", "high-risk") else PACKS
    settings = load(folder / f"{'config' if pack == 'crm' else pack}.toml")
    tools: list[Tool] = []
    for name, server in settings.upstreams.items():
        recorded = [PACKS / word for word in server.argv if word.startswith("listings/")]
        definitions = json.loads(recorded[0].read_text()) if recorded else listing()
        tools += [make_tool(name, definition, settings.tool_rules) for definition in definitions]
    return policy_environment(settings, tools, ())


@cache
def shipped(pack: str) -> tuple[dict[str, str], Prover]:
    path = ROOT / "policies" / pack
    engine = load_policies(path, environment(pack))
    return read_files(path), Prover(environment(pack).schema_for(engine.rules.policies.values()))


def policies_of(pack: str, texts: dict[str, str]) -> dict[str, Policy]:
    return dict(load_policies(ROOT / "policies" / pack, environment(pack), texts).rules.policies)


@pytest.mark.parametrize(
    ("pack", "route", "action", "condition", "text", "loosened"), PROMISES, ids=lambda part: str(part)[:24]
)
def test_promise_of_a_pack(pack: str, route: str, action: str, condition: str | None, text: str, loosened: str) -> None:
    texts, prover = shipped(pack)
    when, policies = select_calls(action, condition), policies_of(pack, texts)
    assert overall(prover.prove(Never(policies, when, route or None))) is ProofVerdict.PROVED
    assert prover.can_apply(when), "there are such calls"
    (file,) = [file for file, content in texts.items() if text in content]
    changed = policies_of(pack, {**texts, file: texts[file].replace(text, loosened)})
    assert overall(prover.prove(Never(changed, when, route or None))) is ProofVerdict.DISPROVED
    assert overall(prover.prove(NeverMorePermissive(changed, policies))) is ProofVerdict.DISPROVED


@pytest.mark.parametrize("pack", sized(sorted({pack for pack, *_ in PROMISES}), ["crm", "git"]))
def test_no_policy_of_a_pack_is_dead_or_equal_to_another(pack: str) -> None:
    texts, prover = shipped(pack)
    policies = policies_of(pack, texts)
    assert prover.find_dead(policies) == ([], {})
    assert prover.find_equal(policies) == []
    assert overall(prover.prove(NeverMorePermissive(policies, policies))) is ProofVerdict.PROVED
