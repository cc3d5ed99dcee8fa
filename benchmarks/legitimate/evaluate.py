"""Measures how often the general policies get in the way of legitimate work, on suites that nobody looked at while the
policies were written.

No model is used: the agent makes the calls of the suite's reference solution, and the approver approves them all. The
labels follow from a rule, because no operator is there to write them:

- `own`: what the tools return is the company's own. Arguments of writes whose name ends in `_id` or `_ids` are sinks.
- `others`: the same, but everything that is read counts as written by others, except members named so.

A task succeeds if every call ends as it does without the guard, and the data are the same afterwards.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.kit.guarded_tools import GuardedTools
from mcp_guard.config import load
from mcp_guard.core.model import Json

LABELS = ("own", "others")
HERE = Path(__file__).parent
CONFIG = f"""
[guard]
policies = "{HERE.parents[1] / "policies" / "general"}"
state_dir = "state"
origin = "evaluation.local/ledger"
[agents.assistant]
owner = "operator"
[approvers.user]
name = "The user"
[routes.people]
approvers = ["user"]
[upstreams.SUITE]
command = "in-process"
"""


@dataclass(frozen=True)
class SuiteTask:
    text: str
    """What the user wants, as the user would say it."""
    calls: list[tuple[str, Json]]
    """The agent's calls in the reference solution: tool and arguments."""
    setting: Json
    """What the suite begins with, if that differs from task to task."""


class Suite(Protocol):
    """A suite's tools, on the data of the current task."""

    name: str
    tasks: list[SuiteTask]

    def begin(self, task: SuiteTask) -> None: ...

    def run(self, name: str, arguments: Json) -> tuple[Any, str | None]:
        """The result as JSON, or an error."""
        ...

    def listing(self) -> list[Json]: ...

    def is_write(self, name: str) -> bool: ...

    def data(self) -> Any:
        """The present data; equal for equal data."""
        ...


def is_identifier(name: str) -> bool:
    return name in ("id", "ids") or name.endswith(("_id", "_ids"))


def pointers(suite: Suite) -> dict[str, set[str]]:
    """Where the tools return identifiers, found by making all calls once."""
    found: dict[str, set[str]] = {}
    for task in suite.tasks:
        suite.begin(task)
        for name, arguments in task.calls:
            result, _ = suite.run(name, arguments)
            found.setdefault(name, set()).update(_identifiers({"result": result}, ""))
    return found


def _identifiers(value: Any, at: str, named: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            key = name if is_identifier(name) or at == "" else "*"
            yield from _identifiers(item, f"{at}/{key}", name)
    elif isinstance(value, list):
        for item in value:
            yield from _identifiers(item, f"{at}/*", named)
    elif is_identifier(named):
        yield at


def configuration(suite: Suite, labels: str) -> str:
    lines, found = [CONFIG.replace("SUITE", suite.name)], pointers(suite) if labels == "others" else {}
    for tool in suite.listing():
        lines.append(f'[tools."{suite.name}__{tool["name"]}"]')
        if suite.is_write(tool["name"]):
            sinks = [name for name in tool["inputSchema"].get("properties", {}) if is_identifier(name)]
            lines.append(f"sinks = {json.dumps(sinks)}")
        else:
            lines.append('effect = "read"')
        if labels == "others":
            trusted = sorted(found.get(tool["name"], ()))
            lines += ['returns = ["untrusted"]', f"trusted = {json.dumps(trusted)}"]
    return "\n".join(lines)


@dataclass
class Tally:
    tasks: int = 0
    useful: int = 0
    writes: int = 0
    questions: int = 0


def make_guard(suite: Suite, labels: str, folder: Path) -> GuardedTools:
    folder.mkdir()
    file = folder / "mcp-guard.toml"
    file.write_text(configuration(suite, labels))
    return GuardedTools(load(file), suite.listing(), suite.run, folder / "state")


async def evaluate(suite: Suite, guarded: GuardedTools) -> Tally:
    await guarded.pin_tools()
    tally = Tally()
    for task in suite.tasks:
        suite.begin(task)
        expected = [suite.run(name, arguments) for name, arguments in task.calls]
        expected_data = suite.data()
        suite.begin(task)
        guarded.questions = 0
        instance = guarded.instance(task.text)
        replies = [await guarded.call(instance, name, arguments, lambda: True) for name, arguments in task.calls]
        failed = ["error" in reply or reply["result"].get("isError") is True for reply in replies]
        tally.tasks += 1
        tally.useful += failed == [error is not None for _, error in expected] and suite.data() == expected_data
        tally.writes += sum(suite.is_write(name) for name, _ in task.calls)
        tally.questions += guarded.questions
    guarded.ledger.close()
    return tally


def main(suites: Mapping[str, Callable[[], Suite]]) -> int:
    """The command line of one benchmark with these suites."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="append", choices=suites, help="default: all")
    parser.add_argument("--labels", action="append", choices=LABELS, help="default: both")
    options = parser.parse_args()
    line = "{:<10} {:<8} {:>6} {:>8} {:>8} {:>15}"
    print(line.format("suite", "labels", "tasks", "utility", "writes", "questions/task"))
    with tempfile.TemporaryDirectory() as folder:
        for name in options.suite or suites:
            suite = suites[name]()
            for labels in options.labels or LABELS:
                guarded = make_guard(suite, labels, Path(folder) / f"{name}-{labels}")
                tally = asyncio.run(evaluate(suite, guarded))
                share, asked = f"{tally.useful / tally.tasks:.1%}", f"{tally.questions / tally.tasks:.2f}"
                print(line.format(name, labels, tally.tasks, share, tally.writes, asked), flush=True)
    return 0
