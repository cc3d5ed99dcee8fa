"""A real authorization server and the MCP server that it guards, for tests: over HTTP, with short tokens that rotate.

Usage: authority.py PORT FOLDER. `FOLDER/authority.json` controls its behaviour and is read each time;
`FOLDER/asked.jsonl` gets each token request, each answer to one, and each call. The MCP server is at /mcp,
without an SDK.
"""

import asyncio
import base64
import hashlib
import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
HERE = f"http://127.0.0.1:{PORT}"
GOOD: dict[str, float] = {}
"""Access tokens, and until when they are good."""
REFRESH: dict[str, bool] = {}
"""Refresh tokens, and whether they are unused."""
ALL: list[str] = []
"""Every secret that it was told or gave."""
OF: dict[str, list[str]] = {}
"""By access token: what was given with it, and to the client before."""
CODES: dict[str, dict[str, str]] = {}


def how() -> dict[str, Any]:
    fixed: dict[str, Any] = {"lasts": 3600, "issuer": HERE, "secret": "", "leak": False, "header": ""}
    fixed |= json.loads((FOLDER / "authority.json").read_text())
    return fixed


def note(what: str, **said: object) -> None:
    with (FOLDER / "asked.jsonl").open("a") as log:
        log.write(json.dumps({"what": what, **said}) + "\n")


async def resource(request: Request) -> Response:
    if how().get("pointed") and not request.url.path.startswith("/meta/"):
        return Response(status_code=404)
    return JSONResponse({"resource": how().get("resource", f"{HERE}/mcp"), "authorization_servers": [how()["issuer"]]})


async def metadata(request: Request) -> Response:
    said = {"issuer": HERE, "token_endpoint": f"{HERE}/token", "authorization_endpoint": f"{HERE}/authorize"}
    return JSONResponse({**said, **how().get("metadata", {})})


async def authorize(request: Request) -> Response:
    query = dict(request.query_params)
    if how().get("forgets") == query["client_id"]:
        return PlainTextResponse("unknown client_id", 422)
    code = secrets.token_urlsafe(16)
    CODES[code] = query
    back = {"code": code, "state": query["state"], "iss": HERE, **how().get("back", {})}
    return RedirectResponse(f"{query['redirect_uri']}?{urlencode(back)}", 302)


def refuse(code: str, status: int = 400) -> Response:
    said = {"error": code, "error_description": f"no: {how()['secret']}"}
    return JSONResponse(said, status)


async def token(request: Request) -> Response:
    form = {name: found[-1] for name, found in parse_qs((await request.body()).decode()).items()}
    basic = base64.b64decode(request.headers.get("authorization", "Basic ").split(" ", 1)[1] or b"").decode()
    client, _, secret = basic.partition(":")
    client, secret = client or form.get("client_id", ""), secret or form.get("client_secret", "")
    note("token", **form, client=unquote(client))
    behaviour = how()
    await asyncio.sleep(behaviour.get("slow", 0))
    if behaviour.get("down"):
        return PlainTextResponse(f"down: {secret}", 503)
    is_forgotten = behaviour.get("forgets") == unquote(client)
    if is_forgotten or (behaviour["secret"] and unquote(secret) != behaviour["secret"]):
        return refuse("invalid_client", 401)
    if form["grant_type"] == "refresh_token":
        if not REFRESH.pop(form["refresh_token"], False):
            return refuse("invalid_grant")
    elif form["grant_type"] == "authorization_code":
        asked = CODES.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if asked is None or asked["code_challenge"] != challenge.decode():
            return refuse("invalid_grant")
    access, refresh = f"access-{secrets.token_urlsafe(48)}", f"refresh-{secrets.token_urlsafe(48)}"
    access = behaviour.get("access", access)
    ALL.extend((access, refresh))
    OF[access] = [access, refresh, *OF.get("", [])]
    GOOD[access] = time.time() + behaviour["lasts"]
    answer = {"access_token": access, "token_type": "Bearer", "expires_in": behaviour["lasts"]}
    if form["grant_type"] != "client_credentials":
        REFRESH[refresh] = True
        answer["refresh_token"] = refresh
    note("gave", access=access, refresh=answer.get("refresh_token", ""))
    return JSONResponse(answer)


