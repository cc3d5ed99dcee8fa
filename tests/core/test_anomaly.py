"""Unusual behaviour is flagged, and ordinary runs are flagged no more often than the configured rate."""

import random
from statistics import mean

import pytest

from mcp_guard.core.anomaly import (
    START,
    Baseline,
    CallFeatures,
    DriftRule,
    Profile,
    call_features,
    learn_baseline,
    read_run,
    strangest,
    write_run,
)
from tests.core.provenance.test_history import EVIL, SEND, call
from tests.proof_size import sized

RULE = DriftRule(rate=0.05, runs=200)
NEXT = {
    START: ("find", "find", "find", "list"),
    "list": ("find", "find", "list"),
    "find": ("read", "read", "read", "update", "stop"),
    "read": ("update", "read", "note", "stop"),
    "update": ("note", "read", "stop"),
    "note": ("stop", "stop", "find"),
}


def ordinary(chance: random.Random) -> tuple[CallFeatures, ...]:
    """A run of an agent that does not change: a Markov chain, optional arguments, few and rare destinations."""
    run: list[CallFeatures] = []
    before = START
    while (tool := chance.choice(NEXT[before])) != "stop" or not run:
        if tool == "stop":
            continue
        names = ("id", "text") if chance.random() < 0.2 else ("id",)
        sinks = (f"to{int(chance.expovariate(0.5))}",) if tool == "note" else ()
        run.append(CallFeatures(tool, names, sinks))
        before = tool
    return tuple(run)


def usual(chance: random.Random, rule: DriftRule = RULE) -> Baseline:
    return learn_baseline(rule, [(f"run_{chance.random()}", ordinary(chance)) for _ in range(rule.runs)])


def is_flagged(known: Baseline, run: tuple[CallFeatures, ...]) -> bool:
    befores = (START, *(act.tool for act in run))
    return any(known.signal(before, act) for before, act in zip(befores, run, strict=False))


@pytest.mark.parametrize("rate", sized([0.02, 0.05, 0.2], [0.05]))
def test_ordinary_runs_are_flagged_no_more_often_than_the_rate(rate: float) -> None:
    """Over sixty agents, each with its own history; the seed is fixed."""
    chance = random.Random(20260101)
    rule = DriftRule(rate=rate, runs=400)
    results = []
    for _ in range(60):
        known = usual(chance, rule)
        assert known.is_warm
        results.append(mean(is_flagged(known, ordinary(chance)) for _ in range(100)))
    assert mean(results) <= rate
    assert mean(results) > rate / 20  # and it does flag something


def test_p_values_of_ordinary_runs_are_valid() -> None:
    """P(p <= a) <= a for every a, of each run's strangest call."""
    chance = random.Random(7)
    values = []
    for _ in range(40):
        known = usual(chance)
        values += [known.p_value(strangest(known.profile, ordinary(chance))) for _ in range(50)]
    for a in (0.01, 0.05, 0.1, 0.25, 0.5, 0.9):
        assert mean(value <= a for value in values) <= a + 0.01


STRANGE = {
    "a step that was never made": (CallFeatures("find", ("id",)), CallFeatures("purge", ("id",))),
    "an argument that was never given": (
        CallFeatures("find", ("id",)),
        CallFeatures("update", ("id", "owner", "iban", "role")),
    ),
    "a known tool at a strange time": (
        CallFeatures("note", ("id",), ("to0",)),
        CallFeatures("note", ("id",), ("to0",)),
    ),
}


@pytest.mark.parametrize("what", STRANGE)
def test_new_behaviour_is_flagged_and_explained(what: str) -> None:
    known = usual(random.Random(1))
    *_, before, act = STRANGE[what]
    signal = known.signal(before.tool, act)
    assert signal is not None
    assert signal.name == "unusual_for_agent"
    assert "earlier runs of this agent (p = 0.0" in signal.because
    assert f"`{act.tool}`" in signal.because


def test_new_destination_is_unusual_only_if_destinations_rarely_vary() -> None:
    few, many = Profile(), Profile()
    for n in range(100):
        few.learn([CallFeatures("send", ("to",), ("anna",))])
        many.learn([CallFeatures("send", ("to",), (f"customer {n}",))])
    new = CallFeatures("send", ("to",), ("mallory",))
    assert few.strangeness(START, new)[0] > few.strangeness(START, CallFeatures("send", ("to",), ("anna",)))[0] + 4
    assert many.strangeness(START, new)[0] < 1
    assert "to a new destination" in few.strangeness(START, new)[1]


def test_nothing_is_flagged_during_warm_up() -> None:
    rule = DriftRule(rate=0.05)
    assert rule.warm_up == 19
    known = Baseline(rule, Profile(), tuple(float(n) for n in range(18)))
    assert known.signal("find", CallFeatures("purge")) is None
    assert (
        Baseline(rule, Profile(), tuple(float(-n) for n in range(19, 0, -1))).signal("find", CallFeatures("purge"))
        is not None
    )


def test_run_stays_in_its_half_of_the_sample() -> None:
    runs = [(f"run_{n}", (CallFeatures("a"),)) for n in range(50)]
    first, more = (
        learn_baseline(RULE, runs),
        learn_baseline(RULE, [*runs, *((f"x{n}", (CallFeatures("b"),)) for n in range(50))]),
    )
    assert 10 < len(first.scores) < 40
    assert first.profile.calls["a"] + len(first.scores) == 50
    assert more.profile.calls["a"] == first.profile.calls["a"]


def test_call_features_contain_no_argument_values() -> None:
    act = call_features(call(SEND, to=EVIL, text="secret"), "salt")
    assert (act.tool, act.names, len(act.sinks)) == ("crm__send", ("text", "to"), 1)
    assert EVIL not in str(write_run([act]))
    assert act == call_features(call(SEND, to=EVIL.upper(), text="other"), "salt")
    assert act != call_features(call(SEND, to=EVIL, text="secret"), "another salt")
    assert read_run(write_run([act])) == (act,)


def test_p_value_counts_the_run_itself_and_ties() -> None:
    known = Baseline(RULE, Profile(), tuple(float(n) for n in range(1, 20)))
    assert [known.p_value(score) for score in (100.0, 19.0, 1.0, 0.0)] == [1 / 20, 2 / 20, 1.0, 1.0]
