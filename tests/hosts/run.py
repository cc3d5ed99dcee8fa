"""`make hosts`: real coding agents and the MCP adapters of agent libraries, in front of a guard.

Each lists the tools, makes a call that is allowed and one that is held, and resumes that one after a person has
approved it. Coding agents get their calls from a scripted model on loopback; adapters are called directly. Prints a
Markdown table; exits 1 if a step of a host fails.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.agents import AGENTS, PACKAGES, Guard, Launch
from tests.hosts.model import Script, Turn
from tests.hosts.model import serving as serving_model
from tests.installed import npm_version, pypi_version
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import cli, command, enrol, scripted, seen, write_config

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent.parent
ADAPTERS = Path(__file__).parent / "adapters"
PER_CALL = ("langchain `get_tools`", "llama-index", "autogen `mcp_server_tools`")
"""These start a process for each call on stdio, so their agent needs `instance = "agent"`."""

LIBRARIES = {
    "langchain `get_tools`": ("langchain-mcp-adapters", "langchain", ()),
    "langchain session": ("langchain-mcp-adapters", "langchain", ("session",)),
    "openai-agents": ("openai-agents", "openai-agents", ()),
    "pydantic-ai": ("pydantic-ai-slim", "pydantic-ai", ()),
    "llama-index": ("llama-index-tools-mcp", "llama-index", ()),
    "autogen `mcp_server_tools`": ("autogen-ext", "autogen", ()),
    "autogen workbench": ("autogen-ext", "autogen", ("session",)),
    "google-adk": ("google-adk", "google-adk", ()),
}
"""By name: the package whose version is shown, the environment and script, and the script's options."""

POLICIES = """
@id("allow-all") permit (principal, action, resource);
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__update_deal", resource);
"""
AWAIT = "guard__await"
ECHO: Turn = ("up__echo", {"text": "hi there"})
UPDATE: Turn = ("up__update_deal", {"id": "deal-7", "amount": 3})
SECONDS = 180
HOLD_SECONDS = 8
"""Longer than the shortest time-out of a host, which is 5 s."""
MAX_REPEATS = 2


@dataclass
class Outcome:
    """What a host was shown in each step."""

    host: str
    version: str
    transport: str
    tools: Sequence[str] = ()
    turns: Sequence[Turn] = ()
    results: Sequence[str] = ()
    executed: int = 0
    notes: str = ""

    @property
    def steps(self) -> dict[str, str]:
        """By step, what happened; empty if it failed."""
        listed = sum("up__" in name for name in self.tools)
        told = next((number for number, text in enumerate(self.results) if approval_in(text)), 0)
        waited = "told the approval" if told == 1 else f"told the approval at call {told}" if told else ""
        done = next((number for number, text in enumerate(self.results) if is_done(text)), 0)
        turn = self.turns[done] if done else None
        resumed = "by `guard__await`" if turn and turn[0] == AWAIT else "by repeating the call" if turn else ""
        return {
            "list": f"{listed} tools" if listed else "",
            "allowed call": "result" if self.results and "hi there" in self.results[0] else "",
            "held call": waited,
            "resumed": resumed if self.executed == 1 else "",
        }

    @property
    def works(self) -> bool:
        return all(self.steps.values())


def is_done(text: str) -> bool:
    """Whether this is the result of the held call, not a reply about it."""
    return "deal-7" in text and "update_deal" in text and approval_in(text) is None


def approval_in(text: str) -> str | None:
    found = re.search(r"\bap_\w+", text)
    return found and found.group()


@dataclass
class House:
    """A guard in a folder of its own: one upstream, one policy that holds `update_deal`."""

    folder: Path
    http: bool
    hold_seconds: int = HOLD_SECONDS
    instance: str = "launch"
    config: Path = field(init=False)
    guard: Guard = field(init=False)
    turns: list[Turn] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator["House"]:
        self.folder.mkdir()
        port = free_port() if self.http else 0
        more = serving(port) if self.http else ""
        settings = f'hold_seconds = {self.hold_seconds}\ninstance = "{self.instance}"'
        self.config = write_config(self.folder, scripted("up", self.folder), POLICIES, more, settings)
        enrol(self.config)
        if self.http:
            with Served(self.config, port) as served:
                self.guard = Guard(url=served.url, token=served.issue()[1])
                yield self
        else:
            self.guard = Guard(argv=tuple(command("run", "--config", str(self.config))))
            yield self

    def approve(self, approval: str) -> None:
        cli("approvals", "approve", approval, *enrol(self.config), "--rationale", "agreed", check=False)

    def step(self, results: list[str]) -> Turn | None:
        """What the model does next. It repeats a call that it was told nothing about or could not resume."""
        if len(results) >= len(self.turns):
            turn = self._next(results)
            if turn is None:
                return None
            self.turns.append(turn)
        return self.turns[len(results)]

    def _next(self, results: list[str]) -> Turn | None:
        if not results:
            return ECHO
        if is_done(results[-1]):
            return None
        approval = next(filter(None, map(approval_in, results)), None)
        if approval is not None and all(name != AWAIT for name, _ in self.turns):
            self.approve(approval)
            return AWAIT, {"approval": approval}
        return UPDATE if self.turns.count(UPDATE) <= MAX_REPEATS else None

    @property
    def executed(self) -> int:
        return sum(call["name"] == "update_deal" for call in seen(self.folder, "up"))