async def register(request: Request) -> Response:
    asked = await request.json()
    note("register", **asked)
    if how().get("registers") is False:
        return JSONResponse({"error": "invalid_client_metadata", "error_description": "canary-of-the-server"}, 400)
    given = {**asked, "client_id": f"registered-{secrets.token_hex(4)}", **how().get("registered", {})}
    if asked["token_endpoint_auth_method"] != "none":
        given["client_secret"] = f"registered-{secrets.token_urlsafe(24)}"
        OF[""] = [given["client_secret"]]
    note("registered", **given)
    return JSONResponse(given, 201)


async def drop(request: Request) -> Response:
    """Expire every access token now, before its announced lifetime."""
    GOOD.clear()
    return JSONResponse({})


async def elsewhere(request: Request) -> Response:
    """HTTP with SSE that directs requests to another host."""
    return PlainTextResponse("event: endpoint\ndata: http://other.example/messages\n\n", media_type="text/event-stream")


async def mcp(request: Request) -> Response:
    behaviour = how()
    header = request.headers.get(behaviour["header"] or "authorization", "")
    given = header.removeprefix("Bearer ")
    if behaviour["header"]:  # a fixed value
        note("heard", header=header)
        ALL.append(given)
    elif GOOD.get(given, 0) < time.time():
        where = (
            f'Bearer error="invalid_token", error_description="not {given}", resource_metadata="{HERE}/meta/{given}"'
        )
        return PlainTextResponse(f"who is {given}?", 401, {"www-authenticate": where})
    if request.method != "POST":
        return Response(status_code=405)
    message = json.loads(await request.body())
    if "id" not in message:
        return Response(status_code=202)
    return answer(message, given, behaviour)


def answer(message: dict, given: str, behaviour: dict) -> Response:
    method, leak = message["method"], behaviour["leak"]
    known = [behaviour["secret"], given, *ALL] if leak is True else []
    if leak == "own" and method == "tools/call":
        known = OF[given]
    told = " ".join(dict.fromkeys(item for item in known if item))
    if method == "initialize":
        capabilities: dict[str, Any] = {"tools": {}}
        info = {"name": "tracker", "version": "1"}
        version = message["params"]["protocolVersion"]
        result = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info, "instructions": told}
    elif method == "tools/list":
        names = ("echo", *OTHERWISE)
        schema = {"type": "object", "description": told}
        result = {"tools": [{"name": name, "description": told, "inputSchema": schema} for name in names]}
    else:
        name = message["params"]["name"]
        note("call", tool=name)
        if name in OTHERWISE:
            return OTHERWISE[name](message["id"], told)
        result = {"content": [{"type": "text", "text": told or "done"}]}
    return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers={"x-told": told})


def stream(id: object, told: str) -> str:
    """Progress, a log message, and the reply."""
    news = {"method": "notifications/progress", "params": {"progressToken": id, "progress": 1, "message": told}}
    log = {"method": "notifications/message", "params": {"level": "info", "data": told}}
    last = {"id": id, "error": {"code": -32000, "message": told, "data": {"t": told}}}
    return "".join(f"data: {json.dumps({'jsonrpc': '2.0', **item})}\n\n" for item in (news, log, last))


OTHERWISE: dict[str, Callable[[object, str], Response]] = {
    "status": lambda id, told: PlainTextResponse(f"broken: {told}", 502),
    "redirect": lambda id, told: RedirectResponse(f"{HERE}/elsewhere?{urlencode({'t': told})}", 307),
    "error": lambda id, told: JSONResponse({"error": "invalid_token", "error_description": told}, 403),
    "unauthorized": lambda id, told: PlainTextResponse(
        f"who is {told}?", 403, {"www-authenticate": f'Bearer e="{told}"'}
    ),
    "progress": lambda id, told: PlainTextResponse(stream(id, told), 200, media_type="text/event-stream"),
    "held": lambda id, told: PlainTextResponse(told, 500),
    "html": lambda id, told: PlainTextResponse(f"<p>{told}</p>", 200),
}


def main() -> None:
    routes = [
        Route("/.well-known/oauth-protected-resource/mcp", resource),
        Route("/.well-known/oauth-authorization-server", metadata),
        Route("/meta/{token:path}", resource),
        Route("/old", elsewhere),
        Route("/authorize", authorize),
        Route("/token", token, methods=["POST"]),
        Route("/drop", drop, methods=["POST"]),
        Route("/register", register, methods=["POST"]),
        Route("/mcp", mcp, methods=["GET", "POST", "DELETE"]),
    ]
    uvicorn.run(Starlette(routes=routes), port=PORT, log_level="warning")


if __name__ == "__main__":
    main()
