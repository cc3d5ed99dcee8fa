"""The process that a coding agent's hook starts: passes one event to the guard, and prints its answer.

It runs for each tool call of an agent, so it imports nothing but what Python has loaded at its start, and a socket;
`wrap --hooks` has it started as a file, without this package. What an event means is left to the guard.

INVARIANT: whatever goes wrong before the guard has answered, the exit code is 2, by which agents deny the call; except
for events that decide nothing, which must not stop the agent, whatever the guard makes of them.
"""

import os
import socket
import sys
import time

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
OUTCOMES = ("tool_response", "tool_output")
LEFT_OUT = "left out, because the guard refused the whole report"


def main(arguments: list[str]) -> int:
    """`arguments`: the agent, the socket, and for how many seconds an answer is waited for."""
    agent, path = arguments[0], arguments[1]
    ends = time.monotonic() + (float(arguments[2]) if len(arguments) > 2 else SECONDS)
    payload = sys.stdin.buffer.read()
    try:
        exit_code, stdout, stderr = ask(agent, path, ends - time.monotonic(), payload)
        if exit_code == DENIED and (short := without_outcome(payload)):
            exit_code, stdout, _ = ask(agent, path, ends - time.monotonic(), short)
    except (OSError, ValueError, EOFError, RecursionError) as error:
        reason = "did not answer in time" if isinstance(error, TimeoutError) else f"cannot be asked: {error}"
        sys.stderr.write(
            f"mcp-guard: denied, because the guard at `{path}` {reason}\n"
            "hint: start it with `mcp-guard serve`, or remove the hook with `mcp-guard unwrap --hooks`; "
            "`mcp-guard doctor` says what is wrong\n"
        )
        return code_of_denial(payload)
    sys.stdout.buffer.write(stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(stderr)
    return code_of_denial(payload) if exit_code == DENIED else exit_code


def ask(agent: str, path: str, seconds: float, payload: bytes, margin: float = MARGIN) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error, after so many `seconds` at most. Raises: OSError, ValueError,
    EOFError."""
    ends = time.monotonic() + seconds
    project = next((os.environ[name] for name in PROJECT_VARIABLES if os.environ.get(name)), "")
    with socket.socket(socket.AF_UNIX) as guard:
        limit(guard, ends)
        guard.connect(path)
        told = seconds - margin if margin < seconds else seconds / 2
        head = f"mcp-guard-hook 1 {agent} {told} {len(payload)} -{os.fsencode(project).hex()}\n"
        try:
            limit(guard, ends)
            guard.sendall(head.encode() + payload)  # its time limit is for the whole
        except ConnectionError:
            pass  # it may have answered without reading all of it
        answer = receive(guard, ends)
    first, newline, rest = answer.partition(b"\n")
    if not newline:
        raise EOFError("it closed the connection")
    exit_code, out, err = map(int, first.split())
    if len(rest) != out + err:
        raise EOFError("its answer is not complete")
    return exit_code, rest[:out], rest[out:]


def receive(guard: socket.socket, ends: float) -> bytes:
    answer = b""
    try:
        while limit(guard, ends) and (piece := guard.recv(65536)):
            answer += piece
    except ConnectionError:
        if not answer:
            raise
    return answer


def limit(guard: socket.socket, ends: float) -> bool:
    """Let its next operation take the time that is left. Raises: TimeoutError."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    guard.settimeout(left)
    return True


def code_of_denial(payload: bytes) -> int:
    """The exit code if the guard was not asked or took nothing: `DENIED`, unless the event surely decides nothing."""
    return WARNED if harmless_event(payload) else DENIED


def without_outcome(payload: bytes) -> bytes:
    """A report without its content, which settles the call; empty if the event is no report."""
    import json

    event = harmless_event(payload)
    outcomes = {name: LEFT_OUT for name in OUTCOMES if name in event}
    return json.dumps({**event, **outcomes}).encode() if outcomes else b""


def harmless_event(payload: bytes) -> dict[str, object]:
    """The event if it certainly decides nothing; else empty."""
    import json

    try:
        event = json.loads(payload)
        return event if event["hook_event_name"] in HARMLESS else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
