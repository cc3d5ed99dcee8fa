"""All configurations of nginx in `deploy/` are ones that nginx accepts, and choose the gateway alike."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.nginx import make_certificate, needs_nginx
from tests.docs.page import ROOT

DEPLOY = ROOT / "deploy"
IN_CONTAINERS = {
    "compose": DEPLOY / "compose" / "nginx.conf",
    "kubernetes": DEPLOY / "kubernetes" / "base" / "nginx.conf",
}


def routing(path: Path) -> list[str]:
    """The directives by which a request finds its gateway, in order, without what surrounds them."""
    text = re.sub(r"#.*", "", path.read_text())
    maps = re.findall(r"map \S+ \S+ \{.*?\n *\}|map \".*?\" \S+ \{.*?\n *\}", text, re.DOTALL)
    location = re.findall(r"location ~ .*?\n *\}", text, re.DOTALL)
    return [" ".join(found.split()) for found in [*maps, *location, *re.findall(r"hash .*?;", text)]]


@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_gateway_is_chosen_as_on_one_machine(name: str) -> None:
    chosen = routing(DEPLOY / "nginx" / "mcp-guard.conf")
    assert len(chosen) == 6
    assert routing(IN_CONTAINERS[name]) == chosen


@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_pages_are_served_by_every_gateway(name: str) -> None:
    text = IN_CONTAINERS[name].read_text()
    hosts = {port: re.findall(rf"server (\S+):{port} resolve;", text) for port in (8764, 8766)}
    assert hosts[8764] == hosts[8766]
    everything_else = re.findall(r"location / \{\s+proxy_pass (\S+);", text)
    assert everything_else == ["http://mcp_guard_pages"]


@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_nginx_accepts_the_configuration(name: str, tmp_path: Path) -> None:
    """Debian's nginx has no `resolve`, and there are no such hosts here."""
    text, resolved = re.subn(r"server \S+:(\d+) resolve;", r"server 127.0.0.1:\1;", IN_CONTAINERS[name].read_text())
    assert resolved == 6
    certificate = make_certificate(tmp_path)
    text = text.replace("/tmp/", f"{tmp_path}/")
    text = re.sub(r"resolver \S+", "resolver 127.0.0.1", text)
    text = re.sub(r"(ssl_certificate\s+)\S+;", rf"\g<1>{certificate.path};", text)
    text = re.sub(r"(ssl_certificate_key\s+)\S+;", rf"\g<1>{certificate.key};", text)
    (tmp_path / "nginx.conf").write_text(text)
    words = [needs_nginx(), "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\[(warn|error)\]", done.stderr)
