"""`deploy/compose`: its parts fit together, and what its gateways run first does what it says. No engine is needed."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from mcp_guard.cli import COMMANDS
from tests.docs.page import ROOT

FOLDER = ROOT / "deploy" / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
GATEWAYS = {name: service for name, service in SERVICES.items() if service["image"] == "mcp-guard"}


def test_every_network_volume_and_secret_that_is_used_is_defined() -> None:
    for service in SERVICES.values():
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert set(service.get("depends_on", [])) <= set(SERVICES)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_files_of_secrets_are_not_in_the_repository() -> None:
    assert {Path(secret["file"]).parent for secret in COMPOSE["secrets"].values()} == {Path("secrets")}
    tracked = subprocess.run(["git", "ls-files", "secrets"], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert tracked.stdout.split() == ["secrets/.gitignore"]
    assert (FOLDER / "secrets" / ".gitignore").read_text() == "*\n!.gitignore\n"


def test_nginx_knows_each_gateway() -> None:
    names = re.findall(r"^ *server (\S+):8766 resolve;$", (FOLDER / "nginx.conf").read_text(), re.MULTILINE)
    assert names == list(GATEWAYS)
    assert len(names) == 3
    for path in re.findall(r"ssl_certificate\S* +/run/secrets/(\S+);", (FOLDER / "nginx.conf").read_text()):
        assert path in SERVICES["nginx"]["secrets"]


def test_only_nginx_is_reached_from_outside_and_only_gateways_reach_the_database() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert {name for name, service in SERVICES.items() if "database" in service["networks"]} == {*GATEWAYS, "database"}
    assert COMPOSE["networks"]["database"] == {"internal": True}


def test_containers_have_no_privileges() -> None:
    [user] = re.findall(r"^USER (\d+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    for name, service in SERVICES.items():
        assert service["security_opt"] == ["no-new-privileges:true"]
        if name != "database":
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
    for gateway in GATEWAYS.values():
        assert f"/var/lib/mcp-guard:uid={user},gid={user},mode=0700" in gateway["tmpfs"]


@pytest.mark.parametrize("arguments", [["serve"], ["keys", "rotate"]])
def test_gateway_gets_its_secrets(arguments: list[str], tmp_path: Path) -> None:
    """Its start command, with folders of the test, in front of a program that prints what it was given."""
    [first, *_] = GATEWAYS.values()
    assert first["command"] == ["serve"]
    assert arguments[0] in COMMANDS
    for name in ("ledger-key", "ledger-key-new")[: len(arguments)]:
        (tmp_path / name).write_text("the key")
    (tmp_path / "database-password").write_text("s3cret\n")
    (tmp_path / "shared-secret").write_text("hidden\n")
    program = tmp_path / "bin" / "mcp-guard"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$DATABASE_URL" "$SHARED_SECRET" "$@"\n')
    program.chmod(0o700)
    moved = [
        word.replace("$$", "$").replace("/run/secrets", str(tmp_path)).replace("/var/lib/mcp-guard", str(tmp_path))
        for word in first["entrypoint"]
    ]
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run(
        [shell, *moved[1:], *arguments],
        env={"PATH": f"{program.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    url = "postgresql://mcp_guard:s3cret@database/mcp_guard"
    assert done.stdout.split() == [url, "hidden", *arguments]
    keys = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("ledger.key*")}
    assert keys == dict.fromkeys(("ledger.key", "ledger.key.new")[: len(arguments)], 0o600)
