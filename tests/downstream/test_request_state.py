"""Request states open for their own instance, at every gateway of their ledger, for an hour."""

from mcp_guard.downstream.request_state import LIFETIME, RequestStateCipher
from mcp_guard.shared_secret import SharedSecret

SECRET = "0123456789abcdef" * 2
STATE = {"binding": "abc", "approval": "ap_1"}
NOW = 1_700_000_000_000_000


def cipher(secret: str = SECRET, origin: str = "crm.example/ledger", instance: str = "run_1") -> RequestStateCipher:
    """As each gateway makes it."""
    return RequestStateCipher(SharedSecret(secret, origin).derive("request-state"), instance)


def test_any_gateway_of_the_ledger_opens_a_state() -> None:
    sealed = cipher().seal(STATE, NOW)
    assert cipher().open(sealed, NOW + LIFETIME) == STATE


def test_nobody_else_does_and_it_expires() -> None:
    sealed = cipher().seal(STATE, NOW)
    for other in (cipher(secret="x" * 32), cipher(origin="hr.example/ledger"), cipher(instance="run_2")):
        assert other.open(sealed, NOW) is None
    assert cipher().open(sealed, NOW + LIFETIME + 1) is None


def test_a_changed_state_does_not_open() -> None:
    sealed = cipher().seal(STATE, NOW)
    for position, character in enumerate(sealed):
        other = "A" if character != "A" else "B"
        assert cipher().open(f"{sealed[:position]}{other}{sealed[position + 1 :]}", NOW) is None
    for other_value in ("", "A", sealed + "A", sealed[:-4], None, 7):
        assert cipher().open(other_value, NOW) is None
