"""Listings of real servers: everything they declare is typed, and no tool is flagged."""

from pathlib import Path

from mcp_guard.app import listed_tools, policy_environment
from mcp_guard.config import load
from mcp_guard.core.definition_checks import ListedTool, check_tools
from mcp_guard.policy.engine import load_policies
from mcp_guard.policy.shapes import Shape, ValueKind, input_shape
from tests.live.running_guard import upstream, write_config
from tests.live.test_real_servers import BIN, node
from tests.proof_size import in_full


def kinds(shape: Shape) -> set[ValueKind]:
    inner = [*shape.fields.values(), *shape.options, *([shape.element] if shape.element else [])]
    return {shape.kind, *(kind for item in inner for kind in kinds(item))}


@in_full  # packs are tested with recorded listings of these servers
async def test_real_servers_declare_nothing_that_policies_cannot_see(tmp_path: Path) -> None:
    upstreams = [
        upstream("git", str(BIN / "mcp-server-git")),
        upstream("time", str(BIN / "mcp-server-time"), "--local-timezone", "UTC"),
        node("everything", "stdio"),
        node("filesystem", str(tmp_path)),
    ]
    settings = load(write_config(tmp_path, "\n".join(upstreams)))
    tools, absent = await listed_tools(settings)
    assert not absent
    engine = load_policies(settings.policies, policy_environment(settings, tools, absent))
    shapes = {tool.listed_as: input_shape(tool) for tool in tools}
    assert [name for name, shape in shapes.items() if shape is None or ValueKind.OPAQUE in kinds(shape)] == []
    edits = engine.schema()[""]["actions"]["filesystem__edit_file"]["appliesTo"]["context"]
    assert edits["attributes"]["input"]["attributes"]["edits"]["attributes"].keys() == {"oldText", "newText"}
    result = check_tools({tool.listed_as: ListedTool(tool.server, tool.name, tool.definition) for tool in tools})
    assert [findings for findings in result.values() if findings] == []
