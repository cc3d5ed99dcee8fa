"""`[web.oidc]` and what routes demand of a sign-in: what is read, and what is refused with the key and what to do."""

from pathlib import Path

import pytest

from mcp_guard.config.file import check
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.identity_provider import RoleClaim
from mcp_guard.core.sign_in import SignInRule

BASE = """
[guard]
policies = "policies"
{guard}
[approvers.alice]
name = "Alice"
[routes.people]
approvers = ["alice"]
{route}
"""
WEB = '[web]\nurl = "https://guard.example.com"\n'
OIDC = f'{WEB}[web.oidc]\nissuer = "https://login.example.com"\nclient_id = "guard"\n'


def text(more: str = "", route: str = "", guard: str = "") -> str:
    return BASE.format(route=route, guard=guard) + more


def test_a_provider_its_roles_and_what_a_route_demands_are_read(tmp_path: Path) -> None:
    roles = '[web.oidc.roles]\nauditor = { groups = ["audit", "risk"] }\n'
    demands = 'acr = ["strong"]\nmfa = true\nsigned_in_within_seconds = 60'
    settings = check(text(OIDC + roles, demands, 'policy_approval = "people"'), tmp_path / "g")
    assert settings.routes["people"].sign_in == SignInRule(("strong",), mfa=True, seconds=60)
    assert settings.web is not None
    assert settings.web.provider is not None
    provider = settings.web.provider
    assert (provider.issuer, provider.subject_claim, provider.enrolment) == ("https://login.example.com", "sub", True)
    assert provider.role_claims == (RoleClaim("auditor", "groups", frozenset({"audit", "risk"})),)
    assert provider.roles({"groups": ["x", "risk"]}) == {"auditor"}
    assert provider.roles({"groups": "audit"}) == {"auditor"}
    for claims in ({}, {"groups": "audi"}, {"groups": [["audit"]]}, {"groups": {"audit": 1}}, {"group": "audit"}):
        assert provider.roles(claims) == frozenset()


def test_a_role_by_an_email_address_requires_that_the_provider_has_verified_it(tmp_path: Path) -> None:
    roles = '[web.oidc.roles]\noperator = { email = ["ops@example.com"] }\n'
    web = check(text(OIDC + roles), tmp_path / "g").web
    assert web is not None
    assert web.provider is not None
    claims = {"email": "ops@example.com", "sub": "s"}
    for verified in ({}, {"email_verified": False}, {"email_verified": "true"}):
        assert web.provider.roles(claims | verified) == frozenset()
    kept = web.provider.kept_claims(claims | {"email_verified": True})
    assert web.provider.roles(kept) == {"operator"}


def test_a_route_that_demands_nothing_has_no_rule(tmp_path: Path) -> None:
    assert check(text(OIDC, "mfa = false"), tmp_path / "g").routes["people"].sign_in is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (text(WEB, 'acr = ["strong"]'), "routes.people: acr requires an identity provider"),
        (text("", "mfa = true"), "routes.people: mfa requires an identity provider"),
        (text(OIDC, "signed_in_within_seconds = 0"), "signed_in_within_seconds"),
        (text(OIDC, 'acr = ["two words"]'), "acr"),
        (text(f"{WEB}local_sign_in = false\n"), "nobody can sign in; add [web.oidc]"),
        (text(OIDC.replace("https://login", "http://login")), "is not an https address"),
        (text(OIDC.replace("login.example.com", "login.example.com/?a=b")), "has a query or a fragment"),
        (text(f'{OIDC}scope = "profile"\n'), "`openid` is missing"),
        (text(f'{OIDC}scope = "openid"\nsubject_claim = "email"\n'), 'requires `email` in `scope`'),
        (text(f'{OIDC}subject_claim = "name"\n'), "subject_claim"),
        (text(f'{OIDC}client_secret = "in clear"\n'), "client_secret"),
        (text(f"{OIDC}[web.oidc.roles]\napprover = {{ groups = ['x'] }}\n"), "approver"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(tmp_path: Path, config: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(config, tmp_path / "g")
    assert expected in refused.value.message
