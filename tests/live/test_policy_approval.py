"""Two real guards on one database: both load what was approved, whichever of them has proposed it."""

import json
from pathlib import Path

from tests.cli.test_policy_approval import Approvers, until
from tests.live.running_guard import Client, log, scripted, text, write_config
from tests.promises.engines import using

RULE = '[routes.policy]\napprovers = ["alice", "bob"]\nquorum = 2\n'


def test_all_guards_of_a_database_load_what_was_approved(tmp_path: Path) -> None:
    with using("postgres"):
        config = write_config(tmp_path, scripted("up", tmp_path), guard='policy_approval = "policy"', more=RULE)
        people = Approvers(config)
        with Client(config) as first, Client(config) as second:
            first.start()
            second.start()
            until(people.waiting)
            for guard in (first, second):
                assert "no policies have been approved yet" in text(guard.call("up__echo", {"text": "hello"}))
            people.approve()
            for guard in (first, second):
                until(lambda guard=guard: "hello" in text(guard.call("up__echo", {"text": "hello"})))  # type: ignore[misc]
        loaded = [receipt for receipt in log(config) if receipt["kind"] == "policy.loaded"]
        assert len({receipt["guard"] for receipt in loaded}) == 2
        assert len({json.dumps(receipt["approved_by"]) for receipt in loaded}) == 1
        assert [receipt["kind"] for receipt in log(config)].count("policy.proposed") == 1
        people.run("verify")
