"""The rows of approvals, grants, approvers' keys, deliveries and sign-in codes. Statements only."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from typing import Any

from mcp_guard.core.approval import Approval, ApprovalState, GrantTerms, RouteRule, Vote
from mcp_guard.core.approval_card import CountedRequest, EarlierRequests, EarlierVerdict, RecentCalls
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import HOUR, Json, Micros
from mcp_guard.core.sign_in import SignIn, SignInRule
from mcp_guard.storage.rows import NO_INSTANCE, ApproverKey, Delivery, RequestRow
from mcp_guard.storage.sql.queries import Queries

MAX_RECENT_RECEIPTS = 5000
MAX_EARLIER_REQUESTS = 2000
MAX_LISTED_CHARACTERS = 1 << 20
"""Characters of the subjects of requests that an agent lists at once."""
DECIDED = {str(ApprovalState.CONSUMED): "approve", str(ApprovalState.DENIED): "deny"}
"""States of earlier requests that say how people decided, and the verdict of the votes that led to them."""
MAX_PARAMETERS = 500
COUNTED_AT_ONCE = 100
"""Requests that are read in one piece for statistics. On an event loop others go on between two of them."""
REQUEST = "id, state, requested, expires, rules"
"""The columns of a `RequestRow`."""
EARLIER = f"WHERE requested < ? AND instance <> '{NO_INSTANCE}' ORDER BY requested DESC LIMIT ?"
"""Requests of calls, not drills."""
Row = tuple[Any, ...]


class ApprovalQueries(Queries):
    """The part of `Store` that speaks of approvals."""

    # Approvals

    def add_approval(self, approval: Approval, receipts: Iterable[int]) -> None:
        owner = NO_INSTANCE if approval.subject.drill else approval.instance
        values = (
            approval.id, str(approval.state), owner, approval.lookup, approval.request_hash, approval.decision_hash,
            approval.nonce, _dump(approval.rules), json.dumps(approval.subject.to_json()), "[]", approval.requested,
            approval.expires, approval.note, None, 0, json.dumps(list(receipts)),
        )  # fmt: skip
        self._write(f"INSERT INTO approval VALUES ({', '.join('?' * 16)})", values)

    def move_approval(self, approval: Approval, to: ApprovalState, note: str, receipts: Iterable[int]) -> None:
        """Compare-and-set the state. Raises: ChangedElsewhere if it is not `approval.state` any more."""
        self._change_one(
            f"approval {approval.id}",
            "UPDATE approval SET state = ?, note = ?, votes = ?, rules = ?, receipts = ? WHERE id = ? AND state = ?",
            (str(to), note, _dump(approval.votes), _dump(approval.rules), json.dumps(list(receipts)), approval.id,
             str(approval.state)),
        )  # fmt: skip

    def note_outcome(self, id: str, outcome: int, answered: bool) -> None:
        """Set the receipt of the outcome. An answered request is not looked up again, so its lookup is erased."""
        erased = ", lookup = ''" if answered else ""
        query = f"UPDATE approval SET outcome = ?, answered = ?{erased} WHERE id = ? AND outcome IS NULL"
        self._change_one(f"the outcome of approval {id}", query, (outcome, int(answered), id))

    def note_answered(self, id: str) -> None:
        self._write("UPDATE approval SET answered = 1, lookup = '' WHERE id = ? AND outcome IS NOT NULL", (id,))

    def replace_subject(self, id: str, subject: str) -> None:
        self._change_one(f"approval {id}", "UPDATE approval SET subject = ? WHERE id = ?", (subject, id))

    def forget_nonce(self, id: str, lookup: bool) -> None:
        """Erase the salt of the hashes of a settled request, and with `lookup`, the hash by which it is found."""
        erased = ", lookup = ''" if lookup else ""
        self._change_one(f"approval {id}", f"UPDATE approval SET nonce = ''{erased} WHERE id = ?", (id,))

    def close_approvals_of(self, instance: str) -> None:
        """The instance has ended: its settled requests are not looked up again, and no reply can be delivered."""
        query = "UPDATE approval SET answered = 1, nonce = '', lookup = '' WHERE instance = ? AND lookup != ''"
        self._write(query, (instance,))

    def approval(self, id: str) -> tuple[Approval, list[int]] | None:
        """The approval, and the sequence numbers of its receipts so far."""
        row = self._run("SELECT * FROM approval WHERE id = ?", (id,)).fetchone()
        return _read_approval(row) if row else None

    def approvals_for(self, instance: str, lookup: str) -> list[Approval]:
        query = "SELECT * FROM approval WHERE instance = ? AND lookup = ? ORDER BY requested DESC"
        return [_read_approval(row)[0] for row in self._run(query, (instance, lookup))]

    def approvals(
        self, states: Iterable[ApprovalState] = tuple(ApprovalState), instance: str | None = None
    ) -> list[Approval]:
        wanted = [str(state) for state in states]
        query = f"SELECT * FROM approval WHERE state IN ({', '.join('?' * len(wanted))})"
        if instance is not None:
            query, wanted = f"{query} AND instance = ?", [*wanted, instance]
        return [_read_approval(row)[0] for row in self._run(f"{query} ORDER BY requested", wanted)]

    def open_among(self, ids: Iterable[str]) -> set[str]:
        """Those of these approvals that nobody has decided on. Reads no subject."""
        found = set[str]()
        for some in _batches(ids):
            query = f"SELECT id FROM approval WHERE state = ? AND id IN ({', '.join('?' * len(some))})"
            found |= {id for (id,) in self._run(query, (str(ApprovalState.REQUESTED), *some))}
        return found

    def open_ids(self) -> set[str]:
        """Those that nobody has decided on. Reads an index only."""
        return {id for (id,) in self._run("SELECT id FROM approval WHERE state = ?", (str(ApprovalState.REQUESTED),))}

    def open_requests(self, ids: Iterable[str]) -> list[RequestRow]:
        found: list[RequestRow] = []
        for some in _batches(sorted(ids)):  # so that neighbours are read together
            query = f"SELECT {REQUEST} FROM approval WHERE state = ? AND id IN ({', '.join('?' * len(some))})"
            found += map(_read_request, self._run(query, (str(ApprovalState.REQUESTED), *some)))
        return found

    def requests_before(self, before: tuple[Micros, str], count: int) -> list[RequestRow]:
        where = "WHERE (requested, id) < (?, ?) ORDER BY requested DESC, id DESC LIMIT ?"
        return list(map(_read_request, self._run(f"SELECT {REQUEST} FROM approval {where}", (*before, count))))

    def requests_since(self, since: Micros) -> Iterator[CountedRequest]:
        columns, last = "requested, id, instance, state, expires, rules, votes", (since, "")
        page = f"SELECT {columns} FROM approval WHERE (requested, id) > (?, ?) ORDER BY requested, id LIMIT ?"
        while rows := self._run(page, (*last, COUNTED_AT_ONCE)).fetchall():
            yield from map(_read_counted, rows)
            last = rows[-1][:2]

    def approvals_among(self, ids: Collection[str]) -> list[Approval]:
        found: list[Approval] = []
        for some in _batches(ids):
            query = f"SELECT * FROM approval WHERE id IN ({', '.join('?' * len(some))})"
            found += (_read_approval(row)[0] for row in self._run(query, some))
        return found

    def open_size(self, instance: str) -> tuple[int, int, int]:
        """How many requests of this instance nobody has decided on, their length in characters, and how many there are
        of all instances of its agent."""
        agent = "(SELECT agent FROM instance WHERE id = {})"
        query = (
            "SELECT COUNT(CASE WHEN instance = ? THEN 1 END), SUM(CASE WHEN instance = ? THEN size END), "
            f"COUNT(CASE WHEN agent = {agent.format('?')} THEN 1 END) FROM ("
            f"SELECT instance, LENGTH(subject) AS size, {agent.format('approval.instance')} AS agent "
            "FROM approval WHERE state = ?) AS open_one"  # by the index of states: few are open
        )
        count, size, of_agent = self._run(query, (*[instance] * 3, str(ApprovalState.REQUESTED))).fetchone()
        return count, int(size or 0), of_agent

    def latest_approvals(self, count: int) -> list[Approval]:
        """The newest first, in any state."""
        rows = self._run("SELECT * FROM approval ORDER BY requested DESC LIMIT ?", (count,))
        return [_read_approval(row)[0] for row in rows]

    def recent_calls(self, approval: Approval) -> RecentCalls:
        """What the request's instance, its agent and its user did in the hour before it.

        Reads backwards from its first receipt, so that the cost does not grow with the ledger.
        """
        row = self._run("SELECT receipts FROM approval WHERE id = ?", (approval.id,)).fetchone()
        first_receipt, subject = json.loads(row[0])[0], approval.subject
        instance, agent, user = Counter[str](), Counter[str](), Counter[str]()
        acts_for = (subject.on_behalf_of, subject.user_issuer or None)
        not_sent: set[int] = set()
        query = "SELECT seq, at, kind, body FROM receipt WHERE seq < ? ORDER BY seq DESC LIMIT ?"
        count = 0
        for seq, at, kind, body in self._run(query, (first_receipt, MAX_RECENT_RECEIPTS)):
            if at < approval.requested - HOUR:
                break
            count += 1
            if kind == "outcome" and b'"ending":"not_sent"' in body:
                not_sent.update(json.loads(body)["follows"])
            if kind != "intent" or seq in not_sent:
                continue
            receipt = json.loads(body)
            if "purpose" in receipt:
                continue
            tool = receipt["tool"]
            instance[tool] += receipt["instance"] == approval.instance
            agent[tool] += receipt["agent"] == subject.agent
            user[tool] += (receipt.get("on_behalf_of"), receipt.get("user_issuer")) == acts_for
        return RecentCalls(
            instance=_most_common(instance),
            agent=_most_common(agent),
            user=_most_common(user) if subject.on_behalf_of is not None else None,
            is_partial=count == MAX_RECENT_RECEIPTS,
        )

    def earlier_requests(self, approval: Approval) -> EarlierRequests:
        """How people decided before on requests of the same agent for the same tool. Reads the latest ones only."""
        now, rows = approval.subject.to_json(), 0
        done, done_here, done_alike, denied = 0, 0, 0, 0
        last: dict[str, EarlierVerdict] = {}
        query = f"SELECT state, subject, votes FROM approval {EARLIER}"
        for state, document, votes in self._run(query, (approval.requested, MAX_EARLIER_REQUESTS)):
            rows += 1
            before = json.loads(document)
            if state not in DECIDED or not _agree(before, now, "agent", "tool"):
                continue
            verdict = _read_verdict(json.loads(votes), DECIDED[state])
            last.setdefault(state, verdict)
            if state == ApprovalState.DENIED:
                denied += 1
                continue
            done += 1
            done_here += now["resource"] is not None and _agree(before, now, "resource")
            if _agree(before, now, "arguments", "numbers"):
                done_alike += 1
                last.setdefault("alike", verdict)
        return EarlierRequests(
            done=done,
            done_here=done_here,
            last_approval=last.get(ApprovalState.CONSUMED),
            done_alike=done_alike,
            last_alike=last.get("alike"),
            denied=denied,
            last_denial=last.get(ApprovalState.DENIED),
            is_partial=rows == MAX_EARLIER_REQUESTS,
        )

    def requests_of(self, instance: str, count: int) -> tuple[list[Approval], int]:
        """The requests of this instance, open ones first, then the newest: at most `count`, and of a total length of
        `MAX_LISTED_CHARACTERS`, but at least one. With it the number of all."""
        query = (
            "SELECT id FROM approval WHERE instance = ? ORDER BY state NOT IN (?, ?), requested DESC, id DESC LIMIT ?"
        )
        wanted = (instance, str(ApprovalState.REQUESTED), str(ApprovalState.APPROVED), count)
        listed: list[Approval] = []
        left = MAX_LISTED_CHARACTERS
        for (id,) in self._run(query, wanted).fetchall():
            left -= self._run("SELECT LENGTH(subject) FROM approval WHERE id = ?", (id,)).fetchone()[0]
            row = self.approval(id) if left >= 0 or not listed else None
            if row is None:
                break
            listed.append(row[0])
        return listed, self._run("SELECT COUNT(*) FROM approval WHERE instance = ?", (instance,)).fetchone()[0]

    # Grants

    def add_grant(self, grant: Grant, instance: str) -> None:
        values = (grant.id, grant.approval, grant.state, instance, _dump_grant(grant), grant.used)
        self._write("INSERT INTO granted VALUES (?, ?, ?, ?, ?, ?)", values)

    def move_grant(self, before: Grant, state: str, used: int) -> None:
        """Compare-and-set. Raises: ChangedElsewhere if it is no longer as it was read."""
        query = "UPDATE granted SET state = ?, used = ? WHERE id = ? AND state = ? AND used = ?"
        self._change_one(f"grant {before.id}", query, (state, used, before.id, before.state, before.used))

    def grant(self, id: str) -> Grant | None:
        row = self._run("SELECT * FROM granted WHERE id = ?", (id,)).fetchone()
        return _read_grant(row) if row else None

    def grants(self, instance: str | None = None, state: str | None = None) -> list[Grant]:
        wanted = {"instance": instance, "state": state}
        conditions = [f"{name} = ?" for name, value in wanted.items() if value is not None] or ["1 = 1"]
        query = f"SELECT * FROM granted WHERE {' AND '.join(conditions)} ORDER BY id"
        return [_read_grant(row) for row in self._run(query, [value for value in wanted.values() if value is not None])]

    def active_grants(self, after: str, count: int) -> list[Grant]:
        query = "SELECT * FROM granted WHERE state = 'active' AND id > ? ORDER BY id LIMIT ?"
        return [_read_grant(row) for row in self._run(query, (after, count))]

    # Approvers' keys

    def add_approver_key(self, key: ApproverKey) -> None:
        values = (key.id, key.approver, key.method, key.public, json.dumps(key.details), key.enrolled)
        self._write("INSERT INTO approver_key VALUES (?, ?, ?, ?, ?, ?, NULL)", values)

    def remove_approver_key(self, id: str, receipt: int) -> None:
        query = "UPDATE approver_key SET removed = ? WHERE id = ? AND removed IS NULL"
        self._change_one(f"approver key {id}", query, (receipt, id))

    def note_key_use(self, id: str, details: Json) -> None:
        self._write("UPDATE approver_key SET details = ? WHERE id = ?", (json.dumps(details), id))

    def approver_keys(self) -> list[ApproverKey]:
        """All keys that were ever enrolled, in the order of enrolment."""
        rows = self._run("SELECT * FROM approver_key ORDER BY enrolled")
        return [
            ApproverKey(id, approver, method, public, json.loads(details), enrolled, removed)
            for id, approver, method, public, details, enrolled, removed in rows
        ]

    def enrolments(self) -> dict[str, Json]:
        """The receipts of the enrolments, by key."""
        rows = self._run("SELECT id, body FROM receipt JOIN approver_key ON seq = enrolled")
        return {id: json.loads(body) for id, body in rows}

    # Deliveries

    def add_delivery(self, subject: str, notifier: str, event: str, due: Micros, state: str = "due") -> None:
        values = (subject, notifier, event, state, 0, due, "")
        self._write(
            "INSERT INTO delivery (subject, notifier, event, state, attempts, due, note) VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        )

    def move_delivery(self, before: Delivery, state: str, due: Micros, note: str) -> None:
        """Compare-and-set, one attempt more. Raises: ChangedElsewhere if another process has taken it."""
        query = (
            "UPDATE delivery SET state = ?, due = ?, note = ?, attempts = attempts + 1 WHERE id = ? AND attempts = ?"
        )
        self._change_one(f"delivery {before.id}", query, (state, due, note, before.id, before.attempts))

    def settle_delivery(self, id: int, state: str, due: Micros, note: str) -> None:
        self._write("UPDATE delivery SET state = ?, due = ?, note = ? WHERE id = ?", (state, due, note, id))

    def end_deliveries(self, subject: str, now: Micros) -> None:
        query = "UPDATE delivery SET state = 'due', due = ? WHERE state = 'waiting' AND subject = ?"
        self._write(query, (now, subject))

    def due_deliveries(self, now: Micros, limit: int) -> list[Delivery]:
        ranked = (
            "SELECT *, row_number() OVER (PARTITION BY notifier ORDER BY id) AS rank FROM delivery "
            "WHERE state = 'due' AND due <= ?"
        )
        columns = "id, subject, notifier, event, state, attempts, due, note"
        query = f"SELECT {columns} FROM ({ranked}) AS ranked WHERE rank <= ? ORDER BY id"
        return [Delivery(*row) for row in self._run(query, (now, limit))]

    def deliveries(self, subject: str) -> list[Delivery]:
        return [Delivery(*row) for row in self._run("SELECT * FROM delivery WHERE subject = ? ORDER BY id", (subject,))]

    # Sign-in codes, stored hashed

    def add_sign_in(self, code: str, approver: str, kind: str, now: Micros, expires: Micros) -> None:
        """Add a code, and forget those that expired before `now`."""
        self._write("DELETE FROM sign_in WHERE expires <= ?", (now,))
        self._write("INSERT INTO sign_in VALUES (?, ?, ?, ?)", (code, approver, kind, expires))

    def has_sign_in(self, code: str) -> bool:
        return self._run("SELECT 1 FROM sign_in WHERE code = ?", (code,)).fetchone() is not None

    def forget_sign_ins(self, approver: str) -> None:
        self._write("DELETE FROM sign_in WHERE approver = ?", (approver,))

    def take_sign_in(self, code: str, now: Micros) -> tuple[str, str] | None:
        """The approver whose code it is, and its kind; it is gone afterwards."""
        row = self._run("DELETE FROM sign_in WHERE code = ? RETURNING approver, kind, expires", (code,)).fetchone()
        return (row[0], row[1]) if row and now < row[2] else None


def _dump(values: Iterable[Any]) -> str:
    return json.dumps([asdict(value) for value in values])


def _dump_grant(grant: Grant) -> str:
    return json.dumps([grant.binding, grant.free, grant.uses, grant.expires, grant.approvers, grant.salt])


def _read_grant(row: Row) -> Grant:
    id, approval, state, _, terms, used = row
    binding, free, uses, expires, approvers, salt = json.loads(terms)
    return Grant(id, approval, state, binding, tuple(free), uses, used, expires, tuple(approvers), salt)


def _most_common(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple((+counts).most_common())


def _batches(ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    rest = iter(ids)
    while some := tuple(islice(rest, MAX_PARAMETERS)):
        yield some


def _read_request(row: Row) -> RequestRow:
    id, state, requested, expires, rules = row
    return RequestRow(id, state, requested, expires, _read_approvers(rules))


def _read_counted(row: Row) -> CountedRequest:
    requested, _, instance, state, expires, rules, votes = row
    first = {vote["approver"]: (vote["verdict"], vote["at"]) for vote in reversed(json.loads(votes))}
    return CountedRequest(instance == NO_INSTANCE, state, requested, expires, _read_approvers(rules), first)


@lru_cache(maxsize=1000)
def _read_approvers(rules: str) -> frozenset[str]:
    """Requests of the same routes share them."""
    return frozenset(name for rule in json.loads(rules) for name in rule["approvers"])


def _read_verdict(votes: list[Json], verdict: str) -> EarlierVerdict:
    """The decision that these votes made; the last of them gives its time and rationale."""
    decisive = [vote for vote in votes if vote["verdict"] == verdict]
    names = tuple(vote["name"] or vote["approver"] for vote in decisive)
    return EarlierVerdict(names, decisive[-1]["at"], decisive[-1]["rationale"])


def _read_vote(vote: Json) -> Vote:
    terms, signed_in = vote["terms"], vote.get("signed_in")
    return Vote(
        **vote
        | {
            "terms": GrantTerms.from_json(terms) if terms else None,
            "signed_in": SignIn.from_fields(signed_in) if signed_in else None,
        }
    )


def _read_rule(rule: Json) -> RouteRule:
    sign_in = rule.get("sign_in")
    read = SignInRule(**sign_in | {"acr": tuple(sign_in["acr"])}) if sign_in else None
    lists = {name: tuple(rule.get(name, ())) for name in ("approvers", "accept")}
    return RouteRule(**rule | lists | {"sign_in": read})


def _read_approval(row: Row) -> tuple[Approval, list[int]]:
    """Raises: LedgerError."""
    try:
        return _parse_approval(row)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"the row of approval {row[0]} is damaged: {error!r}"
        raise LedgerError(what, "run `mcp-guard verify`; restore the ledger from a copy", LedgerFault.DAMAGED) from None


def _parse_approval(row: Row) -> tuple[Approval, list[int]]:
    id, state, instance, lookup, request_hash, decision_hash, nonce, rules, subject, votes, *rest = row
    requested, expires, note, outcome, answered, receipts = rest
    about = ApprovalSubject.from_json(json.loads(subject))
    approval = Approval(
        id=id,
        state=ApprovalState(state),
        instance=instance or about.instance,
        lookup=lookup,
        request_hash=request_hash,
        decision_hash=decision_hash,
        nonce=nonce,
        rules=tuple(map(_read_rule, json.loads(rules))),
        subject=about,
        votes=tuple(_read_vote(vote) for vote in json.loads(votes)),
        requested=requested,
        expires=expires,
        note=note,
        outcome=outcome,
        answered=bool(answered),
    )
    return approval, json.loads(receipts)


def _agree(one: Json, other: Json, *members: str) -> bool:
    """Whether two subjects say the same there: as text, because Python takes 1, 1.0 and true for equal."""
    first, second = ([subject.get(name) for name in members] for subject in (one, other))
    return first == second and json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
