"""What is shown of changes has no secret, in none of the places and spellings in which people write one."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.cli.init_templates import InitAnswers, initial_files
from mcp_guard.clients import jsonc
from mcp_guard.clients.secret_values import hidden_parts, mask, secret_arguments, secrets_of
from mcp_guard.clients.toml_sections import toml_string

Entry = dict[str, object]
Writer = Callable[[str], Entry]


def args(*words: str) -> Writer:
    return lambda secret: {"command": "c", "args": [word.replace("SECRET", secret) for word in words]}


def members(**values: str | dict[str, str]) -> Writer:
    text = json.dumps({"command": "c", **values})
    return lambda secret: json.loads(text.replace("SECRET", json.dumps(secret)[1:-1]))


ANYTHING = [
    args("run", "-e", "GITHUB_PERSONAL_ACCESS_TOKEN=SECRET", "ghcr.io/x/y"),
    args("run", "--env=PGPASS=SECRET"),
    args("run", "-e", "PGPASS=SECRET"),
    args("mcp-remote", "https://x.example/mcp", "--header", "Authorization: Bearer SECRET"),
    args("mcp-remote", "https://x.example/mcp", "--header", "X-Custom:SECRET"),
    args("--header=X-Custom: SECRET"),
    args("--token", "SECRET"),
    args("--api-key=SECRET"),
    args("--profile=SECRET"),
    members(env={"GITHUB_PAT": "SECRET"}),
    members(env={"SESSION": "SECRET"}),
    members(headers={"X-Session": "SECRET"}),
    members(headers={"Authorization": "Bearer SECRET"}),
]
"""Where a value of any kind is hidden."""
WITHOUT_SPACES = [
    args("-c", "PGPASS=SECRET exec my-mcp"),
    args("postgresql://me:SECRET@db.example/x"),
    args("https://SECRET@git.example/x"),
    args("https://x.example/mcp?tavilyApiKey=SECRET&x=1"),
    members(url="https://x.example/mcp?api_key=SECRET"),
    members(url="https://x.example/mcp?a=b&k=SECRET#top"),
]
TOKENS = [
    "ghp_0123456789abcdef", "sk-proj-abcdef", "xoxb-1-2-abcdef", "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.e30.abc",
    "HOOKSECRET123456", "d0e4a2c6b8f0", "550e8400-e29b-41d4-a716-446655440000", "kJhGfDsAqWeRtYuIoPzXcV",
]  # fmt: skip
RECOGNISED = [
    args("SECRET"),
    args("serve", "--workspace", "SECRET"),
    members(url="https://hooks.slack.com/services/T0/B0/SECRET"),
    members(env={"SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/SECRET"}),
    members(env={"LOG": "/var/log/SECRET"}),
    members(env={"OPENAPI_MCP_HEADERS": '{"Authorization": "Bearer SECRET", "Notion-Version": "2022-06-28"}'}),
    members(command="SECRET"),
    members(note="SECRET"),
]
"""Where a token is hidden because of what it looks like."""


def toml_entry(entry: Entry) -> str:
    pairs = [
        f"{key} = {{ {', '.join(f'{toml_string(name)} = {toml_string(text)}' for name, text in value.items())} }}"
        if isinstance(value, dict)
        else f"{key} = [{', '.join(map(toml_string, value))}]"
        if isinstance(value, list)
        else f"{key} = {toml_string(str(value))}"
        for key, value in entry.items()
    ]
    return "\n".join(["[upstreams.it]", *pairs])


def shown(entry: Entry) -> str:
    """The entry in both files, after each other, as if each of them were in the difference."""
    text, section = json.dumps({"mcpServers": {"it": entry}}, indent=1), toml_entry(entry)
    parts = [*hidden_parts(json.loads(text)), *hidden_parts(tomllib.loads(section))]
    return mask(text, parts) + mask(json.dumps(entry, ensure_ascii=False), parts) + mask(section, parts)


printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x17F, exclude_characters="*"), min_size=4)
no_path = printable.filter(lambda text: text[0] not in "/\\~.:" and not text.lower().startswith("http"))


@given(st.sampled_from(ANYTHING), no_path.filter(lambda text: "${" not in text and text[1] != ":"))
def test_value_of_what_has_a_name_is_not_shown(write: Writer, secret: str) -> None:
    secret = f"q{secret}q"
    assert secret not in shown(write(secret)).replace('\\"', '"').replace("\\\\", "\\")


@given(st.sampled_from(WITHOUT_SPACES), st.text("abcdefABCDEF0123456789._~-", min_size=4))
def test_value_in_an_address_or_script_is_not_shown(write: Writer, secret: str) -> None:
    secret = f"q{secret}q"
    assert secret not in shown(write(secret))


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("write", RECOGNISED)
def test_token_is_not_shown_wherever_it_is(write: Writer, token: str) -> None:
    assert token not in shown(write(token))


def shown_commented_out(entry: Entry) -> str:
    """The entry in comments of both files, in each layout."""
    texts = (json.dumps({"it": entry}), json.dumps({"it": entry}, indent=1), toml_entry(entry))
    blocks = [f"/* {text} */" for text in texts[:2]]
    lines = ["\n".join(f"  {mark} {line}" for line in text.split("\n")) for text in texts for mark in ("//", "#")]
    return mask("\n".join(f"{text}\n x = 1" for text in (*blocks, *lines)), [])


@given(st.sampled_from([*ANYTHING, *WITHOUT_SPACES]), st.text("abcdefABCDEF0123456789._~-", min_size=4))
def test_value_in_a_comment_is_not_shown(write: Writer, secret: str) -> None:
    secret = f"q{secret}q"
    assert secret not in shown_commented_out(write(secret))


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("write", RECOGNISED)
def test_token_in_a_comment_is_not_shown(write: Writer, token: str) -> None:
    assert token not in shown_commented_out(write(token))
    assert token not in mask(f'{{"a": 1}} // the old one was {token}', [])


def test_comment_shows_what_is_no_secret() -> None:
    text = """\
{
  // see https://example.com/docs?page: for "it", env = { "HOME": "/home/you", "TOKEN": "${input:token}" } or "a"
  "link": "http://x", "say": "// password: of a string", /* "command": "npx", "args": ["-y", "@scope/server"] */
}
# "args" = ["--port", "8080"] # mode = "observe"
"""
    assert mask(text, []) == text


def test_comments_of_a_new_configuration_are_shown() -> None:
    for text in initial_files(Path("/home/you/mcp-guard.toml"), InitAnswers("agent", "you", "other")).values():
        assert mask(text, []) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"it": {"command": "c", "env": {"SESSION": "first", "SESSION": "last"}}}',
        '{"it": {"command": "c", "env": {"SESSION": "first"}, "env": {}, "env": {"SESSION": "last"}}}',
        '{"it": {"command": "c", "args": ["--token", "first"], "args": ["--token", "last"]}, "it": {}}',
    ],
)
def test_value_of_a_member_that_another_one_replaces_is_not_shown(text: str) -> None:
    masked = mask(text, hidden_parts(jsonc.every_value(jsonc.parse(text))))
    assert "first" not in masked
    assert "last" not in masked
    assert masked.count("********") == 2


@pytest.mark.parametrize("spelt", ["ghp\\/0123456789", "\\u0067hp\\/0123456789", "g\\u0068p/0123456789"])
def test_secret_in_an_unusual_spelling_is_not_shown(spelt: str) -> None:
    text = f'{{"mcpServers": {{"it": {{"command": "c", "env": {{"TOKEN": "{spelt}"}}}}}}}}'
    assert "0123456789" not in mask(text, hidden_parts(json.loads(text)))


def test_what_is_no_secret_is_shown() -> None:
    entry: Entry = {
        "command": "npx",
        "args": ["-y", "@modelcontextprotocol/server-filesystem@2.1.0", "/home/you/project-2", "--debug=1"],
        "env": {"HOME_FOLDER": "/home/you", "DEBUG": "true", "API": "https://x.example/v2/mcp", "TOKEN": "${TOKEN}"},
        "timeout": 60,
    }
    assert "*" not in shown(entry)


def test_short_value_is_hidden_only_where_it_is() -> None:
    text = shown({"command": "eu", "args": ["eu", "-e", "R=eu"], "env": {"REGION": "eu"}})
    assert '"command": "eu"' in text
    assert '"REGION": "********"' in text
    assert '"R=********"' in text


def test_secret_in_an_argument_is_named_as_one() -> None:
    secret = ["GITHUB_TOKEN=x1", "Authorization: Bearer x", "postgresql://me:pass@db/x", "ghp_0123456789", "--key=k"]
    assert [*secret_arguments(["run", "-e", *secret, "--mode=x", "/home/you"])] == secret


def test_names_tell_secrets_outside_of_servers() -> None:
    settings = {
        "apiKey": "abcdefgh",
        "history": ["A=12345678", "--token", "12345678"],
        "theme": "kJhGfDsAqWeRtYuIoPzXcV",
    }
    assert [hidden.text for hidden in hidden_parts(settings)] == [*secrets_of(settings)] == ["abcdefgh", "12345678"]
