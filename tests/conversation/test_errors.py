"""The errors: each has its protocol code and its data, ready for JSON."""

import json
from collections.abc import Iterator

import pytest

from supervisor.conversation import errors
from supervisor.conversation.errors import ConversationdError, ErrorCode
from supervisor.conversation.lifecycle import Command, Status


def _family(root: type[ConversationdError]) -> Iterator[type[ConversationdError]]:
    for child in root.__subclasses__():
        yield child
        yield from _family(child)


EXAMPLES: list[tuple[ConversationdError, str, dict[str, object]]] = [
    (errors.NotFound("m"), "not_found", {}),
    (
        errors.InvalidTransition("m", Status.STOPPED, Command.START, "restart"),
        "invalid_transition",
        {"status": "STOPPED", "command": "start", "hint": "restart"},
    ),
    (
        errors.InvalidTransition("m", Status.PAUSED, Command.PAUSE),
        "invalid_transition",
        {"status": "PAUSED", "command": "pause"},
    ),
    (errors.Busy("m"), "busy", {}),
    (errors.CommandTimeout("m"), "timeout", {}),
    (errors.CapacityExceeded("m", 2.5), "capacity_exceeded", {"retry_after": 2.5}),
    (errors.SandboxFailed("m"), "sandbox_failed", {}),
    (
        errors.SandboxFailed("m", 0, oom_killed=False, log_tail=("a", "b")),
        "sandbox_failed",
        {"exit_code": 0, "oom_killed": False, "log_tail": ["a", "b"]},
    ),
    (errors.ImageUnavailable("m"), "image_unavailable", {}),
    (errors.EngineUnavailable("m"), "engine_unavailable", {}),
    (errors.AgentRefused("m", 422, "bad"), "agent_refused", {"status": 422, "body": "bad"}),
    (errors.AgentUnavailable("m"), "sandbox_failed", {}),
    (errors.Conflict("m"), "conflict", {}),
    (errors.Unauthorized("m"), "unauthorized", {}),
    (errors.Forbidden("m", "spec.image"), "forbidden", {"path": "spec.image"}),
    (errors.Forbidden("m"), "forbidden", {}),
    (errors.HistoryGone("m", 7), "history_gone", {"oldest": 7}),
    (errors.ShuttingDown("m"), "shutting_down", {}),
    (errors.InternalError("m", "i1"), "internal", {"incident": "i1"}),
]


@pytest.mark.parametrize(("error", "code", "data"), EXAMPLES)
def test_error_tells_its_code_and_data(error: ConversationdError, code: str, data: dict[str, object]) -> None:
    """An error's data are its own fields without the absent ones, and survive JSON as they are."""
    assert error.code == code
    assert json.loads(json.dumps(error.data)) == data
    assert str(error) == "m"


def test_errors_are_all_shown_above() -> None:
    """A new error has to get its example."""
    ours = {kind for kind in _family(ConversationdError) if kind.__module__ == errors.__name__}
    assert {type(error) for error, _, _ in EXAMPLES} == ours


def test_errors_cover_every_code_of_the_protocol() -> None:
    """No code of the protocol is without an error."""
    assert {error.code for error, _, _ in EXAMPLES} == set(ErrorCode)


def test_error_can_be_raised_from_another_and_caught_by_its_root() -> None:
    """Errors are exceptions like any other: a cause and a note stick to them, and each is one of a kind."""

    def look_up() -> None:
        try:
            int("c1")
        except ValueError as cause:
            raise errors.NotFound("no conversation c1") from cause

    with pytest.raises(ConversationdError) as caught:
        look_up()
    caught.value.add_note("seen")
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value != errors.NotFound("no conversation c1")
