"""`make conformance`: the official suite against the official SDK's server and client, directly and through the guard.

Prints a row for each scenario, and exits 1 where the guard changes a result of a server, or fails a scenario of clients
that passes directly. Scenarios that the suite does not score (extensions, and those that its own reference does not
pass yet) are shown too. `ARGS=--clients` runs those of clients only.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.conformance.bearer import Bearer
from tests.conformance.everything import everything, tasks
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, write_config

REVISIONS = ("2025-11-25", "2026-07-28")
PACKAGE = Path(__file__).parent / "node_modules" / "@modelcontextprotocol" / "conformance"
NODE = Path(sys.executable).parent / "node"
BY_DESIGN = ("sep-2575-server-sends-tools-list-changed-on-subscription",)
"""The suite's server adds a tool, takes it away again and reports a change. The guard announces lists that differ."""
TASKS = "tasks-"
"""How the scenarios of the tasks extension begin, which the suite's own reference server does not have."""
COUNTED = ("SUCCESS", "FAILURE", "WARNING", "SKIPPED")

Result = Counter[tuple[str, str]]
"""How often each check ended how."""


def run_suite(url: str, revision: str, into: Path, scenarios: Sequence[str] = ()) -> dict[str, Result]:
    """These scenarios of this revision against the server at `url`; all of them if none is named."""
    words = [str(NODE), str(PACKAGE / "dist" / "index.js"), "server", "--url", url, "-o", str(into)]
    chosen = [["--scenario", name, "--spec-version", revision, "--force"] for name in scenarios]
    for options in chosen or [["--requirements", revision]]:
        done = subprocess.run([*words, *options], capture_output=True, text=True, timeout=600)
    results = {}
    for folder in sorted(into.iterdir()):
        name = folder.name.removeprefix("server-")[: -len("-2026-11-25T10-36-36-094Z")]
        checks = json.loads((folder / "checks.json").read_text())
        results[name] = Counter((check["id"], check["status"]) for check in checks if check["status"] in COUNTED)
    assert results, done.stdout + done.stderr
    return results


def run_client_suite(how: str, revision: str, into: Path) -> dict[str, Result]:
    """Every client scenario of this revision with the client of `client.py`, `direct` or through a `guard`.

    One after the other: the suite itself would run all at once, and count as failed what takes long for that.
    """
    results = {}
    for name in client_scenarios(revision):
        client = f"{sys.executable} -m tests.conformance.client {how}"
        words = [str(NODE), str(PACKAGE / "dist" / "index.js"), "client", "--command", client, "--scenario", name]
        subprocess.run(
            [*words, "--spec-version", revision, "--force", "-o", str(into)], capture_output=True, timeout=120
        )
        for file in into.glob(f"{name}-20*/checks.json"):
            checks = json.loads(file.read_text())
            results[name] = Counter((check["id"], check["status"]) for check in checks if check["status"] in COUNTED)
    assert results, f"no results of clients in {into}"
    return results


def client_scenarios(revision: str) -> list[str]:
    """The scenarios for clients that the suite's requirements run, scored or not."""
    text = (PACKAGE / "requirements" / f"{revision}.yaml").read_text()
    required, _, other = text.partition("\nclient:\n")[2].partition("not_scored:")
    names = [line.removeprefix("  - ").strip() for line in required.splitlines() if line.startswith("  - ")]
    legs = [item.split("\n") for item in other.split("- scenario: ")[1:]]
    return names + [item[0].strip() for item in legs if item[1].strip() == "leg: client"]


def failures(result: Result) -> set[str]:
    return {id for id, status in result if status in ("FAILURE", "WARNING")}


def report_clients(revision: str, direct: Mapping[str, Result], through: Mapping[str, Result]) -> bool:
    """Print the table of the client scenarios; whether what passes directly passes through the guard."""
    optional, lost = unscored(revision), []
    print(f"\n### Clients of {revision}\n\n| Scenario | Direct | Through the guard | |\n|---|---|---|---|")
    for name in sorted(direct, key=lambda name: (name in optional, name)):
        result = through.get(name, Counter())
        failed = failures(result) if result else {"no result"}
        word = "passes" if not failed else "fails, directly too" if failures(direct[name]) else "**fails**"
        print(
            f"| {name}{' (not scored)' if name in optional else ''} | {_sum(direct[name])} | {_sum(result)} | {word} |"
        )
        if word == "**fails**":
            lost += [name] if name not in optional else []
            print(f"{name}: {sorted(failed)}", file=sys.stderr)
    print(
        f"\n{len(lost)} of {len(direct)} scenarios fail only through the guard{': ' if lost else ''}{', '.join(lost)}."
    )
    return not lost


