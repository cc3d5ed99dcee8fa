"""Start one of the other guards for `make bench-rivals`, configured after its own documentation, and become it.

Usage: launch.py NAME FOLDER upstream argv…   (one that speaks stdio)
       launch.py NAME FOLDER PORT URL          (one that speaks HTTP, in front of the upstream at the URL)

Each gets a home of its own, a new record in each round, a policy that allows the benchmark's call by a condition on its
arguments where its policies can have one, and no rate limits. Parts that run beside its proxy are started first. They
stay below this process, which then becomes the proxy, so that their processor time is counted.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PR_SET_CHILD_SUBREAPER = 36
READY_SECONDS = 90.0
CLIENT_FILE = "client.json"
"""What a client needs to connect over HTTP; written when the parts are running."""


@dataclass(frozen=True)
class Place:
    """Where one rival runs: its folder, the programs of its environment, and what it is to start or to listen on."""

    folder: Path
    programs: Path
    upstream: list[str] = field(default_factory=list)
    port: int = 0
    url: str = ""

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def program(self, name: str) -> str:
        return str(self.programs / name)

    def start(self, log: str, *command: str) -> None:
        """Start a part that runs beside the proxy."""
        with (self.folder / log).open("wb") as output:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command[0]} failed with status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def tell_client(self, token: str = "none", tool: str = "update_deal", headers: dict | None = None) -> None:
        partial = self.folder / f"{CLIENT_FILE}.new"
        partial.write_text(json.dumps({"token": token, "tool": tool, "headers": headers or {}}))
        partial.rename(self.folder / CLIENT_FILE)


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(otherwise)
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether something answers there, whatever it says."""
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def mcp_firewall(place: Place, *, sign: bool = False) -> list[str]:
    place.write(
        "firewall.yaml",
        "defaultAction: deny\nglobalRateLimit: {enabled: false}\nrules:\n"
        "  - {name: open-deals, tool: update_deal, match: {arguments: {stage: negotiation}}, action: allow}\n"
        f"audit: {{enabled: true, path: audit.jsonl, sign: {str(sign).lower()}}}\n",
    )
    return [place.program("mcp-firewall"), "wrap", "--config", "firewall.yaml", "--", *place.upstream]


def mcp_firewall_signed(place: Place) -> list[str]:
    return mcp_firewall(place, sign=True)


def squidbrake(place: Place) -> list[str]:
    """Its proxy asks its gateway, a web server with the rules and the record."""
    place.write(
        "rules.yaml",
        "default: deny\nmode: enforce\nsnapshots: 'off'\nrules:\n  - id: small-deals\n    action: allow\n"
        "    match: {name: bench.update_deal, input: {amount: {gte: 0, lt: 100000}}}\n",
    )
    address = f"http://127.0.0.1:{place.port}"
    os.environ |= {
        "SQUIDBRAKE_HOME": "home",
        "SQUIDBRAKE_AUTO_CONNECT": "0",
        "SQUIDBRAKE_NO_UPDATE_CHECK": "1",
        "RULES_PATH": "rules.yaml",
        "GATEWAY_API_KEYS": "bench:gw_bench",
        "GATEWAY_API_KEY": "gw_bench",
        "GATEWAY_URL": address,
    }
    program = place.program("squidbrake")
    place.start("gateway.log", program, "run", "--port", str(place.port), "--no-browser")
    wait_until(lambda: answers(address), f"nothing answers at {address}")
    return [program, "proxy", "--app", "bench", "--", *place.upstream]


def hol_guard(place: Place) -> list[str]:
    """Its proxy asks a daemon. Its policies name tools; conditions on arguments are its own heuristics."""
    home = str(place.folder / "home")
    Path(home, "config.toml").write_text('default_action = "allow"\n')
    program = place.program("hol-guard")
    refused = "cursor:runtime:project:bench:delete_deal"
    place.run(program, "deny", "cursor", "--home", home, "--scope", "artifact", "--artifact-id", refused)
    place.run(program, "daemon", "ensure", "--home", home)
    wait_until((place.folder / "home/native-runtime/direct-lane/ack.json").exists, "its daemon has published no policy")
    time.sleep(2)  # a policy that is just being published ends the proxy
    server = ["--server-name", "bench", "--config-path", f"{home}/mcp.json", "--command", "/usr/bin/env"]
    arguments = [
        f"--arg={argument}" for argument in place.upstream
    ]  # alone, a virtual environment's python is resolved
    return [program, "cursor-mcp-proxy", "--home", home, "--workspace", home, *server, *arguments]


def ctrlrun(place: Place) -> list[str]:
    place.write(
        "ctrlrun.yaml",
        "schema: ctrlrun.policy/v2\nactions:\n  mcp.bench.update_deal:\n    effect: 'deal:{id}'\n    rules:\n"
        "      - {when: {amount_gte: 0, amount_lte: 100000}, decision: allow}\n      - {decision: deny}\n",
    )
    place.tell_client()
    listen = ["--listen", f"127.0.0.1:{place.port}", "--principal", "bench"]
    return [place.program("ctrlrun"), "gateway", "--upstream", place.url, "--alias", "bench", *listen]


