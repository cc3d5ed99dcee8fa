"""A server of the tasks extension on the official SDK, with the tools that the suite's scenarios of it call.

Usage: tasks_server.py PORT. The official reference server does not have the extension.
"""

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import uvicorn
from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolRequestParams, RequestParams
from pydantic import ConfigDict, Field

IDENTIFIER = "io.modelcontextprotocol/tasks"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
Json = dict[str, Any]
RequestContext = ServerRequestContext[Any, Any]
ENDED = ("completed", "failed", "cancelled")


class TaskParams(RequestParams):
    model_config = ConfigDict(extra="allow")
    task_id: str = Field(alias="taskId")


class UpdateParams(TaskParams):
    input_responses: Json = Field(alias="inputResponses")


class Task:
    """One task, and what it asks its client."""

    def __init__(self, work: Callable[["Task"], Awaitable[Json]]) -> None:
        now = datetime.now(UTC).isoformat()
        self.id = str(uuid.uuid4())
        self.state: Json = {"status": "working", "createdAt": now, "lastUpdatedAt": now}
        self.answers: dict[str, asyncio.Future[Json]] = {}
        self.questions: Json = {}
        self.running = asyncio.create_task(self.run(work))

    async def run(self, work: Callable[["Task"], Awaitable[Json]]) -> None:
        try:
            self.end(status="completed", result=await work(self))
        except MCPError as failure:
            self.end(status="failed", error={"code": failure.code, "message": failure.message})
        except asyncio.CancelledError:
            self.end(status="cancelled")

    def end(self, **state: Any) -> None:
        self.state |= {**state, "lastUpdatedAt": datetime.now(UTC).isoformat()}

    async def ask(self, key: str) -> Json:
        self.questions[key] = elicitation(key)
        self.answers[key] = asyncio.get_running_loop().create_future()
        return await self.answers[key]

    def answer(self, responses: Json) -> None:
        for key in self.questions.keys() & responses.keys():
            del self.questions[key]
            self.answers[key].set_result(responses[key])

    def told(self) -> Json:
        waits = bool(self.questions) and self.state["status"] == "working"
        asking = {"status": "input_required", "inputRequests": self.questions} if waits else {}
        return {"taskId": self.id, "ttlMs": 60_000, "pollIntervalMs": 200, **self.state, **asking}


def elicitation(name: str) -> Json:
    schema = {"type": "object", "properties": {name: {"type": "string"}, "confirm": {"type": "boolean"}}}
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": f"{name}?", "requestedSchema": schema},
    }


def text(said: str, **more: Any) -> Json:
    return {"content": [{"type": "text", "text": said}], **more}


async def slow_compute(_: Task, arguments: Json) -> Json:
    await asyncio.sleep(float(arguments.get("seconds", 0)))
    return text(f"{arguments.get('label')} done")


async def failing_job(_: Task, __: Json) -> Json:
    return text("it failed", isError=True)


async def protocol_error_job(_: Task, __: Json) -> Json:
    raise MCPError(-32603, "it broke")


async def confirm_delete(task: Task, arguments: Json) -> Json:
    answer = await task.ask("confirm")
    return text(f"{arguments.get('filename')}: {answer.get('action')}")


async def multi_input(task: Task, _: Json) -> Json:
    await asyncio.gather(task.ask("one"), task.ask("two"))
    return text("both answered")


async def named(_: Task, arguments: Json) -> Json:
    return text(f"hello {arguments['name']}")


TOOLS = {work.__name__: work for work in (slow_compute, failing_job, protocol_error_job, confirm_delete, multi_input)}
TOOLS["test_tool_with_task"] = named
REQUIRED = ("failing_job", "test_tool_with_task")
MISSING: Json = {"requiredCapabilities": {"extensions": {IDENTIFIER: {}}}}


class Tasks(Extension):
    identifier = IDENTIFIER

    def __init__(self) -> None:
        self.all: dict[str, Task] = {}

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("tasks/get", TaskParams, self.get),
            MethodBinding("tasks/cancel", TaskParams, self.cancel),
            MethodBinding("tasks/update", UpdateParams, self.update),
        ]

    def find(self, context: RequestContext, params: TaskParams) -> Task:
        if context.request is not None and context.request.headers.get("mcp-name") != params.task_id:
            raise MCPError(-32020, "Header mismatch: Mcp-Name")
        if not offers(context):
            raise MCPError(-32021, "Missing required client capability", MISSING)
        if params.task_id not in self.all:
            raise MCPError(-32602, "Task not found")
        return self.all[params.task_id]

    async def get(self, context: RequestContext, params: TaskParams) -> Json:
        return self.find(context, params).told()

    async def cancel(self, context: RequestContext, params: TaskParams) -> Json:
        self.find(context, params).running.cancel()
        return {}

    async def update(self, context: RequestContext, params: UpdateParams) -> Json:
        self.find(context, params).answer(params.input_responses)
        return {}

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: RequestContext, call_next: CallNext
    ) -> HandlerResult:
        work, arguments = TOOLS.get(params.name), dict(params.arguments or {})
        if work is None:
            return await call_next(ctx)
        if not offers(ctx):
            if params.name in REQUIRED:
                raise MCPError(-32021, "Missing required client capability", MISSING)
            return text("at once", resultType="complete")
        if params.name == "test_tool_with_task":
            answers = (ctx.params or {}).get("inputResponses")
            if not answers:
                asked = {"user_name": elicitation("name")}
                return {"resultType": "input_required", "inputRequests": asked, "requestState": "round 1"}
            arguments = dict(answers["user_name"]["content"])
        task = Task(lambda task: work(task, arguments))
        self.all[task.id] = task
        return {"resultType": "task", **task.told()}


def offers(context: RequestContext) -> bool:
    capabilities = ((context.params or {}).get("_meta") or {}).get(CAPABILITIES) or {}
    return IDENTIFIER in (capabilities.get("extensions") or {})


server = MCPServer("tasks", extensions=[Tasks()])


@server.tool()
def greet(name: str) -> str:
    return f"Hello, {name}!"


def placeholder(name: str) -> None:
    @server.tool(name=name)
    def tool(seconds: float = 0, label: str = "", filename: str = "") -> str:
        """Is never called: the extension answers for it."""
        raise AssertionError(name)


for tool_name in TOOLS:
    placeholder(tool_name)

if __name__ == "__main__":
    uvicorn.run(server.streamable_http_app(), port=int(sys.argv[1]), log_level="error")
