"""The MCP methods that the guard supports, and how each is routed. Requests that are not listed here are refused.

Source: the MCP schemas of the handshake revisions 2024-11-05 to 2025-11-25. Their methods that could run a tool without
`tools/call` (`tasks/*`) are deliberately absent; those of revision 2026-07-28 have a path of their own
(`downstream/task_requests.py`).
"""

from enum import Enum, auto

from mcp_guard.core.tasks import EXTENSION, TASK_METHODS

REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LATEST = REVISIONS[-1]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

INITIALIZE = "initialize"
PING = "ping"
CALL_TOOL = "tools/call"
LIST_TOOLS = "tools/list"
INITIALIZED = "notifications/initialized"
CANCELLED = "notifications/cancelled"
PROGRESS = "notifications/progress"
GUARDED = (CALL_TOOL, *TASK_METHODS)
"""Requests that run a tool, or go on with one: nothing of the client is sent with them but what was decided on."""
ELICIT = "elicitation/create"
SET_LEVEL = "logging/setLevel"
READ = "resources/read"
SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"
URLS_SINCE = "2025-11-25"
"""The first revision whose clients can be asked to open a URL."""
LIST_PROMPTS = "prompts/list"
LIST_RESOURCES = "resources/list"
LIST_TEMPLATES = "resources/templates/list"
TOOLS_CHANGED = "notifications/tools/list_changed"
PROMPTS_CHANGED = "notifications/prompts/list_changed"
RESOURCES_CHANGED = "notifications/resources/list_changed"
LISTS_CHANGED = {
    TOOLS_CHANGED: (LIST_TOOLS,),
    PROMPTS_CHANGED: (LIST_PROMPTS,),
    RESOURCES_CHANGED: (LIST_RESOURCES, LIST_TEMPLATES),
}
"""The lists that each of these notifications is about."""
RESOURCE_UPDATED = "notifications/resources/updated"


class RoutingRule(Enum):
    """Who answers a client's request."""

    GUARD = auto()
    """The guard."""
    JOIN_LISTS = auto()
    """Every capable upstream; their lists are joined."""
    BY_PROMPT = auto()
    """The upstream of the prompt that it names."""
    BY_URI = auto()
    """The upstream of the resource that it names."""
    BY_REF = auto()
    """The upstream of the prompt or resource template that it completes."""
    ALL_CAPABLE = auto()
    """Every capable upstream; one reply is passed on."""


CLIENT_REQUESTS: dict[str, RoutingRule] = {
    INITIALIZE: RoutingRule.GUARD,
    PING: RoutingRule.GUARD,
    LIST_TOOLS: RoutingRule.GUARD,
    CALL_TOOL: RoutingRule.GUARD,
    LIST_RESOURCES: RoutingRule.JOIN_LISTS,
    LIST_TEMPLATES: RoutingRule.JOIN_LISTS,
    LIST_PROMPTS: RoutingRule.JOIN_LISTS,
    "prompts/get": RoutingRule.BY_PROMPT,
    READ: RoutingRule.BY_URI,
    SUBSCRIBE: RoutingRule.BY_URI,
    UNSUBSCRIBE: RoutingRule.BY_URI,
    "completion/complete": RoutingRule.BY_REF,
    SET_LEVEL: RoutingRule.ALL_CAPABLE,
}

LISTS = {
    LIST_TOOLS: "tools",
    LIST_RESOURCES: "resources",
    LIST_TEMPLATES: "resourceTemplates",
    LIST_PROMPTS: "prompts",
}
"""The member of the result that holds the list."""

CAPABILITY = {
    LIST_TOOLS: "tools",
    LIST_RESOURCES: "resources",
    LIST_TEMPLATES: "resources",
    READ: "resources",
    SUBSCRIBE: "resources",
    UNSUBSCRIBE: "resources",
    LIST_PROMPTS: "prompts",
    "prompts/get": "prompts",
    "completion/complete": "completions",
    SET_LEVEL: "logging",
}
"""The server capability without which an upstream is not asked."""

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Of log messages, from the most verbose on."""
CLIENT_NOTIFICATIONS_FOR_ALL = ("notifications/roots/list_changed",)

WITHHELD_CAPABILITIES = ("tasks",)
"""Capabilities not passed on in either direction: they would run tools by a path that is not guarded yet."""
WITHHELD_EXTENSIONS = (EXTENSION,)
"""The same, as extensions of revision 2026-07-28."""


def negotiate(requested: object, answered: list[str]) -> str:
    """The revision for the client: never newer than the one it requested, or than one that an upstream answered."""
    supported = [revision for revision in [requested, *answered] if revision in REVISIONS]
    return str(min(supported, default=LATEST)) if requested in REVISIONS else str(min([LATEST, *supported]))
