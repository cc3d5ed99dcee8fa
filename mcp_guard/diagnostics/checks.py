"""The checks of `doctor`, as pure functions of a snapshot of the guard. `CHECKS` is the complete list.

To add a check, add a field to `GuardSnapshot` in `snapshot.py`, a function here, and its name to `CHECKS`.
"""

from collections.abc import Callable, Sequence
from shlex import quote

from mcp_guard.core.approval import make_rule, may_decide
from mcp_guard.core.decided_methods import AREAS
from mcp_guard.core.model import SECOND, Micros
from mcp_guard.core.receipt import format_time
from mcp_guard.diagnostics.client_checks import clients, connection
from mcp_guard.diagnostics.hidden_tools import summarize
from mcp_guard.diagnostics.hook_checks import hooks
from mcp_guard.diagnostics.pages import CERTIFICATE_DAYS, CLOCK_SECONDS
from mcp_guard.diagnostics.results import CheckResult, CheckResults, ok, problem, warning
from mcp_guard.diagnostics.sign_in_checks import identity_provider
from mcp_guard.diagnostics.snapshot import FileInfo, GuardSnapshot, PendingApproval, ResultLevel
from mcp_guard.exposure import SECRETS_FIX, SERVED_FIX, SERVED_WHAT
from mcp_guard.verifier.report import count

MEBIBYTE = 1024 * 1024
LITTLE_SPACE, HARDLY_ANY_SPACE = 512 * MEBIBYTE, 32 * MEBIBYTE
FREE_SPACE = "free space (df -h)"
SLOW_SYNC_SECONDS = 0.05
CLOCK_TOLERATED: Micros = 5 * SECOND
OTHERS = 0o077
"""The permission bits for everybody except the owner."""


def packages(snapshot: GuardSnapshot) -> CheckResults:
    """Packages that only some configurations need: without them a guard does not start, or a part of it fails."""
    results = [
        CheckResult("packages", ResultLevel.PROBLEM, missing.what, missing.hint) for missing in snapshot.missing_extras
    ]
    return results or ok("packages", "every package that the configuration needs is installed")


def secrets(snapshot: GuardSnapshot) -> CheckResults:
    """What is read here may differ for the guard: a service has an environment of its own, and may be another user."""
    results: CheckResults = []
    folder = snapshot.folder
    other = folder.owner if folder is not None and folder.owner != snapshot.user else None
    for state in (state for state in snapshot.secrets if state.failure):
        what = f"`{state.secret.key}`: {state.failure}"
        if state.secret.reference.source == "env":
            results += warning("secrets", f"{what} here", "make sure that it is set where the guard runs")
        elif other is not None:
            results += warning("secrets", f"{what}, for the current user {snapshot.user}", f"run as user {other}")
        else:
            results += problem("secrets", what, state.hint)
    number, unread = len(snapshot.secrets), sum(not state.is_read for state in snapshot.secrets)
    if results or not number:
        return results or ok("secrets", "the configuration refers to no secret")
    note = f"; not run: {count(unread, 'command')}" if unread else ""
    return ok("secrets", f"{count(number - unread, 'secret')} can be read{note}")


def state_folder(snapshot: GuardSnapshot) -> CheckResults:
    folder = snapshot.folder
    if folder is None:
        return warning(
            "state folder", "does not exist yet", "a guard creates it when it starts (mcp-guard run or serve)"
        )
    return _kept_private("state folder", folder, snapshot.user, "700") or ok("state folder", folder.path)


def _kept_private(check: str, file: FileInfo, user: int, mode: str) -> CheckResults:
    if file.owner != user:
        fix = f"chown -R {user} {file.path}, or run as user {file.owner}"
        return warning(check, f"`{file.path}` belongs to user {file.owner}, not to the current user {user}", fix)
    if file.mode & OTHERS:
        fix = f"chmod {mode} {file.path}"
        return problem(check, f"`{file.path}` is accessible to other users (mode {file.mode & 0o777:o})", fix)
    return []


