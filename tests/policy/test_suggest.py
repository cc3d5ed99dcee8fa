"""Suggestions cover what people always allowed and no more: they validate, and replay confirms it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.cli.policy.newly_permitted import find_newly_permitted
from mcp_guard.cli.policy.suggest import CASES, cases, check_free, failures, refused, with_effects, write
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, Json, Mode, Outcome, ToolCallRequest, ToolRule
from mcp_guard.core.receipt import Draft
from mcp_guard.policy.authoring.cases import read_cases, run_cases
from mcp_guard.policy.authoring.generalize import FreeText, bound, bounded_parts, is_prose
from mcp_guard.policy.authoring.past import decisions, latest_version, versions
from mcp_guard.policy.authoring.recorded import PolicyVersion
from mcp_guard.policy.authoring.suggest import (
    Candidate,
    Knowledge,
    _ask_about_text,
    build_candidate,
    suggest,
    with_exception,
)
from mcp_guard.policy.engine import PolicyEngine, load_policies
from mcp_guard.policy.source import parse_texts
from tests.policy.test_history_in_policies import EVIL, ask, open_web
from tests.promises.harness import Harness, make_instance, make_world, open_harness, pending_id
from tests.proof_size import sized

PERMIT = '@id("work") permit (principal in Group::"workers", action, resource);\n'
HOLD = (
    '// people look at writes\n@id("gate") @require_approval("people") @reason("a; \\"write\\"") // why; really\n'
    'forbid (principal, action in Action::"write", resource);\n'
)


def recorded_guard(folder: Path, policies: str, mode: Mode = Mode.ENFORCE) -> Harness:
    harness = open_harness(folder, policies)
    harness.policies.mode = mode
    record_policies(harness, policies)
    return harness


def record_policies(harness: Harness, policies: str) -> None:
    engine = harness.load(policies)
    loaded = Draft("policy.loaded", {"policy_version": engine.version})
    harness.note(loaded, policy=(engine.version, engine.material))


async def call(harness: Harness, arguments: Json, name: str = "crm__update_deal") -> Json:
    reply: Json = await harness.guard.call(make_instance(), ToolCallRequest(name, arguments))
    return reply


async def approved(harness: Harness, arguments: Json, name: str = "crm__update_deal", verdict: str = "approve") -> None:
    reply = await call(harness, arguments, name)
    if "held by" in str(reply):
        harness.approve(pending_id(reply), verdict=verdict)
        await call(harness, arguments, name)


def suggested(harness: Harness, policies: str, **terms: Any) -> Candidate:
    return build_candidate(
        list(decisions(harness.store)),
        latest_version(harness.store),
        versions(harness.store),
        texts={"policies.cedar": policies},
        routes=("people",),
        permits_file="suggested.cedar",
        known=Knowledge(refused(harness.store), failures(harness.store), **terms),
    )


def loaded(harness: Harness, made: Candidate, folder: Path) -> PolicyEngine:
    write(folder, made, cases(harness.store, made))
    return load_policies(folder, make_world(harness.upstream.catalog))


async def test_always_approved_calls_get_an_exception(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, PERMIT + HOLD)
    for amount in (110, 120, 150):
        await approved(harness, {"deal_id": "1", "amount": amount})
    made = suggested(harness, PERMIT + HOLD)
    text = made.texts["policies.cedar"]
    assert text.startswith(PERMIT + HOLD.rstrip(";\n"))
    assert "// from 3 calls of crm__update_deal by agent, " in text
    assert 'context.input.amount.greaterThanOrEqual(decimal("110.0")) &&\n' in text
    assert 'context.input.deal_id == "1"' in text
    assert "!(context.input has stage)" in text
    assert made.replay.never_more_permissive is False
    permitted = find_newly_permitted(made, {"policies.cedar": PERMIT + HOLD}, latest_version(harness.store).schema)
    assert permitted.nothing_else == "proved"
    (example,) = permitted.examples
    assert (example.tool, example.verdict) == ("crm__update_deal", "disproved")
    assert "context.input.amount = 1" in " ".join(permitted.lines())
    engine = loaded(harness, made, tmp_path / "out")
    tools = harness.upstream.catalog
    results = run_cases(engine, tools, read_cases(tmp_path / "out" / CASES))
    assert [result.differences for result in results] == [()] * 3
    harness.load(PERMIT + HOLD)
    harness.policies.replace(engine)
    assert "isError" not in (await call(harness, {"deal_id": "1", "amount": 130}))["result"]
    for beyond in ({"deal_id": "1", "amount": 151}, {"deal_id": "2", "amount": 130}, {"deal_id": "1", "stage": "won"}):
        assert "held by" in (await call(harness, beyond))["result"]["content"][0]["text"], beyond
    harness.close()


async def test_exception_is_bounded_by_where_values_came_from(tmp_path: Path) -> None:
    held = HOLD.replace(";\n", " when { !context.history.sinks.from_untrusted.isEmpty() };\n")
    harness = open_web(tmp_path, {"crm__web": f"{EVIL} has a shop at www.shop.example"}, PERMIT + held)
    record_policies(harness, PERMIT + held)
    await ask(harness, "web", url="www.news.example")
    for number in range(3):
        reply = await ask(harness, "send", to=EVIL, text=f"offer {number}")
        harness.approve(pending_id(reply))
        await ask(harness, "send", to=EVIL, text=f"offer {number}")
    made = suggested(harness, PERMIT + held, free=("text",), labels=True)
    assert '["to"].containsAll(context.history.sinks.from_untrusted)' in made.texts["policies.cedar"]
    harness.policies.replace(loaded(harness, made, tmp_path / "out"))
    assert "isError" not in (await ask(harness, "send", to=EVIL, text="another offer"))["result"]
    assert pending_id(await ask(harness, "send", to=EVIL, text="see www.shop.example"))
    harness.close()


async def test_each_version_is_parsed_once_and_not_for_each_decision(tmp_path: Path) -> None:
    harness, asked = recorded_guard(tmp_path, PERMIT + HOLD), list[str]()
    for amount in (110, 120, 150):
        await approved(harness, {"deal_id": "1", "amount": amount})

    def find(version: str) -> PolicyVersion | None:
        asked.append(version)
        return versions(harness.store)(version)

    recorded, latest = list(decisions(harness.store)), latest_version(harness.store)
    known = Knowledge(refused(harness.store))
    build_candidate(
        recorded,
        latest,
        find,
        texts={"a.cedar": PERMIT + HOLD},
        routes=("people",),
        permits_file="b.cedar",
        known=known,
    )
    assert (len(recorded), len(asked)) == (6, 1)
    harness.close()


async def test_one_denial_excludes_the_group(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, PERMIT + HOLD)
    for amount in (110, 120, 150):
        await approved(harness, {"deal_id": "1", "amount": amount})
    await approved(harness, {"deal_id": "1", "amount": 99999}, verdict="deny")
    made = suggested(harness, PERMIT + HOLD)
    assert made.suggestions.suggested == []
    assert [why.partition(" (")[0] for why in made.suggestions.skipped.values()] == ["Alice denied such a call"]
    harness.close()


async def test_calls_nobody_decided_are_not_permitted(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, PERMIT + HOLD)
    for amount in (110, 150, 120):
        await approved(harness, {"deal_id": "1", "amount": amount})
    await call(harness, {"deal_id": "1", "amount": 130})
    made = suggested(harness, PERMIT + HOLD)
    assert made.suggestions.suggested == []
    assert all("it would also permit receipt" in why for why in made.suggestions.skipped.values())
    assert made.texts["policies.cedar"] == PERMIT + HOLD
    harness.close()


async def test_too_few_or_too_different_calls_suggest_nothing(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, PERMIT + HOLD)
    await approved(harness, {"deal_id": "1", "stage": "a"})
    assert "too few" in next(iter(suggested(harness, PERMIT + HOLD).suggestions.skipped.values()))
    for number in range(21):
        await approved(harness, {"deal_id": "1", "stage": f"stage {number}"})
    [question] = suggested(harness, PERMIT + HOLD).suggestions.questions
    assert question.text == "may `stage` be any text? it had 22 different values"
    assert question.if_so == "mcp-guard policy suggest --free crm__update_deal.stage"
    for free in ("stage", "crm__update_deal.stage"):
        freed = suggested(harness, PERMIT + HOLD, free=(free,))
        assert "// stage: not restricted" in freed.texts["policies.cedar"]
    assert suggested(harness, PERMIT + HOLD, free=("crm__note.stage",)).suggestions.suggested == []
    called = list(decisions(harness.store))
    check_free({"stage", "crm__update_deal.deal_id"}, called)
    for misspelt, meant in (("stgae", "stage"), ("crm__update_deal.stgae", "crm__update_deal.stage")):
        with pytest.raises(PolicyError, match=f"no recorded call has an argument `{misspelt}`") as refusal:
            check_free({misspelt}, called)
        assert refusal.value.hint == f"did you mean `{meant}`?"
    harness.close()


async def test_one_text_is_never_exempted(tmp_path: Path) -> None:
    """Three commits with a message each say nothing of the fourth one's, and a permit for the three would be noise."""
    harness = recorded_guard(tmp_path, PERMIT + HOLD)
    for text in ("Say hello", "wip", "wip"):
        await approved(harness, {"text": text}, "crm__note")
    made = suggested(harness, PERMIT + HOLD)
    assert made.suggestions.suggested == []
    assert [question.text.partition("?")[0] for question in made.suggestions.questions] == ["may `text` be any text"]
    assert "Say hello" not in "".join(made.texts.values())
    harness.close()


