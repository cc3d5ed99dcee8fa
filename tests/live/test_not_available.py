"""A tool that cannot be used because something is broken is not unknown: the agent hears that it is not available."""

from pathlib import Path

from tests.live.running_guard import Client, cli, log, scripted, seen, text, write_config

HIDDEN = '@id("echo") permit (principal, action == Action::"up__echo", resource);\n'


def test_a_misspelt_section_stops_neither_the_guard_nor_other_tools(tmp_path: Path) -> None:
    section = '[tools."up__ehco"]\neffect = "read"\n'
    config = write_config(tmp_path, scripted("up", tmp_path), more=section)
    line = config.read_text().splitlines().index('[tools."up__ehco"]') + 1
    with Client(config) as client:
        client.start()
        assert "up__echo" not in client.tools()
        assert "result" in client.call("up__count")
        said = text(client.call("up__echo", {"text": "x"}))
        assert "unknown tool" in client.call("up__ehco")["error"]["message"]
    assert said.startswith('not available: [tools."up__ehco"] of the configuration matches no tool, and may mean this')
    assert '[tools."up__ehco"]: `up` has no tool of this name; did you mean `up__echo`?' in client.stderr
    assert "denied in enforce mode until they are fixed: up__echo" in client.stderr
    assert [call["name"] for call in seen(tmp_path, "up")] == ["count"]
    validated = cli("policy", "validate", "--config", str(config), check=False)
    assert (validated.returncode, validated.stdout) == (3, "")
    problem = f'mcp-guard.toml:{line}: [tools."up__ehco"]: `up` has no tool of this name; did you mean `up__echo`?'
    assert validated.stderr.splitlines()[0] == f"mcp-guard: {problem}"
    assert f"configuration: {problem}" in cli("status", "--config", str(config)).stdout
    issued = cli("instances", "issue", "--tool", "up__ehco", "--config", str(config), check=False)
    assert issued.returncode == 8
    assert issued.stderr == "mcp-guard: `up__ehco` matches no tool\nhint: did you mean `up__echo`?\n"


def test_while_a_server_is_down_its_tools_are_not_available(tmp_path: Path) -> None:
    down = '[upstreams.down]\ncommand = "false"\n[tools."down__anything"]\neffect = "read"\n'
    config = write_config(tmp_path, scripted("up", tmp_path) + down, policies=HIDDEN)
    with Client(config) as client:
        client.start()
        client.tools()
        said = text(client.call("down__anything"))
        assert said.startswith("not available: upstream `down` ")
        assert str(tmp_path) not in said, "an agent may be on another machine, and learns no path of this one"
        for name in ("up__count", "up__nonesuch", "nonesuch"):  # one that is hidden from it, and two that do not exist
            assert "unknown tool" in client.call(name)["error"]["message"]
        assert "result" in client.call("up__echo", {"text": "x"})
    assert f"(see its stderr: {tmp_path}" in client.stderr
    assert "names in the configuration" not in client.stderr, "nobody knows the tools of a server that is down"
    assert log(config, "--kind", "decision")[0]["reasons"][0] == "not available"


def test_with_broken_policies_every_tool_is_not_available_for_the_same_reason(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), policies="permit (principal, action")
    with Client(config) as client:
        client.start()
        said = [text(client.call(name)).partition(" Receipt ")[0] for name in ("up__echo", "up__nonesuch", "nonesuch")]
    assert set(said) == {
        "not available: the policies could not be loaded; the operator can find out why: mcp-guard doctor. "
        "Nothing was sent."
    }
    assert "test.cedar:1:26: unexpected end of the file" in client.stderr
    assert seen(tmp_path, "up") == []
