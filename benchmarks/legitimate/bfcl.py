"""`make eval-bfcl`: legitimate work of the Berkeley Function Calling Leaderboard, its multi-turn tasks.

The task is everything that the user says, in all turns. A tool that changes nothing in any reference solution only
reads.
"""

import ast
import copy
import importlib
import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import bfcl_eval

from benchmarks.legitimate.evaluate import SuiteTask, main
from mcp_guard.core.model import Json

DATA = Path(bfcl_eval.__file__).parent / "data"
SOURCE = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
APIS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
}
CLASSES = {name: getattr(importlib.import_module(f"{SOURCE}.{module}"), name) for name, module in APIS.items()}
METHODS = {
    name: method
    for cls in CLASSES.values()
    for name, method in inspect.getmembers(cls, inspect.isfunction)
    if not name.startswith("_")
}


class BfclSuite:
    def __init__(self, category: str) -> None:
        self.name, self._category = category, category
        answers = {answer["id"]: answer["ground_truth"] for answer in read_lines(f"possible_answer/{self._file}")}
        self.tasks = [read_task(task, answers[task["id"]]) for task in read_lines(self._file)]
        self._writes = {name for name in METHODS if name not in {call for task in self.tasks for call, _ in task.calls}}
        for task in self.tasks:
            self.begin(task)
            for name, arguments in task.calls:
                before = copy.deepcopy(self.data())
                self.run(name, arguments)
                if self.data() != before:
                    self._writes.add(name)

    @property
    def _file(self) -> str:
        return f"BFCL_v4_multi_turn_{self._category}.json"

    def begin(self, task: SuiteTask) -> None:
        self._apis = {name: cls() for name, cls in CLASSES.items()}
        for name, setting in copy.deepcopy(task.setting).items():
            if hasattr(self._apis[name], "_load_scenario"):
                self._apis[name]._load_scenario(setting, long_context=self._category == "long_context")

    def run(self, name: str, arguments: Json) -> tuple[Any, str | None]:
        api = next(api for api in self._apis.values() if hasattr(api, name))
        try:
            result = getattr(api, name)(**copy.deepcopy(arguments))  # some tools keep and change them
            return json.loads(json.dumps(result, default=str)), None
        except Exception as error:  # a tool's refusal is an exception of any kind
            return None, str(error)

    def listing(self) -> list[Json]:
        documents = [doc for module in APIS.values() for doc in read_lines(f"multi_turn_func_doc/{module}.json")]
        return [
            {
                "name": doc["name"],
                "description": doc["description"],
                "inputSchema": {"type": "object", "properties": {name: {} for name in doc["parameters"]["properties"]}},
            }
            for doc in documents
        ]

    def is_write(self, name: str) -> bool:
        return name in self._writes

    def data(self) -> Any:
        """What the suite's own check compares."""
        return [
            {name: value for name, value in vars(api).items() if not name.startswith("_")}
            for api in self._apis.values()
        ]


def read_lines(file: str) -> list[Json]:
    return [json.loads(line) for line in (DATA / file).read_text().splitlines()]


def read_task(task: Json, answer: list[list[str]]) -> SuiteTask:
    said = [message["content"] for turn in task["question"] for message in turn if message["role"] == "user"]
    return SuiteTask("\n".join(said), [read_call(text) for turn in answer for text in turn], task["initial_config"])


def read_call(text: str) -> tuple[str, Json]:
    """The tool and the arguments of a call that is written in Python."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    names = [name for name in inspect.signature(METHODS[call.func.id]).parameters if name != "self"]
    given = {name: ast.literal_eval(value) for name, value in zip(names, call.args, strict=False)}
    return call.func.id, given | {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


if __name__ == "__main__":
    raise SystemExit(main({category: partial(BfclSuite, category) for category in ("base", "long_context")}))