async def test_a_call_that_failed_is_no_basis(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, PERMIT + HOLD, Mode.OBSERVE)
    for is_unreachable in (True, False, False, False):
        harness.upstream.is_unreachable = is_unreachable
        await call(harness, {"text": "a"}, "crm__note")
    made = suggested(harness, PERMIT + HOLD, free=("text",))
    [suggestion] = made.suggestions.suggested
    _, *others = (receipt["seq"] for receipt in harness.receipts("intent"))
    assert [decision.receipt["seq"] for decision in suggestion.basis] == others
    assert made.suggestions.failed == 1
    assert suggested(harness, PERMIT + HOLD, free=("text",), min_calls=4).suggestions.suggested == []
    harness.close()


async def test_a_tool_that_is_gone_gets_no_suggestion(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, PERMIT + HOLD, Mode.OBSERVE)
    for _ in range(3):
        await call(harness, {"text": "a"}, "crm__note")
    latest = latest_version(harness.store)
    del latest.schema[""]["actions"]["crm__note"]
    found = suggest(
        decisions(harness.store), PolicyVersion("later", latest.rules.policies, latest.schema), Knowledge({})
    )
    assert list(found.skipped.values()) == ["it is not listed any more"]
    harness.close()


async def test_a_tool_that_its_server_calls_read_only_is_a_question(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, PERMIT + HOLD, Mode.OBSERVE)
    for _ in range(3):
        await call(harness, {"deal_id": "1"})
    made = suggested(harness, PERMIT + HOLD, read_only=("crm__update_deal",))
    assert made.suggestions.suggested == []
    [question] = made.suggestions.questions
    assert (question.calls, question.if_so) == (3, "mcp-guard tools effects")
    now = '@id("open") permit (principal, action, resource);'
    assert suggested(harness, now).suggestions.suggested == [], "the policies as they are now allow it anyway"
    harness.close()


