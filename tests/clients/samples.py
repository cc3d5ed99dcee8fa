"""A sample configuration file per client as found in practice: comments, unknown keys, unusual layouts."""

from dataclasses import dataclass
from pathlib import Path

from mcp_guard.clients.known import CLIENTS, USER, Host, ServerSection, find_client

HOST = Host("linux", Path("/home/you"), {"REGION": "eu"}, Path("/home/you/project"))
CONFIG = Path("/home/you/guard/mcp-guard.toml")


@dataclass(frozen=True)
class Sample:
    client: str
    text: str
    key: tuple[str, ...] = ("mcpServers",)

    @property
    def file(self) -> str:
        return self.client + (".toml" if self.client == "codex" else ".json")

    def spot(self) -> ServerSection:
        return ServerSection(find_client(self.client), USER, Path(f"/home/you/{self.file}"), self.key, HOST.home)


DESKTOP = Sample(
    "claude-desktop",
    """\
{
  "globalShortcut": "",
  "mcpServers": {
    "git": {
      "command": "mcp-server-git",
      "args": ["--repository", "/home/you/project"],
      "env": { "GITHUB_TOKEN": "ghp_0123456789abcdef" }
    },
    "My Files": {
      "command": "npx",
      "args": [
        "-y",
        "@modelcontextprotocol/server-filesystem",
        "/home/you"
      ]
    }
  },
  "preferences": { "nested": { "mcpServers": { "git": "not a server" } } }
}
""",
)
CODE = Sample(
    "claude-code",
    '{"numStartups":3,"projects":{"/home/you/project":{"mcpServers":{"a":{"command":"a"},"b":{"command":"b"}},'
    '"history":[]},"/home/you/other":{"mcpServers":{"a":{"command":"other"}}}},"mcpServers":{"time":{"command":"t"}}}',
    ("projects", "/home/you/project", "mcpServers"),
)
CURSOR = Sample(
    "cursor",
    "\ufeff"
    + """\
{
\t"mcpServers": {
\t\t"first": { "command": "one", "alwaysAllow": ["x"] }, "second": { "command": "two" },
\t\t"remote": { "url": "https://mcp.example.com/mcp", "headers": { "Authorization": "Bearer abcdefgh" } }
\t}
}""".replace("\n", "\r\n"),
)
VSCODE = Sample(
    "vscode",
    """\
// Settings of ours
{
    "inputs": [ { "type": "promptString", "id": "key", "description": "a {key}, \\"quoted\\"", "password": true }, ],
    /* the servers */
    "servers": {
        // first
        "github": {
            "type": "http", // over HTTP
            "url": "https://api.example.com/mcp",
            "headers": { "Authorization": "Bearer ${input:key}", },
        },
        "db": { "type": "stdio", "command": "db-server", "args": ["--home", "${userHome}"],
                "env": { "PGPASSWORD": "${input:key}" } }
        , // a comma on a line of its own
        "memory": { "type": "stdio", "command": "npx", "args": ["-y", "memory"], "dev": { "watch": "x" } } /* last */,
    },
}
""",
    ("servers",),
)
WINDSURF = Sample(
    "windsurf",
    """\
{ "mcpServers": { "off": { "command": "x", "disabled": true }, "on": { "command": "y", "env": {} },
  "far": { "serverUrl": "https://far.example.com/sse" } }, "mcpServers2": {} }
""",
)
GEMINI = Sample(
    "gemini-cli",
    """\
{
  "security": { "auth": { "selectedType": "oauth-personal" } },
  "mcpServers": {
    "one": { "httpUrl": "https://mcp.example.com/mcp", "headers": { "Authorization": "Bearer $TOKEN" } },
    "two": { "command": "two", "env": { "TOKEN": "${TOKEN}" }, "timeout": 30000, "trust": true }
  }
}
""",
)
OPENCODE = Sample(
    "opencode",
    """\
{
  "$schema": "https://opencode.ai/config.json",
  "mcp": {
    "one": { "type": "local", "command": ["npx", "-y", "one"], "environment": { "API_TOKEN": "{env:ONE_TOKEN}" } },
    "two": { "type": "remote", "url": "https://mcp.example.com/mcp", "enabled": true }, // far away
    "off": { "type": "local", "command": ["off"], "enabled": false }
  }
}
""",
    ("mcp",),
)
CODEX = Sample(
    "codex",
    """\
# Codex
model = "gpt-5.5" # the default

[mcp_servers.one] # first
command = "npx"
args = ["-y", "one"]

[mcp_servers.one.env]
TOKEN = "ghp_0123456789abcdef" # secret

# Documentation
[mcp_servers."two words"]
url = "https://mcp.example.com/mcp"
tool_timeout_sec = 60.0

[mcp_servers.off]
command = "off"
enabled = false

[projects."/home/you"]
trust_level = "trusted"

[mcp_servers.last]
command = "last"
""",
    ("mcp_servers",),
)
ZED = Sample(
    "zed",
    """\
// Zed settings
{
  "theme": "One Dark", // dark
  "context_servers": {
    "one": { "source": "custom", "command": "one", "args": [], "env": { "TOKEN": "t\\u00f6ken-0123456789" } },
    "from-an-extension": { "source": "extension", "settings": {} },
    "one": { "source": "custom", "command": "one again", "args": [] }
  }
}
""",
    ("context_servers",),
)
SAMPLES = (DESKTOP, CODE, CURSOR, VSCODE, WINDSURF, GEMINI, OPENCODE, ZED)
"""Those in JSON."""
assert {sample.client for sample in (*SAMPLES, CODEX)} == {client.id for client in CLIENTS}
