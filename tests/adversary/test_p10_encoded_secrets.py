"""P10: an upstream that repeats its secret in an encoding, or in several at once, gives it neither to the agent nor to
the ledger or a log."""

import json
import sys
from base64 import b64encode, urlsafe_b64encode
from html import escape
from pathlib import Path
from urllib.parse import quote, quote_plus

from tests.live.running_guard import Client, Json, upstream, write_config

SECRET = "p4ss&word=s3cr3t/(x)!"
NESTED = json.dumps({"error": "401", "sent": SECRET})
FORM = quote_plus(f"user:{SECRET}")
LONG = b64encode(NESTED.encode() * 2).decode()
SPELLINGS = {
    "nested, as Go writes it": NESTED.replace("&", "\\u0026"),
    "nested, as PHP writes it": NESTED.replace("/", "\\/"),
    "encodeURIComponent": quote(SECRET, safe="!'()*~"),
    "plain and escaped": SECRET + " " + json.dumps({"x": SECRET}).replace("s", "\\u0073"),
    "base64 of a form": b64encode(FORM.encode()).decode(),
    "base64url of JSON in a URL": "https://x/?state=" + urlsafe_b64encode(NESTED.encode()).decode().rstrip("="),
    "percent-encoded base64 in HTML": escape(f'<a href="?t={quote(b64encode(SECRET.encode()), safe="")}">'),
    "hexadecimal of JSON": NESTED.encode().hex().upper(),
    "base64 in lines": f"{LONG[:64]}\r\n  {LONG[64:]}",
    "JSON in JSON in JSON": json.dumps(json.dumps(NESTED)),
    "HTML twice": escape(escape(SECRET)),
    "HTML with zeros": "".join(f"&#{ord(c):010d};" for c in SECRET),
    "JSON, as Java reads it": "".join(f"\\uu{ord(c):04x}" for c in SECRET),
    "octal": "".join(f"\\0{ord(c):03o}" for c in SECRET),
    "a filter of LDAP": SECRET.replace("&", r"\26").replace("(", r"\28").replace(")", r"\29"),
    "PowerShell": SECRET.replace("&", "`&").replace("(", "`("),
    "UTF-16 in a URL": "".join(f"%{ord(c):02x}%00" for c in SECRET),
    "hexadecimal numbers": json.dumps([f"{ord(c):02x}" for c in SECRET]),
    "base64 in a quoted message": f"{LONG[:64]}\n> {LONG[64:]}",
}  # fmt: skip
SPLIT = ("base64 in lines", "base64 in a quoted message")
SERVER = """
import json, os, sys
spellings = json.load(open(sys.argv[1]))
def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()
for line in sys.stdin:
    asked = json.loads(line)
    id, method, params = asked.get("id"), asked.get("method"), asked.get("params")
    if method == "initialize":
        server = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}, "logging": {}}}
        send({"id": id, "result": {**server, "serverInfo": {"name": "x", "version": "1"}}})
    elif method == "tools/list":
        send({"id": id, "result": {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}})
    elif method == "tools/call":
        text = spellings[params["arguments"]["spelling"]]
        print("failed:", text, file=sys.stderr, flush=True)
        send({"method": "notifications/message", "params": {"level": "error", "data": {text: [text]}}})
        if params["arguments"]["as"] == "error":
            send({"id": id, "error": {"code": -1, "message": text}})
        else:
            content = [{"type": "text", "text": text}]
            send({"id": id, "result": {"content": content, "structuredContent": {"deep": [[text]]}}})
"""


def test_no_spelling_of_a_secret_reaches_anyone(tmp_path: Path) -> None:
    (tmp_path / "up.py").write_text(SERVER)
    (tmp_path / "spellings.json").write_text(json.dumps(SPELLINGS))
    server = upstream("up", sys.executable, str(tmp_path / "up.py"), str(tmp_path / "spellings.json"))
    config = write_config(tmp_path, server.replace("env = {  }", 'env = { API_TOKEN = { env = "REAL" } }'))
    with Client(config, env={"REAL": SECRET}) as client:
        client.start()
        replies: dict[str, Json] = {}
        for name in SPELLINGS:
            replies[name] = client.call("up__t", {"spelling": name, "as": "result"})
            client.call("up__t", {"spelling": name, "as": "error"})
    for name, reply in replies.items():
        assert "[secret API_TOKEN]" in reply["result"]["content"][0]["text"], name
    assert json.loads(replies["nested, as Go writes it"]["result"]["content"][0]["text"])["error"] == "401"
    written = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    received = json.dumps([replies, client.others], ensure_ascii=False).encode() + client.stderr.encode()
    for name, spelling in SPELLINGS.items():
        lines = spelling.splitlines() if name in SPLIT else [spelling]
        for form in (spelling, json.dumps(spelling)[1:-1], json.dumps(json.dumps(spelling)[1:-1])[1:-1], *lines):
            assert form.encode() not in received, name
            if name not in SPLIT:  # a secret that is split over lines of stderr is not found there
                assert form.encode() not in written, name