def disk(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.disk is None:
        return []
    left = f"{snapshot.disk.free // MEBIBYTE} MiB free"
    if snapshot.disk.free < HARDLY_ANY_SPACE:
        return problem("disk", f"{left}: calls will soon be refused", FREE_SPACE)
    return warning("disk", left, FREE_SPACE) if snapshot.disk.free < LITTLE_SPACE else ok("disk", left)


def sync(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.disk is None:
        return []
    if snapshot.disk.failure:
        return problem(
            "sync", f"a write to the state folder fails: {snapshot.disk.failure}", "see docs/howto/recover.md"
        )
    if snapshot.is_in_database:  # calls wait for its disk, not for this one
        return _durability(snapshot)
    took = f"a synced write takes {snapshot.disk.sync_seconds * 1000:.1f} ms"
    if snapshot.disk.sync_seconds > SLOW_SYNC_SECONDS:
        return warning("sync", f"{took}; each call waits for two of them", "put guard.state_dir on a faster disk")
    return ok("sync", took)


def _durability(snapshot: GuardSnapshot) -> CheckResults:
    """Of a database. Guards refuse calls while it could lose receipts, unless the operator allows it."""
    if snapshot.not_durable is None or "guard.unsafe_skip_fsync" in snapshot.unsafe_keys:
        return []
    return problem("sync", *snapshot.not_durable)


def ledger_file(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.failure:
        return problem("ledger", snapshot.failure, snapshot.hint)
    if snapshot.contents is None:
        return warning("ledger", "does not exist yet", "a guard creates it when it starts (mcp-guard run or serve)")
    if snapshot.contents.format != snapshot.contents.known_format:
        what = f"its format is {snapshot.contents.format}; this version reads {snapshot.contents.known_format}"
        is_older = snapshot.contents.format < snapshot.contents.known_format
        hint = "stop every guard and inbox, and run: mcp-guard ledger migrate" if is_older else "upgrade mcp-guard"
        return problem("ledger", what, hint)
    if snapshot.not_writable is not None:
        return problem("ledger", *snapshot.not_writable)
    results = _kept_private("ledger", snapshot.file, snapshot.user, "600") if snapshot.file else []
    if unused := snapshot.unused_file:
        what = f"`{unused.path}` is another ledger, with which a guard with an older configuration would continue"
        results += warning(
            "ledger", what, f"once you no longer need it: mv {quote(unused.path)} {quote(unused.path + '.unused')}"
        )
    return results or ok("ledger", f"{snapshot.ledger}, {count(snapshot.contents.size, 'receipt')}")


def integrity(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.contents is None or snapshot.is_in_database:
        return []
    if snapshot.contents.damage:
        return problem("integrity", f"the file is damaged: {snapshot.contents.damage[0]}", "restore it from a backup")
    return ok("integrity", "SQLite reports no damage; verify the receipts with mcp-guard verify")


def head(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.contents is None:
        return []
    if snapshot.discontinued:
        fix = "find out who changed it, with mcp-guard verify; then restore the newest copy"
        return problem("head", snapshot.discontinued, fix)
    if snapshot.contents.last_seq + 1 != snapshot.contents.size:
        what = f"the head covers {snapshot.contents.size} receipts, but the last is number {snapshot.contents.last_seq}"
        return problem("head", what, "run mcp-guard verify, then restore the ledger from a backup")
    if snapshot.contents.checkpoint_fits is False:
        what = "the checkpoint does not match the receipts, or the current key did not sign it"
        return problem("head", what, "run mcp-guard verify, then restore the ledger and its key from matching backups")
    size = snapshot.contents.size
    covered = "its only receipt" if size == 1 else f"all {size} receipts"
    return ok("head", f"signed, covers {covered}") if size else []


def tables(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.contents is None or not snapshot.contents.size:
        return []
    fix = "find out who changed the ledger, undo it or restore the newest backup, and run mcp-guard verify"
    results = [
        result
        for what in snapshot.table_differences
        for result in problem("tables", f"{what} as its receipts say: somebody changed a table", fix)
    ]
    return results or ok("tables", "keys, approvers, agents, revocations and policies are as the receipts say")


def key(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.key is not None and (private := _kept_private("key", snapshot.key, snapshot.user, "600")):
        return private
    if snapshot.key_failure is not None:
        what, fix = snapshot.key_failure
        return problem("key", f"{what}; without it no call can be recorded", fix)
    if snapshot.contents is None or not snapshot.contents.size:
        return []
    if snapshot.contents.key_id not in snapshot.public_ids:
        what = f"ledger.pub does not contain the current key, {snapshot.contents.key_id}"
        return problem("key", what, "move the file away if it exists; the next mcp-guard run writes a new one")
    return ok("key", f"{snapshot.contents.key_id}, available and in ledger.pub")


def clock(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.contents is None or not snapshot.contents.size:
        return []
    behind = snapshot.contents.last_time - snapshot.now
    if behind > CLOCK_TOLERATED:
        what = f"{format_time(snapshot.now)} is before the last receipt, {format_time(snapshot.contents.last_time)}"
        return problem("clock", f"{what}: calls are refused", "correct the clock: timedatectl")
    return ok("clock", "not behind the last receipt")


def guards(snapshot: GuardSnapshot) -> CheckResults:
    running = [guard for guard, is_alive in snapshot.guards if is_alive]
    dead = len(snapshot.guards) - len(running)
    fix = "restart it (a wrapped client starts its guard): it takes both only when it starts"
    results = [CheckResult("guards", ResultLevel.WARNING, what, fix) for what in snapshot.outdated]
    elsewhere = len(snapshot.contents.leased.difference(running)) if snapshot.contents else 0
    more = (f", {elsewhere} elsewhere" if elsewhere else "") + (f", {dead} crashed or were killed" if dead else "")
    return results + ok("guards", f"{len(running)} running{more}")


def _running_anywhere(snapshot: GuardSnapshot) -> set[str]:
    here = {guard for guard, is_alive in snapshot.guards if is_alive}
    return here.union(snapshot.contents.leased if snapshot.contents else ())


def calls_without_outcome(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.contents is None:
        return []
    running = _running_anywhere(snapshot)
    lost = [seq for seq, guard in snapshot.contents.open_calls if guard not in running]
    if lost:
        what = f"{len(lost)} calls of guards that are no longer running have no outcome (intents {_some(lost)})"
        fix = f"run mcp-guard show {lost[0]} and check the resource; the next mcp-guard run records them as unknown"
        return warning("calls", what, fix)
    return ok("calls", f"{len(snapshot.contents.open_calls)} running, all with a live guard")


def approvals(snapshot: GuardSnapshot) -> CheckResults:
    running = _running_anywhere(snapshot)
    results: CheckResults = []
    for pending in snapshot.pending:
        if why := _undecidable(pending, running, snapshot.approvers_with_keys, snapshot.now):
            what, fix = why
            results += warning("approvals", f"{pending.approval.id} {what}", fix)
    return results or ok("approvals", f"{len(snapshot.pending)} pending, all can be decided")


def _undecidable(
    pending: PendingApproval, running: set[str], with_keys: frozenset[str], now: Micros
) -> tuple[str, str] | None:
    """Why deciding on the approval would have no effect, and the fix."""
    held = pending.approval
    if now >= held.expires:
        return f"expired at {format_time(held.expires)} but is still open", "mcp-guard inbox closes it"
    if pending.guard is not None and pending.guard not in running:
        return (
            "belongs to an instance whose guard has exited, so it will not be used",
            "nothing to do: it expires automatically",
        )
    for rule in held.rules:
        eligible = [who for who in rule.approvers if may_decide(rule, who, held.subject.requesters)]
        able = [who for who in eligible if who in with_keys]
        if len(able) < rule.quorum:
            what = f"has a quorum of {rule.quorum} on route `{rule.route}`, but "
            what += f"{count(len(able), 'eligible approver')} {'has' if len(able) == 1 else 'have'} a key"
            if held.subject.unknown_user:
                what += f"; its user `{held.subject.on_behalf_of}` was not in the configuration when the agent asked"
                return what, held.subject.name_user
            if len(eligible) < rule.quorum:
                own = ", ".join(f"`{who}`" for who in rule.approvers if who not in eligible)
                what += f": {own} may not approve their own request" if own else ""
                return what, f"deny it, and add approvers to routes.{rule.route}.approvers for the next one"
            keyless = ", ".join(who for who in eligible if who not in able)
            return what, f"mcp-guard approvers add NAME, for one of: {keyless}"
    return None


def routes(snapshot: GuardSnapshot) -> CheckResults:
    results: CheckResults = []
    for name, requesters in snapshot.agents:
        for route in snapshot.routes:
            able = [who for who in route.approvers if may_decide(make_rule(route), who, requesters)]
            if len(able) < route.quorum:
                what = (
                    f"nobody may approve calls of their own agent: {len(able)} eligible approvers for `{name}` on route"
                )
                fix = f"add approvers to routes.{route.name}.approvers, or set unsafe_self_approval = true there"
                results += warning("routes", f"{what} `{route.name}`, which needs {route.quorum}", fix)
    for issuer in snapshot.unmapped_issuers if snapshot.routes else ():
        what = f"nobody under [approvers] or [people] has an identity of issuer `{issuer}`"
        fix = "add identities = [{ issuer = …, subject = … }], or each held call of its users needs two approvers"
        results += warning("routes", what, fix)
    return results or ok(
        "routes", f"{count(len(snapshot.routes), 'route')}, with enough eligible approvers for each agent"
    )


def enrolment(missing: Sequence[str], lacking: int) -> str:
    """The commands that enrol keys for so many of these approvers."""
    commands = [f"mcp-guard approvers add {approver}" for approver in missing]
    if lacking >= len(missing):
        return " and ".join(commands)
    return " or ".join(commands) if lacking == 1 else f"{lacking} of: {', '.join(commands)}"


def keys_of_approvers(snapshot: GuardSnapshot) -> CheckResults:
    """Routes on which too few can sign, and keys of no approver. An unreadable ledger is reported by itself."""
    if snapshot.failure:
        return []
    results: CheckResults = []
    for route in snapshot.routes:
        able = [who for who in route.approvers if who in snapshot.approvers_with_keys]
        if len(able) < route.quorum:
            number = "no approver has" if not able else f"only {len(able)} of {route.quorum} approvers have"
            what = f"{number} a key on route `{route.name}`, so a call held there cannot be approved"
            missing = [who for who in route.approvers if who not in able]
            results += warning("approver keys", what, enrolment(missing, route.quorum - len(able)))
    for name in sorted(snapshot.approvers_with_keys - snapshot.approvers):
        what = f"`{name}` has a key but is not under [approvers] in the configuration, so the key decides nothing"
        fix = f"add [approvers.{name}] again, or mcp-guard approvers remove {name} KEY --why TEXT"
        results += warning("approver keys", what, f"{fix} (KEY: mcp-guard approvers list)")
    results = results or ok(
        "approver keys", f"{count(len(snapshot.routes), 'route')}, with enough approvers who have a key"
    )
    if snapshot.several_keys:
        several = ", ".join(f"`{name}` ({number})" for name, number in snapshot.several_keys)
        what = f"more than one key in use: {several}; how each was enrolled: mcp-guard approvers list"
        results += ok("approver keys", what)
    return results


def names(snapshot: GuardSnapshot) -> CheckResults:
    """Names of tools in the configuration: a rule for a tool that does not exist is in force for none."""
    fix = "correct the name, or remove it: mcp-guard tools list --now"
    results = [CheckResult("names", level, what, fix) for what, level in snapshot.unmatched_names]
    return results or ok("names", "every tool that the configuration names is known, as far as its server is")


def arguments(snapshot: GuardSnapshot) -> CheckResults:
    """Arguments in the configuration that their tool does not declare: what is configured for one has no effect."""
    fix = "correct the name, or remove it: mcp-guard tools show TOOL"
    results = [CheckResult("arguments", level, what, fix) for what, level in snapshot.unmatched_arguments]
    return results or ok("arguments", "every argument that the configuration names is declared, as far as is known")


def groups(snapshot: GuardSnapshot) -> CheckResults:
    """Groups that no policy names: an agent that is in no other may call nothing that policies permit to a group."""
    fix = "correct the group under [agents], or with mcp-guard agents add --replace; or name it in a policy"
    results = [CheckResult("groups", ResultLevel.WARNING, str(unnamed), fix) for unnamed in snapshot.unnamed_groups]
    return results or ok("groups", "no group of an agent is missing from the policies")


def policies(snapshot: GuardSnapshot) -> CheckResults:
    if snapshot.policies_failure is not None:
        what, fix = snapshot.policies_failure
        return problem("policies", what, fix)
    results: CheckResults = []
    for folder in snapshot.unread_policies:
        what = f"the policies in `{folder}` are not in force: folders are not read"
        results += warning("policies", what, "move its files up, or the folder elsewhere")
    return results or ok("policies", snapshot.policies_note)


def policy_approval(snapshot: GuardSnapshot) -> CheckResults:
    what, fix = snapshot.policy_approval
    return warning("policy_approval", what, fix) if what else []


def hidden_tools(snapshot: GuardSnapshot) -> CheckResults:
    """Tools are hidden on purpose, in observe mode only by policies that say so; but it may surprise."""
    results: CheckResults = []
    for line in summarize(row for row in snapshot.hidden if row.is_now):
        results += ok("tools", f"not listed: {line}")
    for line in summarize(row for row in snapshot.hidden if not row.is_now):
        results += ok("tools", f"will not be listed in enforce mode: {line}")
    return results


def upstreams(snapshot: GuardSnapshot) -> CheckResults:
    if not snapshot.has_upstreams:
        return warning("upstreams", "no upstream is configured", "run mcp-guard wrap, or add [upstreams.NAME]")
    results: CheckResults = []
    for absent in snapshot.absent:
        what = f"no tools from {absent.name}" + (f": {absent.why}" if absent.why else "")
        what += f"; set here and not passed to it: {absent.lacked}" if absent.lacked else ""
        fix = f"start it by hand; its stderr is in upstreams/{absent.name}.stderr.log in the state folder"
        if absent.url:
            fix = f"check that an MCP server answers at {absent.url}, and correct `url` if it is elsewhere"
        results += problem("upstreams", what, absent.fix or fix)
    return results


def network(snapshot: GuardSnapshot) -> CheckResults:
    results = warning("network", SERVED_WHAT, SERVED_FIX) if snapshot.is_served_unencrypted else []
    for failure in dict.fromkeys(route.failure for route in snapshot.outgoing if route.failure):
        results += problem("network", failure, "correct the variable, or [network] in the configuration")
    for route in snapshot.outgoing:
        if route.exposes_secrets and not route.proxy:
            what = f"the secrets of {route.name} are sent unencrypted to another machine"
            results += warning("network", what, SECRETS_FIX)
        elif route.exposes_secrets:
            what = f"the secrets of {route.name} pass {route.proxy} unencrypted"
            results += warning("network", what, "use https, or name the host in NO_PROXY or network.no_proxy")
    for proxy in dict.fromkeys(route.proxy for route in snapshot.outgoing if route.proxy):
        names = ", ".join(route.name for route in snapshot.outgoing if route.proxy == proxy)
        results += ok("network", f"{names} through {proxy}")
    cas = dict.fromkeys(ca for route in snapshot.outgoing for ca in route.cas)
    if not any(route.proxy or route.failure for route in snapshot.outgoing):
        results += ok("network", "no proxy")
    if cas:
        results += ok("network", f"CAs: {', '.join(cas)}")
    return results


def pages(snapshot: GuardSnapshot) -> CheckResults:
    """The pages at `web.url`, as browsers reach them."""
    if (found := snapshot.pages) is None:
        return []
    results = problem("pages", f"{found.url} {found.failure}", found.hint) if found.failure else []
    if snapshot.not_for_pages is not None:
        results += problem("pages", *snapshot.not_for_pages)
    if (days := found.days_left(snapshot.now)) is not None and days < CERTIFICATE_DAYS:
        what = f"the certificate of {found.url} " + ("has expired" if days < 0 else f"expires in {days} days")
        report = problem if days < 0 else warning
        results += report("pages", what, "renew it in place; the guard reads it again within a minute")
    if abs(found.ahead) > CLOCK_SECONDS:
        what = f"the clock at {found.url} differs from this one's by {abs(found.ahead)} s"
        results += warning("pages", what, "set both by NTP: sign-ins and signatures have times")
    return results or ok("pages", f"{found.url} answers")


def reach(snapshot: GuardSnapshot) -> CheckResults:
    """Upstreams whose tools can read the guard's key, or switch the guard off."""
    results = [CheckResult("reach", ResultLevel.WARNING, str(reached), reached.fix) for reached in snapshot.reached]
    return results or ok("reach", "no argument of an upstream is a folder with the guard's own files")


def refusals(snapshot: GuardSnapshot) -> CheckResults:
    """INVARIANT: a call that must be refused and was not is always a problem."""
    tried = [trial for trial in snapshot.refusal_tests if not trial.permitted]
    for trial in tried:
        if not (trial.refused and trial.receipted):
            what = f"{trial.what} was not refused with a receipt: {trial.said}"
            return problem("refusals", what, "stop using this guard and report the defect")
    if len(tried) < len(snapshot.refusal_tests):
        what = "a policy lets every agent call every tool, even tools you have never seen"
        return warning("refusals", what, "name agents and actions in the policies, then run mcp-guard policy test")
    refused = ", ".join(trial.what for trial in tried)
    return ok("refusals", f"refused, with a receipt: {refused}") if tried else []


SELF_APPROVAL = ".unsafe_self_approval"


def weakened(snapshot: GuardSnapshot) -> CheckResults:
    """Settings that switch off a guarantee: each is somebody's decision, and should not be forgotten."""
    results: CheckResults = []
    works_alone = [f"routes.{route.name}{SELF_APPROVAL}" for route in snapshot.routes if len(route.approvers) == 1]
    for key in snapshot.unsafe_keys:
        what, fix = f"`{key}` switches off a guarantee", f"remove {key} from the configuration"
        if key.endswith(SELF_APPROVAL):
            what += ": people approve calls of their own agents, and receipts say self-approved"
            fix = f"if there is a second person, add them as an approver, and {fix}"
        results.append(CheckResult("settings", ResultLevel.WARNING, what, fix, key in works_alone))
    return results or ok("settings", "no setting switches off a guarantee")


def mode(snapshot: GuardSnapshot) -> CheckResults:
    if not snapshot.is_observing:
        return ok("mode", "enforce: calls that no policy permits are refused")
    what = 'what policies deny is made and recorded, except under @enforce("always") or a tool\'s own mode = "enforce"'
    return ok("mode", f"observe: {what}; of other calls, only those that cannot be read or made are refused")


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")


def undecided(snapshot: GuardSnapshot) -> CheckResults:
    """What of MCP passes without a decision."""
    passing = [area for area in AREAS[1:] if area not in snapshot.decide]
    if not passing:
        return ok("decide", "tool calls, resources, prompts, and answers to servers' questions")
    missing = ", ".join(passing)
    what = f"passes undecided and without a receipt: {missing}; to decide it: guard.decide in the configuration"
    return ok("decide", what)


CHECKS: tuple[Callable[[GuardSnapshot], CheckResults], ...] = (
    mode, undecided, packages, secrets, state_folder, disk, sync, ledger_file, integrity, head, tables, key, clock,
    guards, calls_without_outcome, approvals, routes, keys_of_approvers, names, arguments, groups, policies,
    policy_approval, hidden_tools, upstreams, network, pages,
    identity_provider, reach, refusals, weakened, clients, hooks, connection,
)  # fmt: skip


def run_checks(snapshot: GuardSnapshot) -> CheckResults:
    """The results of all checks, in the order of `CHECKS`."""
    return [result for check in CHECKS for result in check(snapshot)]


def worst_level(results: CheckResults) -> ResultLevel:
    """Without what was chosen."""
    order = list(ResultLevel)
    return max((result.level for result in results if not result.is_choice), key=order.index, default=ResultLevel.OK)
