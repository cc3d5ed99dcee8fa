"""Attack on P7: a proof of possession that was seen on the wire is sent again: at once, to another guard on the same
ledger, and after a restart. Real guards over HTTP, real signatures."""

import base64
import hashlib
import json
import os
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from mcp_guard.core.credential import InvalidCredential
from mcp_guard.identity.dpop import ProofVerifier, thumbprint
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import cli, scripted, write_config

KEY = generate_private_key(SECP256R1())
JWK = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
URL = "https://guard.example/mcp"


def prove(token: str, **changes: object) -> str:
    ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).decode().rstrip("=")
    claims = {"htm": "POST", "htu": URL, "iat": int(time.time()), "jti": os.urandom(8).hex(), "ath": ath, **changes}
    return jwt.encode(claims, KEY, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": JWK})


def status(served: Served, token: str, proof: str) -> int:
    headers = {"authorization": f"DPoP {token}", "dpop": proof}
    return served.raw(token).stateless("tools/list", headers=headers).status_code


def test_a_proof_is_accepted_once_by_all_guards_and_over_restarts(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    first, second = (
        Served(write_config(tmp_path, scripted("up", tmp_path), more=serving(port, f'url = "{URL}"')), port)
        for port in ports
    )
    text = first.config.read_text()
    second.config = tmp_path / "second.toml"
    second.config.write_text(text)
    first.config.write_text(text.replace(f"port = {ports[1]}", f"port = {ports[0]}"))
    with first:
        _, token = first.issue(f"--thumbprint={thumbprint(JWK)}")
        proof, other = prove(token), prove(token)
        assert [status(first, token, proof) for _ in range(2)] == [200, 401]
        with second:
            assert status(second, token, proof) == 401
            assert [status(served, token, other) for served in (second, first)] == [200, 401]
    with first:
        assert [status(first, token, old) for old in (proof, other)] == [401, 401]
        assert status(first, token, prove(token)) == 200


@pytest.mark.parametrize(
    "htu",
    [
        "HTTPS://Guard.EXAMPLE/mcp", "https://guard.example:443/mcp", "https://guard.example:/mcp",
        "https://guard.example/%6dcp", "https://guard%2Eexample/mcp", "https://guard.example/a/../%2e/mcp",
        "https://guard.example/mcp?query#fragment",
    ],
)  # fmt: skip
async def test_a_proof_may_spell_the_address_otherwise(htu: str) -> None:
    await ProofVerifier().check(prove("token", htu=htu), ("POST", URL), "token", thumbprint(JWK), int(time.time()))


@pytest.mark.parametrize(
    "htu",
    [
        "http://guard.example/mcp", "https://guard.example:80/mcp", "https://guard.example:0/mcp",
        "https://guard.example:99999/mcp", "https://user@guard.example/mcp", "https://guard.example/MCP",
        "https://guard.example/mcp/", "https://guard.example/mcp/.", "https://guard.example//mcp",
        "https://guard.example/a%2F..%2Fmcp", "https://guard.example/%256dcp", "//guard.example/mcp", "/mcp", "",
    ],
)  # fmt: skip
async def test_a_proof_for_another_address_is_refused(htu: str) -> None:
    with pytest.raises(InvalidCredential, match=r"for another request|is not a URL"):
        await ProofVerifier().check(prove("token", htu=htu), ("POST", URL), "token", thumbprint(JWK), int(time.time()))


async def test_an_address_that_needs_encoding_is_compared_in_either_case() -> None:
    proof, request = prove("token", htu="https://guard.example/%c3%a9"), ("POST", "https://guard.example/%C3%A9")
    await ProofVerifier().check(proof, request, "token", thumbprint(JWK), int(time.time()))


def test_malformed_proofs_are_refused(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port, f'url = "{URL}"'))
    with Served(config, port) as served:
        _, token = served.issue(f"--thumbprint={thumbprint(JWK)}")
        deep = base64.urlsafe_b64encode(b'{"jwk":' * 2000).decode().rstrip("=")
        for proof in (
            prove(token, htu="http://[::1"),
            prove(token, htu=7),
            prove(token, iat=True),
            prove(token, iat=10**30),
            prove(token, jti="x" * 10_000),
            prove(token, jti=["x"]),
            prove(token, jti="\ud800"),
            f"{deep}.{deep}.AAAA",
            prove(token) + "=",
        ):
            assert status(served, token, proof) == 401
        assert status(served, token, prove(token)) == 200


def test_a_proof_by_a_huge_key_is_refused_before_it_is_checked(tmp_path: Path) -> None:
    """A check takes milliseconds of the event loop with such keys, before anything counts whose request it is."""
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port, f'url = "{URL}"'))

    def number(bits: int) -> str:
        return base64.urlsafe_b64encode((2**bits - 1).to_bytes(bits // 8, "big")).decode().rstrip("=")

    with Served(config, port) as served:
        for n, e in ((16384, 24), (3072, 3072), (2048, 64)):
            jwk = {"kty": "RSA", "n": number(n), "e": number(e)}
            issued = cli(
                "instances", "issue", "--config", str(config), f"--thumbprint={hashes(jwk)}", "--json", check=False
            )
            token = json.loads(issued.stdout)["token"]
            head = base64.urlsafe_b64encode(json.dumps({"typ": "dpop+jwt", "alg": "RS256", "jwk": jwk}).encode())
            proof = f"{head.decode().rstrip('=')}.e30.{'A' * 400}"
            answer = served.raw(token).stateless(
                "tools/list", headers={"authorization": f"DPoP {token}", "dpop": proof}
            )
            assert answer.status_code == 401
            assert "is larger than RSA with 4096 bits" in answer.text


async def test_a_proof_by_an_rsa_key_of_4096_bits_is_accepted(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 4096)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    await ProofVerifier().check(
        jwt.encode(
            jwt.decode(prove("token"), options={"verify_signature": False}),
            key,
            algorithm="PS256",
            headers={"typ": "dpop+jwt", "jwk": jwk},
        ),
        ("POST", URL),
        "token",
        thumbprint(jwk),
        int(time.time()),
    )


def hashes(jwk: dict[str, str]) -> str:
    """The thumbprint of any key (RFC 7638)."""
    text = json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")
