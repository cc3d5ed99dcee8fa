"""Policies that read the time: what they see, when a call is decided, listed and replayed, and how cases set it."""

import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import cedarpy
import orjson
import pytest

from mcp_guard.cli.policy.inputs import settings_of_cases
from mcp_guard.config.file import check
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import NO_HISTORY, Json, Micros, Mode, Outcome, ToolCallRequest
from mcp_guard.core.times import micros
from mcp_guard.policy.authoring.cases import CaseSettings, read_cases, run_cases
from mcp_guard.policy.authoring.explain import explain
from mcp_guard.policy.authoring.past import decision, versions
from mcp_guard.policy.authoring.recorded import read_version
from mcp_guard.policy.authoring.replay import replay
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.policy.request import history_context
from tests.policy.fixtures import INSTANCE, PERMIT, load, make_call, make_tool, object_of
from tests.policy.strategies import policies_of
from tests.promises.harness import make_instance, open_harness

TOOL = make_tool(object_of(n={"type": "integer"}))
OFFICE_HOURS = """
@id("office-hours") @reason("writes wait for office hours")
forbid (principal, action, resource)
unless {
  ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"].contains(context.time.local.weekday) &&
  context.time.local.hour >= 9 && context.time.local.hour < 17
};
"""
FREEZE = """
@id("freeze") @reason("nothing changes over the holidays")
forbid (principal, action, resource)
when { context.time.local.date >= datetime("2026-12-24") && context.time.local.date <= datetime("2027-01-01") };
"""
BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN) -> Micros:
    return micros(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


def date(text: str) -> Json:
    return {"__extn": {"fn": "datetime", "arg": text}}


def engine_in(folder: Path, policies: str, zone: str = BERLIN) -> PolicyEngine:
    path = folder / "test.cedar"
    path.write_text(policies)
    return load_policies(path, PolicyEnvironment((TOOL,), time_zone=zone))


@pytest.mark.parametrize(
    ("moment", "outcome"),
    [
        ("2026-11-27T09:00", "allow"),
        ("2026-11-27T16:59:59", "allow"),
        ("2026-11-27T08:59:59", "deny"),
        ("2026-11-27T17:00", "deny"),
        ("2026-11-28T12:00", "deny"),
        ("2026-07-31T09:00", "allow"),
    ],
)
def test_writes_are_allowed_in_office_hours_only(tmp_path: Path, moment: str, outcome: str) -> None:
    decided = engine_in(tmp_path, PERMIT + OFFICE_HOURS).decide(make_call(TOOL, {}), {}, at(moment))
    assert decided.outcome == outcome
    assert decided.policies == (("all",) if outcome == "allow" else ("office-hours",))


def test_a_change_freeze_is_a_comparison_of_dates(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, PERMIT + FREEZE)
    days = ("2026-12-23T23:59", "2026-12-24T00:00", "2027-01-01T23:59", "2027-01-02T00:00")
    outcomes = [engine.decide(make_call(TOOL, {}), {}, at(day)).outcome for day in days]
    assert outcomes == ["allow", "deny", "deny", "allow"]


def test_local_time_and_utc_are_both_there(tmp_path: Path) -> None:
    whole = 'forbid (principal, action, resource) when { context.time.now < datetime("1970-01-02") };'
    engine = engine_in(tmp_path, PERMIT + f'@id("now") {whole}')
    decided = engine.decide(make_call(TOOL, {}), {}, at("2026-07-01T01:30:05") + 999_999)
    assert orjson.loads(decided.material)["request"]["context"]["time"] == {
        "now": date("2026-06-30T23:30:05Z"),
        "utc": {"date": date("2026-06-30"), "weekday": "Tuesday", "hour": 23, "minute": 30},
        "local": {"date": date("2026-07-01"), "weekday": "Wednesday", "hour": 1, "minute": 30},
    }
    assert (decided.decided_at, decided.time_zone) == ("2026-06-30T23:30:05Z", BERLIN)
    request = {
        "principal": {"type": "AgentInstance", "id": INSTANCE.id},
        "action": {"type": "Action", "id": TOOL.listed_as},
        "resource": {"type": "Tool", "id": TOOL.listed_as},
        "context": orjson.loads(decided.material)["request"]["context"] | {"history": history_context(NO_HISTORY)},
    }
    entities = json.dumps(orjson.loads(decided.material)["entities"])
    checked = cedarpy.is_authorized(request, PERMIT, entities, engine.schema())
    assert checked.allowed, checked.diagnostics.errors


def test_the_same_moment_gives_the_same_decision_and_an_unknown_one_denies(tmp_path: Path) -> None:
    engine, call = engine_in(tmp_path, PERMIT + OFFICE_HOURS), make_call(TOOL, {})
    moment = at("2026-11-27T10:00")
    assert engine.decide(call, {}, moment) == engine.decide(call, {}, moment)
    unknown = engine.decide(call, {})
    assert unknown.outcome is Outcome.DENY
    assert "the time of the call is not known" in unknown.reasons[0]


def test_a_tool_is_listed_whatever_the_hour(tmp_path: Path) -> None:
    """P5: some call of it could be allowed, if not now."""
    assert engine_in(tmp_path, PERMIT + OFFICE_HOURS).may_call(INSTANCE, TOOL)
    never = PERMIT + '@id("never") forbid (principal, action, resource);' + OFFICE_HOURS
    assert not engine_in(tmp_path, never).may_call(INSTANCE, TOOL)


def test_policies_without_time_cost_and_change_nothing(tmp_path: Path) -> None:
    """Neither the version, which would make approvals stale after an upgrade, nor what is recorded."""
    argument = make_tool(object_of(time={"type": "string"}))
    reads_argument = PERMIT + '@id("a") forbid (principal, action, resource) when { context.input has time };'
    engine = load(tmp_path, reads_argument, argument)
    decided = engine.decide(make_call(argument, {"time": "now"}), {}, at("2026-11-27T10:00"))
    assert decided.policies == ("a",)
    assert "time" not in orjson.loads(decided.material)["request"]["context"]
    assert (decided.decided_at, decided.time_zone) == ("", "")
    assert engine_in(tmp_path, PERMIT, BERLIN).version == engine_in(tmp_path, PERMIT, "UTC").version
    timed = PERMIT + OFFICE_HOURS
    assert engine_in(tmp_path, timed, BERLIN).version != engine_in(tmp_path, timed, "UTC").version


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ('context.time.local.weekday == "sunday"', "did you mean `Sunday`?"),
        ('["Saturday", "Sunnday"].contains(context.time.utc.weekday)', "did you mean `Sunday`?"),
        ('context.time.local.weekday != "6"', "weekdays are Monday, "),
        ("context has tme", "did you mean `time`?"),
        ("context.time.local has day", "did you mean `weekday`?"),
    ],
)
def test_what_no_call_can_have_is_refused_with_the_nearest_name(tmp_path: Path, condition: str, says: str) -> None:
    with pytest.raises(PolicyError) as refused:
        engine_in(tmp_path, PERMIT + f'@id("w") forbid (principal, action, resource) when {{ {condition} }};')
    assert says in refused.value.message


