"""Sessions and challenges: they end, they are few, and one belongs to nobody else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.errors import ApprovalError
from mcp_guard.identity.dpop import ProofsOfProcess
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.items import Item, Items
from mcp_guard.web.passkeys import CLOCK_SKEW, Challenges, challenges_of_process
from mcp_guard.web.sessions import (
    CHALLENGE_LIFETIME,
    ENROLMENT_LIFETIME,
    GRACE,
    MAX_SESSIONS,
    ROTATION,
    BrowserSession,
    BrowserSessions,
    Person,
    SessionLifetimes,
    owner_of,
)

NOW = 1_800_000_000_000_000
LIMITS = SessionLifetimes()
ALICE, BOB = Person("alice"), Person("bob")


@pytest.fixture
async def items(tmp_path: Path) -> AsyncIterator[Items]:
    opened = find_engine(tmp_path / "ledger.sqlite").open_items(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
def sessions(items: Items) -> BrowserSessions:
    return BrowserSessions(items, b"key")


async def found(sessions: BrowserSessions, token: str, now: int = NOW) -> BrowserSession:
    session = await sessions.find(token, now)
    assert session is not None
    return session


async def test_session_ends_when_idle_and_in_any_case_after_a_working_day(sessions: BrowserSessions) -> None:
    token = await sessions.open(ALICE, NOW)
    now = NOW
    while now + LIMITS.idle <= NOW + LIMITS.lifetime:
        now += LIMITS.idle
        assert await sessions.find(token, now) is not None
    assert await sessions.find(token, NOW + LIMITS.lifetime + 1) is None
    other = await sessions.open(ALICE, NOW)
    assert await sessions.find(other, NOW + LIMITS.idle + 1) is None
    assert await sessions.find("", NOW) is None
    assert await sessions.find("\udc80", NOW) is None


async def test_person_has_few_sessions_and_takes_none_of_another(sessions: BrowserSessions) -> None:
    minute = 60_000_000
    bob = await sessions.open(BOB, NOW)
    tokens = [await sessions.open(ALICE, NOW + number) for number in range(MAX_SESSIONS)]
    assert await sessions.find(tokens[0], NOW + minute + MAX_SESSIONS) is not None  # used last, so it stays
    await sessions.open(ALICE, NOW + minute + MAX_SESSIONS)
    alive = [await sessions.find(token, NOW + minute + MAX_SESSIONS) is not None for token in tokens]
    assert alive == [True, False, *[True] * (MAX_SESSIONS - 2)]
    assert await sessions.find(bob, NOW + minute + MAX_SESSIONS) is not None


async def test_sessions_are_shared_by_the_gateways_and_on_loopback_end_with_the_process(items: Items) -> None:
    one, other = (BrowserSessions(items, b"key", "https://guard.example.com") for _ in range(2))
    token = await one.open(ALICE, NOW)
    assert await other.find(token, NOW) is not None
    assert await BrowserSessions(items, b"key", "another realm").find(token, NOW) is None
    assert await other.close_all(owner_of("alice"), NOW) == 1
    assert await one.find(token, NOW) is None


async def test_token_is_replaced_every_hour_and_the_old_one_ends_soon(sessions: BrowserSessions) -> None:
    token = await sessions.open(ALICE, NOW)
    now = NOW
    while now < NOW + ROTATION:
        assert await sessions.renew(token, await found(sessions, token, now), now) is None
        now += LIMITS.idle
    session = await found(sessions, token, now)
    new = await sessions.renew(token, session, now)
    assert new is not None
    assert new != token
    replaced = await found(sessions, token, now + GRACE - 1)  # what the browser sent meanwhile
    assert await sessions.renew(token, replaced, now + GRACE - 1) == new
    assert await sessions.find(token, now + GRACE) is None
    fresh = await found(sessions, new, now + GRACE)
    assert (fresh.id, fresh.since) == (session.id, session.since)
    assert await sessions.renew(new, fresh, now + GRACE) is None
    assert await sessions.find(new, NOW + LIMITS.lifetime + 1) is None


async def test_code_that_is_given_back_prolongs_no_token_that_was_replaced(sessions: BrowserSessions) -> None:
    token = await sessions.open(ALICE, NOW, code="sign_in_code")
    session = await found(sessions, token)
    assert await sessions.take_code(session, NOW)
    assert await sessions.renew(token, await found(sessions, token), NOW, force=True) is not None
    await sessions.give_code_back(session, NOW)
    assert await sessions.find(token, NOW + GRACE) is None


async def test_new_token_is_no_use_of_the_session(sessions: BrowserSessions) -> None:
    token = await sessions.open(ALICE, NOW)
    await found(sessions, token, NOW + LIMITS.idle)
    session = await sessions.find(token, NOW + ROTATION, is_use=False)
    assert session is not None
    new = await sessions.renew(token, session, NOW + ROTATION)
    assert new is not None
    assert await sessions.find(new, NOW + 2 * LIMITS.idle, is_use=False) is not None
    assert await sessions.find(new, NOW + 2 * LIMITS.idle + 1, is_use=False) is None


async def test_closed_session_ends_with_all_its_tokens(sessions: BrowserSessions) -> None:
    token, other = await sessions.open(ALICE, NOW), await sessions.open(ALICE, NOW)
    new = await sessions.renew(token, await found(sessions, token), NOW, force=True)
    assert new is not None
    await sessions.close(await found(sessions, new), NOW)
    assert [await sessions.find(each, NOW) is not None for each in (token, new, other)] == [False, False, True]


async def test_token_of_a_session_that_ends_meanwhile_is_not_replaced(sessions: BrowserSessions) -> None:
    token = await sessions.open(ALICE, NOW)
    session = await found(sessions, token)
    assert await sessions.close_all(owner_of("alice"), NOW) == 1
    assert await sessions.renew(token, session, NOW, force=True) is None
    assert await sessions.items.find_all("session", None, NOW) == []


async def test_code_authorizes_one_enrolment_for_a_short_time(sessions: BrowserSessions) -> None:
    token = await sessions.open(ALICE, NOW, code="sign_in_code")
    session = await found(sessions, token)
    assert session.enrolment_code(NOW + ENROLMENT_LIFETIME) == "sign_in_code"
    assert session.enrolment_code(NOW + ENROLMENT_LIFETIME + 1) is None
    await sessions.find(token, NOW + 61_000_000)  # another request notes the use meanwhile
    taken = await asyncio.gather(*(sessions.take_code(session, NOW) for _ in range(4)))
    assert sum(taken) == 1
    assert (await found(sessions, token)).code is None
    await sessions.give_code_back(session, NOW)
    assert (await found(sessions, token)).code == "sign_in_code"
    new = await sessions.renew(token, await found(sessions, token), NOW, force=True)
    assert new is not None
    assert [(await found(sessions, each)).code for each in (token, new)] == [None, None]


async def test_seal_is_for_one_session_purpose_and_time(sessions: BrowserSessions) -> None:
    alice = await found(sessions, await sessions.open(ALICE, NOW))
    other = await found(sessions, await sessions.open(ALICE, NOW))
    one, two = Challenges(b"key", memory := ProofsOfProcess()), Challenges(b"key", memory)
    sealed = one.seal(alice, b"challenge", "decide", {"statement": 1}, NOW)
    for challenges, at in ((one, NOW), (two, NOW + CHALLENGE_LIFETIME), (two, NOW - CLOCK_SKEW)):
        assert challenges.unseal(sealed, alice, b"challenge", "decide", at) == {"statement": 1}
    for challenges, session, challenge, purpose, at in (
        (one, other, b"challenge", "decide", NOW),
        (one, alice, b"other", "decide", NOW),
        (one, alice, b"challenge", "vouch", NOW),
        (one, alice, b"challenge", "decide", NOW + CHALLENGE_LIFETIME + 1),
        (Challenges(b"other", memory), alice, b"challenge", "decide", NOW),
    ):
        with pytest.raises(ApprovalError):
            challenges.unseal(sealed, session, challenge, purpose, at)
    await one.settle_seal(sealed, NOW)
    with pytest.raises(ApprovalError):
        await two.settle_seal(sealed, NOW)


@given(data=st.data())
def test_changed_seal_is_refused(data: st.DataObject) -> None:
    challenges = challenges_of_process()
    session = BrowserSession(ALICE, "s", NOW, NOW, NOW, 0, None, False, Item("", "", "", b"", NOW))
    sealed = challenges.seal(session, b"c", "decide", {"a": "b"}, NOW)
    position = data.draw(st.integers(0, len(sealed) - 2))  # the last character of base64 has unused bits
    changed = data.draw(st.characters().filter(lambda c: c != sealed[position]))
    junk = data.draw(st.none() | st.integers() | st.text())
    for forged in (sealed[:position] + changed + sealed[position + 1 :], sealed[:position], junk):
        with pytest.raises(ApprovalError):
            challenges.unseal(forged, session, b"c", "decide", NOW)


async def test_a_challenge_is_accepted_by_any_gateway_until_it_was_answered(tmp_path: Path) -> None:
    proofs = [find_engine(tmp_path / "ledger.sqlite").open_used_proofs(tmp_path) for _ in range(2)]
    one, other = (Challenges(b"key", each) for each in proofs)
    challenge = one.make(NOW)
    for gateway in (one, other):  # a failed attempt does not use it up
        gateway.check(challenge, NOW + CHALLENGE_LIFETIME)
    await other.settle(challenge, NOW)
    for gateway in (one, other):
        with pytest.raises(ApprovalError):
            await gateway.settle(challenge, NOW + CHALLENGE_LIFETIME)
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
    with pytest.raises(ApprovalError, match="the clock of the gateway that asked is 60 s ahead"):
        challenges.check(challenge, NOW - 60_000_000)
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
