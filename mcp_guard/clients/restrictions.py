"""What the settings of a client say of servers beside their entries: servers that are off, and tools that are denied.

A guard's entry has another name, so these settings do not apply to it: a server that is off would start behind it.
docs/howto/wrap.md names the sources of the keys.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mcp_guard.clients import jsonc
from mcp_guard.clients.files import read_file
from mcp_guard.clients.known import LOCAL, PROJECT, USER, ConfigLocation, Host, ServerSection
from mcp_guard.clients.server_entries import NotWrapped, plain_entry

MORE_FILES: Mapping[str, tuple[ConfigLocation, ...]] = {
    "claude-code": (
        ConfigLocation(USER, "~/.claude/settings.json", (), folder_variable="CLAUDE_CONFIG_DIR"),
        ConfigLocation(PROJECT, "./.claude/settings.json", ()),
        ConfigLocation(PROJECT, "./.claude/settings.local.json", ()),
    ),
    "gemini-cli": (ConfigLocation(USER, "~/.gemini/mcp-server-enablement.json", (), home_variable="GEMINI_CLI_HOME"),),
}
"""Files with such settings, besides those with servers."""
SYSTEM_FILES: Mapping[tuple[str, str], str] = {
    ("claude-code", "linux"): "/etc/claude-code/managed-settings.json",
    ("claude-code", "darwin"): "/Library/Application Support/ClaudeCode/managed-settings.json",
    ("gemini-cli", "linux"): "/etc/gemini-cli/settings.json",
    ("gemini-cli", "darwin"): "/Library/Application Support/GeminiCli/settings.json",
}
Servers = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class AllowList:
    """A setting that lists the servers which may start. `allows` takes a name and its entry."""

    setting: str
    allows: Callable[[str, object], bool]


@dataclass(frozen=True, slots=True)
class Restrictions:
    """Why servers stay as they are, by name, and the lists that the guard's own entry must be on."""

    refusals: Mapping[str, NotWrapped] = field(default_factory=dict)
    allow_lists: tuple[AllowList, ...] = ()

    def lists_without(self, name: str, entry: object) -> list[str]:
        """The settings by which the client would not start this entry."""
        return [allowed.setting for allowed in self.allow_lists if not allowed.allows(name, entry)]


@dataclass(frozen=True, slots=True)
class _Settings:
    """A file of settings. `setting` is how a key in it is shown."""

    path: Path
    scope: str
    values: Any

    def get(self, key: str) -> Any:
        """The value under these keys, with a dot between them, or None."""
        value = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def names(self, key: str) -> list[str]:
        value = self.get(key)
        return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []

    def table(self, key: str) -> dict[str, Any]:
        value = self.get(key)
        return value if isinstance(value, dict) else {}

    def within(self, values: object) -> "_Settings":
        """A part of the file."""
        return replace(self, values=values)

    def setting(self, key: str) -> str:
        return f"`{key}` in {self.path}"


def read_restrictions(section: ServerSection, servers: Servers, host: Host) -> Restrictions:
    """Those of these servers. Raises: ConfigError if a file of settings cannot be read."""
    find = FINDERS.get(section.client.id)
    if find is None:
        return Restrictions()
    files = [*_read_files(section, host)]
    refusals: dict[str, NotWrapped] = {}
    allow_lists = []
    for finding in find(files, servers, section):
        if isinstance(finding, AllowList):
            allow_lists.append(finding)
            others = [name for name, entry in servers.items() if not finding.allows(name, entry)]
            found = [(name, NotWrapped(f"{finding.setting} does not allow it", is_harmless=True)) for name in others]
        else:
            found = [finding]
        for name, refusal in found:
            if name not in refusals or refusal.is_harmless:
                refusals[name] = refusal
    return Restrictions(refusals, tuple(allow_lists))


def _read_files(section: ServerSection, host: Host) -> Iterator[_Settings]:
    """Those of the user, then those of the project, then the system's."""
    client = section.client
    locations = [
        location for location in (*client.locations, *MORE_FILES.get(client.id, ())) if location.scope != LOCAL
    ]
    paths = {section.path: section.scope}
    for location in sorted(locations, key=lambda location: location.scope != USER):
        for path in host.find_files(location):
            paths.setdefault(path, location.scope)
        if location.scope == PROJECT and section.scope != USER:
            paths.setdefault(section.folder / location.tail, PROJECT)
    if (system := SYSTEM_FILES.get((client.id, host.platform))) is not None:
        paths[Path(system)] = "system"
    order = (USER, LOCAL, PROJECT, "system")
    for path, scope in sorted(paths.items(), key=lambda item: order.index(item[1])):
        if path.is_file():
            yield _Settings(path, scope, jsonc.parse_value(read_file(path).text.strip() or "{}", str(path)))


