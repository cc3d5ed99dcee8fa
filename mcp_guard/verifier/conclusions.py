"""What a verification that succeeded has checked, and what its result assures and does not assure.

docs/reference/verify.md explains each sentence. What is not assured is reported like what is, because a ledger that was
rolled back passes every check.
"""

from .report import GIVEN, Report, count


def conclude_full(report: Report, has_payloads: bool) -> None:
    """Add the sentences for a whole ledger or export."""
    report.prove("signatures", "every receipt is signed by the guard's key that was in use at the time")
    _conclude_keys(report)
    report.prove("order", "no receipt is missing, changed, inserted or out of order")
    report.prove("tree", "every receipt is a leaf of the tree in the signed checkpoint, and all stored hashes match")
    report.prove(
        "links",
        "every outcome has its intent, every intent its decision; every approval used was granted, and used once",
    )
    if report.format_4:
        report.prove("format", f"the first {count(report.format_4, 'receipt')} are of format 4, and keep its rules")
    if report.approvers_words:
        votes = count(report.approvers_words, "vote")
        report.prove("approvers", f"{votes}, each signed with the approver's own key")
    if report.operations:
        changes = count(report.operations, "change")
        report.prove("operators", f"{changes} of an operator, each signed with the operator's own key")
    if report.drills:
        report.prove(
            "drills", f"{count(report.drills, 'drill')}, committed to before anybody decided, and used by no call"
        )
    _conclude_policies(report)
    if has_payloads:
        erased = f", {report.payloads_erased} erased and recorded as erased" if report.payloads_erased else ""
        report.prove("payloads", f"{_payload_counts(report)}{erased}")
    if witnessed := report.kinds.get("checkpoint.witnessed"):
        report.prove("witnessed", f"{count(witnessed, 'checkpoint')} recorded as witnessed, each of this tree")
    _assure_origin(report)
    _assure_completeness(report)
    _assure_witnesses(report)
    _assure_approvers(report)
    _assure_policies(report)
    _assure_outcomes(report)
    _assure_payloads(report, has_payloads)
    _assure_files(report)


def conclude_range(report: Report, has_payloads: bool) -> None:
    """Add the sentences for a range, or for one receipt of a ledger or export."""
    is_single = report.first == report.last
    subject = "the receipt" if is_single else "every receipt"
    report.prove("signatures", f"{subject} is signed by the guard's key that was in use at the time")
    if not is_single:
        report.prove("order", "no receipt of the range is missing, changed, inserted or out of order")
    report.prove("tree", f"{subject} is a leaf of the tree in the signed checkpoint, at its place")
    _conclude_policies(report)
    if has_payloads:
        erased = f", {report.payloads_erased} missing" if report.payloads_erased else ""
        report.prove("payloads", f"{_payload_counts(report)}{erased}")
    _assure_origin(report)
    _conclude_neighbours(report)
    _assure_completeness(report)
    _assure_witnesses(report)
    _assure_approvers(report)


def conclude_bundle(report: Report) -> None:
    """Add the sentences for a bundle, which is verified without its ledger."""
    report.prove("signatures", "the receipt is signed by one of the given keys")
    report.prove("tree", f"it is receipt {report.first} of the tree in the signed checkpoint")
    if report.payloads_checked:
        report.prove("payloads", f"{report.payloads_checked} match their commitments")
    _assure_origin(report)
    report.leave_open("keys", "that this key was in use at the time", VERIFY_WHOLE)
    _conclude_neighbours(report)
    _assure_completeness(report)
    _assure_witnesses(report)
    _assure_approvers(report)


VERIFY_WHOLE = "verify the whole ledger"


def _conclude_keys(report: Report) -> None:
    first, *later = report.keys
    if first["by"] != GIVEN:
        report.prove("keys", f"the first key is {first['key']}: {first['by']}")
    for key in later:
        report.prove("keys", f"from receipt {key['since']} on, the key is {key['key']}: {key['by']}")


def _conclude_policies(report: Report) -> None:
    if report.policies:
        versions = count(report.policies, "version")
        report.prove("policies", f"{versions} referenced, the text of each is stored")
    if report.policies_under_rule or report.policy_approvals:
        approvals = count(report.policy_approvals, "set")
        report.prove(
            "policy_approval",
            f"{approvals} of policies approved, each with its quorum of signatures; nothing else loaded under the rule",
        )


def _payload_counts(report: Report) -> str:
    return f"{report.payloads_checked} match their commitments, {report.payloads_not_kept} not kept"


def _conclude_neighbours(report: Report) -> None:
    report.leave_open("links", "consistency with neighbouring receipts", VERIFY_WHOLE)


def _assure_origin(report: Report) -> None:
    """Whose ledger it is."""
    if report.key_is_beside:
        report.leave_open(
            "origin",
            "whose ledger this is: its key was read from beside it, where it can be replaced, too",
            "give a key that you obtained elsewhere: --key FILE",
        )
    else:
        report.assure("origin", "it is signed with a key that you gave, or with one that such a key introduced")


