"""The servers of `make servers`: how each is started, and calls of it that need no account and no network."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NODE = HERE / "node_modules"
BIN = Path(sys.executable).parent
Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Server:
    """In `argv`, `env` and arguments, `{work}` is the folder that `prepare` fills, and `{web}` a page on loopback."""

    name: str
    package: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    """Tools with arguments, called in this order in one session."""


def npm(package: str, entry: str, *args: str, name: str, calls: tuple[Call, ...] = (), **env: str) -> Server:
    return Server(name, package, (str(BIN / "node"), str(NODE / package / entry), *args), env, calls)


def official(part: str, *args: str, name: str = "", calls: tuple[Call, ...] = (), **env: str) -> Server:
    """The server `part` of the organization that maintains MCP."""
    package = f"@modelcontextprotocol/server-{part}"
    return npm(package, "dist/index.js", *args, name=name or part, calls=calls, **env)


def pypi(package: str, *args: str, name: str, sdk: int, calls: tuple[Call, ...] = (), program: str = "") -> Server:
    """A server whose environment has the official SDK 1 or 2, which cannot be installed together."""
    return Server(name, package, (str(HERE / f".venv-sdk{sdk}" / "bin" / (program or package)), *args), {}, calls)


CHROMIUM = "/usr/bin/chromium"
PAGE = "data:text/html,<title>Orders</title><h1>Orders</h1><button>Pay</button>"
GIT = {"repo_path": "{work}/repository"}
BOOK = {"path": "{work}/book.xlsx"}
DOC = {"filename": "{work}/letter.docx"}
TABLE = {"file_path": "{work}/table.json"}

SERVERS = (
    official(
        "everything",
        "stdio",
        calls=(
            ("echo", {"message": "Grüße, \u2028 and \U0001f600"}),
            ("get-sum", {"a": 2, "b": 3}),
            ("get-sum", {"a": 48.85837, "b": 3.14159265}),
            ("get-sum", {"a": 9007199254740993, "b": -1}),
            ("get-annotated-message", {"messageType": "error", "includeImage": True}),
            ("get-annotated-message", {"messageType": "success"}),
            ("get-structured-content", {"location": "Chicago"}),
            ("get-resource-links", {"count": 3}),
            ("get-resource-links", {}),
            ("get-resource-reference", {"resourceType": "Blob", "resourceId": 2}),
            ("get-tiny-image", {}),
            ("trigger-long-running-operation", {"duration": 0.2, "steps": 2}),
        ),
    ),
    official(
        "filesystem",
        "{work}",
        calls=(
            ("list_allowed_directories", {}),
            ("write_file", {"path": "{work}/new.txt", "content": "one\ntwo\n"}),
            ("read_text_file", {"path": "{work}/new.txt", "head": 1}),
            ("edit_file", {"path": "{work}/new.txt", "edits": [{"oldText": "two", "newText": "three"}]}),
            ("edit_file", {"path": "{work}/new.txt", "edits": [{"oldText": "three", "newText": "4"}], "dryRun": True}),
            ("move_file", {"source": "{work}/new.txt", "destination": "{work}/moved.txt"}),
            ("create_directory", {"path": "{work}/folder"}),
            ("directory_tree", {"path": "{work}/folder"}),
            ("read_media_file", {"path": "{work}/dot.png"}),
            ("read_multiple_files", {"paths": ["{work}/hello.txt", "{work}/missing.txt"]}),
            ("search_files", {"path": "{work}", "pattern": "hel*"}),
            ("read_text_file", {"path": "{work}/missing.txt"}),
            ("read_text_file", {"path": "/etc/hostname"}),
        ),
    ),
    official(
        "memory",
        MEMORY_FILE_PATH="{work}/memory.jsonl",
        calls=(
            ("create_entities", {"entities": [{"name": "a", "entityType": "person", "observations": ["tall"]}]}),
            ("create_relations", {"relations": [{"from": "a", "to": "a", "relationType": "knows"}]}),
            ("add_observations", {"observations": [{"entityName": "a", "contents": ["kind"]}]}),
            ("read_graph", {}),
            ("search_nodes", {"query": "kind"}),
            ("delete_entities", {"entityNames": ["a"]}),
            ("add_observations", {"observations": [{"entityName": "nobody", "contents": ["kind"]}]}),
        ),
    ),
    official(
        "sequential-thinking",
        name="thinking",
        calls=(
            (
                "sequentialthinking",
                {"thought": "t", "nextThoughtNeeded": True, "thoughtNumber": 1, "totalThoughts": 2},
            ),
            (
                "sequentialthinking",
                {"thought": "t", "nextThoughtNeeded": "false", "thoughtNumber": "2", "totalThoughts": 2},
            ),
        ),
    ),
    official("github"),
    official("google-maps", GOOGLE_MAPS_API_KEY="none"),
    official("brave-search", BRAVE_API_KEY="none"),
    official("slack", SLACK_BOT_TOKEN="none", SLACK_TEAM_ID="T0"),
    official("postgres", "postgresql://127.0.0.1:1/none", calls=(("query", {"sql": "select 1"}),)),
    official("budget-allocator", "--stdio", name="budget", calls=(("get-budget-data", {}),)),
    official("cohort-heatmap", "--stdio", name="cohorts"),  # its data is random
    official(
        "map",
        "--stdio",
        calls=(
            ("show-map", {"west": 13.0883, "south": 52.33826, "east": 13.7611609, "north": 52.6755087}),
            ("show-map", {}),
        ),
    ),
    official("pdf", "--stdio", calls=(("list_pdfs", {}), ("read_pdf_bytes", {"url": "file:///none.pdf"}))),
    official("scenario-modeler", "--stdio", name="scenarios", calls=(("get-scenario-data", {}),)),
    official(
        "sheet-music",
        "--stdio",
        calls=(("play-sheet-music", {}), ("play-sheet-music", {"abcNotation": "X:1\nK:C\nCDEF|"})),
    ),
    npm(
        "@playwright/mcp",
        "cli.js",
        *("--headless", "--isolated", "--no-sandbox", "--executable-path", CHROMIUM),
        name="playwright",
        calls=(
            ("browser_navigate", {"url": "{web}"}),
            ("browser_snapshot", {}),
            ("browser_evaluate", {"function": "() => document.title"}),
            ("browser_evaluate", {"function": "() => 2 ** 53 + 2"}),
            ("browser_resize", {"width": 800.5, "height": 600}),
            ("browser_take_screenshot", {}),
            ("browser_press_key", {"key": "Tab"}),
            ("browser_wait_for", {"time": 0.0625}),
            ("browser_tabs", {"action": "list"}),
            ("browser_click", {"element": "none", "target": "e99"}),
            ("browser_close", {}),
        ),
    ),
    npm(
        "chrome-devtools-mcp",
        "build/src/bin/chrome-devtools-mcp.js",
        *("--headless", "--isolated", "--executablePath", CHROMIUM, "--chromeArg=--no-sandbox"),
        name="devtools",
        CHROME_DEVTOOLS_MCP_NO_USAGE_STATISTICS="1",
        calls=(
            ("list_pages", {}),
            ("navigate_page", {"pageId": 1, "url": "{web}"}),
            ("take_snapshot", {"pageId": 1}),
            ("evaluate_script", {"pageId": 1, "function": "() => document.title"}),
            ("take_screenshot", {"pageId": 1}),
        ),
    ),
    npm(
        "@antv/mcp-server-chart",
        "build/index.js",
        name="charts",
        calls=(("generate_pie_chart", {"data": []}),),
        VIS_REQUEST_SERVER="http://127.0.0.1:1",
    ),
    npm(
        "@bytebase/dbhub",
        "dist/index.js",
        *("--demo", "--transport", "stdio"),
        name="dbhub",
        calls=(
            ("search_objects", {"object_type": "table"}),
            ("search_objects", {"object_type": "table", "limit": "2"}),
            ("execute_sql", {"sql": "select count(*) as n, 9007199254740993 as big, 0.1 as part from employee"}),
            ("execute_sql", {"sql": "select * from nothing"}),
        ),
    ),
    npm(
        "@drawio/mcp",
        "src/index.js",
        name="drawio",
        calls=(("search_shapes", {"query": "server", "limit": 2}), ("list_pages", {"path": "{work}/none.drawio"})),
    ),
    npm(
        "@eslint/mcp",
        "src/mcp-cli.js",
        name="eslint",
        calls=(("lint-files", {"filePaths": ["{work}/script.js"]}),),
    ),
    npm("@notionhq/notion-mcp-server", "bin/cli.mjs", name="notion", NOTION_TOKEN="none"),
    npm("@upstash/context7-mcp", "dist/index.js", name="context7"),
    npm(
        "@wonderwhy-er/desktop-commander",
        "dist/index.js",
        name="commander",
        DO_NOT_TRACK="1",
        calls=(
            ("list_directory", {"path": "{work}/repository", "depth": 1}),
            ("write_file", {"path": "{work}/note.txt", "content": "a"}),
            ("read_file", {"path": "{work}/note.txt"}),
            ("list_searches", {}),
        ),
    ),
    npm(
        "mcp-hello-world",
        "build/stdio.js",
        name="hello",
        calls=(("echo", {"message": "hi"}), ("add", {"a": 1.23456789, "b": 2}), ("debug", {})),
    ),
    npm(
        "mcp-server-code-runner",
        "dist/cli.js",
        name="code-runner",
        calls=(("run-code", {"code": "print(6 * 7)", "languageId": "python"}),),
    ),
    npm(
        "mongodb-mcp-server",
        "dist/esm/index.js",
        name="mongodb",
        MDB_MCP_TELEMETRY="disabled",
        calls=(
            ("list-connections", {}),
            ("find", {"connectionId": "none", "database": "a", "collection": "b"}),
            ("drop-database", {"connectionId": "none", "database": "a"}),
        ),
    ),
    pypi(
        "mcp-server-time",
        *("--local-timezone", "UTC"),
        name="time",
        sdk=2,
        calls=(
            ("get_current_time", {"timezone": "Europe/Berlin"}),
            ("convert_time", {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
            ("get_current_time", {"timezone": "Nowhere"}),
        ),
    ),
    pypi(
        "mcp-server-git",
        *("--repository", "{work}/repository"),
        name="git",
        sdk=2,
        calls=(
            ("git_status", GIT),
            ("git_log", {**GIT, "max_count": 1, "start_timestamp": None}),
            ("git_log", {**GIT, "max_count": "1"}),
            ("git_create_branch", {**GIT, "branch_name": "next"}),
            ("git_add", {**GIT, "files": ["later.txt"]}),
            ("git_diff_staged", GIT),
            ("git_show", {**GIT, "revision": "none"}),
        ),
    ),
    pypi(
        "mcp-server-fetch",
        name="fetch",
        sdk=2,
        calls=(
            ("fetch", {"url": "{web}"}),
            ("fetch", {"url": "{web}", "max_length": 5}),
            ("fetch", {"url": "{web}no"}),
        ),
    ),
    pypi(
        "excel-mcp-server",
        "stdio",
        name="excel",
        sdk=2,
        calls=(
            ("create_workbook", BOOK),
            ("create_sheet", {**BOOK, "new_name": "Sales"}),
            ("write_range", {**BOOK, "sheet": "Sales", "at": "A1", "rows": [["a", 1], ["b", 2.718281828]]}),
            ("read_range", {**BOOK, "sheet": "Sales"}),
            ("delete_rows_or_columns", {**BOOK, "sheet": "Sales", "axis": "rows", "start": 1}),
            ("describe_workbook", BOOK),
            ("delete_sheet", {**BOOK, "sheet": "None"}),
        ),
    ),
    pypi(
        "mcp-server-motherduck",
        *("--db-path", ":memory:", "--read-write"),
        name="motherduck",
        sdk=2,
        calls=(("execute_query", {"sql": "select 0.1 as part, 170141183460469231731687303715884105727 as big"}),),
    ),
    pypi(
        "mcp-kb-sqlite",
        name="knowledge",
        sdk=2,
        calls=(
            ("save", {"ns": "a", "key": "k", "title": "t", "data": "text", "tags": None}),
            ("get", {"id": 1}),
            ("search", {"query": "text"}),
            ("delete", {"id": 1}),
            ("get", {"id": 1}),
        ),
    ),
    pypi("mcp-clickhouse", name="clickhouse", sdk=2),
    pypi("duckduckgo-mcp-server", name="duckduckgo", sdk=2),
    pypi(
        "awslabs-aws-documentation-mcp-server",
        name="aws-docs",
        sdk=2,
        program="awslabs.aws-documentation-mcp-server",
    ),
    pypi(
        "mcp-mathematics",
        name="mathematics",
        sdk=1,
        calls=(
            ("calculate_expression", {"expr": "sqrt(2) * 10**20"}),
            ("calculate_statistics", {"data": [1, 2.5, 3.14159265], "operation": "mean"}),
            ("convert_units", {"value": 48.85837, "from_unit": "m", "to_unit": "ft", "unit_type": "length"}),
            ("analyze_number_theory", {"number": 97, "operation": "is_prime"}),
            ("matrix_operation", {"matrices": [[[1, 2], [3, 4]]], "operation": "determinant"}),
            ("list_functions", {}),
        ),
    ),
    pypi(
        "mcp-server-calculator",
        name="calculator",
        sdk=1,
        calls=(("calculate", {"expression": "2**200"}), ("calculate", {"expression": "1/0"})),
    ),
    pypi(
        "mcp-server-duckdb",
        *("--db-path", "{work}/duck.db"),
        name="duckdb",
        sdk=1,
        calls=(("query", {"query": "select 42 as answer"}), ("query", {"query": "select * from nothing"})),
    ),
    pypi(
        "mcp-json-yaml-toml",
        name="json-yaml-toml",
        sdk=1,
        calls=(("data_query", {**TABLE, "expression": ".rows[0]"}), ("constraint_list", {})),
    ),
    Server(
        "cli",
        "cli-mcp-server",
        (str(HERE / ".venv-sdk1" / "bin" / "cli-mcp-server"),),
        # Its description lists a Python set, whose order changes with the hash seed, so its pin would not hold.
        {"ALLOWED_DIR": "{work}", "PYTHONHASHSEED": "0"},
        (("show_security_rules", {}), ("run_command", {"command": "cat hello.txt"})),
    ),
    pypi(
        "office-word-mcp-server",
        name="word",
        sdk=1,
        program="word_mcp_server",
        calls=(
            ("create_document", {**DOC, "title": "A letter"}),
            ("add_paragraph", {**DOC, "text": "Dear all"}),
            ("get_document_text", DOC),
            ("get_document_text", {"filename": "{work}/none.docx"}),
        ),
    ),
    pypi(
        "office-powerpoint-mcp-server",
        name="powerpoint",
        sdk=1,
        program="ppt_mcp_server",
        calls=(("create_presentation", {"id": "deck"}), ("list_presentations", {})),
    ),
    pypi("arxiv-mcp-server", name="arxiv", sdk=1, calls=(("list_papers", {}), ("list_watches", {}))),
    pypi("jcodemunch-mcp", name="jcodemunch", sdk=1, calls=(("jcodemunch_guide", {}), ("menu", {"limit": 2}))),
    pypi("blender-mcp", name="blender", sdk=1, calls=(("get_addon_status", {}), ("get_scene_info", {"query": None}))),
)
