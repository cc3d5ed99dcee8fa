"""The gate of the HTTP front: host and origin, the bearer token, its proof of possession; and whose instance it is.

OAuth 2.1 resource server as the MCP authorization specification has it: RFC 6750 (bearer), RFC 9728 (protected resource
metadata), RFC 9449 (DPoP). Nothing of a request is read before its token is good.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_guard.core.credential import InvalidCredential, decode_unverified
from mcp_guard.core.errors import IdentityError
from mcp_guard.core.model import Instance
from mcp_guard.identity.bearer import ExternalToken, OwnToken, TrustedIssuer, read_token
from mcp_guard.identity.dpop import ALGORITHMS, ProofVerifier
from mcp_guard.identity.instances import Issuer
from mcp_guard.ledger.token_instances import TokenInstances

KNOWN_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Authenticator:
    """`url` is the resource that tokens are for; `hosts` and `origins` are all that are answered."""

    url: str
    hosts: frozenset[str]
    origins: frozenset[str]
    own: Issuer
    others: Sequence[TrustedIssuer]
    callers: TokenInstances
    proofs: ProofVerifier = field(default_factory=ProofVerifier)
    known: dict[str, OwnToken] = field(default_factory=dict, repr=False)
    """Tokens of our own whose signature was found good, which it stays. Whether they may be used is asked each time."""

    @property
    def metadata_url(self) -> str:
        """RFC 9728 §3.1: the well-known name stands before the resource's path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}"

    async def metadata(self, request: Request) -> Response:
        """RFC 9728 §2."""
        self._check_place(request)
        document = {
            "resource": self.url,
            "resource_name": "mcp-guard",
            "authorization_servers": [other.issuer for other in self.others],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": list(ALGORITHMS),
        }
        return JSONResponse(document, headers={"access-control-allow-origin": "*"})

    async def authenticate(self, request: Request) -> Instance:
        """The instance that sends this request, with its credential. Raises: HTTPException."""
        self._check_place(request)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "dpop") or not token.strip():
            raise self._unauthorized("")
        token = token.strip()
        try:
            said = await self._read(token)
            self._check_proof(request, scheme, token, said.thumbprint)
            return self.callers.own(said, token) if isinstance(said, OwnToken) else self.callers.foreign(said, token)
        except (InvalidCredential, IdentityError) as refused:
            raise self._unauthorized(refused.message if isinstance(refused, IdentityError) else str(refused)) from None

    async def _read(self, token: str) -> OwnToken | ExternalToken:
        """Our own are checked at once; for others' their keys may have to be fetched. Raises: InvalidCredential."""
        if (known := self.known.get(token)) is not None:
            return known
        if self.others and decode_unverified(token).get("iss") != self.own.origin:
            return await asyncio.to_thread(read_token, token, self.own, self.url, self.others)
        said = read_token(token, self.own, self.url, ())
        if isinstance(said, OwnToken):
            if len(self.known) >= KNOWN_TOKENS:
                self.known.clear()
            self.known[token] = said
        return said

    def _check_place(self, request: Request) -> None:
        """Against DNS rebinding and pages of other origins."""
        if request.headers.get("host", "") not in self.hosts:
            raise HTTPException(421, "this name is not answered here; see serve.hosts")
        origin = request.headers.get("origin")
        if origin is not None and origin not in self.origins:
            raise HTTPException(403, "this origin may not ask; see serve.origins")

    def _check_proof(self, request: Request, scheme: str, token: str, bound: str) -> None:
        """A token that is bound to a key is good only with a proof; one that is not, only without."""
        proofs = request.headers.getlist("dpop")
        if not bound and scheme.lower() == "bearer" and not proofs:
            return
        if not bound or scheme.lower() != "dpop" or len(proofs) != 1:
            raise InvalidCredential(
                "a token that is bound to a key needs the scheme DPoP and one proof, and no other has them"
            )
        asked = request.method, urljoin(self.url, request.url.path)
        self.proofs.check(proofs[0], asked, token, bound, self.callers.now() // 1_000_000)

    def _unauthorized(self, why: str) -> HTTPException:
        challenge = f'Bearer resource_metadata="{self.metadata_url}"'
        if why:
            plain = why.replace('"', "'").encode("ascii", "replace").decode()
            challenge += f', error="invalid_token", error_description="{plain}"'
        return HTTPException(401, why or "a bearer token is required", {"WWW-Authenticate": challenge})
