"""The command line of verifying, for `python -m` of this folder and for `mcp-guard verify`. Prints; exits 0, 1 or 2."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import dedent

from .checkpoints import ProgressCallback, Requirements
from .consistency import read_approvers
from .full import verify_full
from .notes import COSIGNATURE, SignedCheckpoint, VerifierKey, parse_checkpoint, read_keys
from .progress import Progress
from .range import verify_range
from .report import Report, UnusableInput, describe
from .single import verify_bundle
from .sources.export import ExportFolder
from .sources.sqlite import LedgerFile

OK, FAILED, UNUSABLE = 0, 1, 2
COSIGNED = "cosigned"
"""The file of an export that holds the newest head which outside witnesses have signed."""
SQLITE = b"SQLite format 3\x00"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything but the input and `--json`."""
    add = parser.add_argument
    add("--key", type=Path, action="append", metavar="FILE", help="the guard's verifier keys; repeatable")
    add("--approvers", type=Path, metavar="FILE", help="approvers' keys you trust (approvers list --json)")
    add("--receipt", type=int, metavar="SEQ", help="verify one receipt, and print it with --json")
    add("--from", dest="first", type=int, metavar="SEQ", help="verify a range: its first receipt")
    add("--to", dest="last", type=int, metavar="SEQ", help="and its last")
    add("--against", type=Path, action="append", default=[], metavar="CHECKPOINT",
        help="a checkpoint kept from before; finds rollback and split views; repeatable")  # fmt: skip
    add(
        "--witness", type=Path, action="append", default=[], metavar="FILE", help="witnesses' verifier keys; repeatable"
    )
    add("--quorum", type=int, metavar="N", help="how many of the witnesses must have cosigned (default: all given)")
    add("--workers", type=int, metavar="N", help="processes to check signatures in (default: one a processor)")


def main(arguments: list[str] | None = None) -> int:
    """`python -m mcp_guard.verifier`."""
    parser = argparse.ArgumentParser(
        prog="python -m mcp_guard.verifier",
        description="Verify a ledger file, an export or a bundle with public keys alone.",
        epilog="exit codes: 0 proved; 1 something could not be proved; 2 nothing can be said of the input",
    )
    parser.add_argument("input", type=Path, metavar="LEDGER|EXPORT|BUNDLE")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if not options.key:
        parser.error("--key FILE is required: a key that lies beside the input proves nothing")
    try:
        with Progress(quiet=options.json) as progress:
            report = verify(options.input, options.key, options, progress.tell)
    except UnusableInput as error:
        print(f"cannot verify: {error}", file=sys.stderr)
        return UNUSABLE
    try:
        print(render(report, options.json), flush=True)
    except BrokenPipeError:  # whoever reads has seen enough
        sys.stdout = None
    return OK if report.ok else FAILED


def render(report: Report, as_json: bool) -> str:
    return json.dumps(asdict(report), indent=2, ensure_ascii=False) if as_json else describe(report)


def verify(path: Path, key_files: Sequence[Path], options: argparse.Namespace, tell: ProgressCallback) -> Report:
    """Verify what is at `path`, whatever it is. Raises: UnusableInput."""
    keys = _read_all(key_files)
    witnesses = _read_all(options.witness, COSIGNATURE)
    quorum = len(witnesses) if options.quorum is None else options.quorum
    against = [*options.against]
    if witnesses and (path / COSIGNED).is_file():
        against.append(path / COSIGNED)
    requirements = Requirements(
        keys=keys,
        approvers=read_approvers(options.approvers) if options.approvers else None,
        against=tuple(read_checkpoint(file) for file in against),
        witnesses=witnesses,
        quorum=quorum,
        workers=options.workers,
        tell=tell,
    )
    if options.receipt is not None:
        options.first = options.last = options.receipt
    if not path.is_dir() and not _is_ledger(path):
        return verify_bundle(path, requirements)
    source = ExportFolder(path) if path.is_dir() else LedgerFile(path)
    if options.first is None and options.last is None:
        return verify_full(source, requirements)
    if options.first is None or options.last is None:
        raise UnusableInput("a range needs both --from and --to")
    return verify_range(source, requirements, options.first, options.last)


def _is_ledger(path: Path) -> bool:
    """Raises: UnusableInput if there is nothing."""
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError as error:
        raise UnusableInput(f"cannot read `{path}`: {error.strerror}") from None


def _read_all(files: Sequence[Path], kind: int = 1) -> tuple[VerifierKey, ...]:
    return tuple(dict.fromkeys(key for file in files for key in read_keys(file, kind)))


def read_checkpoint(path: Path) -> SignedCheckpoint:
    """A signed note, perhaps indented as a report prints it. Raises: UnusableInput."""
    try:
        return parse_checkpoint(dedent(path.read_text()))
    except (OSError, ValueError) as error:
        raise UnusableInput(f"cannot read the checkpoint `{path}`: {error}") from None