def mcp_airlock(place: Place) -> list[str]:
    place.write(
        "policy.yaml",
        "version: 1\nenvironment: prod\n"
        "blast_radius: {max_per_call: 1000000, max_per_principal: 1000000000, window_s: 3600}\n"
        "tools:\n  update_deal:\n    tiers: {prod: L3}\n    where: [{arg: stage, in: [negotiation]}]\n",
    )
    os.environ["AIRLOCK_TRUST_PRINCIPAL_HEADER"] = "1"
    place.tell_client(headers={"x-airlock-principal": "bench"})
    options = ["--policy", "policy.yaml", "--audit", "audit.jsonl", "--port", str(place.port)]
    return [place.program("mcp-airlock"), *options, "--upstream", place.url]


REGISTER = """
import sys
from tracekit.sdk.client import Client
run = Client(sys.argv[1]).register_run({"request_id": "bench", "agent": {"name": "bench"}})
print(run["run_id"] + "." + run["run_token"])
"""


def tracekit(place: Place, *, durability: str = "ack-on-write") -> list[str]:
    """Its gateway asks a signer, which decides and records, over a Unix socket. The agent's run is registered first."""
    signer = f"127.0.0.1:{place.port + 1}"
    http = "{listen: '%s', authenticators: [token], tokens: tokens.json, insecure_loopback: true}"
    place.write(
        "policy.yaml",
        "version: bench-1\ndescription: open deals\ntools: {'mcp:*/*': mcp}\ndeny:\n"
        "  - {id: BENCH-D1, class: mcp, field: args, pattern: '.', reason: closed,\n"
        '     unless: \'"stage":"negotiation"\'}\n',
    )
    place.write(
        "signer.yaml",
        f"data_dir: data\nsocket: signer.sock\nhttp: {http % signer}\ndurability: {durability}\npolicy: policy.yaml\n"
        'authorize: {"token:agent": [register_run, decide, approval_consume, complete, observe, close_run]}\n'
        f'gateways: ["uid:{os.getuid()}"]\nlimits: {{events_per_s: 1000000, burst: 1000000}}\n',
    )
    place.write(
        "gateway.yaml",
        f"http: {http % f'127.0.0.1:{place.port}'}\nsigner: {place.folder}/signer.sock\n"
        f"upstreams: [{{name: bench, url: '{place.url}'}}]\n",
    )
    program = place.program("tracekit")
    shown = place.run(program, "signer", "token", "add", "agent", "--config", "signer.yaml")
    token = next(line for line in shown.splitlines() if line.startswith("tk2_"))
    (place.folder / "agent.token").touch(0o600)
    place.write("agent.token", token)
    place.start("signer.log", program, "signer", "serve", "--config", "signer.yaml")
    wait_until(lambda: answers(f"http://{signer}/"), f"nothing answers at {signer}")
    os.environ["TRACEKIT_SIGNER_TOKEN_FILE"] = "agent.token"
    run = place.run(place.program("python"), "-c", REGISTER, f"http://{signer}").strip()
    place.tell_client(token, "bench__update_deal", {"x-tracekit-run": run})
    return [program, "mcp-gateway", "serve", "--config", "gateway.yaml"]


def tracekit_synced(place: Place) -> list[str]:
    return tracekit(place, durability="ack-on-fsync")


@dataclass(frozen=True)
class Rival:
    """Another guard, or one of its settings, and how it is measured."""

    package: str
    prepare: Callable[[Place], list[str]]
    """Writes the configuration, starts the parts beside the proxy and returns the proxy's command."""
    over_http: bool = False
    stateless: bool = False
    """Speaks only MCP of 2026-07-28, without sessions."""
    refused: str = "update_deal"
    """The tool of the call that its policy refuses: with arguments against the condition, or one that it denies."""

    def version(self) -> str:
        pins = (HERE / f"{self.package}.in").read_text().split()
        return next(pin.partition("==")[2] for pin in pins if pin.startswith(self.package))

    def environment(self) -> Path:
        return HERE / f".venv-{self.package}"


RIVALS = {
    "mcp-firewall": Rival("mcp-firewall", mcp_firewall),
    "mcp-firewall, sign": Rival("mcp-firewall", mcp_firewall_signed),
    "hol-guard": Rival("hol-guard", hol_guard, refused="delete_deal"),
    "squidbrake": Rival("squidbrake", squidbrake),
    "mcp-airlock": Rival("mcp-airlock", mcp_airlock, over_http=True, stateless=True),
    "ctrlrun": Rival("ctrlrun", ctrlrun, over_http=True),
    "tracekit-ai": Rival("tracekit-ai", tracekit, over_http=True),
    "tracekit-ai, ack-on-fsync": Rival("tracekit-ai", tracekit_synced, over_http=True),
}


def free_port() -> int:
    """A port that is free, like the one after it."""
    import socket

    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def main(name: str, folder: Path, rest: list[str]) -> None:
    rival = RIVALS[name]
    shutil.rmtree(folder, ignore_errors=True)  # each round starts afresh: some cannot start again in what they left
    (folder / "home").mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    os.environ.clear()
    os.environ |= {**kept, "HOME": str(folder / "home"), "DO_NOT_TRACK": "1", "CI": "1"}
    place = Place(folder, rival.environment() / "bin", upstream=rest, port=free_port())
    if rival.over_http:
        place = Place(folder, rival.environment() / "bin", port=int(rest[0]), url=rest[1])
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a detached daemon stays below this process
    command = rival.prepare(place)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:])
