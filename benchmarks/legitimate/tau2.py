"""`make eval-tau2`: legitimate work of tau2-bench, retail and airline. The task is the user's instructions."""

import importlib
import json
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tau2
from loguru import logger
from pydantic_core import to_jsonable_python

from benchmarks.legitimate.evaluate import SuiteTask, main
from mcp_guard.core.model import Json

DATA = Path(tau2.__file__).parent / "data" / "tau2" / "domains"
SUITES = {"retail": ("RetailTools", "RetailDB"), "airline": ("AirlineTools", "FlightDB")}


class Tau2Suite:
    def __init__(self, name: str) -> None:
        tools_name, db_name = SUITES[name]
        self.name = name
        self._kit = getattr(importlib.import_module(f"tau2.domains.{name}.tools"), tools_name)
        model = getattr(importlib.import_module(f"tau2.domains.{name}.data_model"), db_name)
        self._data = pickle.dumps(model.model_validate(json.loads((DATA / name / "db.json").read_text())))
        self.tasks = [read_task(task) for task in json.loads((DATA / name / "tasks.json").read_text())]
        self.begin(self.tasks[0])

    def begin(self, task: SuiteTask) -> None:
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
        return self.kit.db


def read_task(task: Json) -> SuiteTask:
    actions = (task.get("evaluation_criteria") or {}).get("actions") or []
    calls = [(a["name"], a["arguments"]) for a in actions if a.get("requestor", "assistant") == "assistant"]
    return SuiteTask("\n".join(_texts(task["user_scenario"]["instructions"])), calls, {})


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


if __name__ == "__main__":
    logger.remove()
    raise SystemExit(main({name: partial(Tau2Suite, name) for name in SUITES}))
