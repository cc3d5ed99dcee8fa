"""`mcp-guard approvers`: manage the keys of approvers. `approvals` opens an approver's key with the functions here.

A passphrase is never an argument, because other users of the machine can read arguments.
"""

import argparse
import asyncio
import base64
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_guard.cli.options import Parser, add_config, add_json
from mcp_guard.cli.output import print_hint, print_json, print_result, print_table, print_text, to_type
from mcp_guard.cli.prompts import ask_secret
from mcp_guard.config import load
from mcp_guard.core.errors import ApprovalError, ConfigError
from mcp_guard.core.visible_text import join, visible_line
from mcp_guard.files import FileLock, sync_folder
from mcp_guard.ledger.approvals import approver_keys
from mcp_guard.ledger.approvals.approver_keys import Approver, CodeKind, NewKey
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.settings import Settings
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.verifier.report import count

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

APPROVER = "a name from [approvers] in the configuration"


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    verbs = {"add": add, "list": show, "remove": remove, "rotate": rotate, "code": code, "sign-out": sign_out}
    with closing(open_writer(ledger_settings(settings), CLOCK)) as writer:
        return verbs[options.verb](writer, settings, options)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mcp-guard approvers", description="Manage the keys of approvers.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    adding = verbs.add_parser(
        "add", help="enrol a passphrase-protected key for an approver: a new one, or that of an existing key file"
    )
    listing = verbs.add_parser(
        "list", help="list the enrolled keys; --json prints the file that verify --approvers takes"
    )
    removing = verbs.add_parser("remove", help="remove a key")
    rotating = verbs.add_parser("rotate", help="replace a key with a new one that the old key signs")
    coding = verbs.add_parser("code", help="print a one-time code, valid for ten minutes, for signing in to the inbox")
    coding.add_argument(
        "--enrol", action="store_true", help="let the code enrol a passkey although the approver has a key already"
    )
    signing_out = verbs.add_parser(
        "sign-out", help="end all sessions of an approver on the pages, and the notifications on their devices"
    )
    for verb in (adding, removing, rotating, coding):
        verb.add_argument("approver", metavar="APPROVER", help=APPROVER)
    whom = signing_out.add_mutually_exclusive_group(required=True)
    whom.add_argument("approver", metavar="APPROVER", nargs="?", help=APPROVER)
    whom.add_argument(
        "--identity", nargs=2, metavar=("ISSUER", "SUBJECT"), help="somebody who signs in with the identity provider"
    )
    whom.add_argument("--everybody", action="store_true", help="all who have signed in")
    removing.add_argument("key", metavar="KEY", help="the key's id, from `approvers list`")
    removing.add_argument("--why", required=True, metavar="TEXT", help="the reason; recorded in the ledger")
    for verb in (adding, rotating):
        add_key_options(verb)
    for verb in (adding, listing, removing, rotating, coding, signing_out):
        add_config(verb)
        add_json(verb)
    return parser


def find_approver(settings: Settings, approver: str) -> Approver:
    """Raises: ApprovalError."""
    if approver not in settings.approvers:
        known = ", ".join(settings.approvers) or "none"
        raise ApprovalError(f"`{approver}` is not an approver", f"approvers in the configuration: {known}")
    return Approver(approver, settings.approvers[approver])