Finding = tuple[str, NotWrapped] | AllowList


def _off(setting: str) -> NotWrapped:
    return NotWrapped(f"it is disabled in the client ({setting})", is_harmless=True)


def _partly(setting: str) -> NotWrapped:
    return NotWrapped(f"some of its tools are disabled in the client ({setting}), but the guard would list them")


def _claude_code(files: Iterable[_Settings], servers: Servers, section: ServerSection) -> Iterator[Finding]:
    approved: list[str] = []
    approves_all = False
    for file in files:
        yield from _denied_tools(file, "permissions.deny", file.names("permissions.deny"), servers, _claude_prefixes)
        yield from _claude_lists(file, servers)
        for folder, project in file.table("projects").items():
            yield from _claude_toggles(file.within(project), folder, section, servers)
        own = file.within(file.table("projects").get(str(section.folder)))
        for lists in (file, own) if section.scope == PROJECT else ():
            names = lists.names("disabledMcpjsonServers")
            yield from ((name, _off(lists.setting("disabledMcpjsonServers"))) for name in servers if name in names)
            approved += lists.names("enabledMcpjsonServers")
            approves_all |= lists.get("enableAllProjectMcpServers") is True
    if approved and not approves_all:
        unapproved = NotWrapped("it is not approved in the client (`enabledMcpjsonServers`)", is_harmless=True)
        yield from ((name, unapproved) for name in servers if name not in approved)


def _claude_prefixes(name: str) -> tuple[str, ...]:
    return (f"mcp__{re.sub(r'[^A-Za-z0-9_-]', '_', name)}__",)


def _claude_toggles(project: _Settings, folder: str, section: ServerSection, servers: Servers) -> Iterator[Finding]:
    """Servers that were switched off in a project with `/mcp`. One of the user may be on in others."""
    setting = project.setting("disabledMcpServers")
    for name in servers.keys() & project.names("disabledMcpServers"):
        if section.scope == USER:
            yield name, NotWrapped(f"it is disabled in {folder} ({setting}), where the guard would be enabled")
        elif folder == str(section.folder):
            yield name, _off(setting)


def _claude_lists(file: _Settings, servers: Servers) -> Iterator[Finding]:
    denied, allowed = file.get("deniedMcpServers"), file.get("allowedMcpServers")
    for name, entry in servers.items() if isinstance(denied, list) else ():
        if any(_is_named(item, name, entry) for item in denied):
            yield name, _off(file.setting("deniedMcpServers"))
    if isinstance(allowed, list):
        yield AllowList(file.setting("allowedMcpServers"), lambda name, entry: _is_listed(allowed, name, entry))


def _is_named(item: object, name: str, entry: object) -> bool:
    """Whether a server is meant by an item of these lists: by its name, its command or a pattern of its address."""
    if not isinstance(item, dict):
        return False
    value = plain_entry(entry) if isinstance(entry, dict) else {}
    arguments, url = value.get("args"), value.get("url")
    command = [value.get("command"), *(arguments if isinstance(arguments, list) else [])]
    is_command = item.get("serverCommand") == command
    return (
        item.get("serverName") == name
        or is_command
        or (isinstance(url, str) and fnmatchcase(url, str(item.get("serverUrl", ""))))
    )


def _is_listed(items: list[object], name: str, entry: object) -> bool:
    """Where commands (or addresses) are listed, a name alone does not suffice for a server that has one."""
    kind = "serverCommand" if isinstance(entry, dict) and entry.get("command") else "serverUrl"
    strict = [item for item in items if isinstance(item, dict) and kind in item]
    return any(_is_named(item, name, entry) for item in strict or items)


