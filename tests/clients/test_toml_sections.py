"""What `unwrap` takes out of the guard's configuration."""

from mcp_guard.clients.toml_sections import TomlBlock, remove_blocks

SERVER = TomlBlock('\n[upstreams.git]\ncommand = "git"\n', "git__")
EFFECTS = TomlBlock('\n[tools."git__status"]\neffect = "read"\n', "")
CONFIG = '[guard]\npolicies = "policies"\n'


def test_confirmed_effects_go_or_stay_with_their_server() -> None:
    text = CONFIG + SERVER.text + EFFECTS.text
    assert remove_blocks(text, [SERVER, EFFECTS], {}) == (CONFIG, [])
    after, kept = remove_blocks(text, [SERVER, EFFECTS], {"a.cedar": 'Action::"git__status"', "b.cedar": ""})
    assert after == text
    assert dict(kept) == {SERVER: "a.cedar refers to it", EFFECTS: "its server stays"}
