"""The check of `doctor` that looks at the hooks of the coding agents of this user."""

from mcp_guard.clients.hooks import AGENTS
from mcp_guard.diagnostics.results import CheckResult, CheckResults, ok, problem, warning
from mcp_guard.diagnostics.snapshot import GuardSnapshot, HookedFile, ResultLevel


def hooks(snapshot: GuardSnapshot) -> CheckResults:
    if not snapshot.hooks.socket:
        left = [file for file in snapshot.hooks.files if file.is_wrapped and file.has_hooks]
        found = [result for file in left for result in _without_section(file)] or _unhooked_clients(snapshot)
        return found or ok("hooks", "not configured: what coding agents do with tools of their own is not decided")
    results: CheckResults = []
    if not snapshot.hooks.is_answered:
        what = f"nothing answers hooks on `{snapshot.hooks.socket}`, so every call of a hooked coding agent is denied"
        results += problem("hooks", what, "mcp-guard serve")
    if not snapshot.hooks.has_policies:
        what = (
            "no policy names the own tools of coding agents, so rules for all tools hold or allow each of their calls"
        )
        results += warning(
            "hooks", what, f"copy {snapshot.hooks.pack} into the policies; see docs/howto/coding-agents.md"
        )
    for file in snapshot.hooks.files:
        results += _of_file(file)
    hooked = [file for file in snapshot.hooks.files if file.has_hooks]
    if not hooked:
        what = (
            "[hooks] is configured, but no coding agent of this user has the hook: nothing of what it does is decided"
        )
        results += warning("hooks", what, "mcp-guard wrap claude-code --hooks")
    return results or ok("hooks", f"{', '.join(file.title for file in hooked)}: own tools are decided by this guard")


def _unhooked_clients(snapshot: GuardSnapshot) -> CheckResults:
    """Coding agents whose MCP servers are behind the guard, and whose own tools are not."""
    by_title = {agent.title: agent.id for agent in AGENTS}
    guarded = {client.title for client in snapshot.clients if client.is_guarded}
    return [
        CheckResult(
            "hooks",
            ResultLevel.WARNING,
            f"only the MCP servers of {title} are behind the guard, and not what it does with tools of its own",
            f"mcp-guard wrap {by_title[title]} --hooks",
            is_choice=True,
        )
        for title in by_title
        if title in guarded
    ]


def _without_section(file: HookedFile) -> CheckResults:
    what = f"{file.title} has the guard's hooks ({file.path}), but there is no [hooks]: its calls are denied"
    return problem("hooks", what, f"mcp-guard wrap {file.id} --hooks; or mcp-guard unwrap {file.id} --hooks")


def _of_file(file: HookedFile) -> CheckResults:
    again = f"mcp-guard wrap {file.id} --hooks --file {file.path}"
    if file.failure:
        return warning("hooks", file.failure, "fix the file; its agent cannot read it either")
    if file.off:
        what = f"{file.title} runs no hooks, because `{file.off}` in {file.path} says so: nothing of it is decided"
        return problem("hooks", what, f"remove `{file.off}` from the file")
    if file.is_wrapped and not file.has_hooks:
        return problem(
            "hooks", f"{file.title} has lost the guard's hooks ({file.path}): nothing of it is decided", again
        )
    if not file.has_hooks:
        what = f"{file.title} uses its own tools without the guard ({file.path})"
        return warning("hooks", what, again)
    results: CheckResults = []
    if file.gone:
        what = f"{file.title} cannot ask the guard, and denies: {file.path} names `{file.gone[0]}`, which is gone"
        results += problem("hooks", what, again)
    if file.changed:
        which = ", ".join(file.changed)
        what = (
            f"{file.title} may let calls go on undecided: its hook for {which} is not as `wrap` writes it ({file.path})"
        )
        results += problem("hooks", what, again)
    if file.others:
        results += warning("hooks", f"{file.title} asks another guard ({file.others[0]}, in {file.path})", again)
    elif file.missing:
        what = f"{file.title} does not report all that it does: no hook for {', '.join(file.missing)} ({file.path})"
        results += problem("hooks", what, again)
    return results
