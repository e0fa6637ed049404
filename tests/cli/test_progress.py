"""A boot's way through its phases, folded from events, drawn and told."""

from datetime import timedelta
from typing import Any

import pytest

from supervisor.cli.progress import BootPicture, BootProgress, PhasePassed, Pull, notice, plain_line
from supervisor.control.client_views import Event
from tests.cli.views import NOW, drawn, event


def after(*events: Event) -> BootProgress:
    """The progress once these events are known."""
    progress = BootProgress()
    for each in events:
        progress = progress.after(each)
    return progress


def at(seconds: float, kind: str, **data: Any) -> Event:  # noqa: ANN401 - any data
    """An event some seconds after the beginning."""
    return event(kind, at=NOW + timedelta(seconds=seconds), **data)


def test_phases_that_passed_keep_their_times() -> None:
    """By the daemon's clock, whenever the events arrive."""
    progress = after(at(0, "phase", phase="image"), at(2, "phase", phase="create"), at(2.5, "phase", phase="boot"))
    assert progress.passed == (PhasePassed("image", 2.0), PhasePassed("create", 0.5))
    assert progress.phase == "boot"


def test_a_boot_that_gets_there_is_settled() -> None:
    """Its last phase has passed."""
    progress = after(at(0, "phase", phase="boot"), at(3, "status", before="STARTING", to="RUNNING"))
    assert progress == BootProgress(passed=(PhasePassed("boot", 3.0),), settled=True)


def test_a_boot_that_fails_stays_in_its_phase() -> None:
    """So that it is seen where it failed."""
    progress = after(at(0, "phase", phase="boot"), at(3, "status", before="STARTING", to="ERROR"))
    assert (progress.phase, progress.settled, progress.failed) == ("boot", True, True)


@pytest.mark.parametrize("again", [at(3, "restart_scheduled"), at(3, "status", before="ERROR", to="STARTING")])
def test_another_attempt_begins_anew(again: Event) -> None:
    """Whether we or the supervisor asked for it."""
    assert after(at(0, "phase", phase="boot"), again) == BootProgress()


def test_a_pull_belongs_to_its_phase() -> None:
    """And ends with it; what else happens changes nothing."""
    pulling = after(at(0, "phase", phase="image"), at(1, "progress", current=5, total=10), at(1, "health"))
    assert pulling.pull == Pull(5, 10)
    assert pulling.after(at(2, "phase", phase="create")).pull is None
    assert after(at(0, "progress", current="odd")).pull == Pull(0, 0)


def test_plain_lines_tell_a_pull_by_tenths() -> None:
    """A log is not flooded; commands and executions are no news of a boot."""
    progress, told = BootProgress(), []
    for current in range(101):
        step = event("progress", phase="image", current=current, total=100)
        line = plain_line(progress, step)
        progress = progress.after(step)
        if line is not None:
            told.append(line.plain)
    assert len(told) == 11
    assert told[5] == "c1 progress: image 50%, 50 B of 100 B"
    assert plain_line(progress, event("execution", to="running")) is None


def test_notices_are_what_a_picture_cannot_show() -> None:
    """A restart is said, a phase is drawn."""
    said = notice(event("restart_scheduled", restarts=1, delay=1.0, cause="exited", message="code 3"))
    assert said is not None
    assert said.plain == "c1 restart_scheduled: restart 1 in 1.0s after exited: code 3"
    assert notice(event("phase", phase="boot", incarnation=1)) is None


def test_the_picture_has_a_line_for_each_phase_and_a_bar_for_the_pull() -> None:
    """Marks, times and bytes."""
    picture = BootPicture()
    picture.progress = after(at(0, "phase", phase="image"), at(1, "progress", current=50_000, total=100_000))
    pulling = drawn(picture.draw(NOW + timedelta(seconds=4)), 80)
    assert "image 4.0s" in pulling
    assert "\u2501" * 15 in pulling
    assert pulling.endswith("50% 50.0 kB of 100.0 kB")
    picture.progress = after(at(0, "phase", phase="create"), at(1, "phase", phase="boot"), at(2, "status", to="ERROR"))
    assert drawn(picture.draw(NOW + timedelta(seconds=2)), 80).splitlines() == [
        "\u2713 create 1.0s",
        "\u2717 boot   1.0s",
    ]


def test_a_pull_of_unknown_size_has_an_empty_bar() -> None:
    """The registry has not told yet."""
    picture = BootPicture()
    picture.progress = after(at(0, "phase", phase="image"), at(1, "progress", current=10, total=0))
    assert drawn(picture.draw(NOW), 80).endswith("0% 10 B of 0 B")
