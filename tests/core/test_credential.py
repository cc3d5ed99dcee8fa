"""Instance credentials: readable by any JOSE library, accepted only with our own key."""

import base64

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.types import Options

from mcp_guard.core import credential
from mcp_guard.core.model import Agent, Instance
from mcp_guard.identity.instances import InstanceSpec, Issuer, Launch, check_credential, start_instance

SECOND = 1_000_000
NOW = 1_790_000_000 * SECOND
KEY = Ed25519PrivateKey.generate()
ISSUER = Issuer("example.com/ledger", KEY.sign, KEY.public_key())
AGENT = Agent("deal-update-agent", "bob", ("crm-agents",))
PLAIN = InstanceSpec(AGENT, Launch(), 60)


def test_an_independent_library_reads_the_credential() -> None:
    instance, bound = start_instance(ISSUER, InstanceSpec(AGENT, Launch(ticket="INC-1", on_behalf_of="dana"), 60), NOW)
    now_is_not_then: Options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    claims = jwt.decode(instance.credential, KEY.public_key(), algorithms=["EdDSA"], options=now_is_not_then)
    assert claims["sub"] == "deal-update-agent"
    assert claims["act"] == {"sub": "dana"}
    assert claims["exp"] - claims["iat"] == 60
    assert claims["cnf"]["jwk"]["x"] == bound["public_key"]


def test_two_launches_are_two_principals() -> None:
    (first, key1), (second, key2) = (start_instance(ISSUER, PLAIN, NOW) for _ in range(2))
    assert first.id != second.id
    assert first.credential_id != second.credential_id
    assert key1 != key2


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("more", ["=", "====", "\x06" * 4, "~~~~", "\n" * 4])
def test_only_the_canonical_encoding_of_a_credential_is_accepted(at: int, more: str) -> None:
    parts = start_instance(ISSUER, PLAIN, NOW)[0].credential.split(".")
    parts[at] += more
    with pytest.raises(credential.InvalidCredential):
        credential.decode(".".join(parts), ISSUER.public_key.verify)


def test_deeply_nested_credential_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=")
    with pytest.raises(credential.InvalidCredential):
        credential.read_unverified(f"{deep}.{deep}.{deep}")


def test_our_own_credential_is_accepted() -> None:
    check_credential(ISSUER, start_instance(ISSUER, PLAIN, NOW)[0])


def test_a_foreign_signature_is_refused() -> None:
    other = Ed25519PrivateKey.generate()
    forged, _ = start_instance(Issuer(ISSUER.origin, other.sign, other.public_key()), PLAIN, NOW)
    with pytest.raises(credential.InvalidCredential):
        check_credential(ISSUER, forged)


def test_an_unsigned_credential_is_refused() -> None:
    instance, _ = start_instance(ISSUER, PLAIN, NOW)
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    token = f"{header}.{instance.credential.split('.')[1]}."
    with pytest.raises(credential.InvalidCredential, match="not signed with EdDSA"):
        credential.decode(token, KEY.public_key().verify)


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "!.!.!", "e30.e30.e30"])
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(credential.InvalidCredential):
        credential.decode(token, KEY.public_key().verify)


def test_time_is_checked_to_the_second() -> None:
    assert credential.check_time(NOW, NOW + 60 * SECOND, NOW + 59 * SECOND) is None
    assert "expired" in str(credential.check_time(NOW, NOW + 60 * SECOND, NOW + 60 * SECOND))
    assert "not valid yet" in str(credential.check_time(NOW, NOW + 60 * SECOND, NOW - 120 * SECOND))


def delegate(parent: Instance, *tools: str, seconds: int = 30) -> Instance:
    return start_instance(ISSUER, InstanceSpec(AGENT, Launch(on_behalf_of="dana"), seconds, tools, parent), NOW)[0]


def test_delegation_only_narrows() -> None:
    parent, _ = start_instance(
        ISSUER, InstanceSpec(AGENT, Launch(on_behalf_of="dana"), 60, ("crm__*", "git__log")), NOW
    )
    assert delegate(parent).tools == parent.tools
    child = delegate(parent, "crm__get_deal", "git__log")
    assert child.parents == (parent.id,)
    for wider in ("*", "git__*", "c*", "crm*", "mail__send"):
        with pytest.raises(credential.InvalidCredential, match="not among the tools"):
            delegate(parent, wider)
    with pytest.raises(credential.InvalidCredential, match="not among the tools"):
        delegate(child, "crm__*")
    with pytest.raises(credential.InvalidCredential, match="outlive"):
        delegate(parent, seconds=61)
    deepest = parent
    for _ in range(credential.MAX_DELEGATION_DEPTH):
        deepest = delegate(deepest)
    with pytest.raises(credential.InvalidCredential, match="maximum delegation depth is 4"):
        delegate(deepest)
    assert deepest.depth == credential.MAX_DELEGATION_DEPTH


def test_credential_contains_the_delegation_chain() -> None:
    parent, _ = start_instance(ISSUER, InstanceSpec(AGENT, Launch(on_behalf_of="dana"), 60), NOW)
    child = delegate(delegate(parent))
    claims = credential.decode(child.credential, KEY.public_key().verify)
    assert claims["act"] == {"sub": child.parents[1], "act": {"sub": parent.id, "act": {"sub": "dana"}}}
    assert claims["depth"] == 2


@pytest.mark.parametrize(
    ("tools", "name", "may"),
    [
        (("*",), "crm__get", True),
        (("crm__*",), "crm__get", True),
        (("crm__*",), "crm_get", False),
        (("crm__get",), "crm__get_all", False),
        ((), "crm__get", False),
    ],
)
def test_empty_tool_list_allows_no_tool(tools: tuple[str, ...], name: str, may: bool) -> None:
    assert credential.may_use(tools, name) is may
