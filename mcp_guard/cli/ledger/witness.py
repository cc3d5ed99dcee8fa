"""`mcp-guard ledger witness`: send the checkpoint to the configured witnesses."""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict

from mcp_guard.cli.options import add_json, make_parser
from mcp_guard.cli.output import print_json, print_table, print_text, to_type
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.settings import Settings, WitnessSettings
from mcp_guard.witness.run import WitnessResult, WitnessRun, current_head

OK, NEGATIVE = 0, 1


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    chosen = choose(settings, options.name)
    writer = open_writer(ledger_settings(settings), CLOCK, create=False)
    run = WitnessRun(writer, settings.state_dir, os.environ, current_head(writer), options.anew)
    results = [run.send(name, witness, options.due) for name, witness in chosen.items()]
    if options.json:
        print_json([asdict(result) for result in results], indent=2)
    elif not options.due:
        rows = [(result.witness, result.method, result.state, result.size or "", result.text) for result in results]
        print_table(("witness", "method", "state", "receipts", "what"), rows)
    for result in results:
        complain(result, chosen[result.witness])
    return NEGATIVE if any(result.state in ("failed", "contradicted") for result in results) else OK


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "ledger witness", "Send the signed checkpoint to outside witnesses. Exit code 1 if a witness did not accept it."
    )
    parser.add_argument("name", nargs="?", metavar="WITNESS", help="a name from [witnesses] (default: all)")
    parser.add_argument(
        "--due", action="store_true", help="only to witnesses that are due by every_seconds or every_receipts"
    )
    parser.add_argument("--anew", action="store_true", help="start over at a witness that has lost all checkpoints")
    add_json(parser)
    return parser


def choose(settings: Settings, name: str | None) -> Mapping[str, WitnessSettings]:
    """Raises: ConfigError."""
    if not settings.witnesses:
        raise ConfigError(
            f"{settings.path}: no witness is configured", "add [witnesses.NAME]; docs/howto/witness.md shows how"
        )
    if name is None:
        return settings.witnesses
    if name not in settings.witnesses:
        known = ", ".join(f"`{name}`" for name in settings.witnesses)
        raise ConfigError(f"{settings.path}: no witness `{name}`; configured: {known}", f"add [witnesses.{name}]")
    return {name: settings.witnesses[name]}


def complain(result: WitnessResult, witness: WitnessSettings) -> None:
    """Print what went wrong on standard error; a contradiction in capitals."""
    about = f"witness `{result.witness}` ({result.method})"
    if result.state == "contradicted":
        contradiction = say(
            "mcp-guard: THE LEDGER AND {} CONTRADICT EACH OTHER: {}.\n"
            "One of the two was rolled back, changed or replaced. Nothing was sent to the witness.\n"
            "hint: keep both as they are, and see docs/howto/witness.md; {} {}",
            about,
            result.text,
            to_type("mcp-guard verify --against"),
            checkpoints_of(witness),
        )
        print_text(contradiction, file=sys.stderr)
    elif result.state == "failed":
        print_text(f"mcp-guard: {about} did not accept the checkpoint: {result.text}", file=sys.stderr)
    elif result.state == "taken" and result.text:
        print_text(f"mcp-guard: {about}: {result.text}", file=sys.stderr)


def checkpoints_of(witness: WitnessSettings) -> str:
    """The file to compare the ledger with: that of a file witness, or a word for one to fetch."""
    if witness.kind != "file":
        return "CHECKPOINT"
    return shlex.quote(str(witness.base_dir / witness.options["path"]))
