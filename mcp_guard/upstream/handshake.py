"""Agreeing with an upstream on a protocol revision: by `initialize`, or by `server/discover` of the stateless one."""

from collections.abc import Callable
from dataclasses import dataclass

from mcp_guard.core import exact_json
from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import Peer
from mcp_guard.protocol.methods import INITIALIZE, INVALID_PARAMS, REVISIONS
from mcp_guard.protocol.versions import supported_versions
from mcp_guard.upstream.message_parts import excerpt
from mcp_guard.upstream.transport import ServerProtocol

HANDSHAKE_SECONDS = 60.0
MAX_INITIALIZE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the upstream says of itself, as an `initialize` result; `protocol` is None after a handshake."""

    result: Json
    protocol: ServerProtocol | None = None


class HandshakeFailed(Exception):
    """The message says how, as the end of a sentence about the upstream."""


class Handshake:
    """One attempt after another with one upstream, for a client that `initialize_params` describe.

    An upstream gets `initialize` first; if it refuses, it is asked whether it speaks the stateless revision. With
    `prefers_stateless` the order is reversed. An upstream that does not survive the question is not asked again.
    """

    def __init__(
        self,
        initialize_params: Json,
        prefers_stateless: bool,
        *,
        on_notification: Callable[[str, Json], None],
        note: Callable[[str], None],
    ) -> None:
        self._params = initialize_params
        self._prefers_stateless = prefers_stateless
        self._on_notification = on_notification
        self._note = note

    async def perform(self, peer: Peer) -> Agreement:
        """Raises: HandshakeFailed, PeerLost."""
        try:
            return await self._perform(peer)
        except TimeoutError:
            raise HandshakeFailed(f"did not answer `{INITIALIZE}` within {HANDSHAKE_SECONDS:g} s") from None

    async def _perform(self, peer: Peer) -> Agreement:
        """Raises: HandshakeFailed, PeerLost, TimeoutError."""
        if self._prefers_stateless:
            self._prefers_stateless = False
            if (agreement := await self._discover(peer)) is not None:
                self._prefers_stateless = True
                return agreement
        reply = await self._initialize(peer)
        if "error" in reply and (agreement := await self._discover(peer)) is not None:
            return agreement
        result = reply.get("result")
        if not isinstance(result, dict) or not isinstance(result.get("capabilities"), dict):
            raise HandshakeFailed(f"refused `{INITIALIZE}`: {excerpt(reply.get('error', reply))}")
        return _checked(result)

    async def _initialize(self, peer: Peer) -> Json:
        """Send `initialize`, and again in another revision, if the upstream does not speak this one.

        Raises: PeerLost, TimeoutError.
        """
        params, tried = self._params, [self._params["protocolVersion"]]
        while True:
            reply = await peer.request(INITIALIZE, params, timeout=HANDSHAKE_SECONDS)
            version = other_version(reply, tried)
            if version is None:
                return reply
            tried.append(version)
            params = {**self._params, "protocolVersion": version}

    async def _discover(self, peer: Peer) -> Agreement | None:
        """None if it does not speak the stateless revision. Raises: HandshakeFailed, PeerLost."""
        from mcp_guard.upstream.stateless import StatelessServerProtocol  # most upstreams do not need it

        protocol = StatelessServerProtocol(peer, self._params, on_notification=self._on_notification, note=self._note)
        result = await protocol.discover()
        return None if result is None else _checked(result, protocol)


def other_version(reply: Json, tried: list[str]) -> str | None:
    """The revision to try next: of those that a refusal names, the newest that is not newer than the first one tried.

    A refusal of the parameters that names none is tried with each older revision. None if there is nothing to try.
    """
    if named := supported_versions(reply):
        supported = [version for version in named if version in REVISIONS]
        if not supported or len(tried) > 1:
            return None
        not_newer = [version for version in supported if version <= tried[0]]
        return max(not_newer) if not_newer else min(supported)
    refusal = reply.get("error")
    if not isinstance(refusal, dict) or refusal.get("code") != INVALID_PARAMS:
        return None
    return max((version for version in REVISIONS if version < min(tried)), default=None)


def _checked(result: Json, protocol: ServerProtocol | None = None) -> Agreement:
    """Raises: HandshakeFailed if what the upstream says of itself is too large to be kept."""
    if (size := len(exact_json.dumps(result))) > MAX_INITIALIZE_BYTES:
        raise HandshakeFailed(f"answered `{INITIALIZE}` with {size} bytes; at most {MAX_INITIALIZE_BYTES} are accepted")
    return Agreement(result, protocol)
