"""Errors as sentences, JSON and exit codes."""

import pytest

from supervisor.cli.exit_codes import ExitCode
from supervisor.cli.failures import as_json, as_text, trouble_of
from supervisor.control.client_views import (
    CannotConnect,
    ConnectionLost,
    ControlClientError,
    NotAuthenticated,
    RemoteError,
    UnexpectedAnswer,
)
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonObject


@pytest.mark.parametrize("code", [*ErrorCode, "invalid_params", "invalid_request", "method_not_found", "parse_error"])
def test_every_code_of_the_protocol_has_an_exit_code(code: str) -> None:
    """Three kinds of no: refused, failed, timed out."""
    expected = {
        **dict.fromkeys(("sandbox_failed", "image_unavailable", "engine_unavailable"), ExitCode.FAILED),
        **dict.fromkeys(("agent_refused", "internal"), ExitCode.FAILED),
        "timeout": ExitCode.TIMED_OUT,
    }
    assert trouble_of(RemoteError(code, "no", {})).exit_code is expected.get(code, ExitCode.REFUSED)


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (CannotConnect("nobody there"), ExitCode.UNREACHABLE, "unreachable"),
        (ConnectionLost(1001, "daemon going away"), ExitCode.UNREACHABLE, "connection_lost"),
        (NotAuthenticated(4401, "not authenticated"), ExitCode.REFUSED, "unauthorized"),
        (UnexpectedAnswer("what?"), ExitCode.FAILED, "unexpected_answer"),
        (RemoteError("a_new_word", "no", {}), ExitCode.FAILED, "a_new_word"),
    ],
)
def test_what_never_was_answered_has_an_exit_code_too(
    error: ControlClientError, exit_code: ExitCode, code: str
) -> None:
    """Unreachable is not failed; a code of a newer daemon is."""
    trouble = trouble_of(error)
    assert (trouble.exit_code, trouble.code) == (exit_code, code)


@pytest.mark.parametrize(
    ("code", "data", "step"),
    [
        ("invalid_transition", {"hint": "restart"}, "conversationctl restart c1"),
        ("invalid_transition", {"hint": "restart with force"}, "conversationctl restart --force c1"),
        ("capacity_exceeded", {"retry_after": 5.0}, "try again in 5 s"),
        ("busy", {}, "try again in a moment"),
        ("history_gone", {"oldest": 100}, "the oldest event that is kept is 100: use --since 99"),
        ("internal", {"incident": "abc"}, "look for incident abc in the daemon's log: journalctl -u conversationd"),
        ("unauthorized", {}, "name the token's file with --token-file or $CONVERSATIOND_TOKEN_FILE"),
        ("not_found", {}, "conversationctl list"),
        ("engine_unavailable", {}, "conversationctl info, which says whether the engine answers; then try again"),
        ("timeout", {}, "conversationctl get c1"),
        ("sandbox_failed", {"exit_code": 3}, "conversationctl get c1"),
    ],
)
def test_the_next_step_follows_from_the_error(code: str, data: JsonObject, step: str) -> None:
    """What helps is said as a command where there is one."""
    text = as_text(trouble_of(RemoteError(code, "no", data)), "start c1", "c1").plain
    assert text.endswith(f"no\n  next: {step}")


@pytest.mark.parametrize(
    ("error", "target", "step"),
    [
        (CannotConnect("x"), None, "see that conversationd runs and that you may use it, or name another --address"),
        (ConnectionLost(1006, ""), "c1", "what was asked may have been done: conversationctl get c1"),
        (ConnectionLost(1006, ""), None, "what was asked may have been done: ask again"),
    ],
)
def test_the_next_step_of_a_connection_that_failed(error: ControlClientError, target: str | None, step: str) -> None:
    """Whether it was done is unknown, and says so."""
    assert as_text(trouble_of(error), "pause c1", target).plain.endswith(f"\n  next: {step}")


@pytest.mark.parametrize(
    ("code", "data", "target"),
    [("invalid_transition", {}, "c1"), ("conflict", {}, "c1"), ("history_gone", {}, None), ("timeout", {}, None)],
)
def test_no_next_step_is_made_up(code: str, data: JsonObject, target: str | None) -> None:
    """Where none is known, none is told."""
    assert "next" not in as_text(trouble_of(RemoteError(code, "no", data)), "pause c1", target).plain


def test_a_failed_sandbox_is_told_with_all_that_is_known() -> None:
    """Out of memory, and the log's tail, made safe; what the agent answered for a refusal."""
    data: JsonObject = {"exit_code": 137, "oom_killed": True, "log_tail": ["one", "\x1b[2Jtwo"]}
    text = as_text(trouble_of(RemoteError("sandbox_failed", "the sandbox ended", data)), "start c1", "c1").plain
    assert text.splitlines() == [
        "conversationctl: start c1 failed: the sandbox ended",
        "  it was killed because it ran out of memory",
        "  its last output:",
        "    | one",
        "    | \\x1b[2Jtwo",
        "  next: conversationctl get c1",
    ]
    refused = RemoteError("agent_refused", "no", {"status": 422, "body": "bad model"})
    assert "\n  the agent server answered: bad model\n" in as_text(trouble_of(refused), "start c1", "c1").plain


def test_json_carries_the_protocols_code_and_data() -> None:
    """And the exit code, for what only sees the text."""
    trouble = trouble_of(RemoteError(ErrorCode.CAPACITY_EXCEEDED, "full", {"retry_after": 5}))
    assert as_json(trouble) == {
        "error": {"code": "capacity_exceeded", "message": "full", "data": {"retry_after": 5}},
        "exit_code": 3,
    }
