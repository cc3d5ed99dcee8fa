"""`make hosts`: real coding agents with the guard's hooks, installed by `wrap --hooks`.

Each gets its calls of its own shell from the scripted model: one that is allowed, one that is denied, and one that is
held until a person has approved it. Prints a Markdown table; exits 1 if a step of an agent fails.
"""

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hosts.agents import PACKAGES, PROMPT, Launch, claude_launch
from tests.hosts.model import Script, Turn, serving
from tests.hosts.run import BIN, execute
from tests.installed import npm_version
from tests.live.preloaded_cli import DEVNULL, Forked
from tests.live.running_guard import Json, cli, enrol, log, write_config

POLICIES = """
@id("allow") permit (principal, action in Action::"server:host", resource);
@id("no-force") @reason("nobody pushes by force")
forbid (principal, action == Action::"host__Bash", resource) when { context.input.force_push };
@id("ask") @require_approval("people")
forbid (principal, action == Action::"host__Bash", resource) when { context.input.programs.contains("touch") };
"""
GUARD = 'hold_seconds = 60\nmode = "enforce"'
ALLOWED, DENIED, HELD = "echo allowed > allowed.txt", "git push --force", "touch held.txt"


def claude_code(home: Path, model: str) -> Launch:
    return claude_launch(["-p", PROMPT, "--allowedTools", "Bash"], model)


def codex(home: Path, model: str) -> Launch:
    provider = f'name = "scripted"\nbase_url = "{model}/v1"\nwire_api = "responses"\nenv_key = "MODEL_KEY"\n'
    config = f'model = "scripted"\nmodel_provider = "scripted"\n[model_providers.scripted]\n{provider}'
    (home / ".codex" / "config.toml").write_text(config)
    flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--dangerously-bypass-hook-trust"]
    program = str(PACKAGES / "@openai" / "codex" / "bin" / "codex.js")
    return Launch([node(), program, "exec", *flags, PROMPT], {"MODEL_KEY": "none"})


def gemini_cli(home: Path, model: str) -> Launch:
    file = home / ".gemini" / "settings.json"
    more = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"enableAutoUpdate": False},
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    program = str(PACKAGES / "@google" / "gemini-cli" / "bundle" / "gemini.js")
    env = {"GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": model, "GEMINI_TELEMETRY_ENABLED": "false"}
    return Launch([node(), program, "-p", PROMPT, "--yolo", "--skip-trust", "-m", "gemini-2.5-pro"], env)


def node() -> str:
    return str(BIN / "node") if (BIN / "node").exists() else "node"


@dataclass(frozen=True)
class HookedAgent:
    """`file` has its hooks, below the home folder; `tool` is its shell, and `argument` what that takes."""

    id: str
    package: str
    file: str
    tool: str
    argument: str
    launch: Callable[[Path, str], Launch]


AGENTS = (
    HookedAgent("claude-code", "@anthropic-ai/claude-code", ".claude/settings.json", "Bash", "command", claude_code),
    HookedAgent("codex", "@openai/codex", ".codex/hooks.json", "exec_command", "cmd", codex),
    HookedAgent(
        "gemini-cli", "@google/gemini-cli", ".gemini/settings.json", "run_shell_command", "command", gemini_cli
    ),
)


