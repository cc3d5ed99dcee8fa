"""What must be proved and which keys are trusted, and the checks of checkpoints against a verified tree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .approver_keys import TrustedKeys
from .notes import Cosignature, SignedCheckpoint, VerifierKey, cosignatures, parse_checkpoint, signers
from .progress import no_progress
from .report import Report, UnusableInput, VerificationFailed, count

MAX_SIZES = 5
"""How many checkpoints are named one by one."""
ProgressCallback = Callable[[int, int], None]
"""Called with the number of receipts done, and of all."""


@dataclass(frozen=True)
class Requirements:
    """What the caller trusts and asks for.

    `keys` are the guard's trusted keys, all of one origin; `key_is_beside` says that they were found beside the input.
    `against` are earlier checkpoints that the tree must continue, and so are `remembered` ones, which were found beside
    the input. At least `quorum` of `witnesses` must have cosigned the checkpoint. `workers` None means as many as help.
    """

    keys: tuple[VerifierKey, ...]
    approvers: TrustedKeys | None = None
    against: tuple[SignedCheckpoint, ...] = ()
    witnesses: tuple[VerifierKey, ...] = ()
    quorum: int = 0
    workers: int | None = None
    progress: ProgressCallback = no_progress
    key_is_beside: bool = False
    remembered: tuple[SignedCheckpoint, ...] = ()

    @property
    def origin(self) -> str:
        return self.keys[0].name


def check_requirements(requirements: Requirements) -> None:
    """Raises: UnusableInput for requirements that no input can meet."""
    if len({key.name for key in requirements.keys}) != 1:
        raise UnusableInput("the given keys belong to several ledgers")
    for checkpoint in requirements.against:
        if checkpoint.origin != requirements.origin:
            raise UnusableInput(
                f"the checkpoint given with --against is of `{checkpoint.origin}`, not of `{requirements.origin}`"
            )
    if requirements.quorum > len(requirements.witnesses):
        given = count(len(requirements.witnesses), "witness key")
        raise UnusableInput(f"quorum {requirements.quorum} exceeds the {given} given with --witness")


def check_head(head: SignedCheckpoint, size: int, root: bytes, keys: tuple[VerifierKey, ...]) -> None:
    """Check that the head is of exactly this tree, and signed by the last of the keys. Raises: VerificationFailed."""
    try:
        if keys[-1] not in signers(head, keys):
            raise VerificationFailed(None, "the checkpoint is not signed by the guard's key")
    except ValueError as error:
        raise VerificationFailed(None, f"the checkpoint is not signed by the guard's key: {error}") from None
    expected = (keys[0].name, size, root)
    if (head.origin, head.size, head.root) != expected or head.text.count(b"\n") != 3:
        problem = f"the signed checkpoint of {head.size} receipts does not match the tree of these {size} receipts"
        raise VerificationFailed(None, problem)


def check_earlier(
    heads: Mapping[str, int], keys: tuple[VerifierKey, ...], size: int, root_of: Callable[[int], bytes]
) -> None:
    """Check that earlier checkpoints of bundles are of this tree; `heads` maps each to the first receipt that has it.

    Raises: VerificationFailed.
    """
    for note, seq in heads.items():
        try:
            head = parse_checkpoint(note)
            if not signers(head, keys):
                raise ValueError("it is not signed by a key of this ledger")
        except ValueError as error:
            raise VerificationFailed(seq, f"the checkpoint of its bundle is invalid: {error}") from None
        if not seq < head.size <= size or (head.origin, head.root) != (keys[0].name, root_of(head.size)):
            raise VerificationFailed(seq, "the checkpoint of its bundle belongs to another tree")


def check_witnesses(requirements: Requirements, heads: Sequence[SignedCheckpoint], report: Report) -> None:
    """Check that enough of the given witnesses have cosigned one of these heads of the tree.

    A receipt that records a witness makes the ledger longer, so the cosigned head is usually an earlier one.

    Raises: VerificationFailed.
    """
    best: list[Cosignature] = []
    size = 0
    for head in heads:
        try:
            verified = cosignatures(head, requirements.witnesses)
        except ValueError as error:
            raise VerificationFailed(None, f"the checkpoint has an invalid cosignature: {error}") from None
        if len(verified) > len(best):
            best, size = verified, head.size
    report.witnesses = [{"witness": cosignature.witness, "at": cosignature.at} for cosignature in best]
    report.witnessed_size = size if best else 0
    if len(best) < requirements.quorum:
        problem = f"{len(best)} of the given witnesses cosigned the checkpoint; the quorum is {requirements.quorum}"
        raise VerificationFailed(None, problem)
    if requirements.witnesses:
        names = ", ".join(cosignature.witness for cosignature in best)
        keys = count(len(best), "witness key")
        report.prove("witnesses", f"the checkpoint of {size} receipts is cosigned by {keys}: {names}")


def check_against(
    requirements: Requirements,
    keys: tuple[VerifierKey, ...],
    size: int,
    root_of: Callable[[int], bytes],
    report: Report,
) -> None:
    """Check that the tree continues each of the earlier checkpoints.

    A checkpoint may be signed by a given key that has signed nothing here: a copy from before a rotation does not have
    the key that came later.

    Raises: VerificationFailed; UnusableInput for a checkpoint that no key of the ledger signed.
    """
    keys = tuple(dict.fromkeys((*keys, *requirements.keys)))
    earlier = sorted(dict.fromkeys(requirements.against), key=lambda checkpoint: checkpoint.size)
    if earlier and size < earlier[-1].size:
        earlier.insert(0, earlier.pop())  # of a rollback, the newest tells most; of two histories, where they part
    for checkpoint in earlier:
        described = f"the earlier checkpoint of {checkpoint.size} receipts"
        try:
            is_signed = bool(signers(checkpoint, keys))
        except ValueError as error:
            raise UnusableInput(f"{described}: {error}") from None
        if not is_signed and size < checkpoint.size:
            raise VerificationFailed(
                None,
                f"rolled back, or another ledger: a checkpoint of {checkpoint.size} receipts was signed, but only "
                f"{size} are here, and no known key signed it; to tell, give the guard's newest key: --key FILE",
            )
        if not is_signed:
            raise UnusableInput(f"{described} is not signed by a key of this ledger")
        _check_continued(checkpoint, size, root_of)
        report.against.append(checkpoint.size)
    for checkpoint in requirements.remembered:
        report.discontinued = checkpoint.size
        if not _is_signed(checkpoint, keys):
            verb = "rolled back or replaced" if size < checkpoint.size else "replaced"
            problem = f"{verb}: the ledger of {checkpoint.size} receipts that was verified here last is another one"
            raise VerificationFailed(None, problem)
        _check_continued(checkpoint, size, root_of)
        report.remembered.append(checkpoint.size)
        report.discontinued = 0
    if earlier:
        which, sizes = "the earlier checkpoints", ", ".join(map(str, report.against))
        if len(report.against) > MAX_SIZES:
            which, sizes = f"{len(report.against)} earlier checkpoints", f"{report.against[0]} to {report.against[-1]}"
        report.prove("against", f"the tree continues {which} of {sizes} receipts")


def _is_signed(checkpoint: SignedCheckpoint, keys: tuple[VerifierKey, ...]) -> bool:
    try:
        return bool(signers(checkpoint, keys))
    except ValueError:
        return False


def _check_continued(checkpoint: SignedCheckpoint, size: int, root_of: Callable[[int], bytes]) -> None:
    """Raises: VerificationFailed."""
    if size < checkpoint.size:
        problem = f"rolled back: a checkpoint of {checkpoint.size} receipts was signed, but only {size} are here"
        raise VerificationFailed(None, problem)
    if root_of(checkpoint.size) != checkpoint.root:
        problem = f"split view: the first {checkpoint.size} receipts differ from those that were signed earlier"
        raise VerificationFailed(None, problem)
