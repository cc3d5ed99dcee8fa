"""One AgentDojo suite behind a guard; its tools work on the environment of the current run."""

import pickle
import re
from collections.abc import Callable
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from agentdojo.task_suite.task_suite import TaskSuite, read_suite_file
from pydantic_core import to_jsonable_python

from benchmarks.kit.guarded_tools import GuardedTools
from mcp_guard.config import load
from mcp_guard.core.model import Instance, Json

HERE = Path(__file__).parent


class GuardedSuite:
    """`environment` is that of the current run, `ran` the calls that it has executed."""

    def __init__(self, suite: TaskSuite, folder: Path) -> None:
        listing = [
            {"name": tool.name, "description": tool.description, "inputSchema": tool.parameters.model_json_schema()}
            for tool in suite.tools
        ]
        self.suite, self._runtime = suite, FunctionsRuntime(suite.tools)
        self.guarded = GuardedTools(load(HERE / f"{suite.name}.toml"), listing, self._run_json, folder)
        self.environment: Any = None
        self.ran: list[FunctionCall] = []

    def load(self, injections: dict[str, str]) -> Any:
        """As `suite.load_and_inject_default_environment`, which takes a second; the sizes of files may differ."""
        if all(map(_IS_WORDS, injections.values())):
            return _Filled(BytesIO(_template(self.suite, tuple(injections))), injections).load()
        return pickle.loads(_pickled(self.suite, tuple(injections.items())))

    def begin(self, environment: Any, prompt: str) -> Instance:
        """A new run of the assistant, launched with the user's task."""
        self.environment, self.ran, self.guarded.questions = environment, [], 0
        return self.guarded.instance(prompt)

    def run(self, name: str, arguments: Json) -> tuple[Any, str | None]:
        """The result without the guard, or an error."""
        self.ran.append(FunctionCall(function=name, args=arguments))
        result, error = self._runtime.run_function(self.environment, name, arguments)
        return result, error

    def _run_json(self, name: str, arguments: Json) -> tuple[Any, str | None]:
        result, error = self.run(name, arguments)
        return to_jsonable_python(result), error

    async def call(self, instance: Instance, wanted: FunctionCall, approves: Callable[[], bool]) -> Json:
        """One call through the guard."""
        return await self.guarded.call(instance, wanted.function, to_jsonable_python(dict(wanted.args)), approves)


# An environment takes far longer to read than to unpickle. Mere words change nothing in the YAML around them, so they
# are put into an environment that was read with marks.

_IS_WORDS = re.compile(r"[A-Za-z][\w ,.!@-]*[\w.!]").fullmatch
_MARK = re.compile("<CANARY---(\\w+)--->")


class _Template(pickle.Pickler):
    """Keeps texts with marks apart."""

    def persistent_id(self, value: Any) -> str | None:
        return value if isinstance(value, str) and _MARK.search(value) else None


class _Filled(pickle.Unpickler):
    def __init__(self, file: BytesIO, texts: dict[str, str]) -> None:
        super().__init__(file)
        self._texts = texts

    def persistent_load(self, text: str) -> str:
        return _MARK.sub(lambda mark: self._texts[mark[1]], text)


@cache
def _template(suite: TaskSuite, names: tuple[str, ...]) -> bytes:
    file = BytesIO()
    _Template(file).dump(_read(suite, {name: f"<CANARY---{name}--->" for name in names}))
    return file.getvalue()


@lru_cache(maxsize=8)
def _pickled(suite: TaskSuite, injections: tuple[tuple[str, str], ...]) -> bytes:
    return pickle.dumps(_read(suite, dict(injections)))


def _read(suite: TaskSuite, injections: dict[str, str]) -> Any:
    texts = {**suite.get_injection_vector_defaults(), **injections}
    injected = read_suite_file(suite.name, "environment.yaml", suite.data_path).format(**texts)
    return suite.environment_type.model_validate(yaml.load(injected, yaml.CSafeLoader))
