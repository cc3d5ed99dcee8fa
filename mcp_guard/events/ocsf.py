"""OCSF 1.8.0 (https://schema.ocsf.io). Calls are API Activity; approvals and grants are User Access Management;
policies, keys and payloads are Entity Management; guards and instances are Application Lifecycle.

The complete receipt is in `unmapped`, so nothing is lost.
"""

import json
from collections.abc import Iterable

from mcp_guard.core.receipt import VOTED, shown_kind
from mcp_guard.events.summary import Receipt, severity, summary, time_micros

CONTENT_TYPE = "application/json"
VERSION = "1.8.0"
OTHER = 99
CALL, LIFECYCLE, ENTITY, ACCESS = 6003, 6002, 3004, 3005
CLASS_NAMES = {
    CALL: "API Activity",
    LIFECYCLE: "Application Lifecycle",
    ENTITY: "Entity Management",
    ACCESS: "User Access Management",
}
ACTIVITIES = {
    (CALL, 2): "Read", (LIFECYCLE, 3): "Start", (LIFECYCLE, 4): "Stop", (ENTITY, 1): "Create", (ENTITY, 3): "Update",
    (ENTITY, 4): "Delete", (ACCESS, 1): "Assign Privileges", (ACCESS, 2): "Revoke Privileges",
}  # fmt: skip
CLASSES: dict[str, tuple[int, int]] = {
    "decision": (CALL, OTHER),
    "intent": (CALL, OTHER),
    "outcome": (CALL, OTHER),
    "guard.started": (LIFECYCLE, 3),
    "guard.stopped": (LIFECYCLE, 4),
    "instance.started": (LIFECYCLE, 3),
    "instance.joined": (LIFECYCLE, 3),
    "instance.ended": (LIFECYCLE, 4),
    "agent.enrolled": (ENTITY, 1),
    "agent.enabled": (ENTITY, 3),
    "credential.issued": (ENTITY, 1),
    "credential.revoked": (ENTITY, 4),
    "catalog.pinned": (ENTITY, 1),
    "catalog.changed": (ENTITY, OTHER),
    "catalog.quarantined": (ENTITY, OTHER),
    "catalog.accepted": (ENTITY, 3),
    "catalog.refused": (ENTITY, OTHER),
    "policy.loaded": (ENTITY, 3),
    "policy.rejected": (ENTITY, OTHER),
    "policy.proposed": (ENTITY, OTHER),
    "policy.approved": (ENTITY, OTHER),
    "policy.denied": (ENTITY, OTHER),
    "policy.withdrawn": (ENTITY, OTHER),
    "approval.requested": (ACCESS, OTHER),
    "approval.escalated": (ACCESS, OTHER),
    "approval.granted": (ACCESS, 1),
    "approval.denied": (ACCESS, OTHER),
    "approval.missed": (ACCESS, OTHER),
    "approval.expired": (ACCESS, 2),
    "approval.withdrawn": (ACCESS, 2),
    "approval.stale": (ACCESS, 2),
    "approval.revoked": (ACCESS, 2),
    "approval.consumed": (ACCESS, 2),
    "approval.released": (ACCESS, 1),
    "grant.given": (ACCESS, 1),
    "grant.used": (ACCESS, OTHER),
    "grant.released": (ACCESS, OTHER),
    "grant.revoked": (ACCESS, 2),
    "approver.enrolled": (ENTITY, 1),
    "approver.removed": (ENTITY, 4),
    "key.rotated": (ENTITY, 3),
    "key.replaced": (ENTITY, 3),
    "payload.erased": (ENTITY, 4),
    "checkpoint.witnessed": (ENTITY, OTHER),
    "ledger.migrated": (ENTITY, 3),
}
"""Kind of receipt: class and activity."""
SEVERITIES = ((1, "Informational"), (2, "Low"), (3, "Medium"))
VENDOR = "mcp-guard"


def event(receipt: Receipt) -> Receipt:
    kind = shown_kind(receipt)
    class_uid, activity = CLASSES[receipt["kind"]]
    if class_uid == CALL and receipt.get("purpose") == "facts":
        activity = 2
    elif kind == VOTED:
        activity = OTHER
    severity_id, severity_name = SEVERITIES[severity(receipt)]
    status = _status(receipt)
    return {
        "class_uid": class_uid,
        "class_name": CLASS_NAMES[class_uid],
        "category_uid": class_uid // 1000,
        "category_name": "Application Activity" if class_uid >= 6000 else "Identity & Access Management",
        "activity_id": activity,
        "activity_name": ACTIVITIES.get((class_uid, activity), kind),
        "type_uid": class_uid * 100 + activity,
        "severity_id": severity_id,
        "severity": severity_name,
        "status_id": status,
        "status": ("Unknown", "Success", "Failure")[status],
        "time": time_micros(receipt) // 1000,
        "message": summary(receipt),
        "metadata": _metadata(receipt),
        **SUBJECTS[class_uid](receipt),
        "unmapped": receipt,
    }


