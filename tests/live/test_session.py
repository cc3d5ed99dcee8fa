"""A session with the real command: cancellation, progress while held, colliding ids, processes that must end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mcp_guard.config import load
from tests.live.running_guard import (
    ALLOW_ALL,
    Client,
    Json,
    cli,
    command,
    enrol,
    log,
    scripted,
    seen,
    text,
    upstream,
    without_config,
    write_config,
)

T = TypeVar("T")
HOLD_POLICIES = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);
"""


def eventually(what: Callable[[], T], seconds: float = 40) -> T:
    """Wait for another process, which cannot signal an event to us."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
    return found


def held(config: Path) -> str:
    """The id of the approval that a call is waiting for."""
    listing = ("approvals", "list", "--config", str(config), "--json")
    return str(eventually(lambda: json.loads(cli(*listing, check=False).stdout or "[]"))[0]["id"])


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_cancelled_call_is_recorded_and_cancelled_upstream(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        id = client.send("tools/call", {"name": "up__never", "arguments": {}})
        eventually(lambda: seen(tmp_path, "up"))
        client.notify("notifications/cancelled", {"requestId": id, "reason": "changed my mind"})
        assert json.loads(text(client.call("up__echo", {"text": "next"})))["tool"] == "echo"
        assert not [
            message for message in client.others if message.get("id") == id
        ]  # a cancelled request gets no reply
    endings = {receipt["tool"]: receipt["ending"] for receipt in log(config, "--kind", "outcome")}
    assert endings == {"up__never": "cancelled", "up__echo": "ok"}
    cli("verify", "--config", str(config))


def test_client_leaving_during_a_call_leaves_an_outcome(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        client.send("tools/call", {"name": "up__never", "arguments": {}})
        eventually(lambda: seen(tmp_path, "up"))
        client.process.send_signal(signal.SIGTERM)
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["cancelled"]
    assert client.process.returncode == 0


def test_held_call_reports_progress_and_completes_when_approved(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, guard="hold_seconds = 30")

    def approve() -> None:
        id = held(config)
        cli("approvals", "approve", id, *enrol(config), "--rationale", "fine")

    with Client(config) as client:
        client.start()
        person = threading.Thread(target=approve)
        person.start()
        meta = {"progressToken": "mine"}
        params = {"name": "up__echo", "arguments": {"text": "x"}, "_meta": meta}
        reply = client.request("tools/call", params)
        person.join()
    assert json.loads(text(reply))["tool"] == "echo"
    news = [message["params"] for message in client.others if message.get("method") == "notifications/progress"]
    assert news
    assert all(item["progressToken"] == "mine" for item in news)
    assert "waiting for approval" in news[0]["message"]
    decision = news[0]["_meta"]["mcp-guard/decision"]
    assert (decision["outcome"], decision["routes"]) == ("require_approval", ["people"])
    assert decision["approval"] in news[0]["message"]
    assert [item["progress"] for item in news] == sorted(item["progress"] for item in news)


def test_a_call_cancelled_while_held_is_never_sent(tmp_path: Path) -> None:
    guard = 'hold_seconds = 30\non_cancel = "withdraw"'
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, guard=guard)
    with Client(config) as client:
        client.start()
        id = client.send("tools/call", {"name": "up__echo", "arguments": {"text": "x"}})
        approval = held(config)
        alice = enrol(config)
        client.notify("notifications/cancelled", {"requestId": id})
        client.call("up__tool_error")
        done = cli("approvals", "approve", approval, *alice, "--rationale", "x", check=False)
        assert "cannot approve an approval that is `withdrawn`" in done.stderr
        assert without_config(done.stderr).endswith(f"hint: mcp-guard approvals show {approval}\n")
    assert [call["name"] for call in seen(tmp_path, "up")] == ["tool_error"]


def test_url_elicitation_points_to_the_inbox_and_its_answer_decides_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, guard="hold_seconds = 0")
    with Client(config) as client:
        client.start("2025-11-25", elicitation={"form": {}, "url": {}})
        reply = client.call("up__echo", {"text": "x"})
        approval = reply["result"]["_meta"]["mcp-guard/decision"]["approval"]
        client.request("ping")
        [asked] = [message for message in client.others if message.get("method") == "elicitation/create"]
        assert asked["params"]["mode"] == "url"
        assert asked["params"]["url"] == f"http://localhost:8765/requests/{approval}"
        accepted = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"approve": True}}}
        client.write(json.dumps(accepted).encode())
        assert "pending" in text(client.call("up__echo", {"text": "x"}))
    with Client(config) as client:
        client.start("2025-06-18", elicitation={})
        client.call("up__echo", {"text": "x"})
        assert not [message for message in client.others if message.get("method") == "elicitation/create"]
    assert seen(tmp_path, "up") == []


def test_upstreams_that_use_the_same_ids_and_tokens_are_not_confused(tmp_path: Path) -> None:
    """Both ask the client with the id `ask-1`, both report progress on the token they were given."""
    config = write_config(tmp_path, scripted("one", tmp_path) + scripted("two", tmp_path))
    with Client(config) as client:
        client.start(roots={})
        asking = {client.send("tools/call", {"name": f"{up}__ask_client"}): up for up in ("one", "two")}
        answered: dict[str, str] = {}
        questions = []
        while len(answered) < len(asking):
            message = client.read()
            if message.get("method") == "roots/list":
                questions.append(message["id"])
                root = {"uri": f"file:///{len(questions)}", "name": "r"}
                client.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"roots": [root]}}).encode())
            elif message.get("id") in asking:
                answered[asking[message["id"]]] = text(message)
        assert len(set(questions)) == 2
        assert len(set(answered.values())) == 2
        for up, token in (("one", "same"), ("two", "same"), ("one", 7)):
            reply = client.request("tools/call", {"name": f"{up}__count", "_meta": {"progressToken": token}})
            assert "result" in reply
            news = [item["params"] for item in client.others if item.get("method") == "notifications/progress"]
            assert [(item["progressToken"], item["progress"]) for item in news] == [(token, n) for n in (1, 2, 3)]
            client.others.clear()


def test_a_request_id_in_use_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        id = client.send("tools/call", {"name": "up__never", "arguments": {}})
        client.last_id -= 1
        assert "already running" in client.call("up__echo")["error"]["message"]
        client.notify("notifications/cancelled", {"requestId": id})


GRANDCHILD = """
import subprocess, sys, runpy
child = subprocess.Popen(["sleep", "1000"])
open(sys.argv[2], "w").write(str(child.pid))
sys.argv = sys.argv[1:2] + sys.argv[3:]
sys.argv = [sys.argv[0], sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def breeding(folder: Path) -> str:
    """The TOML of a server that starts a process of its own, whose pid it writes to `grandchild`."""
    script = folder / "breeding.py"
    script.write_text(GRANDCHILD)
    server = Path(__file__).parent.parent / "servers" / "scripted.py"
    return upstream("up", sys.executable, str(script), str(server), str(folder / "grandchild"), str(folder / "up.log"))


def family(guard: int, folder: Path) -> list[int]:
    """The upstream's process and the one it started."""
    note = folder / "grandchild"
    grandchild = int(str(eventually(lambda: note.exists() and note.read_text())))
    results = [*children(guard), grandchild]
    assert all(alive(pid) for pid in results)
    assert len(results) >= 2
    return results


def test_all_processes_end_with_the_client(tmp_path: Path) -> None:
    with Client(write_config(tmp_path, breeding(tmp_path))) as client:
        client.start()
        assert client.tools()
        started = family(client.process.pid, tmp_path)
    assert not [pid for pid in started if alive(pid)]


def test_all_processes_end_when_the_client_is_killed(tmp_path: Path) -> None:
    """A killed client closes no session; the guard sees the end of its input."""
    config = write_config(tmp_path, breeding(tmp_path))
    program = f"""
import subprocess, sys, time
guard = subprocess.Popen({command("run", "--config", str(config))!r}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
guard.stdin.write(b'{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-06-18",'
                  b'"capabilities":{{}},"clientInfo":{{"name":"x","version":"1"}}}}}}\\n')
guard.stdin.flush()
print(guard.pid, flush=True)
time.sleep(1000)
"""
    client = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert client.stdout is not None
    guard = int(client.stdout.readline())
    started = [guard, *family(guard, tmp_path)]
    client.kill()
    client.wait()
    client.stdout.close()
    eventually(lambda: not [pid for pid in started if alive(pid)])
    assert log(config, "--kind", "guard.stopped")


def test_killed_guard_leaves_no_upstream_running(tmp_path: Path) -> None:
    """The upstream's pipes close; an upstream that respects the end of its input exits."""
    with Client(write_config(tmp_path, scripted("up", tmp_path))) as client:
        client.start()
        assert client.tools()
        started = children(client.process.pid)
        os.kill(client.process.pid, signal.SIGKILL)
        eventually(lambda: not [pid for pid in started if alive(pid)])


def test_changed_listing_is_announced_and_refreshed(tmp_path: Path) -> None:
    flag = tmp_path / "more"
    config = write_config(tmp_path, scripted("up", tmp_path, MORE_TOOLS_IF=str(flag)), guard='first_use = "pin"')
    with Client(config) as client:
        client.start()
        assert "up__later" not in client.tools()
        assert "unknown tool" in client.call("up__later")["error"]["message"]
        flag.touch()
        client.call("up__relist")
        eventually(lambda: client.tools() and [m for m in client.others if "list_changed" in str(m.get("method"))])
        assert "up__later" in client.tools()
        assert json.loads(text(client.call("up__later")))["tool"] == "later"
    assert len({receipt["policy_version"] for receipt in log(config, "--kind", "policy.loaded")}) == 2


def test_guard_starts_from_a_desktop_client_configuration(tmp_path: Path) -> None:
    """The entry that docs/howto/claude-desktop.md gives, started from another folder with a bare environment."""
    config = write_config(tmp_path, scripted("up", tmp_path))
    binary = str(Path(sys.executable).with_name("mcp-guard"))
    entry = {"mcpServers": {"guard": {"command": binary, "args": ["run", "--config", str(config)]}}}
    server = json.loads(json.dumps(entry))["mcpServers"]["guard"]
    client = {"name": "claude-ai", "version": "1"}
    hello: Json = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    call = {"name": "up__echo", "arguments": {"text": "hi"}}
    messages = [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ]
    done = subprocess.run(
        [server["command"], *server["args"]], input="".join(json.dumps(message) + "\n" for message in messages),
        capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    replies = {item["id"]: item["result"] for item in map(json.loads, done.stdout.splitlines()) if "id" in item}
    assert replies[0]["protocolVersion"] == "2025-11-25"
    assert "up__echo" in [tool["name"] for tool in replies[1]["tools"]]
    assert json.loads(replies[2]["content"][0]["text"])["arguments"] == {"text": "hi"}
    assert load(config).state_dir == tmp_path / "state"