@dataclass
class Outcome:
    agent: HookedAgent
    receipts: Sequence[Json] = ()
    results: Sequence[str] = ()
    files: frozenset[str] = frozenset()
    verified: bool = False
    restored: bool = False
    notes: str = ""

    @property
    def calls(self) -> list[tuple[str, str]]:
        about = [entry for entry in self.receipts if entry.get("tool") == "host__Bash"]
        return [(entry["kind"], str(entry.get("ending") or entry.get("outcome") or "")) for entry in about]

    @property
    def steps(self) -> dict[str, str]:
        """By step, what happened; empty if it failed."""
        allowed = self.calls[:2] == [("intent", "allow"), ("outcome", "ok")] and "allowed.txt" in self.files
        denied = ("decision", "deny") in self.calls and "nobody pushes by force" in " ".join(self.results)
        held = ("decision", "require_approval") in self.calls and "held.txt" in self.files
        recorded = [kind for kind, _ in self.calls][-2:] == ["intent", "outcome"]
        return {
            "allowed": "ran, with intent and outcome" if allowed else "",
            "denied": "told why" if denied else "",
            "held": "ran once approved" if held and recorded else "",
            "ledger": "verified" if self.verified else "",
            "unwrap": "byte for byte" if self.restored else "",
        }

    @property
    def works(self) -> bool:
        return all(self.steps.values())


@dataclass
class Scripted:
    """The model's turns, and a person who approves what is asked for."""

    agent: HookedAgent
    config: Path
    done: threading.Event = field(default_factory=threading.Event)

    def step(self, results: list[str]) -> Turn | None:
        lines = [ALLOWED, DENIED, HELD]
        if len(results) >= len(lines):
            return None
        return self.agent.tool, {self.agent.argument: lines[len(results)]}

    def approve(self) -> None:
        options = enrol(self.config)
        while not self.done.wait(0.3):
            if ids := [entry["approval"] for entry in log(self.config) if entry["kind"] == "approval.requested"]:
                cli("approvals", "approve", ids[0], *options, "--rationale", "agreed")
                return


def run(agent: HookedAgent, folder: Path) -> Outcome:
    folder.mkdir()
    home, outcome = folder / "home", Outcome(agent)
    file = home / agent.file
    file.parent.mkdir(parents=True)
    before = "{}" if agent.id == "claude-code" else None
    if before is not None:
        file.write_text(before)
    config = write_config(folder, "", POLICIES, guard=GUARD)
    named = (agent.id, "--hooks", "--file", str(file), "--yes", "--config", str(config))
    cli("wrap", *named)
    guard = Forked(["serve", "--config", str(config)], stderr=DEVNULL)
    scripted = Scripted(agent, config)
    person = threading.Thread(target=scripted.approve)
    person.start()
    try:
        while not (folder / "state" / "hooks.sock").exists():
            time.sleep(0.05)
        script = Script(scripted.step, needs=agent.tool)
        with serving(script) as port:
            outcome.notes = execute(agent.launch(home, f"http://127.0.0.1:{port}"), home)
        outcome.results = script.results
    finally:
        scripted.done.set()
        person.join()
        guard.terminate()
        guard.wait(20)
    outcome.receipts = log(config)
    outcome.files = frozenset(path.name for path in home.iterdir())
    outcome.verified = cli("verify", "--config", str(config), check=False).returncode == 0
    cli("unwrap", *named)
    left = file.read_text() if file.exists() else None
    outcome.restored = left == before or (agent.id == "gemini-cli" and "hook_client" not in str(left))
    return outcome


def report(outcomes: Sequence[Outcome]) -> int:
    print("\n| Agent | Version | Allowed | Denied | Held | Ledger | Unwrapped |\n|---|---|---|---|---|---|---|")
    for one in outcomes:
        cells = " | ".join(text or "**no**" for text in one.steps.values())
        print(f"| {one.agent.id} | {npm_version(PACKAGES, one.agent.package)} | {cells} |")
    failed = [one for one in outcomes if not one.works]
    for one in failed:
        print(f"{one.agent.id}: {one.calls}\n{one.results}\n{one.notes}", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these agents")
    names: Any = parser.parse_args().names
    with tempfile.TemporaryDirectory(prefix="hooked-", ignore_cleanup_errors=True) as folder:
        chosen = [agent for agent in AGENTS if not names or agent.id in names]
        return report([run(agent, Path(folder) / re.sub(r"\W", "-", agent.id)) for agent in chosen])


if __name__ == "__main__":
    sys.exit(main())