def batch(events: Iterable[Receipt]) -> bytes:
    return json.dumps(list(events), ensure_ascii=False).encode()


def _status(receipt: Receipt) -> int:
    """0 unknown, 1 success, 2 failure: of the call, or of the action that the receipt records."""
    if "ending" in receipt:
        return {"ok": 1, "unknown": 0, "timeout": 0}.get(receipt["ending"], 2)
    if receipt["kind"] == "intent":
        return 0
    return 2 if receipt.get("outcome") == "deny" or receipt["kind"] in ("policy.rejected", "approval.denied") else 1


def _metadata(receipt: Receipt) -> Receipt:
    product = {"name": VENDOR, "vendor_name": VENDOR, "version": receipt["software"].rpartition("/")[2]}
    return {
        "version": VERSION,
        "product": product,
        "uid": f"{receipt['origin']}/{receipt['seq']}",
        "sequence": receipt["seq"],
        "log_name": receipt["origin"],
        "event_code": receipt["kind"],
        "original_time": receipt["time"],
        **({"correlation_uid": receipt["call"]} if "call" in receipt else {}),
        "profiles": ["security_control"],
    }


def _call(receipt: Receipt) -> Receipt:
    denied = receipt.get("outcome") == "deny"
    held = receipt.get("outcome") == "require_approval" and receipt["kind"] == "decision"
    action, name = (2, "Denied") if denied else (99, "Held") if held else (1, "Allowed")
    resource = receipt.get("resource")
    return {
        "action_id": action,
        "action": name,
        "actor": {
            "user": _user(receipt),
            "app_name": receipt.get("agent", "unknown"),
            "app_uid": receipt.get("instance", "unknown"),
        },
        "api": {
            "operation": receipt.get("tool", "unknown"),
            "service": {"name": receipt.get("upstream", "unknown")},
            "request": {"uid": receipt.get("call", "unknown")},
        },
        "src_endpoint": {"name": receipt.get("agent", "unknown"), "instance_uid": receipt.get("instance", "unknown")},
        **({"resources": [{"type": resource["type"], "uid": resource["id"]}]} if resource else {}),
    }


def _user(receipt: Receipt) -> Receipt:
    """The user that the call is made for, or else the agent's owner or the approver."""
    return {"name": receipt.get("on_behalf_of") or receipt.get("owner") or receipt.get("approver") or "unknown"}


def _access(receipt: Receipt) -> Receipt:
    instance = receipt.get("instance", "unknown")
    by = {"actor": {"user": {"name": receipt["name"], "uid": receipt["approver"]}}} if "approver" in receipt else {}
    privilege = receipt.get("tool") or receipt.get("binding", {}).get("tool") or "call"
    return {"user": {"name": receipt.get("agent", instance), "uid": instance}, "privileges": [privilege], **by}


def _entity(receipt: Receipt) -> Receipt:
    family = receipt["kind"].partition(".")[0]
    names = ("policy_version", "credential", "key", "new", "witness", "approver", "agent")
    is_revocation = "scope" in receipt
    uid = (
        receipt["name"]
        if is_revocation
        else next((str(receipt[name]) for name in names if name in receipt), receipt["origin"])
    )
    by = receipt.get("by") or receipt.get("approver")
    entity_type = {"type_id": 5} if family == "policy" else {"type_id": OTHER}
    data = {"data": {"scope": receipt["scope"], "name": uid}} if is_revocation else {}
    return {
        "entity": {"name": family, "type": family.capitalize(), "uid": uid, **entity_type, **data},
        **({"actor": {"user": {"name": by}}} if by else {}),
    }


def _lifecycle(receipt: Receipt) -> Receipt:
    name = receipt.get("agent", VENDOR)
    uid = receipt.get("instance") or receipt.get("guard", receipt["origin"])
    return {"app": {"name": name, "vendor_name": VENDOR, "uid": uid}}


SUBJECTS = {CALL: _call, ACCESS: _access, ENTITY: _entity, LIFECYCLE: _lifecycle}
