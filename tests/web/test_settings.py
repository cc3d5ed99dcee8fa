"""The section `[web]`: what it refuses, and what it means."""

from pathlib import Path

import pytest

from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError
from mcp_guard.settings import Settings
from mcp_guard.web.roles import Role, roles_of_approver
from tests.live.running_guard import scripted, write_config


def read(folder: Path, web: str) -> Settings:
    return load(write_config(folder, scripted("up", folder), more=f"[web]\n{web}\n"))


@pytest.mark.parametrize(
    ("web", "problem"),
    [
        ("", "web.url"),
        ('url = "http://guard.example.com"', "browsers keep passkeys for https only; write https://guard.example.com"),
        (
            'url = "https://guard.example.com/console"',
            "has more than a host and a port; write https://guard.example.com",
        ),
        ('url = "https://me@guard.example.com"', "has more than a host and a port"),
        ('url = "https://10.0.0.7"', "`10.0.0.7` is not a host name, which passkeys need"),
        ('url = "https://[::1]"', "`::1` is not a host name"),
        ('url = "https://guard.example.com:99999"', "is not a URL"),
        ('url = "https://a.example"\nlisten = "8764"', "web.listen"),
        ('url = "https://a.example"\nlisten = "127.0.0.1:88888"', "does not end with a port"),
        ('url = "https://a.example"\nsocket_group = "www-data"', 'set listen = "unix:PATH"'),
        ('url = "https://a.example"\nlisten = "unix:' + "x" * 101 + '"', "must have at most 100 bytes"),
        ('url = "https://a.example"\ncertificate = "a"', "give both `certificate` and `key`, or neither"),
        (
            'url = "http://localhost:1"\ncertificate = "a"\nkey = "b"',
            "with a certificate the `url` begins with https://",
        ),
        ('url = "https://a.example"\nidle_minutes = 1', "web.idle_minutes"),
        ('url = "https://a.example"\n[web.roles]\nauditor = ["alcie"]', "did you mean"),
        ('url = "https://a.example"\n[web.roles]\napprover = ["alice"]', "web.roles.approver"),
    ],
)
def test_section_that_cannot_work_is_refused(tmp_path: Path, web: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, web)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://guard.example.com/", "https://guard.example.com"),
        ("https://Guard.Example.com:443", "https://guard.example.com"),
        ("https://guard.example.com:8443", "https://guard.example.com:8443"),
        ("http://localhost:8764", "http://localhost:8764"),
        ("http://guard.localhost:80", "http://guard.localhost"),
    ],
)
def test_address_is_an_origin_as_browsers_write_it(tmp_path: Path, url: str, origin: str) -> None:
    settings = read(tmp_path, f'url = "{url}"')
    assert settings.web is not None
    assert settings.web.url == settings.pages == origin


def test_roles_are_besides_what_every_approver_is(tmp_path: Path) -> None:
    settings = read(tmp_path, 'url = "https://a.example"\n[web.roles]\nauditor = ["alice"]\noperator = ["alice"]')
    assert roles_of_approver("alice", settings) == set(Role) - {Role.USER}
    assert roles_of_approver("bob", settings) == {Role.APPROVER, Role.VIEWER}
    assert roles_of_approver("mallory", settings) == set()


def test_links_lead_to_the_inbox_without_the_section(tmp_path: Path) -> None:
    settings = load(write_config(tmp_path, scripted("up", tmp_path)))
    assert settings.pages == settings.inbox == "http://localhost:8765"
