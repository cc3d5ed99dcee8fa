"""P5 for the methods beside tool calls: what is listed is what some request could be allowed or held for."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.decided_methods import AREAS, LIST_TEMPLATES, make_operations, read_request, targets_of
from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import Facts, Instance, Json, Outcome, Tool, ToolCallRequest
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from tests.promises.harness import make_instance
from tests.promises.test_p5_listing_agrees import EFFECTS, PRINCIPALS, WHO, instances
from tests.proof_size import sized

OPERATIONS = {tool.listed_as: tool for tool in make_operations(("crm", "git"), AREAS, {})}
TEMPLATES = ["crm://deals/{id}", "file:///{+path}", "crm://search{?q,limit}", "file:///docs/{name}"]
URIS = ["crm://deals/42", "crm://deals/7", "crm://about", "file:///docs/a.md", "file:///secret/b", "crm://deals/../x"]
OF_TEMPLATE = [
    *("crm://deals/42", "crm://deals/7"), *("file:///docs/a.md", "file:///secret/b"),
    *("crm://search", "crm://search?q=x", "crm://search?limit=1", "crm://search?q=x&limit=1"),
]  # fmt: skip
ANY = ["action", 'action in Action::"read"', 'action in Action::"server:crm"']
ACTIONS = {
    "Resource": [
        *ANY, 'action in Action::"resources/read"', 'action == Action::"crm__resources/read"',
        'action in Action::"resources/subscribe"',
    ],
    "Prompt": [*ANY, 'action in Action::"prompts/get"', 'action == Action::"crm__prompts/get"'],
}  # fmt: skip
ABOUT = [
    'resource.server == "crm"', 'resource.scheme == "file"', 'resource.path like "/secret*"',
    'resource.host == "deals"',
    'resource.hasTag("id") && resource.getTag("id") == "42"', 'resource.hasTag("q")', 'resource.template == ""',
    'resource == Resource::"crm://about"',
]  # fmt: skip


PROMPTS: list[Json] = [
    {"name": "greet", "arguments": [{"name": "who", "required": True}, {"name": "language"}]}, {"name": "plain"},
]  # fmt: skip
GETS: list[Json] = [
    {"name": "plain"}, {"name": "greet", "arguments": {"who": "x"}}, {"name": "greet", "arguments": {"who": "Ann"}},
    {"name": "greet", "arguments": {"who": "x", "language": "en"}},
    {"name": "greet", "arguments": {"who": "Ann", "language": "de"}},
]  # fmt: skip
ABOUT_PROMPTS = [
    'resource.hasTag("language")', '!(resource.hasTag("language"))', 'resource.name == "plain"',
    'resource.hasTag("who") && resource.getTag("who") == "Ann"', 'resource == Prompt::"greet"',
]  # fmt: skip


def listed(server: str, method: str) -> list[Json]:
    return [{"uriTemplate": template} for template in TEMPLATES] if method == LIST_TEMPLATES else PROMPTS


def policy_sets(type: str, about: list[str]) -> st.SearchStrategy[str]:
    policy = st.builds(
        lambda effect, who, action, condition: (
            f"{effect} ({who}, {action}, resource) when {{ "
            + (f"resource is {type} && {condition}" if "resource" in condition else condition) + " };"
        ),
        st.sampled_from(EFFECTS),
        st.sampled_from(PRINCIPALS),
        st.sampled_from(ACTIONS[type]),
        st.sampled_from(WHO + about),
    )  # fmt: skip
    return st.lists(policy, min_size=1, max_size=5).map(
        lambda bodies: "\n".join(f'@id("p{number}") {body}' for number, body in enumerate(bodies))
    )


def load(policies: str) -> PolicyEngine:
    with tempfile.NamedTemporaryFile("w", suffix=".cedar") as file:
        file.write(policies)
        file.flush()
        environment = PolicyEnvironment((), routes=("people",), operations=tuple(OPERATIONS.values()))
        return load_policies(Path(file.name), environment)


def goes(engine: PolicyEngine, instance: Instance, tool: Tool, arguments: Json) -> bool:
    """Whether this request is allowed or held."""
    facts = read_request(tool, arguments, listed)
    if not isinstance(facts, Facts):
        return False
    call = describe(DescriptionRules(), "call_1", instance, ToolCallRequest(tool.listed_as, arguments), tool)
    return engine.decide(DescriptionRules().assess(call, facts), {}).outcome is not Outcome.DENY


def is_listed(engine: PolicyEngine, instance: Instance, tool: Tool, item: Json) -> bool:
    return engine.may_call(instance, tool) and engine.may_reach(instance, tool, targets_of(tool, item, listed))


def read_tools() -> Iterable[Tool]:
    return (tool for tool in OPERATIONS.values() if tool.method in ("resources/read", "resources/subscribe"))


@settings(max_examples=sized(100, 25))
@given(policy_sets("Resource", ABOUT), instances)
def test_a_resource_is_listed_exactly_if_it_could_be_read(policies: str, instance: Instance) -> None:
    engine = load(policies)
    for tool in read_tools():
        for uri in URIS:
            assert is_listed(engine, instance, tool, {"uri": uri}) == goes(engine, instance, tool, {"uri": uri})


@settings(max_examples=sized(100, 25))
@given(policy_sets("Resource", ABOUT), instances)
def test_a_template_is_listed_if_one_of_its_resources_could_be_read(policies: str, instance: Instance) -> None:
    engine = load(policies)
    for tool in read_tools():
        for template in TEMPLATES:
            fitting = [uri for uri in OF_TEMPLATE if uri.startswith(template.partition("{")[0])]
            if any(goes(engine, instance, tool, {"uri": uri}) for uri in fitting):
                assert is_listed(engine, instance, tool, {"uriTemplate": template}), template


@settings(max_examples=sized(100, 25))
@given(policy_sets("Prompt", ABOUT_PROMPTS), instances)
def test_a_prompt_is_listed_if_it_could_be_got_and_else_not(policies: str, instance: Instance) -> None:
    engine, tool = load(policies), OPERATIONS["crm__prompts/get"]
    for prompt in PROMPTS:
        could = any(goes(engine, instance, tool, get) for get in GETS if get["name"] == prompt["name"])
        assert is_listed(engine, instance, tool, prompt) == could, prompt["name"]


def test_a_template_of_which_nothing_could_be_read_is_not_listed() -> None:
    engine = load("""@id("all") permit (principal, action, resource);
    @id("p") forbid (principal, action, resource is Resource) when { resource.template == "crm://deals/{id}" };
    @id("q") forbid (principal, action, resource is Resource) when { !(resource.hasTag("limit")) };
    @id("r") forbid (principal, action, resource is Resource) when { resource.hasTag("limit") };""")
    instance = make_instance()
    tool = OPERATIONS["crm__resources/read"]
    assert not is_listed(engine, instance, tool, {"uriTemplate": "crm://deals/{id}"})
    assert not is_listed(engine, instance, tool, {"uriTemplate": "crm://search{?q,limit}"})


def test_what_may_be_of_several_templates_is_denied_where_a_policy_depends_on_that() -> None:
    instance, tool = make_instance(), OPERATIONS["crm__resources/read"]
    several, one = {"uri": "file:///docs/a.md"}, {"uri": "file:///a.md"}
    permit = '@id("all") permit (principal, action, resource);'
    assert goes(load(permit), instance, tool, several)
    for about in ('resource.template == "file:///{+path}"', 'resource.hasTag("path") && resource.getTag("path") == ""'):
        engine = load(f'{permit} @id("p") forbid (principal, action, resource is Resource) when {{ {about} }};')
        assert not goes(engine, instance, tool, several)
        assert goes(engine, instance, tool, one) == ("template" not in about)
