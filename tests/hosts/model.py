"""A scripted model on loopback: the HTTP interfaces of Anthropic, OpenAI and Google that coding agents call.

It asks for one tool call after the other, by how many results the conversation has, and remembers what it was given. A
request that offers none of the guard's tools (a title, a summary) gets a word in answer.
"""

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Turn = tuple[str, Json]
"""A tool to call, by the end of its name, with arguments."""


@dataclass
class Script:
    """What the model does, given the results so far: `step` returns the next call, or None to end the conversation."""

    step: Callable[[list[str]], Turn | None]
    needs: str = "echo"
    """How the name of a tool ends that a request of the conversation offers."""
    tools: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    requests: int = 0

    def next(self, tools: dict[str, str], results: list[str]) -> tuple[str, Json] | None:
        """The whole name of the tool to call; `tools` has the names that are offered, and what each is called by."""
        if not any(name.endswith(self.needs) for name in tools):
            return None
        self.requests += 1
        self.tools, self.results = sorted(tools), results
        turn = self.step(results)
        if turn is None:
            return None
        name = next((full for full in tools if full.endswith(turn[0])), turn[0])
        return tools.get(name, name), turn[1]


def text_of(content: Any) -> str:
    """All text in a tool result, however it is wrapped."""
    if isinstance(content, dict):
        return " ".join(text_of(value) for key, value in content.items() if key not in ("id", "call_id", "type"))
    if isinstance(content, list):
        return " ".join(map(text_of, content))
    return content if isinstance(content, str) else ""


def anthropic(script: Script, body: Json) -> Iterator[tuple[str, Json]]:
    """https://docs.anthropic.com/en/api/messages-streaming"""
    tools = {tool["name"]: tool["name"] for tool in body.get("tools", [])}
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    turn = script.next(tools, [text_of(part.get("content")) for part in parts if part["type"] == "tool_result"])
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
    yield "message_start", {"message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}}
    if turn:
        block: Json = {"type": "tool_use", "id": f"toolu_{script.requests}", "name": turn[0], "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(turn[1])}
    else:
        block, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": "done"}
    yield "content_block_start", {"index": 0, "content_block": block}
    yield "content_block_delta", {"index": 0, "delta": delta}
    yield "content_block_stop", {"index": 0}
    stop = "tool_use" if turn else "end_turn"
    yield "message_delta", {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": usage}
    yield "message_stop", {}


def responses(script: Script, body: Json) -> Iterator[tuple[str, Json]]:
    """https://platform.openai.com/docs/api-reference/responses-streaming"""
    tools: dict[str, Any] = {}
    for tool in body.get("tools", []):
        for inner in tool.get("tools", [tool]):  # tools may be grouped in namespaces
            prefix = tool["name"] if "tools" in tool else ""
            tools[prefix + inner.get("name", "")] = (prefix, inner.get("name", ""))
    items = body["input"] if isinstance(body["input"], list) else []
    outputs = [text_of(item["output"]) for item in items if item.get("type") == "function_call_output"]
    turn = script.next(tools, outputs)
    if turn:
        group, name = turn[0] if isinstance(turn[0], tuple) else ("", turn[0])
        item: Json = {"type": "function_call", "id": f"fc_{script.requests}", "call_id": f"call_{script.requests}"}
        item |= {"name": name, "arguments": json.dumps(turn[1]), "status": "completed"}
        item |= {"namespace": group} if group else {}
    else:
        content = [{"type": "output_text", "text": "done", "annotations": []}]
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
    whole = {"id": "resp_1", "object": "response", "created_at": 0, "model": body["model"], "output": []}
    yield "response.created", {"response": {**whole, "status": "in_progress"}}
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    usage: Json = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    yield "response.completed", {"response": {**whole, "status": "completed", "output": [item], "usage": usage}}


def chat(script: Script, body: Json) -> Iterator[tuple[str, Json]]:
    """https://platform.openai.com/docs/api-reference/chat-streaming"""
    tools = {tool["function"]["name"]: tool["function"]["name"] for tool in body.get("tools", [])}
    outputs = [text_of(message["content"]) for message in body["messages"] if message["role"] == "tool"]
    turn = script.next(tools, outputs)
    chunk = {"id": "chat_1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
    delta: Json = {"role": "assistant", "content": "done"}
    if turn:
        function = {"name": turn[0], "arguments": json.dumps(turn[1])}
        call = {"index": 0, "id": f"call_{script.requests}", "type": "function", "function": function}
        delta = {"role": "assistant", "content": None, "tool_calls": [call]}
    yield "", {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    stop = "tool_calls" if turn else "stop"
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    yield "", {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": stop}], "usage": usage}


def gemini(script: Script, body: Json) -> Iterator[tuple[str, Json]]:
    """https://ai.google.dev/api/generate-content"""
    declared = [one for tool in body.get("tools", []) for one in tool.get("functionDeclarations", [])]
    parts = [part for content in body["contents"] for part in content["parts"]]
    outputs = [text_of(part["functionResponse"]["response"]) for part in parts if "functionResponse" in part]
    turn = script.next({one["name"]: one["name"] for one in declared}, outputs)
    part = {"functionCall": {"name": turn[0], "args": turn[1]}} if turn else {"text": "done"}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    content = {"role": "model", "parts": [part]}
    yield "", {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}


ROUTES = {"/messages": anthropic, "/responses": responses, "/chat/completions": chat, "GenerateContent": gemini}


@contextmanager
def serving(script: Script, log: list[str] | None = None) -> Iterator[int]:
    """Yields the port on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = re.sub(r"\?.*", "", self.path)
            if log is not None:
                log.append(f"{self.path} {raw[:2000]!r}")
            route = next((ROUTES[end] for end in ROUTES if path.endswith(end)), None)
            if route is None:
                self._send(json.dumps({"input_tokens": 1, "totalTokens": 1, "data": []}).encode(), "application/json")
                return
            events = list(route(script, json.loads(raw)))
            lines = []
            for name, event in events:
                data = {"type": name, **event} if name else event
                lines.append((f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n")
            if route is chat:
                lines.append("data: [DONE]\n\n")
            self._send("".join(lines).encode(), "text/event-stream")

        def do_GET(self) -> None:
            self._send(b'{"data": [], "models": []}', "application/json")

        def _send(self, data: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