def add(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    from mcp_guard.identity.key_file import create_key_file

    who, path = find_approver(settings, options.approver), key_path(options, options.approver)
    if path.exists():
        return add_existing(writer, settings, options, who, path)
    key = create_key_file(path, ask_passphrase(options, f"a passphrase for {who.id}'s new key", twice=True))
    try:
        enrolled = approver_keys.enrol(writer, who, as_new_key(key), settings.notifiers)
    except ApprovalError:
        path.unlink()  # a refused key is of no use; after a `LedgerError`, it may be enrolled
        raise
    say(
        options,
        enrolled,
        f"key {enrolled.id} of {who.id} is enrolled; the key file is {path}, encrypted with the passphrase",
    )
    return 0


def add_existing(writer: Writer, settings: Settings, options: argparse.Namespace, who: Approver, path: Path) -> int:
    """Enrol the key of a file that is there already, most likely because its owner approves at another guard, too.

    A vote names the ledger, and the hash of one request with a random value, so it is of no use at any other guard.
    """
    from mcp_guard.identity.key_file import read_key_file

    if (earlier := _find_enrolled(writer, _id_of(path))) is not None:  # before the passphrase is asked for
        verb = "is" if earlier.removed is None else "was"
        raise ApprovalError(
            f"the key in `{path}` {verb} already enrolled here, for `{earlier.approver}`",
            f"to replace a key in use: mcp-guard approvers rotate {earlier.approver}; for a new key, in another file, "
            f"which you then give to `approvals` as well: mcp-guard approvers add {who.id} --key-file FILE",
        )
    prompt = f"{path} contains a key already, which becomes {who.id}'s key here, too.\npassphrase of this key"
    try:
        key = read_key_file(path, ask_passphrase(options, prompt))
    except ApprovalError as error:
        raise ApprovalError(
            error.message,
            f"{error.hint}; for a new key, in another file, which you then give to `approvals` as well: "
            f"mcp-guard approvers add {who.id} --key-file FILE",
        ) from None
    enrolled = approver_keys.enrol(writer, who, as_new_key(key), settings.notifiers)
    say(
        options,
        enrolled,
        f"key {enrolled.id} of {who.id} is enrolled; the key file is {path}, which contained this key already, so "
        "it is the same key as at the other guard",
    )
    return 0


def _find_enrolled(writer: Writer, id: str) -> ApproverKey | None:
    """The key with this id, in use or removed."""
    return next((key for key in writer.read(lambda store: store.approver_keys()) if key.id == id), None)


def _id_of(path: Path) -> str:
    """The id of the key in this file. Raises: ApprovalError."""
    from mcp_guard.identity.key_file import read_public_key

    return NewKey("ed25519", read_public_key(path), {}).id


def as_new_key(key: "Ed25519PrivateKey") -> NewKey:
    return NewKey("ed25519", key.public_key().public_bytes_raw(), {})


def show(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    keys = writer.read(lambda store: store.approver_keys())
    enrolments = writer.read(lambda store: store.enrolments())
    if options.json:
        added = [enrolments[key.id] for key in keys]
        more = [{"time": receipt["time"], "authorized_by": approver_keys.authorization(receipt)} for receipt in added]
        print_json([as_json(key) | members for key, members in zip(keys, more, strict=True)], indent=2)
        return 0
    without = [name for name in settings.approvers if not any(k.approver == name and k.removed is None for k in keys)]
    rows = [
        (key.approver, key.id, key.method, key_state(key, settings),
         enrolments[key.id]["time"], approver_keys.authorization(enrolments[key.id]))
        for key in keys
    ]  # fmt: skip
    columns = ("approver", "key", "method", "state", "enrolled", "authorized by")
    print_table(columns, [*rows, *((name, "", "", "no key", "", "") for name in without)])
    return 0


def key_state(key: ApproverKey, settings: Settings) -> str:
    """Only a person of the configuration can use a key."""
    if key.removed is not None:
        return "removed"
    return "in use" if key.approver in settings.approvers else "not in the configuration"


def remove(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    from mcp_guard.web.sessions import owner_of

    approver_keys.remove(writer, options.approver, options.key, options.why)
    _end_on_pages(writer, settings, owner_of(options.approver), [options.approver])
    usable = writer.read(lambda store: approver_keys.find_usable(store, options.key))
    message = f"key {options.key} of {options.approver} is removed; its earlier signatures stay valid"
    if usable:
        listed = ", ".join(f"{id} ({state})" for id, state in usable.items())
        message += (
            f"\nit has signed what can still be used: {listed}"
            f"\nhint: {to_type('mcp-guard approvals revoke ID --as APPROVER --rationale TEXT')}"
            " (deny ID, if it is still requested)"
        )
    print_result(options.json, {"approver": options.approver, "key": options.key, "usable": usable}, message)
    return 0


def rotate(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    from mcp_guard.identity.key_file import create_key_file

    who, path = find_approver(settings, options.approver), key_path(options, options.approver)
    with _lock_rotation(writer, who.id, path):
        draft = path.parent / f"{path.name}.new"
        if (rotated := _find_rotated(writer, draft)) is not None:
            _replace_key_file(path, draft)
            text = f"key {rotated.id} of {rotated.approver} is in use since a rotation that was interrupted"
            say(options, rotated, f"{text}; its key file is now {path}")
            return 0
        old = open_key(writer, options, who.id)
        old_id = as_new_key(old).id
        writer.read(lambda store: approver_keys.usable_key(store.approver_keys(), old_id, who.id))
        aside = _set_aside(draft)
        new = create_key_file(draft, ask_passphrase(options, f"a passphrase for {who.id}'s new key", twice=True))
        try:
            enrolled = approver_keys.rotate(writer, who, old_id, as_new_key(new), old.sign, settings.notifiers)
        except ApprovalError:
            draft.unlink()  # as in `add`
            raise
        kept = _replace_key_file(path, draft)
        text = f"key {enrolled.id} of {who.id} replaces {old_id}, which signed it; the old key file is now {kept}"
        if aside is not None:
            text += f"\na key of a rotation that was interrupted, maybe at another guard, is now in {aside}"
        say(options, enrolled, text)
        return 0


def _lock_rotation(writer: Writer, approver: str, path: Path) -> FileLock:
    """Rotations of one key file would take each other's new key. Raises: ApprovalError."""
    lock = path.parent / f".{path.name}.lock"
    try:
        return FileLock(lock, wait=False)
    except BlockingIOError:
        what = f"another rotation of the key in `{path}` is under way"
        raise ApprovalError(what, "wait until it has ended, then try again") from None
    except FileNotFoundError:
        raise _no_key_file(writer, approver, path) from None
    except OSError as error:
        raise ApprovalError(f"cannot write `{lock}`: {error.strerror}", "check the folder's permissions") from None


def _set_aside(draft: Path) -> Path | None:
    """The old key is in use, so this one is not, here: another guard may have enrolled it. Returns where it is now."""
    try:
        return draft.rename(draft.parent / f"{draft.name}.{_id_of(draft)}")
    except ApprovalError:  # there is no file, or only a part of one
        draft.unlink(missing_ok=True)
        return None


def _find_rotated(writer: Writer, draft: Path) -> ApproverKey | None:
    """The key of this file if it is in use: then a rotation ended before it renamed the files."""
    try:
        key = _find_enrolled(writer, _id_of(draft))
    except ApprovalError:  # there is no file, or only a part of one
        return None
    return key if key is not None and key.removed is None else None


def _replace_key_file(path: Path, draft: Path) -> Path | None:
    """Put the new key file in the place of the old one, if that is still there; returns where the old one is now."""
    kept = path.rename(path.with_name(f"{path.name}.{_id_of(path)}.old")) if path.exists() else None
    draft.rename(path)
    sync_folder(path.parent)
    return kept


def code(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    from mcp_guard.ledger.approvals.sign_in_codes import make_code

    kind: CodeKind = "enrolment_code" if options.enrol else "sign_in_code"
    code = make_code(writer, find_approver(settings, options.approver).id, kind)
    purpose = "sign in and enrol a passkey" if options.enrol else "sign in"
    usage = f"use it within ten minutes to {purpose} at {settings.pages}/sign-in#{code}, and nowhere else"
    print_result(options.json, {"code": code, "kind": kind}, join("\n", (code, usage)))
    return 0


def sign_out(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    """Sign out an approver, somebody whom the identity provider knows, or everybody."""
    from mcp_guard.core.people import Identity
    from mcp_guard.web.roles import approver_of
    from mcp_guard.web.sessions import Person, owner_of

    identity = Identity(*options.identity) if options.identity else None
    approver = options.approver or (approver_of(identity, settings) if identity else "")
    hint = "they can sign in again, with a passkey or as the identity provider lets them"
    if approver:
        who = find_approver(settings, approver).id
        ended = _end_on_pages(writer, settings, owner_of(who), [who])
        hint = f"they can sign in again with a passkey; to prevent that: mcp-guard approvers remove {who} KEY"
    elif identity:
        who = visible_line(identity.subject)
        ended = _end_on_pages(writer, settings, Person("", "", identity.issuer, identity.subject).owner, [])
    else:
        who = "everybody"
        ended = _end_on_pages(writer, settings, None, settings.approvers)
    words = f"{who} is signed out of {count(ended, 'session')}"
    print_result(options.json, {"approver": approver or None, "sessions": ended}, join("\n", (words, hint)))
    return 0


def _end_on_pages(writer: Writer, settings: Settings, owner: str | None, approvers: Iterable[str]) -> int:
    """End the sessions of somebody, or of everybody, and what approvers have besides: codes that nobody has used yet,
    and the notifications on their devices. Returns how many sessions there were."""
    from mcp_guard.notify.push import forget_devices
    from mcp_guard.web.sessions import close_sessions

    async def end() -> int:
        items = find_engine(ledger_settings(settings).place).open_items(settings.state_dir)
        try:
            closed = await close_sessions(items, owner, writer.now())
            for approver in approvers:
                await forget_devices(items, approver, writer.now())
            return closed
        finally:
            await items.close()

    for approver in approvers:
        writer.run(partial(_forget_codes, approver))
    return asyncio.run(end())


def _forget_codes(approver: str, tx: Transaction) -> None:
    tx.store.forget_sign_ins(approver)


def say(options: argparse.Namespace, key: ApproverKey, text: str) -> None:
    print_result(options.json, as_json(key), text)


def as_json(key: ApproverKey) -> dict[str, object]:
    description = {"key": key.id, "approver": key.approver, "method": key.method, "public": key.public}
    return description | {"details": key.details, "enrolled": key.enrolled, "removed": key.removed}


def add_key_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="the approver's key file (default: in your configuration folder)"
    )
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="a file with its passphrase, of mode 600 (default: ask)"
    )


def key_path(options: argparse.Namespace, approver: str) -> Path:
    """Where this person's key is: theirs, outside the guard's folders."""
    if options.key_file is not None:
        return Path(options.key_file)
    return key_folder() / f"{approver}.key"


def key_folder() -> Path:
    """Where the keys of approvers are who named no other file."""
    import platformdirs

    return platformdirs.user_config_path("mcp-guard") / "approvers"


def ask_passphrase(options: argparse.Namespace, prompt: str, twice: bool = False) -> str:
    """Raises: ApprovalError, ConfigError."""
    if options.passphrase_file is not None:
        return _read_passphrase(options.passphrase_file)
    if not sys.stdin.isatty():
        what = "cannot ask for the passphrase: standard input is not a terminal"
        raise ConfigError(what, "read it from a file: --passphrase-file FILE")
    passphrase = ask_secret(f"{prompt}: ")
    if twice:
        from mcp_guard.identity.key_file import refuse_short

        refuse_short(passphrase)
        if ask_secret("repeat the passphrase: ") != passphrase:
            raise ApprovalError("the two passphrases differ", "try again")
    return passphrase


def _read_passphrase(path: Path) -> str:
    """Only its owner may have access to the file. A pipe, as of `<(command)`, is one's own.

    Raises: ApprovalError, ConfigError.
    """
    try:
        with path.open() as file:
            if what := _accessible_to_others(path, os.fstat(file.fileno())):
                raise ApprovalError(what, f"chmod 600 {path}")
            passphrase = file.read().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read `{path}`: {why}", "check the path") from None
    if not passphrase:
        raise ApprovalError(
            f"`{path}` is empty: it contains no passphrase", "write the passphrase into it, on one line"
        )
    return passphrase


def _accessible_to_others(path: Path, state: os.stat_result) -> str:
    """That other users have access to this file, in words; empty if they have none."""
    if not stat.S_ISREG(state.st_mode) or not state.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return ""
    return f"`{path}` is accessible to other users (mode {stat.S_IMODE(state.st_mode):04o})"


def open_key(writer: Writer, options: argparse.Namespace, approver: str) -> "Ed25519PrivateKey":
    """Raises: ApprovalError."""
    from mcp_guard.identity.key_file import read_key_file

    path = key_path(options, approver)
    if not path.exists():
        raise _no_key_file(writer, approver, path)
    if what := _accessible_to_others(path, path.stat()):
        print_text(f"warning: {what}, who may guess its passphrase", file=sys.stderr)
        print_hint(f"chmod 600 {path}")
    return read_key_file(path, ask_passphrase(options, f"passphrase of {approver}'s key"))


def _no_key_file(writer: Writer, approver: str, path: Path) -> ApprovalError:
    hint = f"mcp-guard approvers add {approver}, or --key-file FILE"
    if approver_keys.keys_in_use(writer.read(lambda store: store.approver_keys()), approver):
        hint = f"{approver} is enrolled: bring the key file from the machine where it was made, or --key-file FILE"
    return ApprovalError(f"no key file at `{path}`", hint)


def signature_of(key: "Ed25519PrivateKey", text: bytes) -> dict[str, str]:
    return {"signature": base64.b64encode(key.sign(text)).decode()}
