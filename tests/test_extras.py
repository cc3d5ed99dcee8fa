"""Packages that only some configurations need: `doctor` finds what is missing before a guard fails to start."""

import json
import os
import re
import subprocess
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from mcp_guard.extras import EXTRAS
from tests.live.http_guard import free_port
from tests.live.running_guard import Client, command, scripted, write_config

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MISSING = ("cvc5", "keyring", "psycopg", "prometheus_client", "opentelemetry", "rfc3161_client")
READS_ONLY = '@id("reads") permit (principal, action in Action::"read", resource);'
EVERYTHING = """
[ledger]
database = { env = "DATABASE_URL" }
signer = "keyring"
[witnesses.authority]
kind = "rfc3161"
url = "https://tsa.example.com"
roots = "roots.pem"
[telemetry]
metrics = true
otlp_endpoint = "http://127.0.0.1:4318"
otlp_headers = { authorization = { keyring = "otlp/token" } }
"""


def without_extras(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command in an environment into which no extra was installed."""
    for module in MISSING:
        (folder / f"{module}.py").write_text(f"raise ModuleNotFoundError('no', name={module!r})")
    env = {**os.environ, "PYTHONPATH": str(folder), "DATABASE_URL": "postgresql://localhost/guard"}
    return subprocess.run(command(*words), env=env, capture_output=True, text=True, timeout=60)


def test_doctor_finds_the_package_without_which_serve_cannot_start(tmp_path: Path) -> None:
    """After an upgrade into a new environment, from the lock file that has no extras."""
    more = f"[serve]\nport = {free_port()}\n[telemetry]\nmetrics = true\n"
    config = write_config(tmp_path, scripted("up", tmp_path), more=more)
    doctor = without_extras(tmp_path, "doctor", "--config", str(config))
    serve = without_extras(tmp_path, "serve", "--config", str(config))
    assert (doctor.returncode, serve.returncode) == (2, 3), doctor.stdout + serve.stderr
    assert "`telemetry.metrics` requires a package that is not installed: prometheus_client" in doctor.stdout
    assert "requires a package that is not installed: prometheus_client" in serve.stderr
    hint = "pip install --require-hashes -r requirements-all.lock"
    assert hint in doctor.stdout
    assert hint in serve.stderr


def test_doctor_names_every_part_of_the_configuration_that_lacks_a_package(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), more=f"[serve]\nport = {free_port()}\n{EVERYTHING}")
    doctor = without_extras(tmp_path, "doctor", "--json", "--config", str(config))
    assert doctor.returncode == 2, doctor.stderr
    found = [finding["what"] for finding in json.loads(doctor.stdout) if finding["check"] == "packages"]
    assert [line.partition(" requires a package that is not installed: ")[::2] for line in found] == [
        ('`ledger.signer = "keyring"`', "keyring"),
        ('the secret `{ keyring = "otlp/token" }`', "keyring"),
        ("`ledger.database`", "psycopg"),
        ("`telemetry.metrics`", "prometheus_client"),
        ("`telemetry.otlp_endpoint`", "opentelemetry"),
        ('`witnesses.authority.kind = "rfc3161"`', "rfc3161_client"),
    ]


def test_policies_are_suggested_without_the_solver(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), policies=READS_ONLY, guard='mode = "observe"')
    with Client(config) as client:
        client.start()
        for _ in range(3):
            client.call("up__echo", {"text": "hi"})
    words = ("policy", "suggest", "--free", "text", "--config", str(config))
    done = without_extras(tmp_path, *words, "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "they would permit is not examined: install the extra `proofs`" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "suggested.cases.toml", "suggested.cedar", "test.cedar",
    }  # fmt: skip
    as_json = without_extras(tmp_path, *words, "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)["newly_permits"]["nothing_else"]) == (0, "")


def test_every_extra_is_in_the_list_in_the_documents_and_in_the_lock_file() -> None:
    extras: dict[str, list[str]] = PROJECT["optional-dependencies"]
    assert {extra.name for extra in EXTRAS} == set(extras)
    page = (ROOT / "docs" / "howto" / "install.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page.partition("## Extras")[2], re.MULTILINE)) == set(extras)
    lock, base = (
        dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements-all.lock", "requirements.lock")
    )
    assert base.items() <= lock.items()
    for name, requirements in extras.items():
        wanted = {re.split(r"[\[>=]", requirement)[0] for requirement in requirements}
        assert wanted <= lock.keys()
        modules = {module.partition(".")[0] for extra in EXTRAS if extra.name == name for module in extra.modules}
        shown = {
            package.replace("_", "-").lower() for module in modules for package in packages_distributions()[module]
        }
        assert wanted <= shown, "each of its packages has a module whose import shows that it is installed"
