"""The official MCP client (`mcp`) in front of a guard, for commands, which are plain code.

The SDK checks every answer. What it does not know of one is kept.
"""

import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import IO, Any, Self

import anyio
from anyio.from_thread import start_blocking_portal
from anyio.to_thread import run_sync
from mcp import Client, MCPError, types
from mcp.client.session import IncomingMessage
from mcp.shared.message import SessionMessage
from pydantic import RootModel, ValidationError

from mcp_guard import __version__
from mcp_guard.cli.guard_answers import GuardEnded, UnusableAnswer, held_approval
from mcp_guard.core import replies
from mcp_guard.core.model import Json

POLL_SECONDS = 0.5


class AnyResult(RootModel[dict[str, Any]]):
    """A result with all its members."""


class GuardClient:
    """The only client of a guard process, which exits when the client does.

    `on_held` is called once for each approval that a call waits for, with its id and the names of its routes, in the
    thread that made the call. Every method may raise GuardEnded or UnusableAnswer.
    """

    def __init__(self, guard: "subprocess.Popen[bytes]", on_held: Callable[[str, str], None]) -> None:
        self._guard = guard
        self._on_held = on_held
        self._announced: set[str] = set()
        self._events: SimpleQueue[tuple[str, str] | ValidationError | None] = SimpleQueue()
        """From the client's thread: an approval that a call waits for, a message that cannot be read, or None when the
        answer is there."""
        self._has_ended = False
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        info = types.Implementation(name="mcp-guard call", version=__version__)
        client = Client(self._pipes(), client_info=info, message_handler=self._on_message)
        try:
            self._portal = self._exits.enter_context(start_blocking_portal())
            self._client = self._exits.enter_context(self._portal.wrap_async_context_manager(client))
        except BaseException:
            self._exits.close()
            if self._has_ended:
                raise GuardEnded(self._guard.wait()) from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def protocol_version(self) -> str:
        return self._client.protocol_version

    def tools(self) -> list[Json]:
        """The tools that are listed for this agent."""
        tools: list[Json] = []
        cursor = None
        while True:
            params = types.PaginatedRequestParams(cursor=cursor)
            answer = self._request(types.ListToolsRequest(params=params), types.ListToolsResult)
            if "error" in answer:
                raise UnusableAnswer(f"the tools cannot be listed: {answer['error']['message']}")
            result = answer["result"]
            tools += result["tools"]
            if not (cursor := result.get("nextCursor")):
                return tools

    def call(self, tool: str, arguments: Json) -> Json:
        """Returns the `result` or `error` member of the answer; waits for a held call while its approval is pending."""
        answer = self._call(tool, arguments)
        while approval := held_approval(answer.get("result", {})):
            self._announce(*approval)
            time.sleep(POLL_SECONDS)
            answer = self._call(replies.AWAIT, {"approval": approval[0]})
        return answer

    def _call(self, tool: str, arguments: Json) -> Json:
        params = types.CallToolRequestParams(name=tool, arguments=arguments)
        return self._request(types.CallToolRequest(params=params), types.CallToolResult)

    def _request(self, request: types.ListToolsRequest | types.CallToolRequest, kind: type[types.Result]) -> Json:
        """Returns the `result` or `error` member of the answer, and announces what is held until it is there."""
        send = partial(self._client.session.send_request, request, AnyResult, progress_callback=_ask_for_progress)
        answer = self._portal.start_task_soon(send)
        answer.add_done_callback(lambda _: self._events.put(None))
        while (event := self._events.get()) is not None:
            if isinstance(event, ValidationError):
                answer.cancel()
                raise _unusable(event)
            self._announce(*event)
        try:
            result = answer.result().root
            kind.model_validate(result, by_name=False)
            return {"result": result}
        except MCPError as error:
            if self._has_ended:
                raise GuardEnded(self._guard.wait()) from None
            return {"error": error.error.model_dump(exclude_none=True)}
        except ValidationError as error:
            raise _unusable(error) from None

    def _announce(self, id: str, routes: str) -> None:
        if id not in self._announced:
            self._announced.add(id)
            self._on_held(id, routes)

    async def _on_message(self, message: IncomingMessage) -> None:
        if isinstance(message, ValidationError):
            self._events.put(message)
        elif isinstance(message, types.ProgressNotification) and (
            approval := held_approval({"_meta": message.params.meta})
        ):
            self._events.put(approval)

    @asynccontextmanager
    async def _pipes(self) -> AsyncIterator[Any]:
        """The guard's standard output and input, as streams of messages. Unlike with the SDK's `stdio_client`, the
        guard may take its time to exit, and its exit code is known."""
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        incoming, received = anyio.create_memory_object_stream[SessionMessage | Exception]()
        sent, outgoing = anyio.create_memory_object_stream[SessionMessage]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, self._guard.stdout, incoming)
            tasks.start_soon(self._write, self._guard.stdin, outgoing)
            yield received, sent

    async def _read(self, stdout: IO[bytes], incoming: anyio.abc.ObjectSendStream[SessionMessage | Exception]) -> None:
        async with incoming:
            async for line in anyio.wrap_file(stdout):
                try:
                    message: SessionMessage | Exception = SessionMessage(
                        types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                    )
                except ValidationError as error:
                    message = error
                with suppress(anyio.BrokenResourceError):  # the client has gone
                    await incoming.send(message)
            self._has_ended = True

    async def _write(self, stdin: IO[bytes], outgoing: anyio.abc.ObjectReceiveStream[SessionMessage]) -> None:
        """The guard exits when its standard input is closed."""
        with suppress(BrokenPipeError), stdin:
            async for message in outgoing:
                line = message.message.model_dump_json(by_alias=True, exclude_unset=True) + "\n"
                await run_sync(stdin.write, line.encode())
                await run_sync(stdin.flush)


def _unusable(error: ValidationError) -> UnusableAnswer:
    first = error.errors()[0]
    where = "/".join(map(str, first["loc"]))
    return UnusableAnswer(f"the answer is not one that MCP has: `{where}`: {first['msg']}")


async def _ask_for_progress(progress: float, total: float | None, message: str | None) -> None:
    """Has the SDK ask for progress; which approval a call waits for is in the notification's `_meta`."""
