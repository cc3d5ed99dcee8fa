"""The rows of enrolled agents, instances, revocations and launch codes. Statements only."""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict
from functools import lru_cache
from itertools import chain

from mcp_guard.core.model import Agent, Instance, Micros, Task
from mcp_guard.storage.rows import InstanceRow, RevocationKey
from mcp_guard.storage.sql.queries import Queries


class IdentityQueries(Queries):
    """The part of `Store` that speaks of who may call."""

    # Agents enrolled from the command line

    def add_agent(self, agent: Agent, on_behalf_of: str | None, seconds: int) -> None:
        values = (agent.name, agent.owner, json.dumps(agent.groups), on_behalf_of, seconds)
        self._write("INSERT INTO enrolled_agent VALUES (?, ?, ?, ?, ?)", values)

    def remove_agent(self, name: str) -> None:
        self._change_one(f"the agent {name}", "DELETE FROM enrolled_agent WHERE name = ?", (name,))

    def agents(self) -> list[tuple[Agent, str | None, int]]:
        """Each agent, the user it acts for if always the same, and how many seconds its credentials last."""
        rows = self._run("SELECT * FROM enrolled_agent ORDER BY name")
        return [(Agent(name, owner, tuple(json.loads(groups))), user, life) for name, owner, groups, user, life in rows]

    # Instances

    def add_instance(self, instance: Instance) -> None:
        document = {**asdict(instance), "credential": ""}
        values = (
            instance.id, instance.credential_id, instance.agent.name, json.dumps(document), instance.started,
            instance.expires, None, None,
        )  # fmt: skip
        self._write("INSERT INTO instance VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def instance(self, id: str) -> InstanceRow | None:
        row = self._run("SELECT said, begun, ended FROM instance WHERE id = ?", (id,)).fetchone()
        return InstanceRow(_read(row[0]), row[1], row[2]) if row else None

    def instance_of_credential(self, credential_id: str) -> InstanceRow | None:
        row = self._run("SELECT said, begun, ended FROM instance WHERE credential = ?", (credential_id,)).fetchone()
        return InstanceRow(_read(row[0]), row[1], row[2]) if row else None

    def instances(self, alive_at: Micros | None = None) -> list[InstanceRow]:
        """The newest first; with `alive_at`, those that have neither expired nor ended by then."""
        alive, values = ("", ()) if alive_at is None else (" WHERE expires > ? AND ended IS NULL", (alive_at,))
        rows = self._run(f"SELECT said, begun, ended FROM instance{alive} ORDER BY started DESC", values)
        return [InstanceRow(_read(said), begun, ended) for said, begun, ended in rows]

    def instances_page(
        self, before: str, count: int, alive_at: Micros | None = None, agent: str | None = None
    ) -> list[InstanceRow]:
        conditions = {"id < ?": before or None, "expires > ? AND ended IS NULL": alive_at, "agent = ?": agent}
        given = {text: value for text, value in conditions.items() if value is not None}
        where = f" WHERE {' AND '.join(given)}" if given else ""
        query = f"SELECT said, begun, ended FROM instance{where} ORDER BY id DESC LIMIT ?"
        rows = self._run(query, (*given.values(), count))
        return [InstanceRow(_read(said), begun, ended) for said, begun, ended in rows]

    def count_instances(self, alive_at: Micros) -> list[tuple[str, int]]:
        query = "SELECT agent, count(*) FROM instance WHERE expires > ? AND ended IS NULL GROUP BY agent"
        return [(agent, number) for agent, number in self._run(query, (alive_at,))]

    def begin_instance(self, id: str, at: Micros) -> bool:
        """Whether this was its first session."""
        return self._run("UPDATE instance SET begun = ? WHERE id = ? AND begun IS NULL", (at, id)).rowcount == 1

    def end_instance(self, id: str, at: Micros) -> bool:
        """Whether it had not ended before."""
        return self._run("UPDATE instance SET ended = ? WHERE id = ? AND ended IS NULL", (at, id)).rowcount == 1

    # Revocation

    def revoke(self, key: RevocationKey, until: Micros) -> None:
        """Nothing under this key that started up to `until` may call any more; an instance, whenever it started.
        What is revoked for longer stays so."""
        kept = "ON CONFLICT (kind, name) DO UPDATE SET until = excluded.until WHERE revocation.until < excluded.until"
        self._write(f"INSERT INTO revocation VALUES (?, ?, ?) {kept}", (*key, until))

    def restore(self, key: RevocationKey, until: Micros) -> None:
        """Instances that start after `until` may call again; those revoked before stay revoked."""
        query = "UPDATE revocation SET until = ? WHERE kind = ? AND name = ? AND until > ?"
        self._change_one(f"the revocation of {key[0]} {key[1]}", query, (until, *key, until))

    def revocations(self) -> list[tuple[RevocationKey, Micros]]:
        return [
            ((kind, name), until) for kind, name, until in self._run("SELECT * FROM revocation ORDER BY kind, name")
        ]

    def revoked(self, keys: Iterable[RevocationKey], started: Micros) -> RevocationKey | None:
        """The first of these that is revoked for what started then."""
        keys = list(keys)
        query = f"SELECT kind, name {_revoked(len(keys))}"
        revoked = self._run(query, (started, *chain.from_iterable(keys))).fetchall()
        return next((key for key in keys if key in revoked), None) if revoked else None

    def is_in_order(
        self, keys: Collection[RevocationKey], started: Micros, upstream: str, tool: str, definition: str
    ) -> bool:
        """Whether none of these is revoked for what started then, and this definition of the tool is in force.

        On the path of each call: one statement for both.
        """
        pinned = "SELECT 1 FROM pin WHERE upstream = ? AND tool = ? AND state = 'pinned' AND hash = ?"
        query = f"{pinned} AND NOT EXISTS (SELECT 1 {_revoked(len(keys))})"
        values = (upstream, tool, definition, started, *chain.from_iterable(keys))
        return self._run(query, values).fetchone() is not None

    # Launch codes, stored hashed, and what launches that share an instance have in common

    def add_launch(self, code: str, instance: str, expires: Micros) -> None:
        self._write("INSERT INTO launch VALUES (?, ?, ?)", (code, instance, expires))

    def take_launch(self, code: str, now: Micros) -> str | None:
        """The instance that this code launches; the code is gone afterwards."""
        row = self._run("DELETE FROM launch WHERE code = ? RETURNING instance, expires", (code,)).fetchone()
        return str(row[0]) if row and now < row[1] else None

    def shared_launch(self, key: str) -> str | None:
        """The instance that launches with this key join."""
        row = self._run("SELECT instance FROM launch WHERE code = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def share_launch(self, key: str, instance: str, expires: Micros, now: Micros) -> None:
        """From now on launches with this key join this instance. Those of expired instances are forgotten."""
        self._write("DELETE FROM launch WHERE expires <= ? OR code = ?", (now, key))
        self.add_launch(key, instance, expires)

    def is_shared(self, instance: str) -> bool:
        """Whether launches can still join this instance, or begin it."""
        return self._run("SELECT 1 FROM launch WHERE instance = ?", (instance,)).fetchone() is not None

    def forget_launches(self, instance: str) -> None:
        self._write("DELETE FROM launch WHERE instance = ?", (instance,))

    def forget_codes(self) -> None:
        """All codes for launches, for signing in and for enrolling a key."""
        self._write("DELETE FROM launch", ())
        self._write("DELETE FROM sign_in", ())


@lru_cache(maxsize=32)
def _revoked(count: int) -> str:
    """What selects the revocations of so many keys."""
    keys = " OR ".join(["(kind = ? AND name = ?)"] * count)
    return f"FROM revocation WHERE (until >= ? OR kind = 'instance') AND ({keys})"


def _read(said: str) -> Instance:
    values = json.loads(said)
    agent = Agent(**{**values["agent"], "groups": tuple(values["agent"]["groups"])})
    lists = {name: tuple(values[name]) for name in ("tools", "parents")}
    return Instance(**{**values, **lists, "agent": agent, "task": Task(**values["task"])})
