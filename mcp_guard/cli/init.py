"""`mcp-guard init`: create the configuration and first policies of a new guard."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from mcp_guard.cli import prompts
from mcp_guard.cli.client_files import config_option
from mcp_guard.cli.init_templates import InitAnswers, initial_files, os_user, person_id, refuse_to_overwrite
from mcp_guard.cli.options import Parser, add_json
from mcp_guard.cli.output import print_json, print_lines, steps
from mcp_guard.config.file import check
from mcp_guard.core.errors import ConfigError


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    config = options.folder.resolve() / "mcp-guard.toml"
    refuse_to_overwrite(config)
    answers = ask(options)
    make(config, answers)
    if options.json:
        print_json({"config": str(config), "written": [str(path) for path in initial_files(config, answers)]})
    else:
        print_lines(report(config, answers))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mcp-guard init", description="Create the configuration and first policies of a new guard.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="DIR", help="the folder (default: the current one)"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--observe", action="store_true", help="decide and record, but block nothing (default)")
    mode.add_argument("--enforce", action="store_true", help="block calls that no policy permits")
    parser.add_argument("--owner", metavar="NAME", help="the person responsible for the agent (default: you)")
    parser.add_argument(
        "--approver", metavar="NAME", help="the person who decides on held calls; preferably not the owner"
    )
    parser.add_argument("--agent", default="my-agent", metavar="NAME", help="the name of the agent (default: my-agent)")
    parser.add_argument(
        "--solo",
        action="store_true",
        help="there is no second person: the owner approves calls of their own agent, and receipts say self-approved",
    )
    parser.add_argument(
        "--unsafe-self-approval", action="store_true", help="let the owner approve too, beside the approver"
    )
    parser.add_argument("--yes", action="store_true", help="use the defaults without asking")
    add_json(parser)
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = build_parser()
    options = parser.parse_args(arguments)
    for name in ("owner", "approver", "agent"):
        if getattr(options, name) is not None and not person_id(getattr(options, name)):
            parser.error(f"--{name} needs at least one letter or digit")
    if options.solo and options.approver is not None:
        parser.error("--solo means that the owner is the approver: use --owner NAME, or leave out --solo")
    return options


def ask(options: argparse.Namespace) -> InitAnswers:
    """Ask for missing values on a terminal; use the defaults elsewhere or with --yes."""
    asks = sys.stdin.isatty() and not options.yes and not options.json
    owner = person_id(
        options.owner or (asks and answer("who owns the agent and is responsible for it?", os_user())) or os_user()
    )
    if options.solo:
        return InitAnswers(options.agent, owner, options.owner or owner, options.enforce, unsafe_self_approval=True)
    question = "who approves its calls? (preferably not the owner)"
    approver = options.approver or (asks and answer(question, owner)) or owner
    answers = InitAnswers(options.agent, owner, approver.strip(), options.enforce, options.unsafe_self_approval)
    if asks and answers.is_alone and not answers.unsafe_self_approval:
        return replace(answers, unsafe_self_approval=wants_solo(owner))
    return answers


def wants_solo(owner: str) -> bool:
    question = f"nobody else? let {owner} approve calls of their own agent (as --solo does; receipts say so)?"
    return prompts.confirm(question)


def answer(question: str, default: str) -> str:
    reply = prompts.ask(question, default)
    return reply if person_id(reply) else default


def make(config: Path, answers: InitAnswers) -> None:
    """Write the files. Raises: ConfigError."""
    texts = initial_files(config, answers)
    check(texts[config], config)
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as file:
                file.write(text)
        except OSError as error:
            blocking = next((place for place in path.parents if place.exists() and not place.is_dir()), None)
            why = f"`{blocking}` is a file" if blocking else error.strerror
            raise ConfigError(f"cannot write `{path}`: {why}", "check the folder, or name another one") from None


def report(config: Path, answers: InitAnswers) -> list[str]:
    at = config_option(config)
    mode = "enforce: calls that no policy permits are blocked" if answers.enforces else "observe: nothing is blocked"
    lines = [f"wrote {path}" for path in initial_files(config, answers)]
    lines += [f"agent `{answers.agent}`, owned by {answers.owner}; approver {answers.approver}; mode {mode}"]
    if answers.is_alone and answers.unsafe_self_approval:
        lines += [
            f"note: {answers.owner} owns the agent and approves its calls; nobody else reviews them. Receipts and",
            "      mcp-guard verify say self-approved. The agent still cannot approve: that takes the owner's key.",
        ]
    elif answers.is_stuck and answers.enforces:
        lines += [
            f"note: nobody can approve yet: {answers.owner} owns the agent and is its only approver, and nobody can",
            "      approve calls of their own agent, so a held call can only expire. Add another person to [approvers]",
            f"      and [routes], then create their key: mcp-guard approvers add NAME{at}",
            "      If there is none, set unsafe_self_approval = true there, as mcp-guard init --solo does: you approve",
            f"      your own, and receipts say self-approved; then: mcp-guard approvers add {answers.approver_id}{at}",
        ]
    elif answers.is_stuck:
        lines += [
            f"note: {answers.owner} owns the agent and is its only approver, and nobody can approve calls of their",
            "      own agent, so a held call can only expire. Before you switch to enforce mode, add another",
            "      person to [approvers] and [routes]. If there is none, set unsafe_self_approval = true there, as",
            "      mcp-guard init --solo does: you approve your own, and receipts say self-approved.",
        ]
    elif answers.enforces:
        command = f"mcp-guard approvers add {answers.approver_id}{at}"
        lines.append(f"note: nobody can approve yet: {answers.approver} has no key; next: {command}")
    return [*lines, "next:", *steps(next_steps(answers, at))]


def next_steps(answers: InitAnswers, at: str) -> list[tuple[str, str]]:
    approver = "NAME" if answers.enforces and answers.is_stuck else answers.approver_id
    return [
        (f"mcp-guard wrap{at}", "put the servers of an MCP client behind the guard"),
        (f"mcp-guard policy validate{at}", "check the policies against the tools"),
        (f"mcp-guard approvers add {approver}{at}", "create the approver's key, protected by a passphrase"),
        (f"mcp-guard doctor{at}", "diagnose problems"),
    ]