async def test_effects_that_were_confirmed_since_answer_for_earlier_calls(tmp_path: Path) -> None:
    reads = '@id("reads") permit (principal in Group::"workers", action in Action::"read", resource);\n'
    harness = recorded_guard(tmp_path, PERMIT + HOLD, Mode.OBSERVE)
    for _ in range(3):
        await call(harness, {"text": "a"}, "crm__note")
    policies = {"policies.cedar": reads + HOLD}
    for rule, suggestions in ((ToolRule(), 1), (ToolRule(effect=Effect.READ), 0)):
        latest = with_effects(latest_version(harness.store), {"crm__note": rule})
        called = list(decisions(harness.store))
        decided = latest.under(parse_texts(policies, None)[0].policies)
        found = suggest(called, decided, Knowledge({}, free=("text",)), ())
        assert len(found.suggested) == suggestions
    harness.close()


@pytest.mark.parametrize(
    ("path", "shown", "free"),
    [
        ("context.input.message", "message", "t.message"),
        ("context.input.filter.text", "filter.text", "t.filter"),
        ('context.input["odd name"].text', '["odd name"].text', "'t.odd name'"),
        ("resource.note", "resource.note", "t.note"),
    ],
)
def test_a_question_names_the_option_that_answers_it(path: str, shown: str, free: str) -> None:
    question = _ask_about_text(("agent", "t", "Tool"), 3, FreeText(path, 3))
    assert question.text == f"may `{shown}` be any text? it had 3 different values"
    assert question.if_so == f"mcp-guard policy suggest --free {free}"


