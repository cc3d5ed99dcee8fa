"""Instances: each launch of an agent is a principal of its own, with its own key and a short-lived credential."""

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mcp_guard.core import credential
from mcp_guard.core.credential import Invalid
from mcp_guard.core.model import Agent, Instance, Micros, Task
from mcp_guard.core.names import instance_id
from mcp_guard.core.receipt import format_time

SECOND = 1_000_000
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class Launch:
    """What the launcher says of this run; its word, not the agent's."""

    agent: str | None = None
    ticket: str | None = None
    reason: str | None = None
    on_behalf_of: str | None = None
    task: str | None = None
    """What the user asked for, in full: what the task names, a call may use."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs credentials: the guard, under its ledger's origin."""

    origin: str
    sign: Callable[[bytes], bytes]
    public_key: Ed25519PublicKey


def random_text(length: int) -> str:
    """Unguessable text, five bits a character."""
    return "".join(ALPHABET[byte & 31] for byte in os.urandom(length))


def start_instance(issuer: Issuer, agent: Agent, launch: Launch, now: Micros, seconds: int) -> tuple[Instance, str]:
    """A new instance with a fresh Ed25519 key and a credential of `seconds`; also its public key (base64url).

    The key is bound into the credential as its confirmation key (RFC 7800 §3.2, RFC 8037 §2).
    """
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    public_text = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    id, credential_id = instance_id(format_time(now), random_text(6)), f"cred_{random_text(12)}"
    claims: dict[str, object] = {
        "iss": issuer.origin,
        "sub": agent.name,
        "jti": credential_id,
        "iat": now // SECOND,
        "nbf": now // SECOND,
        "exp": now // SECOND + seconds,
        "instance": id,
        "depth": 0,
        "cnf": {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": public_text}},
    }
    claims |= {"act": {"sub": launch.on_behalf_of}} if launch.on_behalf_of else {}
    claims |= {"ticket": launch.ticket} if launch.ticket else {}
    token = credential.encode(claims, issuer.sign)
    instance = Instance(
        id=id,
        agent=agent,
        on_behalf_of=launch.on_behalf_of,
        task=Task(launch.ticket, launch.reason, launch.task),
        started=now,
        expires=now + seconds * SECOND,
        credential=token,
        credential_id=credential_id,
    )
    return instance, public_text


def check_credential(issuer: Issuer, instance: Instance) -> None:
    """Verify the signature and that the credential is this instance's; its time is checked on every call.

    Raises: Invalid.
    """

    claims = credential.decode(instance.credential, issuer.public_key.verify)
    said = (claims.get("iss"), claims.get("sub"), claims.get("instance"), claims.get("jti"))
    if said != (issuer.origin, instance.agent.name, instance.id, instance.credential_id):
        raise Invalid("the credential belongs to another instance")
