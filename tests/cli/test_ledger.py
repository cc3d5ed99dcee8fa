"""`mcp-guard ledger`: exporting and proving on the command line."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Past
from tests.live.running_guard import cli, without_config


def test_missing_subcommand_lists_the_subcommands() -> None:
    done = cli("ledger", check=False)
    assert done.returncode == 2
    assert "export" in done.stderr
    assert "prove" in done.stderr
    assert cli("ledger", "--help").returncode == 0
    wrong = cli("ledger", "destroy", check=False)
    assert wrong.returncode == 2
    assert wrong.stderr == "mcp-guard: no command `ledger destroy`\nhint: mcp-guard ledger --help\n"


def test_repeated_export_reports_nothing_new(past: Past, tmp_path: Path) -> None:
    at = (str(tmp_path / "out"), "--config", str(past.config))
    done = cli("ledger", "export", *at)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    size = (tmp_path / "out/checkpoint").read_text().split("\n")[1]
    assert done.stdout.startswith(f"exported {size} receipts to {tmp_path / 'out'}, {size} of them new, root ")
    again = json.loads(cli("ledger", "export", *at, "--json").stdout)
    assert (again["receipts"], again["new"]) == (int(size), 0)
    policies = list((tmp_path / "out/policies").iterdir())
    assert [json.loads(path.read_text())["mangling"] for path in policies] == [1]


def test_export_to_a_foreign_folder_is_refused(past: Past, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = cli("ledger", "export", str(tmp_path), "--config", str(past.config), check=False)
    assert done.returncode == 5
    assert done.stderr.startswith(f"mcp-guard: `{tmp_path}` is not empty and is not an export of this ledger\nhint: ")


def test_prove_prints_one_bundle_per_receipt(past: Past) -> None:
    at = ("--config", str(past.config))
    shown = json.loads(cli("show", "--json", call_of(past, "outcome"), *at).stdout)["receipts"]
    done = cli("ledger", "prove", call_of(past, "outcome"), *at)
    bundles = [json.loads(line) for line in done.stdout.splitlines()]
    assert [json.loads(bundle["entry"].partition("\n")[0]) for bundle in bundles] == shown
    assert all("payloads" not in bundle for bundle in bundles)
    alone = cli("ledger", "prove", str(shown[-1]["seq"]), *at, "--payloads").stdout.splitlines()
    assert len(alone) == 1
    assert set(json.loads(alone[0])["payloads"]) == {"response"}


def call_of(past: Past, kind: str) -> str:
    logged = json.loads(cli("log", "--kind", kind, "--json", "--config", str(past.config)).stdout)
    return str(logged[-1]["call"])


@pytest.mark.parametrize("what", ["100000", "call_nonesuch"])
def test_missing_receipt_cannot_be_proved(past: Past, what: str) -> None:
    done = cli("ledger", "prove", what, "--config", str(past.config), check=False)
    assert done.returncode == 5
    assert f"`{what}`" in done.stderr or f"no receipt {what}" in done.stderr
    assert "hint: mcp-guard log" in done.stderr


def test_proof_needs_an_existing_cosigned_head(past: Past) -> None:
    done = cli("ledger", "prove", "0", "--cosigned", "--config", str(past.config), check=False)
    assert done.returncode == 5
    assert without_config(done.stderr).endswith("is cosigned\nhint: mcp-guard ledger witness\n")
