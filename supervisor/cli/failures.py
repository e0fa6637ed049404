"""What went wrong, for a person in a sentence and what to do next, for a program as JSON, for a script as a code."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs
from rich.text import Text

from supervisor.cli.exit_codes import ExitCode
from supervisor.control.client_views import (
    CannotConnect,
    ConnectionLost,
    ControlClientError,
    NotAuthenticated,
    RemoteError,
)
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonObject
from supervisor.safe_text import log_line, one_line

_EXIT_CODES: Final[Mapping[str, ExitCode]] = {
    ErrorCode.NOT_FOUND: ExitCode.REFUSED,
    ErrorCode.INVALID_TRANSITION: ExitCode.REFUSED,
    ErrorCode.BUSY: ExitCode.REFUSED,
    ErrorCode.TIMEOUT: ExitCode.TIMED_OUT,
    ErrorCode.CAPACITY_EXCEEDED: ExitCode.REFUSED,
    ErrorCode.SANDBOX_FAILED: ExitCode.FAILED,
    ErrorCode.IMAGE_UNAVAILABLE: ExitCode.FAILED,
    ErrorCode.ENGINE_UNAVAILABLE: ExitCode.FAILED,
    ErrorCode.AGENT_REFUSED: ExitCode.FAILED,
    ErrorCode.CONFLICT: ExitCode.REFUSED,
    ErrorCode.UNAUTHORIZED: ExitCode.REFUSED,
    ErrorCode.FORBIDDEN: ExitCode.REFUSED,
    ErrorCode.HISTORY_GONE: ExitCode.REFUSED,
    ErrorCode.SHUTTING_DOWN: ExitCode.REFUSED,
    ErrorCode.INTERNAL: ExitCode.FAILED,
    "invalid_params": ExitCode.REFUSED,
    "invalid_request": ExitCode.REFUSED,
    "method_not_found": ExitCode.REFUSED,
    "parse_error": ExitCode.REFUSED,
}
_ENDINGS: Final = {
    ExitCode.USAGE: "cannot be asked",
    ExitCode.REFUSED: "was refused",
    ExitCode.FAILED: "failed",
    ExitCode.TIMED_OUT: "timed out",
    ExitCode.UNREACHABLE: "did not get through",
}
_COMMANDS: Final = {
    "restart": "restart {target}",
    "restart with force": "restart --force {target}",
    "stop": "stop {target}",
    "resume": "resume {target}",
}
_STEPS: Final[Mapping[str, str]] = {
    ErrorCode.NOT_FOUND: "conversationctl list",
    ErrorCode.ENGINE_UNAVAILABLE: "conversationctl info, which says whether the engine answers; then try again",
    ErrorCode.UNAUTHORIZED: "name the token's file with --token-file or $CONVERSATIOND_TOKEN_FILE",
    "unreachable": "see that conversationd runs and that you may use it, or name another --address",
}


@attrs.frozen
class Trouble:
    """An error as it is told. `code` is the protocol's word, or one of ours for what never got to the daemon."""

    exit_code: ExitCode
    code: str
    message: str
    data: JsonObject = attrs.field(factory=dict)


def trouble_of(error: ControlClientError) -> Trouble:
    """What an error of the client library means for whoever called."""
    message = str(error)
    match error:
        case RemoteError():
            return Trouble(_EXIT_CODES.get(error.code, ExitCode.FAILED), error.code, message, error.data)
        case NotAuthenticated():
            return Trouble(ExitCode.REFUSED, ErrorCode.UNAUTHORIZED, "the daemon wants a token, and this is not it")
        case CannotConnect():
            return Trouble(ExitCode.UNREACHABLE, "unreachable", message)
        case ConnectionLost():
            return Trouble(ExitCode.UNREACHABLE, "connection_lost", message)
        case _:
            return Trouble(ExitCode.FAILED, "unexpected_answer", message)


def as_json(trouble: Trouble) -> JsonObject:
    """The error for a program."""
    error: JsonObject = {"code": str(trouble.code), "message": trouble.message, "data": trouble.data}
    return {"error": error, "exit_code": int(trouble.exit_code)}


def as_text(trouble: Trouble, title: str, target: str | None) -> Text:
    """The error for a person: a sentence that says what failed and why, what is known of it, and what to do next."""
    text = Text()
    text.append("conversationctl: ", "bold")
    text.append(f"{title} {_ENDINGS[trouble.exit_code]}: ", "bold red")
    text.append(one_line(trouble.message))
    for line in _particulars(trouble.data):
        text.append(f"\n  {one_line(line)}")
    tail = trouble.data.get("log_tail")
    if isinstance(tail, Sequence) and tail:
        text.append("\n  its last output:")
        for said in tail:
            text.append("\n    | ", "dim").append_text(Text.from_ansi(log_line(str(said))))
    for step in _next_steps(trouble, target):
        text.append("\n  next: ", "bold").append(one_line(step))
    return text


def _particulars(data: JsonObject) -> Iterator[str]:
    if data.get("oom_killed") is True:
        yield "it was killed because it ran out of memory"
    if isinstance(body := data.get("body"), str) and body:
        yield f"the agent server answered: {body}"


def _next_steps(trouble: Trouble, target: str | None) -> Iterator[str]:
    data = trouble.data
    match trouble.code:
        case code if code in _STEPS:
            yield _STEPS[code]
        case ErrorCode.INVALID_TRANSITION if data.get("hint") in _COMMANDS and target:
            yield f"conversationctl {_COMMANDS[str(data['hint'])].format(target=target)}"
        case ErrorCode.CAPACITY_EXCEEDED | ErrorCode.BUSY | ErrorCode.SHUTTING_DOWN:
            seconds = data.get("retry_after")
            yield f"try again in {seconds:g} s" if isinstance(seconds, int | float) else "try again in a moment"
        case ErrorCode.HISTORY_GONE if isinstance(oldest := data.get("oldest"), int):
            yield f"the oldest event that is kept is {oldest}: use --since {oldest - 1}"
        case ErrorCode.INTERNAL:
            yield f"look for incident {data.get('incident')} in the daemon's log: journalctl -u conversationd"
        case "connection_lost":
            yield f"what was asked may have been done: {_look(target)}"
        case _ if trouble.exit_code in (ExitCode.FAILED, ExitCode.TIMED_OUT) and target:
            yield _look(target)


def _look(target: str | None) -> str:
    return f"conversationctl get {target}" if target else "ask again"
