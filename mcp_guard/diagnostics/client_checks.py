"""The checks of `doctor` that look at the MCP clients of this user, and at the guard as a client of its own sees it."""

from mcp_guard.diagnostics.results import CheckResults, ok, problem, warning
from mcp_guard.diagnostics.snapshot import ClientFile, GuardSnapshot
from mcp_guard.verifier.report import count


def clients(snapshot: GuardSnapshot) -> CheckResults:
    results = [result for client in snapshot.clients for result in _of_client(client)]
    return results or ok("clients", "no client with servers found for this user and folder")


def connection(snapshot: GuardSnapshot) -> CheckResults:
    """The guard from end to end."""
    if (tried := snapshot.connection) is None:
        return []
    if tried.failure:
        return problem("connection", f"an MCP client could not use the guard: {tried.failure}", "mcp-guard call")
    what = f"an MCP client speaks {tried.protocol_version} with the guard, and is listed"
    if not tried.tools:
        return warning("connection", f"{what} no tools", "mcp-guard tools list says why")
    return ok("connection", f"{what} {count(tried.tools, 'tool')}")


def _of_client(client: ClientFile) -> CheckResults:
    if client.failure:
        return warning("clients", client.failure, "fix the file; the client cannot read it either")
    results: CheckResults = []
    cannot = f"{client.title} cannot start the guard: {client.path} names"
    if client.no_config:
        what = f"{cannot} `{client.no_config}`, which does not exist"
        results += problem("clients", what, "restore it, or remove the entry from the client's file")
    elif client.no_program:
        what = f"{cannot} `{client.no_program}`, which does not exist"
        results += problem("clients", what, f"mcp-guard unwrap {client.words}; mcp-guard wrap {client.words}")
    for other in client.others:
        what = f"{client.title} runs another guard ({client.path})"
        results += warning(
            "clients",
            what,
            f"mcp-guard doctor --config {other}; or unwrap with that configuration and wrap with this one",
        )
    if client.unguarded:
        what = f"{client.title} starts {', '.join(client.unguarded)} without the guard ({client.path})"
        results += warning("clients", what, f"mcp-guard wrap {client.words}")
    if client.is_guarded and not results:
        results += ok("clients", f"{client.title} starts only this guard ({client.path})")
    return results
