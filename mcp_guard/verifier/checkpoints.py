"""What is to be proved, and against what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .notes import Cosignature, SignedCheckpoint, VerifierKey, cosignatures, parse_checkpoint, signers
from .progress import no_progress
from .report import Report, UnusableInput, VerificationFailed, count
from .signatures import Receipt

ProgressCallback = Callable[[int, int], None]
"""Told how many receipts are done, and of how many."""


@dataclass(frozen=True)
class Requirements:
    """`keys` are the guard's keys that are trusted, of one origin; `quorum` is how many of `witnesses` must have signed
    the checkpoint. `workers` None: as many as help."""

    keys: tuple[VerifierKey, ...]
    approvers: Mapping[str, Receipt] | None = None
    against: tuple[SignedCheckpoint, ...] = ()
    witnesses: tuple[VerifierKey, ...] = ()
    quorum: int = 0
    workers: int | None = None
    tell: ProgressCallback = no_progress

    @property
    def origin(self) -> str:
        return self.keys[0].name


def check(requirements: Requirements) -> None:
    """Raises: UnusableInput for requirements that nothing could meet."""
    if len({key.name for key in requirements.keys}) != 1:
        raise UnusableInput("the keys given are of several ledgers")
    for checkpoint in requirements.against:
        if checkpoint.origin != requirements.origin:
            raise UnusableInput(f"the checkpoint of `{checkpoint.origin}` says nothing about `{requirements.origin}`")
    if requirements.quorum > len(requirements.witnesses):
        raise UnusableInput(
            f"a quorum of {requirements.quorum} needs as many witnesses' keys; given: {len(requirements.witnesses)}"
        )


def check_head(head: SignedCheckpoint, size: int, root: bytes, keys: tuple[VerifierKey, ...]) -> None:
    """The head is signed by the last of the keys, and of exactly this tree. Raises: VerificationFailed."""
    try:
        if keys[-1] not in signers(head, keys):
            raise VerificationFailed(None, "the checkpoint is not signed by this key")
    except ValueError as error:
        raise VerificationFailed(None, f"the checkpoint is not signed by this key: {error}") from None
    expected = (keys[0].name, size, root)
    if (head.origin, head.size, head.root) != expected or head.text.count(b"\n") != 3:
        raise VerificationFailed(
            None, f"the signed checkpoint is of {head.size} receipts and another tree than these {size}"
        )


def check_earlier(
    heads: Mapping[str, int], keys: tuple[VerifierKey, ...], size: int, root_of: Callable[[int], bytes]
) -> None:
    """The earlier checkpoints of bundles (by the first receipt that has them) are of this tree.

    Raises: VerificationFailed.
    """
    for note, seq in heads.items():
        try:
            head = parse_checkpoint(note)
            if not signers(head, keys):
                raise ValueError("it is not signed by a key of this ledger")
        except ValueError as error:
            raise VerificationFailed(seq, f"the checkpoint of its bundle does not hold: {error}") from None
        if not seq < head.size <= size or (head.origin, head.root) != (keys[0].name, root_of(head.size)):
            raise VerificationFailed(seq, "the checkpoint of its bundle is of another tree")


def check_witnesses(requirements: Requirements, heads: Sequence[SignedCheckpoint], report: Report) -> None:
    """Enough of the witnesses given have signed one of these heads of the tree. Raises: VerificationFailed.

    To record that a head was witnessed makes the ledger longer, so it is usually an earlier one that they signed.
    """
    found: list[Cosignature] = []
    size = 0
    for head in heads:
        try:
            signed = cosignatures(head, requirements.witnesses)
        except ValueError as error:
            raise VerificationFailed(None, f"the checkpoint is not cosigned: {error}") from None
        if len(signed) > len(found):
            found, size = signed, head.size
    report.witnesses = [{"witness": each.witness, "at": each.at} for each in found]
    if len(found) < requirements.quorum:
        raise VerificationFailed(
            None, f"{len(found)} of the witnesses given signed the checkpoint; the quorum is {requirements.quorum}"
        )
    if requirements.witnesses:
        names = ", ".join(each.witness for each in found)
        what = f"the checkpoint of {size} receipts is cosigned by {count(len(found), 'witness key')}: {names}"
        report.prove("witnesses", what)


def check_against(
    requirements: Requirements,
    keys: tuple[VerifierKey, ...],
    size: int,
    root_of: Callable[[int], bytes],
    report: Report,
) -> None:
    """The tree continues each of the checkpoints.

    Raises: VerificationFailed; UnusableInput for one that no key of the ledger signed.
    """
    for checkpoint in requirements.against:
        try:
            signed = signers(checkpoint, keys)
        except ValueError as error:
            raise UnusableInput(f"the checkpoint of {checkpoint.size} receipts: {error}") from None
        if not signed:
            raise UnusableInput(f"the checkpoint of {checkpoint.size} receipts is not signed by a key of this ledger")
        if size < checkpoint.size:
            raise VerificationFailed(
                None, f"rolled back: a checkpoint of {checkpoint.size} receipts was signed, here are {size}"
            )
        if root_of(checkpoint.size) != checkpoint.root:
            raise VerificationFailed(
                None, f"split view: the first {checkpoint.size} receipts are others than those that were signed before"
            )
        report.against.append(checkpoint.size)
    if requirements.against:
        sizes = ", ".join(str(each) for each in report.against)
        report.prove("against", f"it continues what was signed before: the checkpoints of {sizes} receipts")