def unscored(revision: str) -> set[str]:
    """The scenarios that the suite's requirements run but do not count, without those of tasks: they have a server."""
    return {name for name in _not_scored(revision) if not name.startswith(TASKS)}


def tasks_scenarios(revision: str) -> list[str]:
    return sorted(name for name in _not_scored(revision) if name.startswith(TASKS))


def _not_scored(revision: str) -> list[str]:
    text = (PACKAGE / "requirements" / f"{revision}.yaml").read_text().partition("not_scored:")[2]
    return [line.split(": ")[1].strip() for line in text.splitlines() if line.strip().startswith("- scenario: ")]


Server = Callable[[int], AbstractContextManager[str]]


@contextmanager
def guarded(folder: Path, server: Server = everything) -> Iterator[str]:
    """The same server behind a guard that allows everything and records it, under the server's own names."""
    port, open_port, behind = free_port(), free_port(), free_port()
    here = f'hosts = ["localhost:{open_port}"]\norigins = ["http://localhost:{open_port}"]'
    with server(behind) as url:
        upstream = f'[upstreams.everything]\nurl = "{url}"\n'
        more = serving(port, here)
        config = write_config(folder, upstream, ALLOW_ALL, more, "plain_names = true")
        with Served(config, port) as served, Bearer(open_port, port, served.issue()[1]):
            yield f"http://localhost:{open_port}/mcp"


def compared(result: Result) -> Result:
    """The checks in which the guard may not differ."""
    return Counter({(id, status): count for (id, status), count in result.items() if id not in BY_DESIGN})


def row(name: str, direct: Result, through: Result) -> str:
    same = "same" if direct == through else "by design" if compared(direct) == compared(through) else "**differs**"
    return f"| {name} | {_sum(direct)} | {_sum(through)} | {same} |"


def _sum(result: Result) -> str:
    by_status: Counter[str] = Counter()
    for (_, status), count in result.items():
        by_status[status] += count
    return ", ".join(f"{by_status[status]} {status.lower()}" for status in COUNTED if by_status[status]) or "–"


def report(revision: str, direct: Mapping[str, Result], through: Mapping[str, Result]) -> bool:
    """Print the table of one revision; whether every scored scenario has the same result."""
    optional = unscored(revision)
    print(f"\n### {revision}\n\n| Scenario | Direct | Through the guard | |\n|---|---|---|---|")
    for name in sorted(direct, key=lambda name: (name in optional, name)):
        mark = " (not scored)" if name in optional else ""
        print(row(name + mark, direct[name], through.get(name, Counter())))
    differing = {name for name in direct if compared(direct[name]) != compared(through.get(name, Counter()))}
    for name in sorted(differing):
        missing, extra = direct[name] - through.get(name, Counter()), through.get(name, Counter()) - direct[name]
        print(f"{name}: direct {sorted(missing.items())}, through the guard {sorted(extra.items())}", file=sys.stderr)
    scored = [name for name in direct if name not in optional]
    same = len([name for name in scored if name not in differing])
    print(f"\n{same} of {len(scored)} scored scenarios the same; {len(differing - set(scored))} of the others differ.")
    return same == len(scored)


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))
    good = True
    try:
        for revision in REVISIONS:
            if "--clients" not in sys.argv:
                direct, through = run_both(folder, revision, everything)
                if names := tasks_scenarios(revision):
                    with_tasks = run_both(_new(folder, f"tasks-{revision}"), revision, tasks, names)
                    direct, through = direct | with_tasks[0], through | with_tasks[1]
                good = report(revision, direct, through) and good
            clients = [
                run_client_suite(how, revision, _new(folder, f"client-{how}-{revision}")) for how in ("direct", "guard")
            ]
            good = report_clients(revision, *clients) and good
    finally:
        if "--keep" in sys.argv:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    return 0 if good else 1


def run_both(
    folder: Path, revision: str, server: Server, scenarios: Sequence[str] = ()
) -> tuple[dict[str, Result], dict[str, Result]]:
    """Against the server itself, and against a guard in front of it."""
    with server(free_port()) as url:
        direct = run_suite(url, revision, _new(folder, f"direct-{revision}"), scenarios)
    with guarded(_new(folder, f"guard-{revision}"), server) as url:
        return direct, run_suite(url, revision, _new(folder, f"through-{revision}"), scenarios)


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


if __name__ == "__main__":
    sys.exit(main())
