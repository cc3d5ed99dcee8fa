"""Tokens of other issuers: what identifies one, and which forms are refused. Real keys and signatures."""

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.credential import InvalidCredential, read_unverified
from mcp_guard.identity.bearer import (
    KEYS_SECONDS,
    REFETCH_SECONDS,
    ExternalToken,
    RemoteKeySet,
    TrustedIssuer,
    is_key_known,
    read_token,
    token_id,
)
from mcp_guard.identity.ed25519 import PrivateKey
from mcp_guard.identity.instances import Issuer
from tests.adversary.ecdsa import b64, twin

KEY = ec.generate_private_key(ec.SECP256R1())
OWN = PrivateKey.generate()
ISSUER = "https://login.example"
NOW = 4_000_000_000
CLAIMS = {"iss": ISSUER, "aud": "A", "sub": "dana", "client_id": "agent", "iat": 1_700_000_000, "exp": NOW}
Json = dict[str, Any]


@dataclass
class World:
    trusted: TrustedIssuer

    def read(self, token: str) -> ExternalToken:
        own = Issuer("own", lambda _: b"", OWN.public_key())
        verified = read_token(token, own, "A", [self.trusted])
        assert isinstance(verified, ExternalToken)
        return verified


@pytest.fixture
def world(tmp_path: Path) -> World:
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    keys = [{**jwk, "kid": kid} for kid in ("1", "2")]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys}))
    return World(TrustedIssuer(ISSUER, "A", ("ES256",), jwks_file=tmp_path / "jwks.json"))


def sign(claims: Json | bytes, kid: str = "1", **header: Any) -> str:
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jwt.PyJWS().encode(body, KEY, algorithm="ES256", headers={"kid": kid, **header})


def test_claims_identify_a_token_without_jti(world: World) -> None:
    token = sign(CLAIMS)
    ids = {world.read(spelling).id for spelling in (
        token,
        twin(token),
        sign(CLAIMS),  # another signature
        sign(CLAIMS, "2"),
        sign(CLAIMS, typ="at+jwt", more={"a": [1]}),
        sign(json.dumps(dict(reversed(CLAIMS.items())), indent=1).encode()),
    )}  # fmt: skip
    assert len(ids) == 1
    assert world.read(sign({**CLAIMS, "iat": 1_700_000_001})).id not in ids


def test_task_is_taken_only_from_the_claim_that_the_operator_names(world: World) -> None:
    token = sign({**CLAIMS, "request": "pay 7"})
    assert world.read(token).task is None
    world.trusted = replace(world.trusted, task="request")
    assert world.read(token).task == "pay 7"
    assert world.read(sign(CLAIMS)).task is None
    with pytest.raises(InvalidCredential, match="`request` is not text"):
        world.read(sign({**CLAIMS, "request": ["pay 7"]}))


def test_jti_identifies_a_token_whatever_else_it_claims(world: World) -> None:
    one, other = sign({**CLAIMS, "jti": "x"}), sign({**CLAIMS, "jti": "x", "iat": 1_700_000_061, "scope": "more"})
    assert world.read(one).id == world.read(other).id == world.read(twin(one)).id
    assert world.read(sign({**CLAIMS, "jti": "y"})).id != world.read(one).id


@given(st.text(max_size=8), st.text(max_size=8))
def test_identities_differ_by_issuer_and_jti(one: str, other: str) -> None:
    same = token_id(ISSUER, {"jti": one, "n": 0}) == token_id(ISSUER, {"jti": other, "n": 0})
    assert same == (one == other)
    assert token_id("https://a", {"jti": one}) != token_id("https://b", {"jti": one})


@pytest.mark.parametrize(
    "change",
    [
        {"jti": 7}, {"jti": ["x"]}, {"cnf": {"x5t#S256": "abc"}}, {"cnf": "x"}, {"iat": -1}, {"iat": True},
        {"exp": 10**30}, {"exp": "soon"}, {"sub": 7}, {"sub": ""}, {"sub": " "}, {"aud": []}, {"iss": [ISSUER]},
    ],
)  # fmt: skip
def test_claims_that_cannot_be_relied_on_are_refused(world: World, change: Json) -> None:
    with pytest.raises(InvalidCredential):
        world.read(sign({**CLAIMS, **change}))


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": ["b64"], "b64": True}])
def test_extensions_of_the_signature_are_refused(world: World, header: Json) -> None:
    with pytest.raises(InvalidCredential):
        world.read(sign(CLAIMS, **header))


