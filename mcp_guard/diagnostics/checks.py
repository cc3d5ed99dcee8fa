"""What is well and what is not with a guard's state, told from what was seen of it. Pure: `CHECKS` is the whole list.

To add a check: a field of `Seen` that says what was seen, a function here, and its line in `CHECKS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mcp_guard.core.approval import Approval, Route, make_rule, may_decide
from mcp_guard.core.model import Micros
from mcp_guard.core.receipt import format_time

MEBIBYTE = 1024 * 1024
LITTLE_SPACE, HARDLY_ANY_SPACE = 512 * MEBIBYTE, 32 * MEBIBYTE
SLOW_SYNC_SECONDS = 0.05
CLOCK_TOLERATED: Micros = 5_000_000
OTHERS = 0o077
"""The bits of a mode that let others than the owner in."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is the noun that was looked at; `fix` is a command or edit, empty where all is well."""

    check: str
    level: Level
    what: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """A file or folder as its owner and mode stand; `path` is how it is named in a fix."""

    path: str
    mode: int
    owner: int


@dataclass(frozen=True, slots=True)
class Disk:
    """Free space in bytes; how long a small write and its sync took, or why it failed."""

    free: int
    sync_seconds: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What the ledger file says. `checkpoint_fits` is None if there is no head yet; `key_id` is of the key in force.

    `damage` is what SQLite finds wrong; `open_calls` are pairs of intent and guard.
    """

    format: int
    known_format: int
    size: int
    last_seq: int
    last_time: Micros
    checkpoint_fits: bool | None
    key_id: str
    damage: tuple[str, ...]
    open_calls: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits for a person; `guard` is the process that holds the call, if it is known."""

    approval: Approval
    guard: str | None


@dataclass(frozen=True, slots=True)
class Trial:
    """One call that must be refused, made on a scratch ledger with the configured policies.

    `permitted`: the policies let everybody make it, so it was not tried.
    """

    what: str
    refused: bool
    receipted: bool
    said: str
    permitted: bool = False


