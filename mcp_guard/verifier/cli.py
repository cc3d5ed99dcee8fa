"""The command line of `python -m`, which exits 0, 1 or 2; `mcp-guard verify` shares its options and output."""

import argparse
import json
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import dedent

from .approver_keys import read_approvers
from .checkpoints import ProgressCallback, Requirements
from .files import MAX_CHECKPOINTS, read_limited, reason_of
from .full import verify_full
from .notes import COSIGNATURE, SignedCheckpoint, VerifierKey, parse_checkpoints, read_keys
from .progress import Progress
from .range import verify_range
from .report import Report, UnusableInput, describe, visible
from .single import verify_bundle
from .sources import ReceiptSource
from .sources.export import ExportSource
from .sources.sqlite import LedgerSource

OK, FAILED, UNUSABLE = 0, 1, 2
COSIGNED = "cosigned"
"""The file of an export with the newest head that outside witnesses have cosigned."""
MAX_DIGITS = 18
SQLITE = b"SQLite format 3\x00"


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > MAX_DIGITS:
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number of at least 0")
    return int(text)


def _positive(text: str) -> int:
    if (number := _number(text)) == 0:
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number of at least 1")
    return number


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options except the input and `--json`."""
    add = parser.add_argument
    add("--key", type=Path, action="append", metavar="FILE", help="the guard's verifier keys; repeatable")
    add("--approvers", type=Path, metavar="FILE", help="approvers' keys that you trust (from approvers list --json)")
    add("--receipt", type=_number, metavar="SEQ", help="verify one receipt; --json prints it")
    add("--from", dest="first", type=_number, metavar="SEQ", help="verify a range that begins with this receipt")
    add("--to", dest="last", type=_number, metavar="SEQ", help="the last receipt of the range")
    add("--against", type=Path, action="append", default=[], metavar="CHECKPOINT",
        help="earlier checkpoints, to detect rollback and split views; repeatable")  # fmt: skip
    add(
        "--witness", type=Path, action="append", default=[], metavar="FILE", help="witnesses' verifier keys; repeatable"
    )
    add("--quorum", type=_number, metavar="N", help="how many of the given witnesses must have cosigned (default: all)")
    add("--workers", type=_positive, metavar="N", help="number of worker processes (default: one per processor)")


def main(arguments: list[str] | None = None) -> int:
    """`python -m mcp_guard.verifier`, or of a copy of the package."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Verify a ledger file, an export or a bundle with public keys alone.",
        epilog="exit codes: 0 proved; 1 something could not be proved; 2 the input cannot be verified",
    )
    parser.add_argument("input", type=Path, metavar="LEDGER|EXPORT|BUNDLE")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if not options.key:
        parser.error("--key FILE is required: a key that comes with the input proves nothing")
    try:
        with Progress(quiet=options.json) as progress:
            report = verify(options.input, options.key, options, progress.update)
    except UnusableInput as error:
        print(visible(f"cannot verify: {error}"), file=sys.stderr)
        return UNUSABLE
    try:
        print(render(report, options.json, terminal_width()), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        sys.stdout = None
    return OK if report.ok else FAILED


def render(report: Report, as_json: bool, width: int = 0) -> str:
    return json.dumps(asdict(report), indent=2) if as_json else describe(report, width)


def terminal_width() -> int:
    """Columns of standard output; 0 if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def verify(
    given: Path | ReceiptSource,
    key_files: Sequence[Path],
    options: argparse.Namespace,
    progress: ProgressCallback,
    *,
    key_is_beside: bool = False,
    remembered: Sequence[SignedCheckpoint] = (),
) -> Report:
    """Verify a ledger, export or bundle: its path, or what reads it. The last two are as `Requirements` has them.

    Raises: UnusableInput.
    """
    try:
        requirements = _read_requirements(given, key_files, options, progress)
        trust = replace(requirements, key_is_beside=key_is_beside, remembered=tuple(remembered))
        return _verify(given, trust, options)
    except (UnusableInput, KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:  # INVARIANT: whatever the input contains, it ends in a report or in this
        raise UnusableInput(f"the input is malformed: {type(error).__name__}: {error}"[:300]) from None


def _read_requirements(
    given: Path | ReceiptSource, key_files: Sequence[Path], options: argparse.Namespace, progress: ProgressCallback
) -> Requirements:
    """What the options ask for, with the files that they name. Raises: UnusableInput."""
    keys = _read_all(key_files)
    witnesses = _read_all(options.witness, COSIGNATURE)
    quorum = len(witnesses) if options.quorum is None else options.quorum
    against = [*options.against]
    if witnesses and isinstance(given, Path) and (given / COSIGNED).is_file():
        against.append(given / COSIGNED)
    return Requirements(
        keys=keys,
        approvers=read_approvers(options.approvers) if options.approvers else None,
        against=tuple(checkpoint for file in against for checkpoint in read_checkpoints(file)),
        witnesses=witnesses,
        quorum=quorum,
        workers=options.workers,
        progress=progress,
    )


def _verify(given: Path | ReceiptSource, requirements: Requirements, options: argparse.Namespace) -> Report:
    if options.receipt is not None:
        options.first = options.last = options.receipt
    if not isinstance(given, Path):
        source = given
    elif given.is_dir():
        source = ExportSource(given)
    elif _is_ledger(given):
        source = LedgerSource(given)
    else:
        return verify_bundle(given, requirements)
    if options.first is None and options.last is None:
        return verify_full(source, requirements)
    if options.first is None or options.last is None:
        raise UnusableInput("--from and --to must be given together")
    if options.first > options.last:
        raise UnusableInput(f"--from {options.first} is after --to {options.last}")
    return verify_range(source, requirements, options.first, options.last)


def _is_ledger(path: Path) -> bool:
    """Whether the file is a SQLite database. Raises: UnusableInput if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnusableInput(f"`{path}` is neither a regular file nor a folder")
            return file.read(len(SQLITE)) == SQLITE
    except OSError as error:
        raise UnusableInput(f"cannot read `{path}`: {error.strerror}") from None


def _read_all(files: Sequence[Path], kind: int = 1) -> tuple[VerifierKey, ...]:
    return tuple(dict.fromkeys(key for file in files for key in read_keys(file, kind)))


def read_checkpoints(path: Path) -> tuple[SignedCheckpoint, ...]:
    """The checkpoints of a file, which may be indented as in a printed report. Raises: UnusableInput."""
    try:
        return parse_checkpoints(dedent(read_limited(path, MAX_CHECKPOINTS).decode()))
    except (OSError, ValueError) as error:
        raise UnusableInput(f"cannot read the checkpoint `{path}`: {reason_of(error)}") from None
