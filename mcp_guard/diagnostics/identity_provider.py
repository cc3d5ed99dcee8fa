"""Whether people can sign in with the identity provider, for `doctor`: its metadata and its keys are fetched."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

from mcp_guard.core.identity_provider import IdentityProvider
from mcp_guard.core.model import Json
from mcp_guard.secrets import read_network
from mcp_guard.settings import Settings
from mcp_guard.web.id_token import SignInFailed
from mcp_guard.web.oidc import OidcClient

PROVIDER_FIX = "look at [web.oidc] and [network]: docs/howto/sign-in-with-oidc.md"


@dataclass(frozen=True, slots=True)
class ProviderState:
    """`failure` says why nobody can sign in, if so, and `notes` what does not fit the configuration."""

    issuer: str
    failure: str = ""
    notes: tuple[str, ...] = ()


def inspect_provider(settings: Settings) -> ProviderState | None:
    """None if there is none."""
    provider = settings.web.provider if settings.web else None
    if provider is None:
        return None
    here = settings.path.parent
    client = OidcClient(provider, "", lambda: "", lambda: read_network(settings.network, here, os.environ))

    async def fetch() -> tuple[Json, Json]:
        return await client.metadata(), await client.keys()

    try:
        metadata, keys = asyncio.run(fetch())
    except SignInFailed as failure:
        return ProviderState(provider.issuer, failure.message)
    if not isinstance(keys.get("keys"), list) or not keys["keys"]:
        return ProviderState(provider.issuer, "it publishes no keys, so that no ID token can be checked")
    return ProviderState(provider.issuer, notes=tuple(_notes(settings, provider, metadata)))


def _notes(settings: Settings, provider: IdentityProvider, metadata: Json) -> Iterator[str]:
    known = {id for identity, id in settings.people.approvers.items() if identity.issuer == provider.issuer}
    if not known:
        yield "no approver has an identity of it ([approvers.NAME] identities), so nobody decides who signs in with it"
    levels = metadata.get("acr_values_supported")
    for route in settings.routes.values():
        demanded = route.sign_in.acr if route.sign_in else ()
        if demanded and isinstance(levels, list) and not set(demanded) & set(map(str, levels)):
            yield f"route `{route.name}` demands an `acr` that it does not offer: {', '.join(demanded)}"
        if route.sign_in and (missing := [id for id in route.approvers if id not in known]):
            yield f"route `{route.name}` demands a sign-in with it, and it does not know {', '.join(missing)}"
    offered = metadata.get("scopes_supported")
    if isinstance(offered, list) and (unknown := [scope for scope in provider.scope.split() if scope not in offered]):
        yield f"it does not offer the scope {', '.join(unknown)}"