@dataclass(frozen=True, slots=True)
class ClientFile:
    """The servers of an MCP client: what its entries of a guard run, and what it starts beside them.

    `words` name it in a command. `no_program` and `no_config` are what its entries name and is not there; `others` are
    configurations of other guards; `failure` says why the file cannot be read.
    """

    title: str
    words: str
    path: str
    is_guarded: bool = False
    no_program: str = ""
    no_config: str = ""
    others: tuple[str, ...] = ()
    unguarded: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was looked at. `failure` and `hint` say why the ledger could not be read, if it could not."""

    now: Micros
    user: int
    folder: File | None
    disk: Disk | None
    file: File | None
    failure: str
    hint: str
    contents: Contents | None
    key: File | None
    key_failure: tuple[str, str] | None
    public_ids: tuple[str, ...]
    guards: tuple[tuple[str, bool], ...]
    pending: tuple[Pending, ...]
    approvers_with_keys: frozenset[str]
    policies_failure: tuple[str, str] | None
    policies_note: str
    agents: tuple[tuple[str, tuple[str | None, ...]], ...]
    """Each with those who answer for it, and so decide on none of its calls."""
    routes: tuple[Route, ...]
    has_upstreams: bool
    absent: tuple[str, ...]
    trials: tuple[Trial, ...]
    clients: tuple[ClientFile, ...]


Findings = list[Finding]


def _ok(check: str, what: str) -> Findings:
    return [Finding(check, Level.OK, what)]


def _warning(check: str, what: str, fix: str) -> Findings:
    return [Finding(check, Level.WARNING, what, fix)]


def _problem(check: str, what: str, fix: str) -> Findings:
    return [Finding(check, Level.PROBLEM, what, fix)]


def state_folder(seen: Seen) -> Findings:
    folder = seen.folder
    if folder is None:
        return _warning("state folder", "there is none yet", "mcp-guard run makes it")
    return _kept_private("state folder", folder, seen.user, "700") or _ok("state folder", folder.path)


def _kept_private(check: str, file: File, user: int, mode: str) -> Findings:
    if file.owner != user:
        fix = f"chown -R {user} {file.path}, or run as user {file.owner}"
        return _warning(check, f"`{file.path}` belongs to user {file.owner}, and this is user {user}", fix)
    if file.mode & OTHERS:
        fix = f"chmod {mode} {file.path}"
        return _problem(check, f"`{file.path}` is open to others (mode {file.mode & 0o777:o})", fix)
    return []


def disk(seen: Seen) -> Findings:
    if seen.disk is None:
        return []
    left = f"{seen.disk.free // MEBIBYTE} MiB free"
    if seen.disk.free < HARDLY_ANY_SPACE:
        return _problem("disk", f"{left}: calls will soon be refused", "free space (df -h)")
    return _warning("disk", left, "free space (df -h)") if seen.disk.free < LITTLE_SPACE else _ok("disk", left)


def sync(seen: Seen) -> Findings:
    if seen.disk is None:
        return []
    if seen.disk.failure:
        return _problem("sync", f"a write to the state folder fails: {seen.disk.failure}", "see docs/howto/recover.md")
    took = f"a synced write takes {seen.disk.sync_seconds * 1000:.1f} ms"
    if seen.disk.sync_seconds > SLOW_SYNC_SECONDS:
        return _warning("sync", f"{took}; each call waits for two", "put guard.state_dir on a faster disk")
    return _ok("sync", took)


def ledger_file(seen: Seen) -> Findings:
    if seen.failure:
        return _problem("ledger", seen.failure, seen.hint)
    if seen.file is None or seen.contents is None:
        return _warning("ledger", "there is none yet", "mcp-guard run makes it")
    if seen.contents.format != seen.contents.known_format:
        what = f"it has format {seen.contents.format}; this version reads {seen.contents.known_format}"
        return _problem("ledger", what, "use the version of mcp-guard that wrote it, or update")
    private = _kept_private("ledger", seen.file, seen.user, "600")
    return private or _ok("ledger", f"{seen.file.path}, {seen.contents.size} receipts")


def integrity(seen: Seen) -> Findings:
    if seen.contents is None:
        return []
    if seen.contents.damage:
        return _problem("integrity", f"the file is damaged: {seen.contents.damage[0]}", "restore it from a copy")
    return _ok("integrity", "SQLite finds no damage; mcp-guard verify proves the rest")


def head(seen: Seen) -> Findings:
    if seen.contents is None:
        return []
    if seen.contents.last_seq + 1 != seen.contents.size:
        what = f"the head is of {seen.contents.size} receipts, and the last one is {seen.contents.last_seq}"
        return _problem("head", what, "mcp-guard verify; then restore the ledger from a copy")
    if seen.contents.checkpoint_fits is False:
        what = "the checkpoint is not of these receipts, or not signed by the key in force"
        return _problem("head", what, "mcp-guard verify; restore the ledger and its key from copies that fit")
    return _ok("head", f"signed, and of all {seen.contents.size} receipts") if seen.contents.size else []


def key(seen: Seen) -> Findings:
    if seen.key is not None and (private := _kept_private("key", seen.key, seen.user, "600")):
        return private
    if seen.key_failure is not None:
        what, fix = seen.key_failure
        return _problem("key", f"{what}: no call is recorded without it", fix)
    if seen.contents is None or not seen.contents.size:
        return []
    if seen.contents.key_id not in seen.public_ids:
        what = f"ledger.pub does not hold the key in force, {seen.contents.key_id}"
        return _problem("key", what, "move it away, if it is there; the next mcp-guard run writes it anew")
    return _ok("key", f"{seen.contents.key_id}, at hand and in ledger.pub")


def clock(seen: Seen) -> Findings:
    if seen.contents is None or not seen.contents.size:
        return []
    behind = seen.contents.last_time - seen.now
    if behind > CLOCK_TOLERATED:
        what = f"it says {format_time(seen.now)}, before the last receipt, {format_time(seen.contents.last_time)}"
        return _problem("clock", f"{what}: calls are refused", "set it right: timedatectl")
    return _ok("clock", "not behind the last receipt")


def guards(seen: Seen) -> Findings:
    running = [guard for guard, alive in seen.guards if alive]
    dead = len(seen.guards) - len(running)
    return _ok("guards", f"{len(running)} running" + (f", {dead} ended without saying so" if dead else ""))


def calls_without_outcome(seen: Seen) -> Findings:
    if seen.contents is None:
        return []
    running = {guard for guard, alive in seen.guards if alive}
    lost = [seq for seq, guard in seen.contents.open_calls if guard not in running]
    if lost:
        what = f"{len(lost)} calls of guards that died have no outcome (intents {_some(lost)})"
        fix = f"mcp-guard show {lost[0]}, look at the resource; the next mcp-guard run records them as unknown"
        return _warning("calls", what, fix)
    return _ok("calls", f"{len(seen.contents.open_calls)} under way, none without a guard")


def approvals(seen: Seen) -> Findings:
    running = {guard for guard, alive in seen.guards if alive}
    findings: Findings = []
    for each in seen.pending:
        if why := _undecidable(each, running, seen.approvers_with_keys, seen.now):
            what, fix = why
            findings += _warning("approvals", f"{each.approval.id} {what}", fix)
    return findings or _ok("approvals", f"{len(seen.pending)} pending, each can be decided")


def _undecidable(pending: Pending, running: set[str], with_keys: frozenset[str], now: Micros) -> tuple[str, str] | None:
    """Why deciding on it can come to nothing, and what helps."""
    held = pending.approval
    if now >= held.expires:
        return f"expired at {format_time(held.expires)} and still stands open", "mcp-guard inbox settles it"
    if pending.guard is not None and pending.guard not in running:
        return "is of an instance whose guard has ended: nobody will use it", "nothing to do: it lapses by itself"
    for rule in held.rules:
        able = [who for who in rule.approvers if may_decide(rule, who, held.askers) and who in with_keys]
        if len(able) < rule.quorum:
            what = f"needs {rule.quorum} on route `{rule.route}`, and {len(able)} who may decide have a key"
            return what, f"mcp-guard approvers add NAME, for one of: {', '.join(rule.approvers)}"
    return None


def routes(seen: Seen) -> Findings:
    findings: Findings = []
    for name, askers in seen.agents:
        for route in seen.routes:
            able = [who for who in route.approvers if may_decide(make_rule(route), who, askers)]
            if len(able) < route.quorum:
                what = (
                    f"nobody approves what their own agent asks: {len(able)} may decide on calls of `{name}` on route"
                )
                fix = f"name others in routes.{route.name}.approvers, or set unsafe_self_approval = true there"
                findings += _warning("routes", f"{what} `{route.name}`, which needs {route.quorum}", fix)
    return findings or _ok("routes", f"{len(seen.routes)} routes, with people who may decide for each agent")


def policies(seen: Seen) -> Findings:
    if seen.policies_failure is not None:
        what, fix = seen.policies_failure
        return _problem("policies", what, fix)
    return _ok("policies", seen.policies_note)


def upstreams(seen: Seen) -> Findings:
    if not seen.has_upstreams:
        return _warning("upstreams", "no server stands behind the guard", "mcp-guard wrap; or [upstreams.NAME]")
    if not seen.absent:
        return []
    fix = "start it by hand; what it says is in upstreams/NAME.stderr.log of the state folder"
    return _problem("upstreams", f"no tools from {', '.join(seen.absent)}", fix)


def refusals(seen: Seen) -> Findings:
    """INVARIANT: a call that had to be refused and was not is the worst that can be found."""
    tried = [trial for trial in seen.trials if not trial.permitted]
    for trial in tried:
        if not (trial.refused and trial.receipted):
            what = f"{trial.what} was not refused with a receipt: {trial.said}"
            return _problem("refusals", what, "use no guard that does this, and report it")
    if len(tried) < len(seen.trials):
        what = "a policy lets every agent call every tool, also those that you have never seen"
        return _warning("refusals", what, "name agents and actions in the policies; mcp-guard policy test")
    refused = ", ".join(trial.what for trial in tried)
    return _ok("refusals", f"refused, with a receipt: {refused}") if tried else []


def clients(seen: Seen) -> Findings:
    findings = [finding for each in seen.clients for finding in _of_client(each)]
    return findings or _ok("clients", "none with servers was found for this user and folder")


def _of_client(client: ClientFile) -> Findings:
    if client.failure:
        return _warning("clients", client.failure, "mend the file; its client cannot read it either")
    findings: Findings = []
    cannot = f"{client.title} cannot start the guard: {client.path} names"
    if client.no_config:
        what = f"{cannot} `{client.no_config}`, which is not there"
        findings += _problem("clients", what, "restore it, or take the entry out of the client's file")
    elif client.no_program:
        what = f"{cannot} `{client.no_program}`, which is not there"
        findings += _problem("clients", what, f"mcp-guard unwrap {client.words}; mcp-guard wrap {client.words}")
    for other in client.others:
        what = f"{client.title} runs another guard ({client.path})"
        findings += _warning(
            "clients", what, f"mcp-guard doctor --config {other}; or unwrap with that, and wrap with this"
        )
    if client.unguarded:
        what = f"{client.title} starts {', '.join(client.unguarded)} beside the guard ({client.path})"
        findings += _warning("clients", what, f"mcp-guard wrap {client.words}")
    if client.is_guarded and not findings:
        findings += _ok("clients", f"{client.title} starts this guard and nothing beside it ({client.path})")
    return findings


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")


CHECKS: tuple[Callable[[Seen], Findings], ...] = (
    state_folder, disk, sync, ledger_file, integrity, head, key, clock, guards, calls_without_outcome, approvals,
    routes, policies, upstreams, refusals, clients,
)  # fmt: skip


def examine(seen: Seen) -> Findings:
    """Every finding, in the order of `CHECKS`."""
    return [finding for check in CHECKS for finding in check(seen)]


def worst(findings: Findings) -> Level:
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