def test_only_the_operator_is_told_the_issuer_that_is_not_trusted(world: World) -> None:
    with pytest.raises(InvalidCredential) as refused:
        world.read(sign({**CLAIMS, "iss": "https://other.example"}))
    assert str(refused.value) == "its issuer is not trusted"
    assert refused.value.logged == "its issuer https://other.example is not trusted"


def test_duplicate_claims_are_refused(world: World) -> None:
    body = json.dumps(CLAIMS).replace('"sub"', '"sub": "eve", "sub"').encode()
    with pytest.raises(InvalidCredential):
        world.read(sign(body))


def _last_bits(part: str) -> str:
    """The same bytes with other unused bits in the last character, as a lenient decoder reads them."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return part[:-1] + alphabet[alphabet.index(part[-1]) ^ 1]


def test_only_one_spelling_of_each_part_is_read(world: World) -> None:
    header, claims, signature = sign(CLAIMS).split(".")
    for other in (
        f"{header}.{claims}.{signature}=",
        f"{header}.{claims}.{signature}==",
        f"{header}.{claims}.{_last_bits(signature)}",
        f"{header}.{claims}.{signature}\n",
        f"{header}.{claims}.{signature[:8]} {signature[8:]}",
        f"{header}.{claims}.{signature}.",
        f"{header}.{claims}",
        f"{header}..{signature}",
    ):
        with pytest.raises(InvalidCredential):
            world.read(other)


@pytest.mark.parametrize(
    "part", [b"[" * 50_000, b"9" * 5000, b'{"a":' * 50_000, b"\xff", b"null", b"[]", b'{"a":1e999}', b'"\\ud800"']
)
def test_unreadable_tokens_are_refused(world: World, part: bytes) -> None:
    good = b64(json.dumps({"alg": "ES256", "iss": ISSUER}).encode())
    for token in (f"{b64(part)}.{good}.{good}", f"{good}.{b64(part)}.{good}"):
        with pytest.raises(InvalidCredential):
            world.read(token)


def test_a_header_that_names_no_trusted_algorithm_is_refused(world: World) -> None:
    _, claims, signature = sign(CLAIMS).split(".")
    for algorithm in ("none", "HS256", "RS256", "es256", None, ["ES256"]):
        header = b64(json.dumps({"alg": algorithm, "kid": "1"}).encode())
        with pytest.raises(InvalidCredential):
            world.read(f"{header}.{claims}.{signature}")
        with pytest.raises(InvalidCredential):
            world.read(f"{header}.{claims}.")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"aud": "https://crm.example"},
            "it was issued for `https://crm.example`, and the audience of this guard is `A`",
        ),
        ({"aud": ["B", "C"]}, "it was issued for `B` and `C`, and the audience of this guard is `A`"),
        ({"exp": 1_700_000_100}, "it has expired"),
        ({"nbf": NOW}, "it is not valid yet; check the clocks of its issuer and of the guard"),
        ({"exp": None}, "its issuer has left out the claim `exp`"),
    ],
)
def test_the_reason_of_a_refusal_is_in_plain_words(world: World, change: Json, why: str) -> None:
    with pytest.raises(InvalidCredential) as caught:
        world.read(sign({name: value for name, value in {**CLAIMS, **change}.items() if value is not None}))
    assert str(caught.value) == why


def test_a_wrong_signature_or_algorithm_is_named(world: World) -> None:
    header, claims, signature = sign(CLAIMS).split(".")
    with pytest.raises(InvalidCredential, match="its signature does not match the key of its issuer"):
        world.read(f"{header}.{claims}.{sign({**CLAIMS, 'sub': 'eve'}).rsplit('.', 1)[1]}")
    header = b64(json.dumps({"alg": "RS256", "kid": "1"}).encode())
    with pytest.raises(InvalidCredential, match="it is signed with `RS256`; accepted of this issuer: ES256"):
        world.read(f"{header}.{claims}.{signature}")


def test_reading_unverified_returns_both_parts() -> None:
    token = read_unverified(sign({"a": 1}))
    assert token.header["alg"] == "ES256"
    assert token.claims == {"a": 1}


@contextmanager
def issuer_answering(body: Callable[[], Iterable[bytes]], status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A server with the keys of an issuer; gives its URL, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("location", "/elsewhere")
            self.end_headers()
            with suppress(OSError):
                for part in body():
                    self.wfile.write(part)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks", asked
    finally:
        server.shutdown()
        server.server_close()


def key_set() -> bytes:
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    return json.dumps({"keys": [{**jwk, "kid": "1"}]}).encode()


def test_unknown_keys_do_not_make_the_guard_fetch_again_and_again() -> None:
    now = [0.0]
    with issuer_answering(lambda: [key_set()]) as (url, fetched):
        keys = RemoteKeySet(url, lambda: now[0])
        for number in range(100):
            keys.find_key("1")
            with pytest.raises(ValueError, match="no key"):
                keys.find_key(f"unknown {number}")
        assert len(fetched) == 1
        now[0] += REFETCH_SECONDS + 1
        with pytest.raises(ValueError, match="no key"):
            keys.find_key("unknown")
        keys.find_key("1")
        assert len(fetched) == 2
        now[0] += KEYS_SECONDS + 1
        keys.find_key("1")
        assert len(fetched) == 3


def look_for_unknown(keys: RemoteKeySet) -> None:
    with suppress(ValueError):
        keys.find_key("unknown")


def test_tokens_of_known_keys_do_not_wait_for_keys_that_other_tokens_name() -> None:
    is_asked, may_answer, now = threading.Event(), threading.Event(), [0.0]
    may_answer.set()

    def answer() -> Iterator[bytes]:
        is_asked.set()
        may_answer.wait(5)
        yield key_set()

    with issuer_answering(answer) as (url, _):
        keys = RemoteKeySet(url, lambda: now[0])
        assert not keys.knows("1")
        keys.find_key("1")
        is_asked.clear()
        may_answer.clear()
        now[0] += REFETCH_SECONDS + 1
        waiting = threading.Thread(target=look_for_unknown, args=(keys,))
        waiting.start()
        assert is_asked.wait(5)
        assert keys.knows("1")
        keys.find_key("1")
        may_answer.set()
        waiting.join()
        now[0] += KEYS_SECONDS - 1
        assert not keys.knows("1")
        trusted = [TrustedIssuer(ISSUER, "A", ("ES256",), jwks_url=url)]
        assert not is_key_known(sign(CLAIMS), trusted)
        read_token(sign(CLAIMS), Issuer("own", lambda _: b"", OWN.public_key()), "A", trusted)
        assert is_key_known(sign(CLAIMS), trusted)


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ([b" " * 100_000] * 1000, 200, "too much"),
        ([b"[" * 100_000], 200, "no set of keys"),
        ([b"[]"], 200, "no set of keys"),
        ([b'{"keys": 5}'], 200, "."),
        ([b"nothing"], 200, "."),
        ([b"{}"], 302, "."),
    ],
)
def test_issuer_that_answers_anything_has_no_keys(body: list[bytes], status: int, why: str) -> None:
    with issuer_answering(lambda: body, status) as (url, asked):
        with pytest.raises((ValueError, OSError, jwt.PyJWTError), match=why):
            RemoteKeySet(url).find_key("1")
        assert asked == ["/jwks"], "no redirect is followed"


def test_spellings_of_base64_differ() -> None:
    signature = sign(CLAIMS).split(".")[2]
    lenient = base64.urlsafe_b64decode(_last_bits(signature) + "==")
    assert lenient == base64.urlsafe_b64decode(signature + "==")


def test_a_key_for_encryption_signs_no_token(tmp_path: Path) -> None:
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    file = tmp_path / "jwks.json"
    world = World(TrustedIssuer(ISSUER, "A", ("ES256",), jwks_file=file))
    file.write_text(json.dumps({"keys": [{**jwk, "kid": "1", "use": "enc"}]}))
    with pytest.raises(InvalidCredential, match="no key `1` for signatures"):
        world.read(sign(CLAIMS))
    file.write_text(json.dumps({"keys": [{**jwk, "kid": "1", "use": "sig"}]}))
    assert world.read(sign(CLAIMS)).user == "dana"