def _gemini(files: Iterable[_Settings], servers: Servers, section: ServerSection) -> Iterator[Finding]:
    allowed: AllowList | None = None
    for file in files:
        if file.path.name == "mcp-server-enablement.json":
            off = [name for name in servers if file.table(name.strip().lower()).get("enabled") is False]
            yield from ((name, _off(str(file.path))) for name in off)
            continue
        for key in ("mcp.excluded", "excludeMCPServers"):
            yield from ((name, _off(file.setting(key))) for name in servers if name in file.names(key))
        for key in ("tools.exclude", "excludeTools"):
            yield from _denied_tools(file, key, file.names(key), servers, _gemini_prefixes)
        for key in ("mcp.allowed", "allowMCPServers"):
            if isinstance(file.get(key), list) and (file.scope != PROJECT or section.scope == PROJECT):
                allowed = _gemini_list(file, key)
    if allowed is not None:  # the last file counts
        yield allowed


def _gemini_list(file: _Settings, key: str) -> AllowList:
    names = file.names(key)
    return AllowList(file.setting(key), lambda name, _: name in names)


def _gemini_prefixes(name: str) -> tuple[str, ...]:
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return (f"mcp_{plain}_", f"{plain}__")


def _opencode(files: Iterable[_Settings], servers: Servers, _: ServerSection) -> Iterator[Finding]:
    """Rules are for all agents or for one, and the last one that matches counts: if any rule may permit what others
    deny, the server is not off."""
    denied: list[tuple[_Settings, str, str, bool]] = []
    permitted: list[str] = []
    for file in files:
        places = [("", file)]
        for kind in ("agent", "mode"):
            places += [(f"{kind}.{name}.", file.within(agent)) for name, agent in file.table(kind).items()]
        for place, settings in places:
            for key, denial in (("tools", False), ("permission", "deny")):
                rules = settings.get(key)
                for pattern, rule in (rules if isinstance(rules, dict) else {"*": rules}).items():
                    if rule is False or rule == denial:
                        denied.append((file, f"{place}{key}", pattern, not place))
                    elif rule is not None:
                        permitted.append(pattern)
    for file, key, pattern, is_for_all in denied:
        for name, refusal in _denied_tools(file, key, [pattern], servers, _opencode_prefixes):
            is_off = is_for_all and not any(_touches(other, *_opencode_prefixes(name)) for other in permitted)
            yield name, refusal if is_off else _partly(file.setting(key))


def _opencode_prefixes(name: str) -> tuple[str, ...]:
    return (f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)}_",)


def _zed(files: Iterable[_Settings], servers: Servers, _: ServerSection) -> Iterator[Finding]:
    for file in files:
        for id, profile in file.table("agent.profiles").items():
            chosen = file.within(profile).table("context_servers")
            yield from ((name, _partly(file.setting(f"agent.profiles.{id}"))) for name in servers if name in chosen)
        rules = file.table("agent.tool_permissions.tools")
        denied = [
            tool
            for tool, rule in rules.items()
            if isinstance(rule, dict) and (rule.get("default") == "deny" or rule.get("always_deny"))
        ]
        yield from _denied_tools(file, "agent.tool_permissions", denied, servers, lambda name: (f"mcp:{name}:",))


def _denied_tools(
    file: _Settings, key: str, patterns: Iterable[str], servers: Servers, prefixes: Callable[[str], tuple[str, ...]]
) -> Iterator[tuple[str, NotWrapped]]:
    """Servers of whose tools some may be denied by these patterns. A server's tools have one of its `prefixes`."""
    for pattern in patterns:
        for name in servers:
            for prefix in prefixes(name):
                is_server = pattern.startswith("mcp__") and f"{pattern}__" == prefix  # Claude Code's form for all tools
                if is_server or (pattern == f"{_start(pattern)}*" and prefix.startswith(pattern[:-1])):
                    yield name, _off(file.setting(key))
                elif _touches(pattern, prefix):
                    yield name, _partly(file.setting(key))


def _start(pattern: str) -> str:
    return re.split(r"[*?\[{]", pattern, maxsplit=1)[0]


def _touches(pattern: str, prefix: str) -> bool:
    """Whether it may match a name with this prefix."""
    start = _start(pattern)
    return pattern.startswith(prefix) or (pattern != start and prefix.startswith(start))


FINDERS: Mapping[str, Callable[[Iterable[_Settings], Servers, ServerSection], Iterator[Finding]]] = {
    "claude-code": _claude_code,
    "gemini-cli": _gemini,
    "opencode": _opencode,
    "zed": _zed,
}
