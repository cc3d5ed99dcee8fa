"""Who hears what upstreams send without being asked: the session."""

from collections.abc import Mapping
from typing import Protocol

from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import Id


class UpstreamListener(Protocol):
    """Receives what upstreams send without being asked, and notes for the operator."""

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None: ...

    async def on_answers(self, server: str, questions: Mapping[str, Json], answers: dict[str, Json]) -> dict[str, Json]:
        """The client has answered questions of this upstream. Returns what the upstream gets."""

    def on_server_notification(self, server: str, method: str, params: Json) -> None: ...

    def on_tools_changed(self, server: str) -> None:
        """The upstream reports that its tools have changed."""

    def on_upstream_listed(self, server: str) -> None:
        """The upstream has been listed after it had not been there: it started late, or again."""

    def on_list_changed(self, server: str, method: str) -> None:
        """The upstream has answered `method`, for a client that has been shown an older list or none."""

    def on_result(self, server: str, result: Json) -> None:
        """The result of a tool call."""

    def on_pressure(self, slow: bool) -> None:
        """The upstream reads too slowly, or has caught up."""

    def on_work(self, seconds: float) -> None:
        """A message of an upstream took so much processor time."""

    def note(self, text: str) -> None: ...


class NoListener:
    """Implements `UpstreamListener` by ignoring everything: until there is a listener, or for one to override."""

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        pass

    async def on_answers(self, server: str, questions: Mapping[str, Json], answers: dict[str, Json]) -> dict[str, Json]:
        return answers

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        pass

    def on_tools_changed(self, server: str) -> None:
        pass

    def on_upstream_listed(self, server: str) -> None:
        pass

    def on_list_changed(self, server: str, method: str) -> None:
        pass

    def on_result(self, server: str, result: Json) -> None:
        pass

    def on_pressure(self, slow: bool) -> None:
        pass

    def on_work(self, seconds: float) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class NoAnswers:
    """In place of the peer of an upstream that gets neither notifications nor answers of a client."""

    def notify(self, method: str, params: Json) -> None:
        pass

    def reply(self, id: Id, reply: Json) -> None:
        pass
