"""A sample of `make fleet-upgrade`: a ledger of format 4 becomes one in a database, and guards go on with it."""

from pathlib import Path

from tests.ledger.fleet_upgrade import DATABASE, FIXTURE, ORIGIN, upgrade
from tests.live.running_guard import Client, cli, log, scripted, write_config


def test_ledger_of_format_4_moves_into_a_database_where_a_guard_goes_on_with_it(tmp_path: Path) -> None:
    config = upgrade(FIXTURE, tmp_path)
    write_config(tmp_path, scripted("up", tmp_path), guard=ORIGIN, more=DATABASE)
    with Client(config, ("--agent", "tester")) as client:
        client.start()
        client.call("up__get_deal", {"id": "1"})
    kinds = [receipt["kind"] for receipt in log(config)]
    assert [kind for kind in kinds if kind in ("intent", "outcome")][-2:] == ["intent", "outcome"]
    assert kinds[-1] == "guard.stopped"
    at = ("--config", str(config), "--against")
    cli("verify", *at, str(tmp_path / "backup" / "checkpoint"), "--against", str(FIXTURE / "checkpoint"))
