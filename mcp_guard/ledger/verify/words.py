"""The sentences of a report: one for each thing proved, and one for each that is not (docs/reference/verify.md)."""

from .report import Report, count

TRUNCATION = "that no later receipt was removed together with its checkpoint; keep this one elsewhere:"
WHOSE_KEYS = "whose the approvers' keys are; the ledger itself says so. Give what you know: --approvers FILE"


def say_whole(report: Report, payloads_here: bool, held_against: bool) -> None:
    """What a whole ledger or export proves."""
    _say_keys(report)
    report.prove("order", "none of the receipts is missing, changed, inserted or out of order")
    report.prove(
        "tree", "each receipt is a leaf of the tree of the signed checkpoint, and the stored hashes are theirs"
    )
    report.prove(
        "links",
        "every outcome has its intent, every intent its decision, every approval used was granted and used once",
    )
    if report.approvers_words:
        report.prove(
            "approvers", f"approvers: {count(report.approvers_words, 'word')}, each signed by the approver's own key"
        )
    if report.policies:
        report.prove("policies", f"policies: {count(report.policies, 'version')} named, the text of each is kept")
    _say_payloads(report, payloads_here)
    if seen := report.kinds.get("checkpoint.witnessed"):
        report.prove("witnessed", f"checkpoints said to be witnessed: {seen}, each of this tree")
    if report.calls_without_outcome:
        report.leave_open("outcomes", f"what came of {count(report.calls_without_outcome, 'call')} without an outcome")
    if report.approvers_words and not report.approvers_keys_given:
        report.leave_open("approvers", WHOSE_KEYS)
    say_end(report, held_against)


def say_end(report: Report, held_against: bool) -> None:
    """What no ledger can prove by itself; the checkpoint is printed after it."""
    since = " since the checkpoints given" if held_against else ""
    report.leave_open("truncation", TRUNCATION.replace("removed", f"removed{since}"))


def _say_keys(report: Report) -> None:
    report.prove("signatures", "every signature is the guard's, by the key that was in use")
    for at, key in enumerate(report.keys):
        if at:
            report.prove("keys", f"from receipt {key['since']} on the key is {key['key']}: {key['by']}")
        elif key["by"] != "given":
            report.prove("keys", f"the first key is {key['key']}: {key['by']}")


def _say_payloads(report: Report, here: bool) -> None:
    unkept = report.payloads_not_kept
    if not here:
        report.leave_open("payloads", "what was asked and answered: the payloads are not in this export")
        return
    gone = f", {report.payloads_erased} erased by a receipt that says so" if report.payloads_erased else ""
    report.prove("payloads", f"payloads: {report.payloads_checked} match their commitments, {unkept} not kept{gone}")
    if unkept or report.payloads_erased:
        report.leave_open("payloads", "what the payloads that are not kept were")


def say_part(report: Report, payloads_here: bool, held_against: bool) -> None:
    """What a range, or one receipt with the ledger behind it, proves."""
    one = report.first == report.last
    what = "it" if one else "each of them"
    report.prove("signatures", f"{what} is signed by the guard's key that was in use")
    if not one:
        report.prove("order", "none of them is missing, changed, inserted or out of order")
    report.prove("tree", f"{what} is a leaf of the tree of the signed checkpoint, at its place")
    if report.policies:
        report.prove("policies", f"policies: {count(report.policies, 'version')} named, the text of each is kept")
    if payloads_here:
        kept = f"{report.payloads_checked} match their commitments, {report.payloads_not_kept} not kept"
        gone = f", {report.payloads_erased} gone" if report.payloads_erased else ""
        report.prove("payloads", f"payloads: {kept}{gone}")
    report.leave_open("links", "how it hangs together with the receipts around it; verify the whole ledger for that")
    say_end(report, held_against)


def say_bundle(report: Report, held_against: bool) -> None:
    """What a bundle proves, which is all there is to look at."""
    report.prove("signatures", "it is signed by a guard's key that was given")
    report.prove("tree", f"it is receipt {report.first} of the tree of the signed checkpoint")
    if report.payloads_checked:
        report.prove("payloads", f"payloads: {report.payloads_checked} match their commitments")
    report.leave_open("keys", "that this key was in use then; the ledger says so")
    report.leave_open("links", "how it hangs together with the receipts around it; verify the whole ledger for that")
    say_end(report, held_against)