def _assure_completeness(report: Report) -> None:
    """No ledger can prove alone that nothing was removed from its end: each prefix was the whole ledger once."""
    known = [*report.against, *([report.witnessed_size] if report.witnessed_size else [])]
    if known:
        report.assure("truncation", f"it was not rolled back to fewer than {count(max(known), 'receipt')}")
        says = f"that no receipts after the first {max(known)} were removed together with their checkpoint"
    else:
        says = "that it was not rolled back: an older copy of it passes the same checks"
        if report.remembered:
            says += f" (only that it has the first {max(report.remembered)}, which were verified here before)"
    report.leave_open("truncation", says, "compare it with a newer checkpoint kept elsewhere: --against CHECKPOINT")


def _assure_witnesses(report: Report) -> None:
    if report.witnesses:
        names = ", ".join(str(witness["witness"]) for witness in report.witnesses)
        report.assure("witnesses", f"the checkpoint of {report.witnessed_size} receipts is cosigned by {names}")
        return
    if recorded := report.kinds.get("checkpoint.witnessed", 0):
        says = f"only the ledger itself says that {count(recorded, 'checkpoint')} had a witness"
        hint = "give the keys of the witnesses: --witness FILE"
    else:
        says, hint = "no witness is known", "have checkpoints witnessed (mcp-guard ledger witness): --witness FILE"
    report.leave_open("witnesses", f"that somebody outside has seen this ledger: {says}", hint)


def _assure_approvers(report: Report) -> None:
    """Who decided: whose keys they are, and whether they were other people than those who asked."""
    _assure_reported(report)
    if not report.approvers_words and not report.approvals and not report.operations:
        return
    is_whole = report.scope in ("ledger", "export")
    if not is_whole:
        report.leave_open(
            "approvers", "who approved: the votes are compared with the calls only in the whole ledger", VERIFY_WHOLE
        )
    elif report.approvers_keys_given:
        report.assure("approvers", "the approvers' keys are among those that you gave")
    else:
        report.leave_open(
            "approvers",
            "who owns the approvers' keys: only the ledger itself says so",
            "give the keys that you know: --approvers FILE",
        )
    if report.votes_in_format_4:
        votes = count(report.votes_in_format_4, "vote")
        report.leave_open("statements", f"that the approvers of {votes} in format 4 signed in clear what they approved")
    if report.self_approvals:
        number, are = report.self_approvals, "is" if report.self_approvals == 1 else "are"
        report.leave_open(
            "self_approval",
            f"that a second person approved: {number} of {count(report.approvals, 'approval')} {are} self-approved, "
            f"by the agent's owner or its user alone (first: receipt {report.first_self_approval})",
            "look at each: mcp-guard log --kind approval.granted",
        )
    elif report.approvals:
        by = "" if is_whole and report.approvers_keys_given else ", as the guard recorded it"
        report.assure("self_approval", f"no approval is by the agent's owner or its user alone{by}")


def _assure_policies(report: Report) -> None:
    """Whether policies were loaded that nobody had to approve, although the ledger has a rule that they must be."""
    if report.policies_unapproved:
        loads = count(report.policies_unapproved, "set")
        report.leave_open(
            "policy_approval",
            f"that all policies were approved: {loads} loaded by a guard without the rule, after it had begun "
            f"(first: receipt {report.first_unapproved_policies})",
            "look at each: mcp-guard log --kind policy.loaded",
        )
    elif report.policies_under_rule:
        report.assure("policy_approval", "since the rule began, no policies were loaded without approval")


def _assure_reported(report: Report) -> None:
    """Votes without a signature."""
    if report.reported_votes:
        first = report.first_reported_vote
        report.leave_open(
            "reported_votes",
            f"who gave {count(report.reported_votes, 'vote')} by a button of Slack: no key has signed, and only the "
            f"guard says what Slack reported (first: receipt {first})",
            "have these routes decided with keys: remove `accept` from them",
        )


def _assure_outcomes(report: Report) -> None:
    if report.calls_without_outcome:
        report.leave_open(
            "outcomes",
            f"the result of {count(report.calls_without_outcome, 'call')} without an outcome",
            "they are running now, or were interrupted: mcp-guard status",
        )
    elif report.kinds.get("intent"):
        report.assure("outcomes", "every call that was sent has a recorded outcome")


def _assure_payloads(report: Report, has_payloads: bool) -> None:
    if not has_payloads:
        report.leave_open(
            "payloads",
            "the content of requests and responses: this export has no payloads",
            "export them too: mcp-guard ledger export DIR --payloads",
        )
    elif report.payloads_not_kept or report.payloads_erased:
        report.leave_open("payloads", "the content of payloads that are not kept")
    elif report.payloads_checked:
        report.assure("payloads", "all requests and responses are stored, and are the recorded ones")


MAX_NAMED_FILES = 5


def _assure_files(report: Report) -> None:
    if not report.unknown_files:
        return
    names, more = report.unknown_files[:MAX_NAMED_FILES], len(report.unknown_files) - MAX_NAMED_FILES
    named = ", ".join(f"`{name}`" for name in names) + (f" and {more} more" if more > 0 else "")
    report.leave_open("other_files", f"anything about what is no part of the export: {named}", "move it elsewhere")
