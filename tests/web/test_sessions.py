"""Sessions and challenges: they end, they are few, and one belongs to nobody else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.errors import ApprovalError
from mcp_guard.storage.engines import find_engine
from mcp_guard.web.passkeys import CLOCK_SKEW, SignInChallenges, challenges_of_process
from mcp_guard.web.sessions import (
    CHALLENGE_LIFETIME,
    ENROLMENT_LIFETIME,
    IDLE_LIFETIME,
    LIFETIME,
    MAX_CHALLENGES,
    MAX_SESSIONS,
    BrowserSessions,
)

NOW = 1_800_000_000_000_000


def test_session_ends_when_idle_and_in_any_case_after_a_working_day() -> None:
    sessions = BrowserSessions()
    token = sessions.open("alice", NOW)
    now = NOW
    while now + IDLE_LIFETIME <= NOW + LIFETIME:
        now += IDLE_LIFETIME
        assert sessions.find_session(token, now) is not None
    assert sessions.find_session(token, NOW + LIFETIME + 1) is None
    other = sessions.open("alice", NOW)
    assert sessions.find_session(other, NOW + IDLE_LIFETIME + 1) is None
    assert sessions.find_session("", NOW) is None
    assert sessions.find_session("\udc80", NOW) is None


def test_approver_has_few_sessions_and_takes_none_of_another() -> None:
    sessions = BrowserSessions()
    bob = sessions.open("bob", NOW)
    tokens = [sessions.open("alice", NOW + number) for number in range(MAX_SESSIONS)]
    assert sessions.find_session(tokens[0], NOW + MAX_SESSIONS) is not None  # used last, so it stays
    sessions.open("alice", NOW + MAX_SESSIONS)
    alive = [sessions.find_session(token, NOW + MAX_SESSIONS) is not None for token in tokens]
    assert alive == [True, False, *[True] * (MAX_SESSIONS - 2)]
    assert sessions.find_session(bob, NOW + MAX_SESSIONS) is not None


def test_code_authorizes_an_enrolment_for_a_short_time() -> None:
    sessions = BrowserSessions()
    session = sessions.find_session(sessions.open("alice", NOW, code="sign_in_code"), NOW)
    assert session is not None
    assert session.enrolment_code(NOW + ENROLMENT_LIFETIME) == "sign_in_code"
    assert session.enrolment_code(NOW + ENROLMENT_LIFETIME + 1) is None


def test_challenge_is_answered_once_in_time_and_for_its_purpose() -> None:
    sessions = BrowserSessions()
    session = sessions.find_session(sessions.open("alice", NOW), NOW)
    assert session is not None
    for challenge in (b"a", b"b", b"c"):
        session.add_challenge(challenge, NOW, "decide", challenge)
    assert session.take_challenge(b"a", NOW + CHALLENGE_LIFETIME, "decide") == b"a"
    for challenge, at, purpose in (
        (b"a", NOW, "decide"), (b"b", NOW, "vouch"), (b"c", NOW + CHALLENGE_LIFETIME + 1, "decide"), (b"x", NOW, ""),
    ):  # fmt: skip
        with pytest.raises(ApprovalError):
            session.take_challenge(challenge, at, purpose)
    for number in range(MAX_CHALLENGES + 1):
        session.add_challenge(bytes([number]), NOW, "decide", None)
    with pytest.raises(ApprovalError):
        session.take_challenge(b"\0", NOW, "decide")
    session.take_challenge(bytes([MAX_CHALLENGES]), NOW, "decide")


async def test_a_challenge_is_accepted_by_any_inbox_of_the_ledger_until_it_was_answered(tmp_path: Path) -> None:
    proofs = [find_engine(tmp_path / "ledger.sqlite").open_used_proofs(tmp_path) for _ in range(2)]
    one, other = (SignInChallenges(b"key", each) for each in proofs)
    challenge = one.make(NOW)
    for inbox in (one, other):  # a failed attempt does not use it up
        inbox.check(challenge, NOW + CHALLENGE_LIFETIME)
    await other.settle(challenge, NOW)
    for inbox in (one, other):
        with pytest.raises(ApprovalError):
            await inbox.settle(challenge, NOW + CHALLENGE_LIFETIME)
    for each in proofs:
        await each.close()


def test_a_challenge_of_another_ledger_or_time_is_refused() -> None:
    challenges = challenges_of_process()
    challenge = challenges.make(NOW)
    for now in (NOW - CLOCK_SKEW, NOW + CHALLENGE_LIFETIME):
        challenges.check(challenge, now)
    for now in (NOW - CLOCK_SKEW - 1, NOW + CHALLENGE_LIFETIME + 1):
        with pytest.raises(ApprovalError):
            challenges.check(challenge, now)
    with pytest.raises(ApprovalError):
        challenges_of_process().check(challenge, NOW)


@given(data=st.data())
def test_changed_challenge_is_refused(data: st.DataObject) -> None:
    challenges = challenges_of_process()
    challenge = bytearray(challenges.make(NOW))
    position = data.draw(st.integers(0, len(challenge) - 1))
    challenge[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(challenge) - 1))
    for forged in (bytes(challenge), bytes(challenges.make(NOW))[:cut], challenges.make(NOW) + b"\0"):
        with pytest.raises(ApprovalError):
            challenges.check(forged, NOW)
