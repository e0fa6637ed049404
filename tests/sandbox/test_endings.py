"""What events tell of a sandbox's end."""

import pytest

from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.docker.endings import FRESH, Endings
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.docker.views import EngineJson
from supervisor.sandbox.port import SandboxState

NAMES = Names("0123456789abcdef")
WALL = 1000.0
C1 = ConversationId("c1")
NAME = NAMES.container(C1, 1)


@pytest.fixture
def endings() -> Endings:
    """Nothing heard yet."""
    return Endings(NAMES)


def event(action: str, **attributes: str) -> EngineJson:
    """An event of our container, from time 1000 on the wall."""
    labels = {**NAMES.container_labels(C1, 1), "name": NAME, "image": "tiny"}
    return {"Action": action, "timeNano": 1_000 * 10**9, "Actor": {"ID": "f00", "Attributes": {**labels, **attributes}}}


def test_end_stands_for_an_inspection_for_a_moment(endings: Endings) -> None:
    """Then the engine is asked again."""
    assert endings.hear(event("die", exitCode="3"), 100.0, WALL) == C1
    view = endings.recall(NAME, 100.0)
    assert view is not None
    assert (view.id, view.image, view.state) == ("f00", "tiny", SandboxState.EXITED)
    assert view.exit_code == 3
    assert not view.oom_killed
    assert endings.recall(NAME, 100.0 + FRESH) is None
    assert endings.recall("another", 100.0) is None


@pytest.mark.parametrize(("late", "stands"), [(FRESH - 0.01, True), (FRESH, False), (-3600.0, False)])
def test_old_end_that_is_told_again_is_no_news(endings: Endings, late: float, stands: bool) -> None:
    """A reopened stream repeats the last second: the container may be gone since. A stepped clock tells no age."""
    assert endings.hear(event("die", exitCode="3"), 100.0, WALL + late) == C1
    assert (endings.recall(NAME, 100.0) is not None) is stands


@pytest.mark.parametrize(("age", "stands"), [(0.0, True), (0.05, True), (0.15, False)])
def test_end_of_before_the_stream_is_left_to_the_engine(endings: Endings, age: float, stands: bool) -> None:
    """The stream repeats it, and a clock that was stepped back meanwhile makes any age look small."""
    endings.begin(99.9)
    assert endings.hear(event("die", exitCode="3"), 100.0, WALL + age) == C1
    assert (endings.recall(NAME, 100.0) is not None) is stands


def test_kill_by_the_kernel_is_left_to_the_engine(endings: Endings) -> None:
    """Whether it was for memory may not be known yet."""
    endings.hear(event("die", exitCode="137"), 100.0, WALL)
    assert endings.recall(NAME, 100.0) is None


@pytest.mark.parametrize(("cause", "oom"), [(event("oom"), True), (event("kill", signal="9"), False)])
def test_kill_with_a_known_cause_is_certain(endings: Endings, cause: EngineJson, oom: bool) -> None:
    """The cause came before the end."""
    endings.hear(cause, 99.0, WALL)
    endings.hear(event("die", exitCode="137"), 100.0, WALL)
    view = endings.recall(NAME, 100.0)
    assert view is not None
    assert view.oom_killed is oom


@pytest.mark.parametrize("signal", ["15", "SIGTERM"])
def test_gentle_signal_explains_no_kill(endings: Endings, signal: str) -> None:
    """Only SIGKILL does."""
    endings.hear(event("kill", signal=signal), 99.0, WALL)
    endings.hear(event("die", exitCode="137"), 100.0, WALL)
    assert endings.recall(NAME, 100.0) is None


@pytest.mark.parametrize("action", ["start", "destroy"])
def test_next_life_forgets_the_last_end(endings: Endings, action: str) -> None:
    """And its causes with it."""
    endings.hear(event("oom"), 99.0, WALL)
    endings.hear(event("die", exitCode="3"), 100.0, WALL)
    endings.hear(event(action), 100.1, WALL)
    assert endings.recall(NAME, 100.1) is None
    endings.hear(event("die", exitCode="3"), 100.2, WALL)
    view = endings.recall(NAME, 100.2)
    assert view is not None
    assert not view.oom_killed


def test_everything_is_forgotten_when_events_may_be_missed(endings: Endings) -> None:
    """A stream that ended, or a change of our own."""
    endings.hear(event("die", exitCode="3"), 100.0, WALL)
    endings.forget(NAME)
    assert endings.recall(NAME, 100.0) is None
    endings.hear(event("die", exitCode="3"), 100.0, WALL)
    endings.forget_all()
    assert endings.recall(NAME, 100.0) is None


@pytest.mark.parametrize("action", ["die", "oom", "pause", "unpause", "stop", "update", "health_status: unhealthy"])
def test_changes_are_for_a_conversation(endings: Endings, action: str) -> None:
    """Whatever may have changed the sandbox."""
    assert endings.hear(event(action, exitCode="0"), 1.0, WALL) == C1


def test_kill_itself_changes_nothing(endings: Endings) -> None:
    """If it ends the sandbox, that comes as an event of its own."""
    assert endings.hear(event("kill", signal="9"), 1.0, WALL) is None


def test_rename_is_heard_by_the_old_name(endings: Endings) -> None:
    """For us the sandbox is gone."""
    assert endings.hear(event("rename", name="other", oldName=f"/{NAME}"), 1.0, WALL) == C1


def test_foreign_containers_are_not_heard(endings: Endings) -> None:
    """Inherited labels do not make one ours."""
    assert endings.hear(event("die", name="other", exitCode="1"), 1.0, WALL) is None
