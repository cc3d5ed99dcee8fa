"""Every shipped policy pack: its cases pass, each policy matters to a case, and the recorded listings are current."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from mcp import Client, StdioServerParameters

from mcp_guard.app import listed_tools, policy_environment
from mcp_guard.config import load
from mcp_guard.policy.authoring.cases import read_cases, run_cases
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.policy.source import read_policies
from mcp_guard.settings import Settings

ROOT = Path(__file__).parent.parent.parent
PACKS = ROOT / "examples" / "packs"
CONFIGS = [
    *sorted(PACKS.glob("*.toml")),
    ROOT / "examples" / "crm" / "config.toml",
    ROOT / "examples" / "crm" / "high-risk.toml",
]
FOLDERS = {path.name for path in (ROOT / "policies").iterdir() if path.is_dir()}
BIN = Path(sys.executable).parent
NODE = ROOT / "tests" / "node" / "node_modules" / "@modelcontextprotocol"


def settings_of(config: Path, state: Path) -> Settings:
    """The pack's configuration, with servers run by this Python and state outside the working tree."""
    settings = load(config)
    servers = {name: replace(each, argv=(sys.executable, *each.argv[1:])) for name, each in settings.upstreams.items()}
    return replace(settings, state_dir=state, upstreams=servers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, PolicyEnvironment]:
    """What each pack's server lists."""
    result = {}
    for config in CONFIGS:
        settings = settings_of(config, tmp_path_factory.mktemp("pack"))
        tools, absent = await listed_tools(settings)
        assert not absent, config
        result[config] = policy_environment(settings, tools, absent)
    return result


def failing(engine: PolicyEngine, environment: PolicyEnvironment, cases: Path) -> list[str]:
    catalog = {tool.listed_as: tool for tool in environment.tools}
    results = run_cases(engine, catalog, read_cases(cases))
    assert results
    return [f"{result.case.name}: {result.differences}" for result in results if result.differences]


def policies() -> list[tuple[Path, str]]:
    """Each policy of each pack, with the configuration it is tested under."""
    results = []
    for config in CONFIGS:
        settings = load(config)
        results += [(config, id) for id in read_policies(settings.policies, settings.routes).policies]
    return results


def test_every_folder_of_policies_has_a_configuration() -> None:
    assert {load(config).policies.resolve().name for config in CONFIGS} == FOLDERS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_case_is_decided_as_written(config: Path, environments: dict[Path, PolicyEnvironment]) -> None:
    folder = load(config).policies
    assert failing(load_policies(folder, environments[config]), environments[config], folder) == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_pack_loads_beside_the_servers_of_the_others(
    config: Path, environments: dict[Path, PolicyEnvironment]
) -> None:
    own = environments[config]
    names = {tool.listed_as for tool in own.tools}
    for other in environments.values():
        more = tuple(tool for tool in other.tools if tool.listed_as not in names)
        attributes = {**other.attributes, **own.attributes}
        engine = load_policies(load(config).policies, replace(own, tools=own.tools + more, attributes=attributes))
        assert not engine.problems


@pytest.mark.parametrize(("config", "id"), policies(), ids=lambda part: part.stem if isinstance(part, Path) else part)
def test_without_this_policy_a_case_fails(
    config: Path, id: str, environments: dict[Path, PolicyEnvironment], tmp_path: Path
) -> None:
    folder = load(config).policies
    for file in folder.glob("*.cedar"):
        first, *rest = file.read_text().split("\n@id(")
        (tmp_path / file.name).write_text(first + "".join(f"\n@id({item}" for item in rest if f'"{id}")' not in item))
    assert id not in read_policies(tmp_path, environments[config].routes).policies
    assert failing(load_policies(tmp_path, environments[config]), environments[config], folder)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_tool_that_is_configured_is_listed(config: Path, environments: dict[Path, PolicyEnvironment]) -> None:
    assert load(config).tool_rules.keys() <= {tool.listed_as for tool in environments[config].tools}


REAL = {
    "git": (str(BIN / "mcp-server-git"),),
    "filesystem": (str(BIN / "node"), str(NODE / "server-filesystem" / "dist" / "index.js"), "/tmp"),
}


@pytest.mark.parametrize("name", REAL)
async def test_a_recorded_listing_is_what_the_real_server_lists(name: str) -> None:
    words = REAL[name]
    async with Client(StdioServerParameters(command=words[0], args=list(words[1:]))) as client:
        listed = (await client.list_tools()).tools
    results = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed]
    assert results == json.loads((PACKS / "listings" / f"{name}.json").read_text())
