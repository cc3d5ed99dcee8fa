"""`make eval-tau2`: how often the general policies get in the way of legitimate work, on tau2-bench retail and airline.

Nobody looked at these suites while the policies were written. No model is used: the agent makes the calls that the
suite's reference solution makes, and the approver approves them all. The task is the user's instructions. The labels
follow from a rule, because no operator is there to write them:

- `own`: what the tools return is the company's own. Arguments of writes whose name ends in `_id` or `_ids` are sinks.
- `others`: the same, but everything that is read counts as written by others, except members named so.

A task succeeds if every call ends as it does without the guard, and the data are the same afterwards.
"""

import argparse
import asyncio
import importlib
import json
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tau2
from loguru import logger
from pydantic_core import to_jsonable_python

from benchmarks.kit.guarded_tools import GuardedTools
from mcp_guard.config import load
from mcp_guard.core.model import Json

DATA = Path(tau2.__file__).parent / "data" / "tau2" / "domains"
SUITES = {"retail": ("RetailTools", "RetailDB"), "airline": ("AirlineTools", "FlightDB")}
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


class Suite:
    """A suite's tools, on the data of the current run."""

    def __init__(self, name: str) -> None:
        tools_name, db_name = SUITES[name]
        self.name = name
        self._kit = getattr(importlib.import_module(f"tau2.domains.{name}.tools"), tools_name)
        model = getattr(importlib.import_module(f"tau2.domains.{name}.data_model"), db_name)
        self._data = pickle.dumps(model.model_validate(json.loads((DATA / name / "db.json").read_text())))
        self.tasks = json.loads((DATA / name / "tasks.json").read_text())
        self.begin()

    def begin(self) -> None:
        self.kit = self._kit(pickle.loads(self._data))  # faster than a deep copy

    def run(self, name: str, arguments: Json) -> tuple[Any, str | None]:
        try:
            return to_jsonable_python(self.kit.use_tool(name, **arguments)), None
        except Exception as error:  # a tool's refusal is an exception of any kind
            return None, str(error)

    def listing(self) -> list[Json]:
        return [
            {"name": name, "description": tool.short_desc, "inputSchema": tool.params.model_json_schema()}
            for name, tool in self.kit.get_tools().items()
        ]

    def is_write(self, name: str) -> bool:
        return str(self.kit.tool_type(name).value) == "write"

    def data(self) -> Any:
        return self.kit.db.model_dump()


def calls_of(task: Json) -> list[Json]:
    """The agent's calls in the reference solution."""
    actions = (task.get("evaluation_criteria") or {}).get("actions") or []
    return [action for action in actions if action.get("requestor", "assistant") == "assistant"]


def text_of(task: Json) -> str:
    """What the user wants, as the user would say it."""
    return "\n".join(_texts(task["user_scenario"]["instructions"]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def is_identifier(name: str) -> bool:
    return name in ("id", "ids") or name.endswith(("_id", "_ids"))


def pointers(suite: Suite) -> dict[str, set[str]]:
    """Where the tools return identifiers, found by making all calls once."""
    found: dict[str, set[str]] = {}
    for task in suite.tasks:
        suite.begin()
        for action in calls_of(task):
            result, _ = suite.run(action["name"], action["arguments"])
            found.setdefault(action["name"], set()).update(_identifiers({"result": result}, ""))
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
        actions = calls_of(task)
        suite.begin()
        expected = [suite.run(action["name"], action["arguments"]) for action in actions]
        expected_data = suite.data()
        suite.begin()
        guarded.questions = 0
        instance = guarded.instance(text_of(task))
        replies = [await guarded.call(instance, a["name"], a["arguments"], lambda: True) for a in actions]
        failed = ["error" in reply or reply["result"].get("isError") is True for reply in replies]
        tally.tasks += 1
        tally.useful += failed == [error is not None for _, error in expected] and suite.data() == expected_data
        tally.writes += sum(suite.is_write(action["name"]) for action in actions)
        tally.questions += guarded.questions
    guarded.ledger.close()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="append", choices=SUITES, help="default: all")
    parser.add_argument("--labels", action="append", choices=LABELS, help="default: both")
    options = parser.parse_args()
    logger.remove()
    line = "{:<10} {:<8} {:>6} {:>8} {:>8} {:>15}"
    print(line.format("suite", "labels", "tasks", "utility", "writes", "questions/task"))
    with tempfile.TemporaryDirectory() as folder:
        for name in options.suite or SUITES:
            for labels in options.labels or LABELS:
                suite = Suite(name)
                guarded = make_guard(suite, labels, Path(folder) / f"{name}-{labels}")
                tally = asyncio.run(evaluate(suite, guarded))
                share, asked = f"{tally.useful / tally.tasks:.1%}", f"{tally.questions / tally.tasks:.2f}"
                print(line.format(name, labels, tally.tasks, share, tally.writes, asked), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
