"""Names of tools in the configuration that no tool has: a rule for such a name is a rule for nothing. Pure.

A name counts as wrong only where the server's tools are known. It may be right where it was seen in an earlier listing.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mcp_guard.core.names import SEPARATOR, is_short_form
from mcp_guard.core.nearest import is_misspelling, nearest_tools, suggest_tools


@dataclass(frozen=True, slots=True)
class ConfiguredName:
    """The listed name of a tool, as it is in the configuration at `key`, beside the `others` of the same rule.

    `always`: what is configured there is also enforced in observe mode.
    """

    name: str
    key: tuple[str, ...]
    others: Collection[str] = ()
    always: bool = False
    is_own: bool = False
    """Whether the file has it as the server itself names it, without `server__`."""

    @property
    def title(self) -> str:
        """As it is written in the file."""
        if self.is_own:
            return f"`{self.name.partition(SEPARATOR)[2]}` in {'.'.join(self.key)}"
        if self.key[0] == "tools" and len(self.key) == 2:
            return f'[tools."{self.name}"]'
        return f"`{self.name}` in {'.'.join(self.key)}"


@dataclass(frozen=True, slots=True)
class UnmatchedName:
    """A configured name that no tool of its server has. `meant` are listed tools of which it is a misspelling, and that
    the rule does not name itself: as it stands, they are without it. `near` are tools with a similar name, likewise."""

    configured: ConfiguredName
    meant: tuple[str, ...]
    near: tuple[str, ...]
    suggestion: str

    @property
    def is_misspelt(self) -> bool:
        """Whether it probably means another tool, and not one that may be listed later."""
        return bool(self.meant or self.near)

    def __str__(self) -> str:
        server = self.configured.name.partition(SEPARATOR)[0]
        suggestion = f"; {self.suggestion}" if self.is_misspelt else ", and has had none"
        return f"{self.configured.title}: `{server}` has no tool of this name{suggestion}"

    @property
    def why_withheld(self) -> str:
        return f"{self.configured.title} of the configuration matches no tool, and may mean this one"


def find_unmatched(
    configured: Iterable[ConfiguredName], listed: Collection[str], seen: Collection[str] = ()
) -> list[UnmatchedName]:
    """The configured names that are neither listed now nor `seen` earlier, of servers of which any tool is."""
    known = {*listed, *seen}
    servers = {name.partition(SEPARATOR)[0] for name in known}
    return [
        UnmatchedName(entry, _meant(entry, listed), _near(entry, known), _suggest(entry, known))
        for entry in configured
        if entry.name not in known and entry.name.partition(SEPARATOR)[0] in servers
    ]


def _suggest(entry: ConfiguredName, known: Iterable[str]) -> str:
    """What to write instead, in the form that the place takes."""
    if not entry.is_own:
        return suggest_tools(entry.name, known)
    prefix = entry.name.partition(SEPARATOR)[0] + SEPARATOR
    own = entry.name.removeprefix(prefix * 2)
    if prefix + own in known:
        return f"write the name that the server itself uses, without `{prefix}`: `{own}`"
    return suggest_tools(entry.name, known).replace(f"`{prefix}", "`")


def _meant(entry: ConfiguredName, listed: Iterable[str]) -> tuple[str, ...]:
    server, _, tool = entry.name.partition(SEPARATOR)
    return tuple(
        full
        for full in sorted(listed)
        if full not in entry.others
        and (is_short_form(entry.name, full) or _may_mean(server, tool, *full.split(SEPARATOR, 1)))
    )


def _near(entry: ConfiguredName, known: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in nearest_tools(entry.name, known) if name not in entry.others)


def _may_mean(server: str, tool: str, other_server: str, other: str) -> bool:
    """Many servers begin the names of their tools with their own: `git__log` is `git__git_log`."""
    return server == other_server and (is_misspelling(tool, other) or other in (f"{server}_{tool}", f"{server}-{tool}"))