SITES = [f"https://{number}.example/x" for number in range(3)]


@pytest.mark.parametrize(
    ("uris", "paths", "free", "asked"),
    [
        (["mem://a"] * 3, ["x y"] * 3, (), []),  # what bounds the URI bounds its parts
        (SITES, ["/a/b/1.txt", "/a/b/2.txt", "/a/b/3.txt"], (), ["uri", "query"]),
        (SITES, ["x", "y", "z"], ("uri",), ["resource.path", "query"]),
        (SITES, ["x", "y", "z"], ("uri", "path", "query"), []),
    ],
)
def test_what_is_open_about_a_uri_is_one_question(
    uris: list[str], paths: list[str], free: tuple[str, ...], asked: list[str]
) -> None:
    parts = [{"path": path, "query": f"?{number}"} for number, path in enumerate(paths)]
    kind: Json = {"attributes": {name: {"type": "String"} for name in ("path", "query")}}
    inputs = [{"uri": uri} for uri in uris]
    if asked:
        with pytest.raises(FreeText) as text:
            bounded_parts(inputs, parts, kind, free)
        assert [text.value.path.removeprefix("context.input."), *text.value.also] == asked
    else:
        assert bounded_parts(inputs, parts, kind, free)["attributes"].keys() == set(free) - {"uri"}


@pytest.mark.parametrize(
    ("name", "is_text"),
    [("message", True), ("commit_message", True), ("newText", True), ("SQL", True), ("textual", False), ("id", False)],
)
def test_an_argument_that_is_named_as_text_is_text(name: str, is_text: bool) -> None:
    assert is_prose(f"context.input.{name}") is is_text
    assert not is_prose(f"resource.{name}")


@pytest.mark.parametrize(
    ("values", "condition"),
    [
        (["/w/a/x.md", "/w/a/y/z.md"], 'at like "/w/a/*.md" && !(at like "*..*") && !(at like "*/.*")'),
        (
            ["/w/.a/b/x.md", "/w/.a/b/y/z.md"],
            'at like "/w/.a/b/*.md" && !(at like "*..*") && !(at like "/w/.a/b*/.*")',
        ),
        (
            ["/w/a/x.md", "/w/a/t.tar.gz", "/w/a/.gitignore", "/w/a/y/.env", "/w/a/Makefile", "/w/a/.d/x.md"],
            '((at like "/w/a/*.gz" || at like "/w/a/*.md") && !(at like "*..*") && !(at like "*/.*") ||'
            ' ["/w/a/.d/x.md", "/w/a/.gitignore", "/w/a/Makefile", "/w/a/y/.env"].contains(at))',
        ),
        (["/w/a/x", "/w/a/y/z"], None),
        (["/w/a/x.git", "/w/a/y.git"], None),
        (["file://localhost/w/x.md", "file://localhost/w/y.md"], None),
        (["/w/a/.x.md", "/w/a/.y.md"], None),
        (
            ["https://h.example/a", "https://h.example/b"],
            'at like "https://h.example/*" && !(at like "*..*") && !(at like "*%*")',
        ),
        (["https://h.example/v1/a", "https://h.example/v1/%2e%2e/b"], None),
        (["/w/a/x", "/w/a/../../etc/passwd"], None),
        (["/etc/hosts", "/opt/x"], None),
        (["/etc/hosts", "/etc/passwd"], None),
        (["/w/a b/x", "/w/a b/y"], None),
        (["/w/*/x", "/w/*/y"], None),
        (["https://h.example.com/a", "https://h.example.org/a"], None),
        (["main", "main"], 'at == "main"'),
        (["a", "b", "b", "a"], '["a", "b"].contains(at)'),
        (["a", "b", "b"], None),
        (["one word", "one word"], None),
        (["x" * 201] * 3, None),
        ([str(n % 21) for n in range(63)], None),
    ],
)
def test_a_text_is_bounded_by_names_that_repeat_or_by_a_folder(values: list[str], condition: str | None) -> None:
    try:
        bounded = bound("at", values)
        assert bounded is not None
        assert bounded.text == condition
    except FreeText:
        assert condition is None


