"""An MCP server that writes notes for whoever calls it, without an SDK: it takes tokens of a company's provider.

Usage: notes.py PORT ISSUER FOLDER. At /mcp it takes access tokens of the issuer for itself; at /jag/mcp those that its
own authorization server gives for an ID-JAG of the issuer. `FOLDER/notes.jsonl` gets each note with the user of its
token, `FOLDER/tokens.jsonl` each token and assertion that it saw. A session that another user continues is an error. In
revision 2026-07-28 `later` is a task, until the file `FOLDER/done` is there; `FOLDER/looks.jsonl` gets who asked about
whose.
"""

import json
import secrets
import sys
from pathlib import Path
from typing import Any

import httpx2 as httpx
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

REVISION, EXTENSION = "2026-07-28", "io.modelcontextprotocol/tasks"
PORT, ISSUER, FOLDER = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
HERE = f"http://127.0.0.1:{PORT}"
GIVEN: dict[str, str] = {}
"""Tokens of the own authorization server, and for whom they are."""
SESSIONS: dict[str, str] = {}
"""By id: the user who opened it."""
TIMES = {"createdAt": "2026-11-29T10:00:00Z", "lastUpdatedAt": "2026-11-29T10:00:00Z", "ttlMs": 60_000}
TASKS: dict[str, str] = {}
"""By id: the user whose task it is."""
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}
TOOLS = [{"name": name, "inputSchema": SCHEMA} for name in ("write", "later")]


def keep(name: str, **members: object) -> None:
    with (FOLDER / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(members) + "\n")


def read(token: str, audience: str) -> dict[str, Any]:
    with httpx.Client(trust_env=False) as http:
        [key] = jwt.PyJWKSet.from_dict(http.get(f"{ISSUER}/jwks").json()).keys
    keep("tokens", token=token)
    return dict(jwt.decode(token, key.key, ["RS256"], audience=audience, issuer=ISSUER))


def resource(request: Request) -> Response:
    path = request.url.path.partition("oauth-protected-resource")[2]
    servers = [HERE] if path.startswith("/jag") else [ISSUER]
    return JSONResponse({"resource": HERE + path, "authorization_servers": servers, "scopes_supported": ["write"]})


def metadata(request: Request) -> Response:
    return JSONResponse({"issuer": HERE, "token_endpoint": f"{HERE}/token"})


async def token(request: Request) -> Response:
    form = await request.form()
    assertion = str(form["assertion"])
    assert jwt.get_unverified_header(assertion)["typ"] == "oauth-id-jag+jwt"
    claims = read(assertion, HERE)
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert claims["resource"] == f"{HERE}/jag/mcp"
    access = f"notes-{secrets.token_urlsafe(48)}"
    GIVEN[access] = claims["sub"]
    keep("tokens", token=access)
    return JSONResponse({"access_token": access, "token_type": "Bearer", "expires_in": 300})


def user_of(request: Request) -> str | None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if request.url.path.startswith("/jag"):
        return GIVEN.get(given)
    try:
        return str(read(given, f"{HERE}/mcp")["sub"])
    except jwt.PyJWTError:
        return None


async def mcp(request: Request) -> Response:
    user, session = user_of(request), request.headers.get("mcp-session-id", "")
    if user is None:
        where = f"{HERE}/.well-known/oauth-protected-resource{request.url.path}"
        return Response(status_code=401, headers={"www-authenticate": f'Bearer resource_metadata="{where}"'})
    assert SESSIONS.get(session, user) == user, "a session of another user"
    if request.method != "POST":
        return Response(status_code=405)
    message = json.loads(await request.body())
    if "id" not in message:
        return Response(status_code=202)
    method, params = message["method"], message.get("params", {})
    headers = {}
    if method == "initialize":
        headers["mcp-session-id"] = secrets.token_hex(8)
        SESSIONS[headers["mcp-session-id"]] = user
        info = {"name": "notes", "version": "1"}
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "server/discover":
        capabilities: dict[str, Any] = {"tools": {}, "extensions": {EXTENSION: {}}}
        result = {"resultType": "complete", "supportedVersions": [REVISION], "capabilities": capabilities}
    elif method == "tools/list":
        result = {"resultType": "complete", "tools": TOOLS}
    elif method == "tools/call" and params["name"] == "later":
        id = secrets.token_hex(8)
        TASKS[id] = user
        result = {"resultType": "task", "taskId": id, "status": "working", **TIMES}
    elif method == "tasks/get":
        keep("looks", user=user, of=TASKS[params["taskId"]])
        ended = {"status": "completed", "result": {"content": [{"type": "text", "text": f"done for {user}"}]}}
        state = ended if (FOLDER / "done").exists() else {"status": "working"}
        result = {"resultType": "complete", "taskId": params["taskId"], **TIMES, **state}
    elif method == "tools/call":
        keep("notes", user=user, text=params["arguments"]["text"])
        said = f"noted for {user}, who showed {request.headers['authorization']}"
        result = {"resultType": "complete", "content": [{"type": "text", "text": said}]}
    else:
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "unknown"}})
    return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers)


def main() -> None:
    routes = [
        Route("/.well-known/oauth-protected-resource{rest:path}", resource),
        Route("/.well-known/oauth-authorization-server", metadata),
        Route("/token", token, methods=["POST"]),
        Route("/mcp", mcp, methods=["GET", "POST", "DELETE"]),
        Route("/jag/mcp", mcp, methods=["GET", "POST", "DELETE"]),
    ]
    uvicorn.run(Starlette(routes=routes), port=PORT, log_level="warning")


if __name__ == "__main__":
    main()