async def test_a_decision_is_replayed_from_its_receipt_with_the_time_it_was_made_at(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, PERMIT)
    harness.clock.time = at("2026-09-21T20:00", "UTC")
    note = ToolCallRequest("crm__note", {"text": "x"})
    await harness.guard.call(make_instance(expires=2**60), note)
    harness.load(PERMIT + OFFICE_HOURS)
    harness.clock.time = at("2026-09-22T10:00", "UTC")
    await harness.guard.call(make_instance(expires=2**60), note)
    harness.clock.time = at("2026-09-22T18:00", "UTC")
    await harness.guard.call(make_instance(expires=2**60), note)
    harness.policies.mode = Mode.OBSERVE
    await harness.guard.call(make_instance(expires=2**60), note)
    made = [receipt for receipt in harness.receipts() if receipt["kind"] in ("decision", "intent")]
    assert [(receipt["outcome"], receipt.get("decided_at"), receipt.get("time_zone")) for receipt in made] == [
        ("allow", None, None),
        ("allow", "2026-09-22T10:00:00Z", "UTC"),
        ("deny", "2026-09-22T18:00:00Z", "UTC"),
        ("allow", "2026-09-22T18:00:00Z", "UTC"),
    ]
    recorded = [past for receipt in made if (past := decision(harness.store, receipt["seq"]))]
    assert len(recorded) == 4
    same = replay(recorded[1:], versions(harness.store), policies_of(PERMIT + OFFICE_HOURS))
    assert (same.differences, same.unlike) == ([], [])
    early = replay(recorded[:1], versions(harness.store), policies_of(PERMIT + OFFICE_HOURS))
    assert [(item.was.outcome, item.would.outcome) for item in early.differences] == [("allow", "deny")], (
        "tried at the time of its receipt"
    )
    harness.close()


