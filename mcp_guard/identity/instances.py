"""Starts instances: each run of an agent is a principal of its own, with its own key and a short-lived credential."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from mcp_guard.core import base64url, canonical, credential
from mcp_guard.core.credential import InvalidCredential
from mcp_guard.core.model import SECOND, Agent, Instance, Json, Micros, Task
from mcp_guard.core.names import instance_id
from mcp_guard.core.receipt import format_time
from mcp_guard.identity.ed25519 import AnyPublicKey, InvalidSignature, PrivateKey
from mcp_guard.identity.host_process import HostProcess

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class Launch:
    """What the launcher states about this run. It is the launcher's statement, not the agent's."""

    agent: str | None = None
    ticket: str | None = None
    reason: str | None = None
    on_behalf_of: str | None = None
    task: str | None = None
    """The user's request in full. Calls may use data that it contains."""


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """A new instance, without its id, key and times. `seconds` is the lifetime of its credential.

    `thumbprint` is that of a key which the client holds (RFC 7638); then each request must prove possession (RFC 9449).
    `audience` is the resource that the credential is for; empty for a guard on stdio.
    """

    agent: Agent
    launch: Launch
    seconds: int
    tools: tuple[str, ...] = ("*",)
    parent: Instance | None = None
    thumbprint: str = ""
    audience: str = ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """The guard as the issuer of credentials, under its ledger's origin."""

    origin: str
    sign: Callable[[bytes], bytes]
    public_key: AnyPublicKey
    other_keys: tuple[AnyPublicKey, ...] = ()
    """Keys that may have signed as well."""

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raises: InvalidSignature."""
        for key in self.other_keys:
            with suppress(InvalidSignature):
                key.verify(signature, data)
                return
        self.public_key.verify(signature, data)


def approval_id() -> str:
    return f"ap_{random_text(10)}"


def call_id(now: Micros) -> str:
    return f"call_{now:x}{random_text(4)}"


def random_text(length: int) -> str:
    """Random text with five bits per character, from the system's secure source."""
    return "".join(ALPHABET[byte & 31] for byte in os.urandom(length))


def start_instance(issuer: Issuer, spec: InstanceSpec, now: Micros) -> tuple[Instance, Json]:
    """A new instance with its credential, and the key that this is bound to, as the receipt records it.

    Without a key of the client's, the credential is bound to a new one (RFC 7800 §3.2, RFC 8037 §2).

    Raises: InvalidCredential, if it would permit more than the parent's.
    """
    launch, parent = spec.launch, spec.parent
    id, credential_id = instance_id(format_time(now), random_text(6)), f"cred_{random_text(12)}"
    instance = Instance(
        id=id,
        agent=spec.agent,
        on_behalf_of=launch.on_behalf_of,
        task=Task(launch.ticket, launch.reason, launch.task),
        started=now,
        expires=now + spec.seconds * SECOND,
        credential="",
        credential_id=credential_id,
        depth=parent.depth + 1 if parent else 0,
        tools=spec.tools,
        parents=(*parent.parents, parent.id) if parent else (),
        user_issuer=parent.user_issuer if parent and parent.on_behalf_of == launch.on_behalf_of else "",
    )
    if parent is not None:
        instance = replace(instance, tools=credential.narrow(parent, spec.tools, instance.expires))
    confirmation, bound = _confirm(spec.thumbprint)
    claims = _claims(issuer, instance, spec.audience) | {"cnf": confirmation}
    return replace(instance, credential=credential.encode(claims, issuer.sign)), bound


def reissue_credential(issuer: Issuer, instance: Instance) -> Instance:
    """The same instance with a new credential, because the stored form of an instance has none."""
    confirmation, _ = _confirm("")
    return replace(
        instance, credential=credential.encode(_claims(issuer, instance, "") | {"cnf": confirmation}, issuer.sign)
    )


def shared_launch_key(scope: str, spec: InstanceSpec, user: int, host: HostProcess | None) -> str:
    """What all launches that are one instance have in common, hashed: the agent as it is enrolled, what the launcher
    states, the user of this machine, and the process of the host if that counts. It is no secret."""
    agent, launch = asdict(spec.agent), asdict(spec.launch)
    common = [scope, agent, launch, spec.seconds, user, asdict(host) if host else None]
    return "shared:" + canonical.digest_json({"launch": common})


def _confirm(thumbprint: str) -> tuple[Json, Json]:
    """The confirmation claim, and the members that record it in the receipt."""
    if thumbprint:
        return {"jkt": thumbprint}, {"thumbprint": thumbprint}
    public = PrivateKey.generate().public_key().public_bytes_raw()
    text = base64url.encode(public)
    return {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": text}}, {"public_key": text}


def _claims(issuer: Issuer, instance: Instance, audience: str) -> Json:
    """`act` names the user on whose behalf it runs, and nested in it the delegating instances (RFC 8693 §4.1)."""
    claims: Json = {
        "iss": issuer.origin,
        "sub": instance.agent.name,
        "jti": instance.credential_id,
        "iat": instance.started // SECOND,
        "nbf": instance.started // SECOND,
        "exp": instance.expires // SECOND,
        "instance": instance.id,
        "depth": instance.depth,
    }
    act: Json = {"sub": instance.on_behalf_of} if instance.on_behalf_of else {}
    for parent in instance.parents:
        act = {"sub": parent} | ({"act": act} if act else {})
    claims |= {"act": act} if act else {}
    claims |= {"ticket": instance.task.ticket} if instance.task.ticket else {}
    claims |= {"tools": list(instance.tools)} if instance.tools != ("*",) else {}
    return claims | ({"aud": audience} if audience else {})


def check_credential(issuer: Issuer, instance: Instance) -> None:
    """Verify the signature, and that the credential is this instance's. Its time is checked with every call.

    Raises: InvalidCredential.
    """
    claims = credential.decode(instance.credential, issuer.verify)
    claimed = (claims.get("iss"), claims.get("sub"), claims.get("instance"), claims.get("jti"))
    if claimed != (issuer.origin, instance.agent.name, instance.id, instance.credential_id):
        raise InvalidCredential("the credential belongs to another instance")
