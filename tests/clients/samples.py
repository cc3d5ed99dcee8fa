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

    def spot(self) -> ServerSection:
        return ServerSection(find_client(self.client), USER, Path(f"/home/you/{self.client}.json"), self.key, HOST.home)


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
SAMPLES = (DESKTOP, CODE, CURSOR, VSCODE, WINDSURF, ZED)
assert {sample.client for sample in SAMPLES} == {client.id for client in CLIENTS}
