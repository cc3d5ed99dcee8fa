"""Instance credentials: readable by any JOSE library, and by nobody's key but ours."""

import base64

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.types import Options

from mcp_guard.core import credential
from mcp_guard.core.model import Agent
from mcp_guard.identity.instances import Issuer, Launch, check_credential, start_instance

SECOND = 1_000_000
NOW = 1_790_000_000 * SECOND
KEY = Ed25519PrivateKey.generate()
ISSUER = Issuer("example.com/ledger", KEY.sign, KEY.public_key())
AGENT = Agent("deal-update-agent", "bob", ("crm-agents",))


def test_an_independent_library_reads_the_credential() -> None:
    instance, public = start_instance(ISSUER, AGENT, Launch(ticket="INC-1", on_behalf_of="dana"), NOW, 60)
    now_is_not_then: Options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    claims = jwt.decode(instance.credential, KEY.public_key(), algorithms=["EdDSA"], options=now_is_not_then)
    assert claims["sub"] == "deal-update-agent"
    assert claims["act"] == {"sub": "dana"}
    assert claims["exp"] - claims["iat"] == 60
    assert claims["cnf"]["jwk"]["x"] == public


def test_two_launches_are_two_principals() -> None:
    (first, key1), (second, key2) = (start_instance(ISSUER, AGENT, Launch(), NOW, 60) for _ in range(2))
    assert first.id != second.id
    assert first.credential_id != second.credential_id
    assert key1 != key2


def test_our_own_credential_is_accepted() -> None:
    check_credential(ISSUER, start_instance(ISSUER, AGENT, Launch(), NOW, 60)[0])


def test_a_foreign_signature_is_refused() -> None:
    other = Ed25519PrivateKey.generate()
    forged, _ = start_instance(Issuer(ISSUER.origin, other.sign, other.public_key()), AGENT, Launch(), NOW, 60)
    with pytest.raises(credential.Invalid):
        check_credential(ISSUER, forged)


def test_an_unsigned_credential_is_refused() -> None:
    instance, _ = start_instance(ISSUER, AGENT, Launch(), NOW, 60)
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    token = f"{header}.{instance.credential.split('.')[1]}."
    with pytest.raises(credential.Invalid, match="not signed with EdDSA"):
        credential.decode(token, KEY.public_key().verify)


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "!.!.!", "e30.e30.e30"])
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(credential.Invalid):
        credential.decode(token, KEY.public_key().verify)


def test_time_is_checked_to_the_second() -> None:
    assert credential.check_time(NOW, NOW + 60 * SECOND, NOW + 59 * SECOND) is None
    assert "expired" in str(credential.check_time(NOW, NOW + 60 * SECOND, NOW + 60 * SECOND))
    assert "not valid yet" in str(credential.check_time(NOW, NOW + 60 * SECOND, NOW - 120 * SECOND))
