"""What a new guard begins with: the text of its configuration and of its first policies."""

import getpass
import re
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.clients.toml_sections import toml_key, toml_string
from mcp_guard.core.errors import ConfigError

POLICIES, FIRST = "policies", "start.cedar"
ROUTE = "reviewers"

FIRST_POLICIES = """\
// Whatever no policy permits is denied, and in enforce mode not even listed to the agent.
// `mcp-guard policy new TOOL` starts a file for one tool, such as crm__update_deal: server, two underscores, tool.
//
// Reads are free. A tool is a write until mcp-guard.toml says otherwise: [tools."crm__get_deal"] effect = "read".
@id("reads")
permit (
  principal in Group::"agents",
  action in Action::"read",
  resource
);

// Writes are let through by a person, one by one.
@id("writes")
permit (
  principal in Group::"agents",
  action in Action::"write",
  resource
);

@id("writes-are-approved")
@require_approval("reviewers")
@reason("a write is approved by a reviewer")
forbid (
  principal,
  action in Action::"write",
  resource
);

// A tool whose effect you say is "destructive" is called by nobody, and that in observe mode too.
@id("no-destruction")
@enforce("always")
@reason("nobody's agent may destroy")
forbid (
  principal,
  action in Action::"destructive",
  resource
);
"""


@dataclass(frozen=True, slots=True)
class InitAnswers:
    """The few things that a new guard must be told. `approver` is how receipts print them."""

    agent: str
    owner: str
    approver: str
    enforces: bool = False
    unsafe_self_approval: bool = False

    @property
    def is_alone(self) -> bool:
        return self.owner == self.approver_id

    @property
    def approver_id(self) -> str:
        return person_id(self.approver)


def person_id(name: str) -> str:
    """How a person is named in the configuration: the same however they are spelt."""
    return re.sub(r"[^\w.@-]+", "-", name.strip().lower()).strip("-")


def os_user() -> str:
    try:
        return person_id(getpass.getuser()) or "me"
    except (OSError, KeyError):
        return "me"


def initial_files(config: Path, answers: InitAnswers) -> dict[Path, str]:
    """The files of a new guard, with their texts."""
    return {config: config_text(answers), config.parent / POLICIES / FIRST: FIRST_POLICIES}


def refuse_to_overwrite(config: Path) -> None:
    """Raises: ConfigError."""
    for path in initial_files(config, InitAnswers("", "", "")):
        if path.exists():
            raise ConfigError(f"`{path}` is there already", "mcp-guard doctor looks at it; or name another folder")


def config_text(answers: InitAnswers) -> str:
    mode = "enforce" if answers.enforces else "observe"
    self_approval = "" if answers.unsafe_self_approval else "# "
    alone = ALONE if answers.is_alone else ""
    return f"""\
# The configuration of a guard. config.example.toml of mcp-guard explains every key.

[guard]
policies = "{POLICIES}"                # a folder of *.cedar files
mode = "{mode}"                     # "observe" decides and records, and blocks nothing; "enforce" also blocks

# The program that calls tools. Its owner answers for it, and can never approve its calls.
[agents.{toml_key(answers.agent)}]
owner = {toml_string(answers.owner)}
groups = ["agents"]                  # policies say: principal in Group::"agents"

# A person who decides on calls that wait, with a key of their own: mcp-guard approvers add {answers.approver_id}
[approvers.{toml_key(answers.approver_id)}]
name = {toml_string(answers.approver)}

# Where @require_approval("{ROUTE}") in a policy sends a call.
{alone}[routes.{ROUTE}]
approvers = [{toml_string(answers.approver_id)}]
{self_approval}unsafe_self_approval = true        # the agent's owner may approve too: nobody else looks

# The MCP servers behind the guard. `mcp-guard wrap` moves those of a client here; or write them:
# [upstreams.git]
# command = "mcp-server-git"
# args = ["--repository", "/home/you/project"]
"""


ALONE = """\
# The agent's owner is the only approver, so as it stands nobody can approve its calls. While the guard observes, none
# waits. Before it enforces, name another person here, or let the owner approve (the line that is commented out).
"""
