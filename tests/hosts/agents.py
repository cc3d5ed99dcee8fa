"""Coding agents from npm: how each is started with the guard as its only MCP server, and with the scripted model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGES = HERE / "node_modules"
SAMPLE = HERE.parent / "node" / "node_modules"
"""Where `make test` has Claude Code, if npm has it for this machine."""
PROMPT = "Do what you are scripted to do."


@dataclass(frozen=True)
class Guard:
    """How a host reaches the guard: a command, or a URL with a token."""

    argv: tuple[str, ...] = ()
    url: str = ""
    token: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True)
class Launch:
    argv: list[str]
    env: Mapping[str, str]


def _write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def claude_program() -> Path | None:
    return next((file for each in (PACKAGES, SAMPLE) for file in each.glob("@anthropic-ai/claude-code-*/claude")), None)


def claude_launch(words: list[str], model: str) -> Launch:
    env = {
        "ANTHROPIC_BASE_URL": model,
        "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "ENABLE_TOOL_SEARCH": "false",
    }
    return Launch([str(claude_program()), *words], env)


def claude_code(node: str, home: Path, guard: Guard, model: str) -> Launch:
    remote = {"type": "http", "url": guard.url, "headers": guard.headers}
    entry = remote if guard.url else {"command": guard.argv[0], "args": guard.argv[1:]}
    file = _write(home / "mcp.json", {"mcpServers": {"guard": entry}})
    words = ["-p", PROMPT, "--mcp-config", str(file), "--strict-mcp-config", "--allowedTools", "mcp__guard"]
    return claude_launch(words, model)


def codex(node: str, home: Path, guard: Guard, model: str) -> Launch:
    entry = f"command = {json.dumps(guard.argv[0])}\nargs = {json.dumps(guard.argv[1:])}" if guard.argv else ""
    entry = f'url = "{guard.url}"\nbearer_token_env_var = "GUARD_TOKEN"' if guard.url else entry
    config = f"""
model = "scripted"
model_provider = "scripted"
[model_providers.scripted]
name = "scripted"
base_url = "{model}/v1"
wire_api = "responses"
env_key = "MODEL_KEY"
[mcp_servers.guard]
required = true
{entry}
"""
    _write(home / "codex" / "config.toml", config)
    words = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", PROMPT]
    env = {"CODEX_HOME": str(home / "codex"), "MODEL_KEY": "none", "GUARD_TOKEN": guard.token}
    return Launch([node, str(PACKAGES / "@openai" / "codex" / "bin" / "codex.js"), *words], env)


def gemini_cli(node: str, home: Path, guard: Guard, model: str) -> Launch:
    remote = {"httpUrl": guard.url, "headers": guard.headers}
    entry: dict[str, Any] = remote if guard.url else {"command": guard.argv[0], "args": guard.argv[1:]}
    settings = {
        "mcpServers": {"guard": {**entry, "trust": True}},
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"enableAutoUpdate": False},
    }
    _write(home / ".gemini" / "settings.json", settings)
    words = ["-p", PROMPT, "--yolo", "--skip-trust", "-m", "gemini-2.5-pro"]
    env = {"GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": model, "GEMINI_TELEMETRY_ENABLED": "false"}
    return Launch([node, str(PACKAGES / "@google" / "gemini-cli" / "bundle" / "gemini.js"), *words], env)


def opencode(node: str, home: Path, guard: Guard, model: str) -> Launch:
    remote = {"type": "remote", "url": guard.url, "headers": guard.headers, "oauth": False}
    entry = remote if guard.url else {"type": "local", "command": list(guard.argv)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{model}/v1", "apiKey": "none"},
        "models": {"scripted": {"name": "scripted", "tool_call": True}},
    }
    config = {
        "provider": {"scripted": provider},
        "mcp": {"guard": {**entry, "enabled": True}},
        "permission": {"*": "allow"},
        "autoupdate": False,
        "share": "disabled",
    }
    file = _write(home / "opencode.json", config)
    env = {"OPENCODE_CONFIG": str(file), "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
    program = PACKAGES / "opencode-linux-x64" / "bin" / "opencode"
    return Launch([str(program), "run", "-m", "scripted/scripted", PROMPT], env)


AGENTS = {
    "Claude Code": ("@anthropic-ai/claude-code", claude_code),
    "Codex": ("@openai/codex", codex),
    "Gemini CLI": ("@google/gemini-cli", gemini_cli),
    "opencode": ("opencode-linux-x64", opencode),
}