def minimal(home: Path) -> dict[str, str]:
    return {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}


def execute(launch: Launch, home: Path, feed: str | None = None) -> str:
    """Run it to its end or for `SECONDS`; returns the end of its output."""
    with (home / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            launch.argv,
            env={**minimal(home), **launch.env},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            output.write(f"\nstopped after {SECONDS} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read()[-1500:]


def run_agent(name: str, folder: Path, http: bool) -> Outcome:
    package, launch = AGENTS[name]
    version = npm_version(PACKAGES, package)
    home = folder / "home"
    with House(folder, http).open() as house:
        home.mkdir()
        script = Script(house.step)
        with serving_model(script) as port:
            words = launch(str(BIN / "node"), home, house.guard, f"http://127.0.0.1:{port}")
            notes = execute(words, home)
        transport = "HTTP" if http else "stdio"
        return Outcome(name, version, transport, script.tools, house.turns, script.results, house.executed, notes)


def run_adapter(name: str, folder: Path, http: bool) -> Outcome:
    package, script, more = LIBRARIES[name]
    environment = ADAPTERS / f".venv-{script}"
    transport = "HTTP" if http else 'stdio, `instance = "agent"`' if name in PER_CALL else "stdio"
    outcome = Outcome(name, pypi_version(environment, package), transport)
    return drive(
        outcome,
        [str(environment / "bin" / "python"), "-m", f"tests.hosts.adapters.{script.replace('-', '_')}"],
        more,
        folder,
    )


def drive(
    outcome: Outcome, program: Sequence[str], more: Sequence[str], folder: Path, hold_seconds: int = HOLD_SECONDS
) -> Outcome:
    """Let the adapter make the calls that a model would; it reads them on stdin, and prints a line for each."""
    instance = "agent" if "agent" in outcome.transport else "launch"
    with House(folder, outcome.transport == "HTTP", hold_seconds, instance).open() as house:
        home = folder / "home"
        home.mkdir()
        guard = {"argv": house.guard.argv, "url": house.guard.url, "headers": house.guard.headers}
        words = [*program, json.dumps(guard), *more]
        env = {**minimal(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        with (home / "output.txt").open("w+") as log:
            process = subprocess.Popen(
                words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
            assert process.stdin
            assert process.stdout
            results: list[str] = []
            listed = process.stdout.readline()
            while listed and (turn := house.step(results)):
                process.stdin.write(json.dumps(turn) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    break
                results.append(json.loads(line))
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.seek(0)
            outcome.notes = log.read()[-1500:]
        outcome.tools, outcome.results = json.loads(listed or "[]"), results
        outcome.turns, outcome.executed = house.turns, house.executed
    return outcome


def report(outcomes: Sequence[Outcome]) -> int:
    print(
        "\n| Host | Version | Transport | List | Allowed call | Held call | Resumed after approval |"
        "\n|---|---|---|---|---|---|---|"
    )
    for one in outcomes:
        cells = " | ".join(text or "**no**" for text in one.steps.values())
        print(f"| {one.host} | {one.version} | {one.transport} | {cells} |")
    failed = [one for one in outcomes if not one.works]
    print(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} complete every step.")
    for one in failed:
        shown = "\n    ".join(text[:400] for text in one.results)
        print(f"{one.host}, {one.transport}: executed {one.executed}\n    {shown}\n{one.notes}", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these hosts")
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="hosts-", ignore_cleanup_errors=True) as folder:
        for hosts, run in ((AGENTS, run_agent), (LIBRARIES, run_adapter)):
            for name in hosts:
                for http in (False, True):
                    if not options.names or name in options.names:
                        place = Path(folder) / f"{name}-{'http' if http else 'stdio'}".replace(" ", "-")
                        outcomes.append(run(name, place, http))
                        print(f"{name}: done", file=sys.stderr)
    return report(outcomes)


if __name__ == "__main__":
    sys.exit(main())
