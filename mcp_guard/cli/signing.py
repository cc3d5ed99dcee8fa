"""An approver's key on the command line: where it is, and its passphrase, which is never an argument."""

import argparse
import base64
import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_guard.core.errors import ApprovalError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def add_key_options(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--key-file", type=Path, metavar="FILE", help="the approver's key (default: in your config folder)"
    )
    made.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its passphrase (default: asked for)")


def key_path(options: argparse.Namespace, approver: str) -> Path:
    """Where this person's key is: theirs, outside the guard's folders."""
    if options.key_file is not None:
        return Path(options.key_file)
    import platformdirs

    return platformdirs.user_config_path("mcp-guard") / "approvers" / f"{approver}.key"


def ask_passphrase(options: argparse.Namespace, prompt: str, twice: bool = False) -> str:
    """Raises: ApprovalError."""
    if options.passphrase_file is not None:
        try:
            return str(Path(options.passphrase_file).read_text().rstrip("\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise ApprovalError(f"cannot read `{options.passphrase_file}`: {error}", "check the path") from None
    if not sys.stdin.isatty():
        raise ApprovalError("there is no terminal to ask for the passphrase", "--passphrase-file FILE")
    passphrase = getpass.getpass(f"{prompt}: ")
    if twice and getpass.getpass("once more: ") != passphrase:
        raise ApprovalError("the two passphrases differ", "try again")
    return passphrase


def open_key(options: argparse.Namespace, approver: str) -> "Ed25519PrivateKey":
    """Raises: ApprovalError."""
    from mcp_guard.identity.key_file import unseal

    path = key_path(options, approver)
    if not path.exists():
        raise ApprovalError(f"no approver's key at `{path}`", f"mcp-guard approvers add {approver}, or --key-file FILE")
    return unseal(path, ask_passphrase(options, f"passphrase of {approver}'s key"))


def signature_of(key: "Ed25519PrivateKey", text: bytes) -> dict[str, str]:
    return {"signature": base64.b64encode(key.sign(text)).decode()}
