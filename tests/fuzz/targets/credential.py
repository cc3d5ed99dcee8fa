"""Credentials, proofs and request states: only signed text is accepted; any other is refused with a reason."""

import json
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core import credential
from mcp_guard.core.credential import InvalidCredential
from mcp_guard.downstream.request_state import RequestStateCipher
from mcp_guard.identity.bearer import read_token
from mcp_guard.identity.dpop import ProofVerifier
from mcp_guard.identity.instances import Issuer

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ISSUER = Issuer("example.com/ledger", KEY.sign, KEY.public_key())
CLAIMS = {"iss": ISSUER.origin, "instance": "run_1", "jti": "cred_1", "aud": ["a"], "cnf": {"jkt": "x"}}
GOOD = credential.encode(CLAIMS, KEY.sign)
CIPHER = RequestStateCipher(bytes(32), "run_1")
SEEDS = (
    GOOD.encode(), b"..", b"e30.e30.e30", b"eyJhbGciOiJub25lIn0.e30.", credential.encode([], KEY.sign).encode(),  # type: ignore[arg-type]
    credential.encode({**CLAIMS, "cnf": [], "aud": {}}, KEY.sign).encode(), CIPHER.seal({"a": 1}, 0).encode(),
)  # fmt: skip
SIGNED = {seed.decode() for seed in SEEDS if seed.count(b".") == 2 and len(seed) > 100}


def check(data: bytes) -> None:
    text = data.decode("latin-1")
    for taken in (text, data.decode("utf-8", "replace")):
        _read(taken)
    said = {"iss": ISSUER.origin, "jti": data.decode("utf-8", "replace")}  # a signed one is read back unchanged
    assert credential.decode(credential.encode(said, KEY.sign), ISSUER.public_key.verify) == said


def _read(text: str) -> None:
    try:
        claims = credential.decode(text, ISSUER.public_key.verify)
        assert text in SIGNED, "a text that was not signed was taken"
        assert isinstance(claims, dict)
    except InvalidCredential as refused:
        assert str(refused)
    with suppress(InvalidCredential):
        json.dumps(credential.decode(text, lambda _signature, _data: None))
    with suppress(InvalidCredential):
        credential.read_unverified(text)
        read_token(text, ISSUER, "a", ())
    with suppress(InvalidCredential, StopIteration):  # nothing in it waits
        ProofVerifier().check(text, ("POST", "https://example.com/mcp"), GOOD, "x", 0).send(None)
    assert CIPHER.open(text, 0) in (None, {"a": 1})
