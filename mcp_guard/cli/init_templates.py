"""The files of a new guard: the text of its configuration and of its first policies."""

import getpass
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.clients.toml_sections import toml_key, toml_string
from mcp_guard.core.errors import ConfigError
from mcp_guard.policy.time_of_call import UTC_NAME, find_zone

SHIPPED = Path(__file__).parent.parent / "shipped"
"""The examples and policies in a wheel (pyproject.toml puts them there)."""
REPOSITORY = Path(__file__).parent.parent.parent
POLICIES, FIRST = "policies", "start.cedar"
ROUTE = "reviewers"
PACK_FOLDER, PACK_FILE = "coding-agent", "coding_agent.cedar"
"""The shipped policies for coding agents' own tools."""
PACK_GROUP, PACK_ROUTE = "coding-agents", "maintainers"
"""The group of agents that these policies permit, and the route from which they require approval."""

_BEFORE_EXCEPTIONS = """\
// A call that no policy permits is denied. In enforce mode, a tool that no policy permits is not even listed.
// `mcp-guard policy new TOOL` creates a policy file for one tool, such as crm__update_deal (server, two underscores,
// tool).
//
// Reads are allowed. A tool's effect is the `effect` of its `[tools."…"]` section; without one it is a write, or
// destructive if its server says so (`destructiveHint`). No hint of a server makes a tool a read. To review the hints
// and write the sections: mcp-guard tools effects
// Reads are also the resources and prompts of servers, and completions of their arguments. To keep some back:
// @id("private")
// @reason("private notes stay with people")
// forbid (principal, action in Action::"resources/read", resource) when { resource.path like "/private*" };
@id("reads")
permit (
  principal in Group::"agents",
  action in Action::"read",
  resource
);

// Every write needs the approval of a person. Destructive tools are writes too. To deny them instead, add this; observe
// mode blocks nothing, and records that it would:
// @id("no-destruction")
// @reason("destructive tools are not allowed")
// forbid (principal, action in Action::"destructive", resource);
// Other tools may run what is written to a file: if you exempt file names from this gate, name their endings (*.md).
@id("writes")
permit (
  principal in Group::"agents",
  action in Action::"write",
  resource
);

// What a client answers to a question of a server (a form, a text of a model) is a write, too: it takes data there. The
// person at the client has seen it, so it is not held, unless this run has read something that is labelled sensitive.
@id("writes-are-approved")
@require_approval("reviewers")
@reason("writes need the approval of a reviewer")
forbid (
  principal,
  action in Action::"write",
  resource
)
"""
FIRST_POLICIES = f"""\
{_BEFORE_EXCEPTIONS}unless
{{
  action in [Action::"elicitation/create", Action::"sampling/createMessage"] &&
  !context.history.sensitive_seen
}};
"""
FIRST_POLICIES_WITH_PACK = f"""\
{_BEFORE_EXCEPTIONS}unless
{{
  action in Action::"server:host" || // the agent's own tools: {PACK_FILE} decides which calls need approval
  (action in [Action::"elicitation/create", Action::"sampling/createMessage"] &&
   !context.history.sensitive_seen)
}};
"""


@dataclass(frozen=True, slots=True)
class InitAnswers:
    """The values that a new guard's configuration needs. `approver` is the name as receipts print it."""

    agent: str
    owner: str
    approver: str
    enforces: bool = False
    unsafe_self_approval: bool = False
    decides_own_tools: bool = False
    """The agent is a coding agent whose own tools are decided, too (`[hooks]`)."""

    @property
    def is_alone(self) -> bool:
        return self.owner == self.approver_id

    @property
    def is_stuck(self) -> bool:
        """Whether nobody may approve the agent's calls, whoever has a key."""
        return self.is_alone and not self.unsafe_self_approval

    @property
    def approver_id(self) -> str:
        return person_id(self.approver)


def person_id(name: str) -> str:
    """The id of a person in the configuration; the same for different spellings of the name."""
    return re.sub(r"[^\w.@-]+", "-", name.strip().lower()).strip("-")


def os_user() -> str:
    try:
        return person_id(getpass.getuser()) or "me"
    except (OSError, KeyError):
        return "me"


