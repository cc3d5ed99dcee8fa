"""`mcp-guard ledger copy`: copy a ledger file into a database, and verify the copy before it can be seen."""

import argparse
import os
import sys
from pathlib import Path
from shlex import quote

from mcp_guard.cli.ledger_reader import make_ledger_parser
from mcp_guard.cli.output import print_json, print_lines, print_text, steps
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError, LedgerError
from mcp_guard.core.secret_scrubber import password_of
from mcp_guard.ledger.database_copy import copy_to_database
from mcp_guard.ledger.open import LedgerSettings, ledger_settings
from mcp_guard.secrets import read_secret
from mcp_guard.settings import SecretReference, Settings
from mcp_guard.storage.place import Database
from mcp_guard.verifier import Requirements, read_keys, verify_full
from mcp_guard.verifier.progress import Progress
from mcp_guard.verifier.report import count
from mcp_guard.verifier.sources import ReceiptSource

REFERENCES = ("env", "file")
SCHEMES = ("postgresql://", "postgres://")


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    configured = load(options.config)
    settings = ledger_settings(configured)
    ledger, target = find_source(options, settings), find_target(options, configured, settings)
    with Progress("rows", options.json) as progress:
        head = copy_to_database(
            settings,
            ledger,
            target,
            lambda source, keys: verify_copy(source, keys, options.json),
            progress.update,
        )
    if options.json:
        print_json({"ledger": str(ledger), "copy": str(target), "receipts": head.size})
    else:
        say(options, configured, ledger, target, head.size)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "ledger copy",
        "Copy a ledger file into a database, as the ledger of guard.origin, and verify the copy. "
        "Stop every guard and inbox first. If it is interrupted, nothing is there, and it can be run again.",
    )
    parser.add_argument(
        "--to",
        metavar="env:NAME|file:FILE|URL",
        help="the database: a variable or a file with its URL (default: that of the configuration). "
        "A URL with a password on the command line is visible to everybody on this machine",
    )
    return parser


def find_source(options: argparse.Namespace, settings: LedgerSettings) -> Path:
    """The ledger file. Raises: ConfigError."""
    if options.ledger:
        return Path(options.ledger.resolve())
    if isinstance(settings.place, Database):
        raise ConfigError(
            f"the ledger of the configuration is in a database already: `{settings.place}`",
            "name the file to copy: --ledger FILE",
        )
    return settings.place


def find_target(options: argparse.Namespace, configured: Settings, settings: LedgerSettings) -> Database:
    """The database to copy to. Raises: ConfigError."""
    if options.to is None:
        if isinstance(settings.place, Database):
            return settings.place
        raise ConfigError("no database is named", "--to env:NAME, where the variable has postgresql://HOST/DATABASE")
    source, _, name = options.to.partition(":")
    if source in REFERENCES:
        url = read_secret(SecretReference(source, name), Path.cwd(), os.environ)
    else:
        url = options.to
        if password_of(url):
            text = "mcp-guard: warning: others can see the password on the command line; use --to env:NAME"
            print_text(text, file=sys.stderr)
    if not url.startswith(SCHEMES):
        what = f"what `{options.to}` names" if source in REFERENCES else f"`{options.to}`"
        raise ConfigError(f"{what} is not the URL of a database", "postgresql://USER:PASSWORD@HOST/DATABASE")
    return Database(url, configured.origin)


def verify_copy(source: ReceiptSource, keys: Path, quiet: bool) -> None:
    """Verify a copy that nobody else can see yet, so with this process alone. Raises: LedgerError."""
    with Progress(quiet=quiet) as progress:
        report = verify_full(source, Requirements(read_keys(keys), workers=1, progress=progress.update))
    if not report.ok:
        where = "" if report.failed_at is None else f"receipt {report.failed_at}: "
        raise LedgerError(
            f"the copy does not verify, and was not kept: {where}{report.problem}",
            "verify what was copied: mcp-guard verify LEDGER --key FILE",
        )


def say(options: argparse.Namespace, configured: Settings, ledger: Path, target: Database, receipts: int) -> None:
    print_text(f"copied {count(receipts, 'receipt')} from `{ledger}` to `{target}`, and verified the copy")
    print_text("next:")
    if not isinstance(configured.database, SecretReference):
        variable = options.to.partition(":")[2] if options.to.startswith("env:") else "DATABASE_URL"
        print_lines(
            [f"  in {configured.path}, for every gateway:", "    [ledger]", f'    database = {{ env = "{variable}" }}']
        )
    print_lines(
        steps(
            [
                (
                    f"mv {quote(str(ledger))} {quote(f'{ledger}.unused')}",
                    "so that no guard continues with it: there would be two ledgers",
                ),
                ("mcp-guard doctor", "diagnose problems; then start the guards"),
            ]
        )
    )
