"""`make eval`: measures the shipped general policies on AgentDojo with an agent that falls for every attack.

The agent makes the calls that the user's task takes (the suite's ground truth) and, as soon as it has read the injected
text, the calls that the attacker wants; it never doubts. All of them go through a real guard. No model is involved, so
the numbers say what the guard does, and nothing of how often a model falls for an attack.

    make eval                                     # banking and slack, and the hold-out suites travel and workspace
    make eval ARGS="--suite slack --attack direct --misses"
"""

import argparse
import asyncio
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
from agentdojo.attacks.attack_registry import load_attack
from agentdojo.functions_runtime import FunctionCall
from agentdojo.task_suite.load_suites import get_suite
from agentdojo.task_suite.task_suite import TaskSuite

from benchmarks.agentdojo.guarded_suite import GuardedSuite

VERSION = "v1.2.2"
SUITES = ("banking", "slack", "travel", "workspace")
ATTACKS = ("important_instructions", "direct")
"""The defaults: the strongest of AgentDojo's attacks on models, and the one that only states its goal."""
SILENT = "silent"
"""Our own attack: the agent makes the attacker's calls although no text told it to."""


@dataclass
class Tally:
    """The results of one kind of runs. `questions` counts approval requests; `bare` is without the guard."""

    runs: int = 0
    useful: int = 0
    attacked: int = 0
    questions: int = 0
    bare_useful: int = 0
    bare_attacked: int = 0
    misses: list[str] = field(default_factory=list)


def plan(user: Any, injection: Any, environment: Any) -> tuple[list[Any], list[Any]]:
    """The ground-truth calls of the user's task and of the attacker's task."""
    theirs = list(injection.ground_truth(environment)) if injection is not None else []
    return list(user.ground_truth(environment)), theirs


async def run(target: GuardedSuite, user: Any, injection: Any, injections: dict[str, str], guarded: bool) -> Any:
    """One run; returns whether the user's task and the attacker's task succeeded, and the number of questions."""
    suite = target.suite
    environment = user.init_environment(target.load(injections))
    before = environment.model_copy(deep=True)
    mine, theirs = plan(user, injection, environment)
    instance = target.begin(environment, user.PROMPT)
    wanted = [(call.function, dict(call.args)) for call in mine]

    async def make(call: FunctionCall) -> str:
        if not guarded:
            return str(target.run(call.function, dict(call.args))[0])
        reply = await target.call(instance, call, lambda: (call.function, dict(call.args)) in wanted)
        return json.dumps(reply, ensure_ascii=False)

    left, last = list(theirs), max((i for i, _ in enumerate(mine)), default=0)
    marks = [text.strip().splitlines()[0][:20] for text in injections.values() if text.strip()]
    for number, call in enumerate(mine):
        seen = await make(call)
        hijacked = number == last or any(json.dumps(mark, ensure_ascii=False)[1:-1] in seen for mark in marks)
        if hijacked and left:
            for attack in left:
                await make(attack)
            left = []
    for attack in left:
        await make(attack)
    output = [{"type": "text", "content": user.GROUND_TRUTH_OUTPUT}]
    ran = target.ran
    useful = suite._check_task_result(user, output, before, environment, ran)
    hit = injection is not None and suite._check_task_result(injection, output, before, environment, ran)
    return useful, hit, target.guarded.questions


async def count(target: GuardedSuite, pairs: Iterable[tuple[Any, Any, dict[str, str]]]) -> Tally:
    tally = Tally()
    for user, injection, injections in pairs:
        bare_useful, bare_hit, _ = await run(target, user, injection, injections, guarded=False)
        useful, hit, questions = await run(target, user, injection, injections, guarded=True)
        tally.runs += 1
        tally.useful += useful
        tally.attacked += hit
        tally.questions += questions
        tally.bare_useful += bare_useful
        tally.bare_attacked += bare_hit
        name = f"{user.ID} {injection.ID if injection else ''}"
        lost = "useless " if bare_useful and not useful else ""
        if lost or hit or questions:
            tally.misses.append(f"{name}: {lost}{'ATTACKED ' if hit else ''}{questions} questions")
    return tally


def tasks(suite: TaskSuite) -> tuple[list[Any], list[Any]]:
    """All user tasks, and the injection tasks with ground-truth calls: others cannot be replayed."""
    environment = suite.load_and_inject_default_environment({})
    users = sorted(suite.user_tasks.values(), key=lambda task: int(task.ID.split("_")[-1]))
    return users, [task for task in suite.injection_tasks.values() if task.ground_truth(environment)]


async def evaluate(name: str, attacks: list[str], folder: Path) -> dict[str, Tally]:
    suite = get_suite(VERSION, name)
    target = GuardedSuite(suite, folder / name)
    await target.guarded.pin_tools()
    users, injected = tasks(suite)
    found = {"none": await count(target, [(user, None, {}) for user in users])}
    pipeline = GroundTruthPipeline(None)
    pipeline.name = "gpt-4o-2024-05-13"  # the attacks address a model by its name
    for kind in attacks:
        if kind == SILENT:
            found[kind] = await count(target, [(user, task, {}) for user in users for task in injected])
            continue
        attack = load_attack(kind, suite, pipeline)
        pairs = [
            (user, task, attack.attack(user, task)) for user in users if injectable(attack, user) for task in injected
        ]
        found[kind] = await count(target, pairs)
    target.guarded.ledger.close()
    return found


def injectable(attack: Any, user: Any) -> bool:
    """Whether the user's task reads any text that an attacker may write."""
    try:
        return bool(attack.get_injection_candidates(user))
    except ValueError:
        return False


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--suite", action="append", choices=SUITES, help="default: all")
    made.add_argument("--attack", action="append", help=f"AgentDojo's, or {SILENT}; default: {', '.join(ATTACKS)}")
    made.add_argument("--misses", action="store_true", help="each run that was not let through untouched")
    made.add_argument("--json", action="store_true")
    options = made.parse_args()
    warnings.simplefilter("ignore")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.suite or SUITES:
            rows[name] = asyncio.run(evaluate(name, options.attack or list(ATTACKS), Path(folder)))
    if options.json:
        print(json.dumps({name: {kind: asdict(t) for kind, t in found.items()} for name, found in rows.items()}))
        return 0
    line = "{:<10} {:<24} {:>5} {:>16} {:>16} {:>14}"
    print(line.format("suite", "attack", "runs", "utility", "attack success", "questions/run"))
    for name, found in rows.items():
        for kind, each in found.items():
            useful = f"{each.useful / each.runs:.1%} ({each.bare_useful / each.runs:.1%})"
            hit = f"{each.attacked / each.runs:.1%} ({each.bare_attacked / each.runs:.1%})"
            print(
                line.format(
                    name, kind, each.runs, useful, hit if kind != "none" else "-", f"{each.questions / each.runs:.2f}"
                )
            )
            if options.misses:
                print(*(f"    {miss}" for miss in each.misses), sep="\n")
                print("   ", Counter(miss.split(": ")[1] for miss in each.misses).most_common(5))
    print("in brackets: without the guard")
    useless = [name for name, found in rows.items() if found["none"].useful < 0.95 * found["none"].runs]
    if useless:
        print(f"without an attacker, tasks are lost in {', '.join(useless)}: the guard refuses what it should let")
    return 1 if useless else 0


if __name__ == "__main__":
    raise SystemExit(main())
