"""`make conformance`: the official suite against the official reference server, directly and through the guard.

Prints a row for each scenario, and exits 1 where the guard changes a result that a revision requires. Scenarios that
the suite does not score (extensions, and those that its own reference does not pass yet) are shown too.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.bearer import Bearer
from tests.conformance.everything import everything
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, write_config

REVISIONS = ("2025-11-25", "2026-07-28")
PACKAGE = Path(__file__).parent / "node_modules" / "@modelcontextprotocol" / "conformance"
NODE = Path(sys.executable).parent / "node"
COUNTED = ("SUCCESS", "FAILURE", "WARNING", "SKIPPED")

Result = Counter[tuple[str, str]]
"""How often each check ended how."""


def run_suite(url: str, revision: str, into: Path) -> dict[str, Result]:
    """Every scenario of this revision against the server at `url`."""
    words = [str(NODE), str(PACKAGE / "dist" / "index.js"), "server", "--url", url, "--requirements", revision]
    done = subprocess.run([*words, "-o", str(into)], capture_output=True, text=True, timeout=600)
    results = {}
    for folder in sorted(into.iterdir()):
        name = folder.name.removeprefix("server-")[: -len("-2026-11-25T10-36-36-094Z")]
        checks = json.loads((folder / "checks.json").read_text())
        results[name] = Counter((check["id"], check["status"]) for check in checks if check["status"] in COUNTED)
    assert results, done.stdout + done.stderr
    return results


def unscored(revision: str) -> set[str]:
    """The scenarios that the suite's requirements run but do not count."""
    text = (PACKAGE / "requirements" / f"{revision}.yaml").read_text().partition("not_scored:")[2]
    return {line.split(": ")[1].strip() for line in text.splitlines() if line.strip().startswith("- scenario: ")}


@contextmanager
def guarded(folder: Path) -> Iterator[str]:
    """The same server behind a guard that allows everything and records it, under the server's own names."""
    port, open_port, behind = free_port(), free_port(), free_port()
    here = f'hosts = ["localhost:{open_port}"]\norigins = ["http://localhost:{open_port}"]'
    with everything(behind) as url:
        upstream = f'[upstreams.everything]\nurl = "{url}"\n'
        more = serving(port, here)
        config = write_config(folder, upstream, ALLOW_ALL, more, "plain_names = true")
        with Served(config, port) as served, Bearer(open_port, port, served.issue()[1]):
            yield f"http://localhost:{open_port}/mcp"


def row(name: str, direct: Result, through: Result) -> str:
    same = "same" if direct == through else "**differs**"
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
    differing = {name for name in direct if direct[name] != through.get(name)}
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
            with everything(free_port()) as url:
                direct = run_suite(url, revision, _new(folder, f"direct-{revision}"))
            with guarded(_new(folder, f"guard-{revision}")) as url:
                through = run_suite(url, revision, _new(folder, f"through-{revision}"))
            good = report(revision, direct, through) and good
    finally:
        if "--keep" in sys.argv:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    return 0 if good else 1


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


if __name__ == "__main__":
    sys.exit(main())