def test_explain_finds_the_nearest_day_that_is_free(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, PERMIT + FREEZE)
    decided = engine.decide(make_call(TOOL, {}), {}, at("2026-12-26T10:00"))
    version = read_version(engine.version, engine.material())
    explained = [change.what for change in explain(version, orjson.loads(decided.material)).request]
    assert "context.time.local.date 2026-12-23 instead of 2026-12-26" in explained


@pytest.mark.parametrize("literal", ["0001-01-01", "9999-12-31T23:59:59Z", "2026-12-24T00:00:00+0100"])
def test_explain_tries_no_time_that_does_not_exist(tmp_path: Path, literal: str) -> None:
    late = f'@id("l") forbid (principal, action, resource) when {{ context.time.now != datetime("{literal}") }};'
    engine = engine_in(tmp_path, PERMIT + late)
    decided = engine.decide(make_call(TOOL, {}), {}, at("2026-12-26T10:00"))
    explained = explain(read_version(engine.version, engine.material()), orjson.loads(decided.material))
    assert any(change.ruling.outcome is Outcome.ALLOW for change in explained.request)


CASES = """
[defaults]
tool = "up__tool"
[[case]]
name = "saturday night"
time = "2026-11-28T23:00:00Z"
outcome = "deny"
[[case]]
name = "nine o'clock here"
time = 2026-11-27T09:00:00
outcome = "allow"
[[case]]
name = "the same moment"
time = 2026-11-27T08:00:00Z
outcome = "allow"
[[case]]
name = "on call at night"
time = "2026-11-27T08:00:00Z"
signals = ["on_call"]
outcome = "deny"
policies = ["on-call"]
"""
ON_CALL = '@id("on-call") forbid (principal, action, resource) when { context.risk.signals.contains("on_call") };'
SETTINGS = CaseSettings(time_zone=BERLIN, signals={"on_call": 25, "on_call_unknown": 5})


def differences(folder: Path, cases: str) -> list[str]:
    (folder / "test.cases.toml").write_text(cases)
    engine = engine_in(folder, PERMIT + OFFICE_HOURS + ON_CALL)
    results = run_cases(engine, {TOOL.listed_as: TOOL}, read_cases(folder), SETTINGS)
    return ["; ".join(result.differences) for result in results]


def test_cases_set_the_time_and_signals(tmp_path: Path) -> None:
    assert differences(tmp_path, CASES) == [""] * 4


def test_cases_know_the_zone_and_the_signals_of_the_configuration(tmp_path: Path) -> None:
    signal = '[risk.signals.on_call]\ncommand = ["x"]\nweight = 25\nunknown_weight = 5\n[risk.drift]\nweight = 30\n'
    text = f'[guard]\npolicies = "p"\ntime_zone = "{BERLIN}"\n[upstreams.up]\ncommand = "x"\n{signal}'
    known = settings_of_cases(check(text, tmp_path / "mcp-guard.toml"))
    assert (known.time_zone, known.signals) == (BERLIN, {**SETTINGS.signals, "unusual_for_agent": 30})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "give the case a `time`, or all of them in [defaults]"),
        ('time = "tomorrow"', "`time = 'tomorrow'` is not a time such as \"2026-11-28T23:00:00Z\""),
        ("time = 8", "`time = 8` is not a time such as"),
        ('time = "2026-11-27T08:00:00Z"\nsignals = ["on_cal"]', "no signal `on_cal` is configured in [risk.signals]"),
        ('time = "2026-11-27T08:00:00Z"\nsignals = ["on_cal"]', "did you mean `on_call`?"),
        ('time = "2026-11-27T08:00:00Z"\nsignals = ["blind_write"]', "`blind_write` follows from the call"),
    ],
)
def test_a_case_with_a_bad_time_or_signal_says_what_to_write(tmp_path: Path, line: str, says: str) -> None:
    (made,) = differences(tmp_path, f'[[case]]\ntool = "up__tool"\noutcome = "allow"\n{line}\n')
    assert says in made
