"""The client of the identity provider against a certified one: who is signed in, and every answer that is refused."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import pytest

from mcp_guard.core.errors import ConfigError
from mcp_guard.core.identity_provider import IdentityProvider as ProviderSettings
from mcp_guard.core.identity_provider import RoleClaim
from mcp_guard.core.model import SECOND
from mcp_guard.network import Network
from mcp_guard.web.id_token import SignedInPerson, SignInFailed, with_userinfo
from mcp_guard.web.kept_value import KEPT_SECONDS
from mcp_guard.web.oidc import LISTS, PAUSE_SECONDS, Attempt, Demand, OidcClient, metadata_problem, read_query
from tests.web.identity_provider import (
    ALICE,
    CAROL,
    MALLORY,
    SECRET,
    STRONG,
    IdentityProvider,
    Person,
    identity_provider,
)
from tests.web.inbox_process import free_port

GUARD = "https://guard.example.com"
REDIRECT = f"{GUARD}/sign-in/oidc/callback"
AUDIT = RoleClaim("auditor", "groups", frozenset({"audit"}))


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with identity_provider(GUARD) as running:
        yield running


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        """Stands still unless it is moved: to start a provider can take longer than a pause."""
        return self.ahead


def client(provider: IdentityProvider, clock: Clock | None = None, secret: str = SECRET, **changes: Any) -> OidcClient:
    settings = ProviderSettings(provider.issuer, "guard", scope="openid profile email groups")
    clock = clock or Clock()
    return OidcClient(replace(settings, **changes), REDIRECT, lambda: secret, Network, clock.now, clock.monotonic)


async def sign_in(
    used: OidcClient,
    login: str = ALICE,
    factor: str = "one",
    demand: Demand | None = None,
    person: Person | None = None,
) -> SignedInPerson:
    attempt = Attempt.begin("/", demand.max_age if demand else None)
    query = (person or Person()).sign_in(await used.authorization_url(attempt, demand), login, factor)
    return await used.finish(read_query(query), attempt)


async def refused(used: OidcClient, **options: Any) -> SignInFailed:
    with pytest.raises(SignInFailed) as failure:
        await sign_in(used, **options)
    assert failure.value.hint
    return failure.value


async def test_a_person_is_signed_in_with_pkce_state_and_nonce(provider: IdentityProvider) -> None:
    used, attempt = client(provider), Attempt.begin("/requests/ap_1")
    url = await used.authorization_url(attempt)
    asked = {name: values for name, values in parse_qs(urlsplit(url).query).items()}
    assert asked["code_challenge_method"] == ["S256"]
    assert attempt.verifier not in url
    assert (asked["state"], asked["nonce"]) == ([attempt.state], [attempt.nonce])
    signed_in = await used.finish(read_query(Person().sign_in(url)), attempt)
    assert (signed_in.sign_in.issuer, signed_in.sign_in.subject) == (provider.issuer, ALICE)
    assert signed_in.sign_in.at is not None
    assert abs(signed_in.sign_in.at / SECOND - time.time()) < 60
    assert (signed_in.sign_in.acr, signed_in.sign_in.amr) == ("", ())


async def test_claims_that_only_the_userinfo_endpoint_has_are_fetched_there(provider: IdentityProvider) -> None:
    signed_in = await sign_in(client(provider, role_claims=(AUDIT,)), CAROL)
    assert signed_in.claims["groups"] == ["audit"]
    assert signed_in.name == "Carol Example"
    assert "groups" not in (await sign_in(client(provider), CAROL)).claims


def test_userinfo_tells_nothing_of_the_sign_in() -> None:
    answer = {
        "sub": "a",
        "acr": STRONG,
        "amr": ["mfa"],
        "auth_time": 1,
        "groups": ["audit"],
        "name": "A",
        "locale": "de",
    }
    assert with_userinfo({"sub": "a"}, answer, {"groups", "acr"}) == {"sub": "a", "groups": ["audit"], "name": "A"}
    assert with_userinfo({"sub": "a", "groups": []}, answer, {"groups"})["groups"] == []


async def test_a_verified_email_address_can_name_the_person(provider: IdentityProvider) -> None:
    by_email = client(provider, subject_claim="email")
    assert (await sign_in(by_email)).sign_in.subject == "alice@example.com"
    failure = await refused(by_email, login=MALLORY)
    assert "has not verified your email address" in failure.message
    assert failure.status == 403


async def test_the_secret_is_read_once_for_many_sign_ins(provider: IdentityProvider) -> None:
    read: list[str] = []
    clock = Clock()

    def secret() -> str:
        read.append(threading.current_thread().name)
        return SECRET

    settings = ProviderSettings(provider.issuer, "guard", scope="openid profile email groups")
    used = OidcClient(settings, REDIRECT, secret, Network, clock.now, clock.monotonic)
    await sign_in(used)
    await sign_in(used)
    assert len(read) == 1
    assert read[0] != threading.main_thread().name
    clock.ahead += KEPT_SECONDS
    await sign_in(used)
    assert len(read) == 2


async def test_a_second_factor_is_asked_for_and_its_acr_and_amr_are_read(provider: IdentityProvider) -> None:
    person = Person()
    first = await sign_in(client(provider), person=person)
    assert first.sign_in.acr == ""
    demand = Demand(acr=(STRONG,), anew=True, max_age=300)
    strong = await sign_in(client(provider), factor="two", demand=demand, person=person)
    assert (strong.sign_in.acr, strong.sign_in.amr) == (STRONG, ("pwd", "otp", "mfa"))
    assert strong.sign_in.at is not None
    assert first.sign_in.at is not None
    assert strong.sign_in.at >= first.sign_in.at


async def test_the_code_is_good_once_and_only_with_its_verifier(provider: IdentityProvider) -> None:
    used, attempt = client(provider), Attempt.begin("/")
    query = read_query(Person().sign_in(await used.authorization_url(attempt)))
    with pytest.raises(SignInFailed, match="used already, or is too old"):
        await used.finish(query, replace(attempt, verifier="x" * 43))
    attempt = Attempt.begin("/")
    query = read_query(Person().sign_in(await used.authorization_url(attempt)))
    await used.finish(query, attempt)
    with pytest.raises(SignInFailed, match="used already, or is too old"):
        await used.finish(query, attempt)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"claims": {"nonce": "of another sign-in"}}, "belongs to another sign-in (`nonce`)"),
        ({"claims": {"nonce": None}}, "has left out `nonce`"),
        ({"claims": {"iss": "https://evil.example"}}, "its issuer is `https://evil.example`"),
        ({"claims": {"aud": "another client"}}, "it is for `another client`, and this guard is `guard`"),
        ({"claims": {"aud": ["guard", "another client"]}}, "has left out `azp`"),
        ({"claims": {"aud": ["guard", "another"], "azp": "another"}}, "its `azp` is wrong"),
        ({"claims": {"exp": 1_700_000_000}}, "it has expired; it was issued at 20"),
        ({"claims": {"exp": None}}, "has left out `exp`"),
        (
            {"claims": {"iat": 4_000_000_000}},
            "issued in the future (`iat`); it was issued at 2096-10-02T07:06:40Z, and the",
        ),
        ({"claims": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}}, "its `at_hash` is wrong"),
        ({"claims": {"auth_time": 4_000_000_000}}, "its `auth_time` is no time that has been"),
        ({"claims": {"sub": 7}}, "its `sub` is wrong"),
        ({"header": {"alg": "none"}}, "it is signed with `none`"),
        ({"header": {"alg": "HS256"}}, "it is signed with `HS256`; accepted of this provider: RS256"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    provider: IdentityProvider, change: dict[str, Any], expected: str
) -> None:
    provider.control("alter", change)
    failure = await refused(client(provider))
    assert expected in failure.message
    assert failure.status == 502


async def test_a_token_by_a_key_that_is_not_published_is_refused(provider: IdentityProvider) -> None:
    provider.control("alter", {"header": {"kid": "unpublished"}})
    failure = await refused(client(provider))
    assert "signed with a key that it does not publish" in failure.message


async def test_new_keys_are_fetched_when_they_are_needed_but_not_at_every_request(provider: IdentityProvider) -> None:
    clock = Clock()
    used = client(provider, clock)
    await sign_in(used)
    provider.control("rotate")
    assert "does not publish" in (await refused(used)).message  # the keys were fetched a moment ago
    clock.ahead += PAUSE_SECONDS
    assert (await sign_in(used)).sign_in.subject == ALICE


@pytest.mark.parametrize(("ahead", "is_taken"), [(50, True), (-50, True), (400, False), (-100, False)])
async def test_clocks_may_differ_by_a_minute(provider: IdentityProvider, ahead: int, is_taken: bool) -> None:
    """A token is good for five minutes."""
    clock = Clock()
    clock.ahead = ahead
    if is_taken:
        await sign_in(client(provider, clock))
    else:
        assert "and the guard's clock says" in (await refused(client(provider, clock))).message


@pytest.mark.parametrize(
    ("answer", "expected", "status"),
    [
        ({"iss": "https://evil.example"}, "the answer is from `https://evil.example`", 400),
        ({"iss": None}, "does not say which identity provider it is from (`iss`)", 400),
        ({"code": None}, "has no code", 400),
        ({"code": "somebody-elses"}, "used already, or is too old", 400),
        ({"error": "temporarily_unavailable"}, "has a problem (`temporarily_unavailable`)", 503),
        ({"error": "unmet_authentication_requirements"}, "could not sign you in as this route demands", 403),
        ({"error": "<b>call 555-1234</b>"}, "refused the sign-in (an error)", 502),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_an_answer_that_is_wrong_or_of_another_provider_is_refused(
    provider: IdentityProvider, answer: dict[str, Any], expected: str, status: int
) -> None:
    provider.control("answer", answer)
    failure = await refused(client(provider))
    assert expected in failure.message
    assert failure.status == status


async def test_who_cancels_is_told_so(provider: IdentityProvider) -> None:
    failure = await refused(client(provider), factor="none")
    assert failure.message == "the sign-in was not completed at the identity provider (`access_denied`)"


async def test_a_parameter_that_comes_twice_is_refused() -> None:
    with pytest.raises(SignInFailed, match="a parameter twice"):
        read_query("code=a&state=b&code=c")


async def test_a_wrong_client_secret_says_which_setting_is_wrong(provider: IdentityProvider) -> None:
    failure = await refused(client(provider, secret="wrong"))
    assert "does not accept this guard as a client (`invalid_client`)" in failure.message
    assert "web.oidc.client_id" in failure.hint
    assert "wrong" not in failure.message


async def test_strangers_are_not_told_where_secrets_are_kept(provider: IdentityProvider) -> None:
    def fails() -> NoReturn:
        raise ConfigError("the program `/opt/vault/read` does not answer")

    settings = ProviderSettings(provider.issuer, "guard")
    for secret, network, what in ((fails, Network, "its client secret"), (lambda: SECRET, fails, "network settings")):
        failure = await refused(OidcClient(settings, REDIRECT, secret, network))
        assert what in failure.message
        assert "vault" not in failure.message + failure.hint
        assert "mcp-guard doctor" in failure.hint


async def test_a_missing_time_of_sign_in_is_refused_where_it_is_demanded(provider: IdentityProvider) -> None:
    provider.control("alter", {"claims": {"auth_time": None}})
    assert "did not say when you signed in" in (await refused(client(provider), demand=Demand(max_age=60))).message
    provider.control("alter", {"claims": {"auth_time": int(time.time()) - 3600}})
    assert "did not ask you to sign in again" in (await refused(client(provider), demand=Demand(max_age=60))).message


async def test_a_provider_that_is_down_is_said_to_be_and_asked_again_after_a_pause() -> None:
    clock = Clock()
    with identity_provider(GUARD) as restarted:
        used = client(restarted, clock)
        restarted.stop()
        failure = await refused(used)
        assert "cannot be reached: ConnectError" in failure.message
        assert failure.status == 503
        restarted.start()
        assert (await refused(used)).message == failure.message
        clock.ahead += PAUSE_SECONDS
        assert (await sign_in(used)).sign_in.subject == ALICE


async def test_a_cancelled_request_to_the_provider_fails_the_next_sign_in_and_no_later_one() -> None:
    connections: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    hanging = await asyncio.start_server(lambda _, writer: connections.put_nowait(writer), "localhost", 0)
    clock = Clock()
    used = client(IdentityProvider(f"http://localhost:{hanging.sockets[0].getsockname()[1]}", {}), clock)
    for _ in range(2):
        signing_in = asyncio.create_task(used.authorization_url(Attempt.begin("/")))
        connection = await asyncio.wait_for(connections.get(), 20)
        signing_in.cancel()
        await asyncio.gather(signing_in, return_exceptions=True)
        connection.close()
        failure = await refused(used)
        assert (failure.message, failure.status) == ("the request to the identity provider was cancelled", 503)
        clock.ahead += PAUSE_SECONDS
    hanging.close()


async def test_an_address_where_no_provider_is_says_what_is_there(tmp_path: Path) -> None:
    nowhere = IdentityProvider(f"http://localhost:{free_port()}", {})
    assert (await refused(client(nowhere))).status == 503


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"issuer": "https://evil.example"}, "it calls itself `https://evil.example`"),
        ({"token_endpoint": "http://idp.example/token"}, "its `token_endpoint` is not an https address"),
        ({"jwks_uri": None}, "its `jwks_uri` is not an https address"),
        ({"id_token_signing_alg_values_supported": ["HS256", "none"]}, "it signs with none of"),
        ({"code_challenge_methods_supported": ["plain"]}, "does not support PKCE with S256"),
        ({"code_challenge_methods_supported": 0}, "its `code_challenge_methods_supported` is not a list"),
        ({"id_token_signing_alg_values_supported": 5}, "its `id_token_signing_alg_values_supported` is not a list"),
        ({"id_token_signing_alg_values_supported": [{}]}, "it signs with none of"),
        ({"token_endpoint_auth_methods_supported": True}, "its `token_endpoint_auth_methods_supported` is not a list"),
        ({name: None for name in LISTS}, ""),
        ({}, ""),
    ],
)
def test_metadata_that_cannot_be_trusted_is_not_used(change: dict[str, Any], expected: str) -> None:
    metadata = {
        "issuer": "https://idp.example", "authorization_endpoint": "https://idp.example/auth",
        "token_endpoint": "https://idp.example/token", "jwks_uri": "https://idp.example/jwks",
    }  # fmt: skip
    problem = metadata_problem(metadata | change, "https://idp.example")
    assert expected in problem
    assert bool(expected) == bool(problem)


async def test_signing_out_leads_to_the_provider_and_back(provider: IdentityProvider) -> None:
    url = await client(provider).logout_url(f"{GUARD}/sign-in")
    assert url is not None
    assert url.startswith(f"{provider.issuer}/session/end?client_id=guard&post_logout_redirect_uri=https%3A%2F%2Fguard")