async def test_observed_calls_get_a_permit(tmp_path: Path) -> None:
    policies = '@id("read") permit (principal in Group::"workers", action in Action::"read", resource);\n'
    harness = recorded_guard(tmp_path, policies, Mode.OBSERVE)
    for stage in ("a", "b", "ü", "ü", "b", "a"):
        await call(harness, {"deal_id": "1", "stage": stage})
    made = suggested(harness, policies)
    assert made.suggestions.suggested[0].gates == ()
    engine = loaded(harness, made, tmp_path / "out")
    results = run_cases(engine, harness.upstream.catalog, read_cases(tmp_path / "out" / CASES))
    assert [result.differences for result in results] == [()] * 6
    harness.policies.mode = Mode.ENFORCE
    harness.policies.replace(engine)
    assert "isError" not in (await call(harness, {"deal_id": "1", "stage": "b"}))["result"]
    assert "denied by" in (await call(harness, {"deal_id": "1", "stage": "c"}))["result"]["content"][0]["text"]
    harness.close()


async def test_forbidden_calls_get_no_suggestion(tmp_path: Path) -> None:
    policies = PERMIT + '@id("never") forbid (principal, action in Action::"write", resource);'
    harness = recorded_guard(tmp_path, policies, Mode.OBSERVE)
    for text in ("a", "b", "c"):
        await call(harness, {"text": text}, "crm__note")
    assert "`never` forbids it" in next(iter(suggested(harness, policies).suggestions.skipped.values()))
    harness.close()


ARGUMENTS = st.fixed_dictionaries(
    {"deal_id": st.sampled_from(["1", "2"])},
    optional={"amount": st.sampled_from([0.5, 1, 100, 250.25]), "stage": st.sampled_from(["open", 'w"on', "ünï\\"])},
)


@settings(max_examples=sized(15, 8), deadline=None)
@given(st.lists(ARGUMENTS, min_size=1, max_size=6), st.lists(ARGUMENTS, max_size=3))
async def test_suggestion_allows_no_more_than_was_allowed(let: list[Json], held: list[Json]) -> None:
    """For any approved calls and any undecided calls beside them."""
    with tempfile.TemporaryDirectory() as folder:
        harness = recorded_guard(Path(folder), PERMIT + HOLD)
        for arguments in let:
            if "held by" in str(reply := await call(harness, arguments)):
                harness.approve(pending_id(reply))
                await call(harness, arguments)
        for arguments in held:
            await call(harness, arguments)
        made = suggested(harness, PERMIT + HOLD, min_calls=1)
        requests = {json.dumps(item, sort_keys=True) for item in let}
        for difference in made.replay.differences:
            assert difference.was.outcome is Outcome.REQUIRE_APPROVAL
            asked = json.loads(harness.store.payloads(difference.receipt["seq"])["request"])["arguments"]
            assert json.dumps(asked, sort_keys=True) in {
                json.dumps(json.loads(request), sort_keys=True) for request in requests
            }
        harness.close()


@pytest.mark.parametrize("before", ["", '@id("a") permit (principal, action, resource);\n'])
def test_exception_is_inserted_despite_strings_and_comments(before: str) -> None:
    text = before + HOLD + '@id("z") permit (principal, action, resource);'
    written = with_exception(text, "gate", "  true")
    assert written.replace("\nunless\n{\n  true\n}", "") == text
    assert "resource)\nunless\n{\n  true\n};" in written
