"""Attack on P7: one token of another issuer, spelled in several ways, is several instances: a revocation of one does
not end the others, and each has its own limits. A real guard over HTTP, real signatures."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.adversary.ecdsa import b64, twin
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import cli, scripted, write_config

KEY = ec.generate_private_key(ec.SECP256R1())
ISSUER = "https://login.example"


def guard(folder: Path) -> Served:
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**jwk, "kid": kid} for kid in ("1", "2")]}))
    issuer = f'[issuers.corp]\nissuer = "{ISSUER}"\njwks = {{ file = "jwks.json" }}\nagent = "client_id"\n'
    port = free_port()
    return Served(write_config(folder, scripted("up", folder), more=serving(port) + issuer), port)


def sign(audience: str, header: dict[str, Any] | None = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": audience, "sub": "dana", "client_id": "tester", "iat": now, "exp": now + 600}
    return jwt.encode({**claims, **changes}, KEY, algorithm="ES256", headers={"kid": "1", **(header or {})})


def test_a_revoked_token_stays_revoked_in_every_spelling(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        now = int(time.time())
        token = sign(served.url, iat=now)
        again, other_key = sign(served.url, iat=now), sign(served.url, {"kid": "2", "typ": "at+jwt"}, iat=now)
        spellings = (token, twin(token), again, other_key)

        def status(spelling: str, scheme: str = "Bearer") -> int:
            said = {"authorization": f"{scheme} {spelling}"}
            return served.raw(spelling).stateless("tools/list", headers=said).status_code

        assert [status(spelling) for spelling in spellings] == [200] * 4
        alive = json.loads(cli("instances", "list", "--config", str(served.config), "--json").stdout)
        [instance] = [row["instance"] for row in alive]
        served.revoke("--instance", instance)
        assert [status(spelling) for spelling in spellings] == [401] * 4
        assert [status(token, scheme) for scheme in ("bearer", "BEARER", "Bearer ", "DPoP")] == [401] * 4
        assert status(token + "=") == status(token + "A") == 401
        assert status(sign(served.url, iat=now + 1)) == 200  # a new token is a new instance


def test_a_used_jti_does_not_lend_another_user_its_instance(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        assert served.raw(sign(served.url, jti="1")).stateless("tools/list").status_code == 200
        assert served.raw(sign(served.url, jti="1", sub="eve")).stateless("tools/list").status_code == 401


def test_an_unverified_token_cannot_break_the_refusal(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        claims = b64(json.dumps({"iss": ISSUER}).encode())
        for kid in ("a\r\nset-cookie: x=y", 'x", realm="evil', "\x00", "é" * 5000):
            header = b64(json.dumps({"alg": "ES256", "kid": kid}).encode())
            refused = served.raw(f"{header}.{claims}.{b64(bytes(64))}").stateless("tools/list")
            assert refused.status_code == 401
            assert "set-cookie" not in refused.headers
            assert refused.headers["www-authenticate"].count('"') == 6
        deep = b64(b"[" * 20_000)
        assert served.raw(f"{deep}.{claims}.{b64(bytes(64))}").stateless("tools/list").status_code == 401
