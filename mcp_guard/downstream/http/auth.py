"""Authenticates HTTP requests by their bearer token and its proof of possession, and finds the instance.

OAuth 2.1 resource server as the MCP authorization specification has it: RFC 6750 (bearer), RFC 9728 (protected resource
metadata), RFC 9449 (DPoP). The body of a request is not read before its token has been verified, but for
its id while the ledger cannot be read (`HttpRequest.find_id`).
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urljoin, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_guard.core.credential import InvalidCredential
from mcp_guard.core.errors import IdentityError
from mcp_guard.core.model import SECOND, Instance
from mcp_guard.downstream.http.allowed_hosts import check_host_and_origin
from mcp_guard.downstream.http.request import HttpRequest, RequestHeaders
from mcp_guard.identity.bearer import (
    ExternalToken,
    OwnToken,
    TrustedIssuer,
    is_key_known,
    read_token,
    unverified_issuer,
)
from mcp_guard.identity.dpop import ALGORITHMS, ProofVerifier
from mcp_guard.identity.instances import Issuer
from mcp_guard.ledger.token_instances import TokenInstances

MAX_VERIFIED_TOKENS = 1000
MAX_REASON = 300
NOT_QUOTABLE = re.compile(r"[^ !#-\[\]-~]")
"""What `error_description` must not contain (RFC 6750 §3). A reason may quote a token that nobody has verified."""


@dataclass(frozen=True, slots=True)
class Authenticator:
    """`url` is the resource that tokens are for. Requests to other hosts, or from other origins, are refused."""

    url: str
    hosts: frozenset[str]
    origins: frozenset[str]
    own_issuer: Issuer
    trusted_issuers: Sequence[TrustedIssuer]
    instances: TokenInstances
    proofs: ProofVerifier
    on_refused: Callable[[str, str, str], None] = lambda *_: None
    """Called with the reason and the client's address when a token is refused."""
    verified: dict[str, OwnToken] = field(default_factory=dict, repr=False)
    """Cache of our own tokens whose signature was verified. Whether they may be used is checked each time."""
    readers: Executor = field(default_factory=partial(ThreadPoolExecutor, 2), repr=False)
    """Threads that may wait for an issuer's keys: anybody can send tokens that name unknown ones, and nothing else may
    wait for those."""

    @property
    def metadata_url(self) -> str:
        """RFC 9728 §3.1: the well-known name is inserted before the resource's path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}"

    async def metadata(self, request: Request) -> Response:
        """RFC 9728 §2."""
        headers = RequestHeaders(request.scope["headers"])
        check_host_and_origin(headers, hosts=self.hosts, origins=self.origins)
        document = {
            "resource": self.url,
            "resource_name": "mcp-guard",
            "authorization_servers": [trusted.issuer for trusted in self.trusted_issuers],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": list(ALGORITHMS),
        }
        return JSONResponse(document, headers={"access-control-allow-origin": "*"})

    async def authenticate(self, request: HttpRequest) -> Instance:
        """The instance that sends this request, with its credential. Raises: HTTPException, LedgerError."""
        check_host_and_origin(request.headers, hosts=self.hosts, origins=self.origins)
        authorization = request.headers.all("authorization")
        if len(authorization) > 1:  # which of them counts must not depend on who reads the request
            raise HTTPException(400, "more than one `authorization` header")
        scheme, _, token = "".join(authorization).partition(" ")
        if scheme.lower() not in ("bearer", "dpop") or not token.strip():
            raise self._unauthorized("")
        token, instance = token.strip(), ""
        try:
            verified = await self._verify(token)
            instance = verified.instance if isinstance(verified, OwnToken) else ""
            await self._check_proof(request, scheme, token, verified.thumbprint)
            if isinstance(verified, OwnToken):
                return await self.instances.own(verified, token)
            return await self.instances.foreign(verified, token)
        except (InvalidCredential, IdentityError) as refused:
            reason = refused.message if isinstance(refused, IdentityError) else str(refused)
            logged = reason if isinstance(refused, IdentityError) else refused.logged
            self.on_refused(logged[:MAX_REASON], (request.scope.get("client") or ("",))[0], instance)
            raise self._unauthorized(reason) from None

    async def _verify(self, token: str) -> OwnToken | ExternalToken:
        """Verify the token's signature. Another issuer's keys may have to be fetched, which is done in a thread.

        Raises: InvalidCredential, LedgerError.
        """
        if (cached := self.verified.get(token)) is not None:
            return cached
        if self.trusted_issuers and unverified_issuer(token) != self.own_issuer.origin:
            read = partial(read_token, token, self.own_issuer, self.url, self.trusted_issuers)
            if is_key_known(token, self.trusted_issuers):
                return read()
            return await asyncio.get_running_loop().run_in_executor(self.readers, read)
        issuer = await self.instances.issuer_of(token, self.own_issuer)
        verified = read_token(token, issuer, self.url, ())
        if isinstance(verified, OwnToken):
            if len(self.verified) >= MAX_VERIFIED_TOKENS:
                self.verified.clear()
            self.verified[token] = verified
        return verified

    async def _check_proof(self, request: HttpRequest, scheme: str, token: str, thumbprint: str) -> None:
        """A token that is bound to a key is accepted only with a proof, any other only without.

        Raises: InvalidCredential, LedgerError.
        """
        proofs = request.headers.all("dpop")
        if not thumbprint and scheme.lower() == "bearer" and not proofs:
            return
        if not thumbprint or scheme.lower() != "dpop" or len(proofs) != 1:
            raise InvalidCredential(
                "a token bound to a key needs the scheme `DPoP` and one proof; any other token must have neither"
            )
        method_and_url = request.method, urljoin(self.url, request.path)
        await self.proofs.check(proofs[0], method_and_url, token, thumbprint, self.instances.now() // SECOND)

    def _unauthorized(self, reason: str) -> HTTPException:
        challenge = f'Bearer resource_metadata="{self.metadata_url}"'
        if reason:
            challenge += f', error="invalid_token", error_description="{NOT_QUOTABLE.sub("?", reason[:MAX_REASON])}"'
        return HTTPException(401, reason[:MAX_REASON] or "a bearer token is required", {"WWW-Authenticate": challenge})
