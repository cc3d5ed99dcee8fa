"""The process that a coding agent's hook starts: passes one event to the guard, and prints its answer.

It runs for each tool call of an agent, so it imports nothing but what Python has loaded at its start, and a socket;
`wrap --hooks` has it started as a file, without this package. What an event means is left to the guard.

INVARIANT: whatever goes wrong before the guard has answered, the exit code is 2, by which agents deny the call; except
for events that decide nothing, which must not stop the agent.
"""

import os
import socket
import sys

DENIED, WARNED = 2, 1
SECONDS = 590.0
"""How long an answer is waited for; `wrap --hooks` lets agents wait a little longer."""
MARGIN = 5.0
"""How many seconds before that the guard answers a call which nobody has decided on."""
PROJECT_VARIABLES = ("CLAUDE_PROJECT_DIR", "GEMINI_PROJECT_DIR", "CURSOR_PROJECT_DIR")
HARMLESS = ("PostToolUse", "PostToolUseFailure", "AfterTool", "postToolUse", "postToolUseFailure", "Stop", "SessionEnd",
            "AfterAgent", "stop", "sessionEnd", "SessionStart", "sessionStart", "UserPromptSubmit", "BeforeAgent",
            "beforeSubmitPrompt")  # fmt: skip
"""Events that decide nothing: without the guard, only the next tool call is denied."""


def main(arguments: list[str]) -> int:
    """`arguments`: the agent, the socket, and for how many seconds an answer is waited for."""
    agent, path = arguments[0], arguments[1]
    seconds = float(arguments[2]) if len(arguments) > 2 else SECONDS
    payload = sys.stdin.buffer.read()
    try:
        exit_code, stdout, stderr = ask(agent, path, seconds, payload)
    except (OSError, ValueError, EOFError) as error:
        reason = "did not answer in time" if isinstance(error, TimeoutError) else f"cannot be asked: {error}"
        sys.stderr.write(
            f"mcp-guard: denied, because the guard at `{path}` {reason}\n"
            "hint: start it with `mcp-guard serve`, or remove the hook with `mcp-guard unwrap --hooks`; "
            "`mcp-guard doctor` says what is wrong\n"
        )
        return code_without_guard(payload)
    sys.stdout.buffer.write(stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(stderr)
    return exit_code


def ask(agent: str, path: str, seconds: float, payload: bytes, margin: float = MARGIN) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error. Raises: OSError, ValueError, EOFError."""
    project = next((os.environ[name] for name in PROJECT_VARIABLES if os.environ.get(name)), "")
    with socket.socket(socket.AF_UNIX) as guard:
        guard.settimeout(seconds)
        guard.connect(path)
        told = seconds - margin if margin < seconds else seconds / 2
        head = f"mcp-guard-hook 1 {agent} {told} {len(payload)} -{os.fsencode(project).hex()}\n"
        guard.sendall(head.encode() + payload)
        answer = b""
        while piece := guard.recv(65536):
            answer += piece
    first, newline, rest = answer.partition(b"\n")
    if not newline:
        raise EOFError("it closed the connection")
    exit_code, out, err = map(int, first.split())
    if len(rest) != out + err:
        raise EOFError("its answer is not complete")
    return exit_code, rest[:out], rest[out:]


def code_without_guard(payload: bytes) -> int:
    """The exit code if the guard was not asked: `DENIED`, unless the event certainly decides nothing."""
    import json

    try:
        return WARNED if json.loads(payload)["hook_event_name"] in HARMLESS else DENIED
    except (ValueError, KeyError, TypeError, RecursionError):
        return DENIED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