def machine_zone() -> str:
    """The IANA name of this machine's time zone; UTC if it does not say."""
    names = [os.environ.get("TZ", "").removeprefix(":")]
    with suppress(OSError):
        names.append(os.readlink("/etc/localtime").rpartition("zoneinfo/")[2])
    with suppress(OSError, UnicodeDecodeError):
        names.append(Path("/etc/timezone").read_text().strip())
    for name in filter(None, names):
        with suppress(ValueError):
            find_zone(name)
            return UTC_NAME if name == "Etc/UTC" else name
    return UTC_NAME


def initial_files(config: Path, answers: InitAnswers) -> dict[Path, str]:
    """The files of a new guard, with their texts."""
    files, policies = {config: config_text(answers)}, config.parent / POLICIES
    if not answers.decides_own_tools:
        return files | {policies / FIRST: FIRST_POLICIES}
    pack = (shipped() / POLICIES / PACK_FOLDER / PACK_FILE).read_text()
    return files | {policies / FIRST: FIRST_POLICIES_WITH_PACK, policies / PACK_FILE: pack}


def shipped() -> Path:
    """The folder of the examples and policies that come with the guard."""
    return SHIPPED if SHIPPED.is_dir() else REPOSITORY


def refuse_to_overwrite(config: Path, decides_own_tools: bool = False) -> None:
    """Raises: ConfigError."""
    for path in initial_files(config, InitAnswers("", "", "", decides_own_tools=decides_own_tools)):
        if path.exists():
            raise ConfigError(f"`{path}` already exists", "check it with mcp-guard doctor, or name another folder")


def config_text(answers: InitAnswers) -> str:
    mode = "enforce" if answers.enforces else "observe"
    self_approval = "" if answers.unsafe_self_approval else "# "
    is_solo = answers.is_alone and answers.unsafe_self_approval
    alone = (SOLO if is_solo else STUCK if answers.enforces else ALONE) if answers.is_alone else ""
    groups = f'["agents", "{PACK_GROUP}"]' if answers.decides_own_tools else '["agents"]'
    names = (ROUTE, PACK_ROUTE) if answers.decides_own_tools else (ROUTE,)
    routes = "\n".join(
        f"""\
[routes.{name}]
approvers = [{toml_string(answers.approver_id)}]
{self_approval}unsafe_self_approval = true        # lets the owner approve too; receipts say self-approved
"""
        for name in names
    )
    limit = "" if answers.unsafe_self_approval else " and can never approve its calls"
    return f"""\
# The configuration of a guard. docs/reference/configuration.md of mcp-guard explains every key.

[guard]
origin = "mcp-guard.local/{secrets.token_hex(8)}"  # the name of this ledger, and of no other
policies = "{POLICIES}"                # a folder of *.cedar files
time_zone = {toml_string(machine_zone())}  # of context.time.local in policies
decide = ["tools", "resources", "prompts", "elicitation"]  # what of MCP is decided; without it, only tool calls
mode = "{mode}"                     # "observe" decides and records but blocks nothing; "enforce" also blocks

# The program that calls tools. Its owner is responsible for it{limit}.
[agents.{toml_key(answers.agent)}]
owner = {toml_string(answers.owner)}
groups = {groups:<28}# in policies: principal in Group::"agents"

# A person who decides on held calls with a key of their own (mcp-guard approvers add {answers.approver_id}).
[approvers.{toml_key(answers.approver_id)}]
name = {toml_string(answers.approver)}

# Who decides on calls that a policy holds with @require_approval("{ROUTE}").
{alone}{routes}
# The MCP servers behind the guard. `mcp-guard wrap` moves a client's servers here; or add them by hand:
# [upstreams.git]
# command = "mcp-server-git"
# args = ["--repository", "/home/you/project"]
"""


SOLO = """\
# Solo: the agent's owner approves its calls, and nobody else reviews them. The agent still cannot approve: that takes
# the owner's key or passkey. Once there is a second person, add them here and remove unsafe_self_approval.
"""
STUCK = """\
# The agent's owner is the only approver, so nobody can approve its calls yet, and a held call can only expire. Add
# another person here, or let the owner approve (uncomment the line below).
"""
ALONE = """\
# The agent's owner is the only approver, so nobody can approve its calls yet. In observe mode no call is held. Before
# you switch to enforce mode, add another person here, or let the owner approve (uncomment the line below).
"""
