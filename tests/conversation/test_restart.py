"""The restart policy: who is started again, when, and who is given up."""

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.conversation.record import FailureCode, failure_code
from supervisor.conversation.restart import (
    Cause,
    GiveUp,
    PastRestart,
    Restart,
    RestartMode,
    RestartPolicy,
    decide_restart,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVEN = 0.5  # the dice that leave the backoff as it is

policies = st.builds(
    RestartPolicy,
    mode=st.just(RestartMode.ON_FAILURE),
    max_restarts=st.integers(0, 20),
    window=st.floats(0.001, 86_400),
    backoff_initial=st.floats(0.001, 100),
    backoff_max=st.floats(100, 3600),
    jitter=st.floats(0, 1),
    max_oom_restarts=st.integers(0, 5),
)
pasts = st.builds(
    PastRestart, at=st.floats(-1e6, 1e6).map(lambda s: NOW + timedelta(seconds=s)), cause=st.sampled_from(Cause)
)
dice = st.floats(0, 1, exclude_max=True)


def _past(seconds_ago: float, cause: Cause = Cause.EXITED) -> PastRestart:
    return PastRestart(NOW - timedelta(seconds=seconds_ago), cause)


def test_restart_doubles_the_backoff_up_to_its_maximum() -> None:
    """By default the waits are 1, 2, 4, 8 and 16 seconds, and the sixth failure is the last."""
    history: tuple[PastRestart, ...] = ()
    waits = []
    while isinstance(decision := decide_restart(RestartPolicy(), history, Cause.EXITED, NOW, EVEN), Restart):
        waits.append(decision.backoff)
        history = decision.history
    assert waits == [1, 2, 4, 8, 16]
    assert decision == GiveUp("it was restarted 5 times in 600 s, which is all that max_restarts allows")


def test_restart_backoff_stops_growing_at_its_maximum() -> None:
    """No wait is longer than `backoff_max` before the jitter."""
    policy = RestartPolicy(max_restarts=100, backoff_max=10)
    history = tuple(_past(age) for age in range(50))
    decision = decide_restart(policy, history, Cause.EXITED, NOW, EVEN)
    assert isinstance(decision, Restart)
    assert decision.backoff == 10


def test_restart_backoff_is_a_number_for_the_longest_history_that_the_config_allows() -> None:
    """Doubling 999 times does not overflow, which would end the actor."""
    policy = RestartPolicy(max_restarts=1000, backoff_initial=3650 * 86400.0, backoff_max=3650 * 86400.0)
    decision = decide_restart(policy, [_past(0)] * 999, Cause.EXITED, NOW, EVEN)
    assert isinstance(decision, Restart)
    assert decision.backoff == policy.backoff_max


def test_restart_starts_over_after_a_healthy_run_as_long_as_the_window() -> None:
    """Restarts older than the window neither count nor are kept."""
    decision = decide_restart(RestartPolicy(), [_past(601)] * 5, Cause.EXITED, NOW, EVEN)
    assert decision == Restart(NOW + timedelta(seconds=1), 1, (PastRestart(NOW, Cause.EXITED),))


def test_restart_counts_what_a_clock_that_was_set_back_put_into_the_future() -> None:
    """A restart of a minute ahead counts, one of a year ahead does not hold the conversation up for a year."""
    assert isinstance(decide_restart(RestartPolicy(), [_past(-60)] * 5, Cause.EXITED, NOW, EVEN), GiveUp)
    assert isinstance(decide_restart(RestartPolicy(), [_past(-3e7)] * 5, Cause.EXITED, NOW, EVEN), Restart)


def test_mode_never_gives_up_at_once() -> None:
    """Without restarts the first failure is the last."""
    decision = decide_restart(RestartPolicy(mode=RestartMode.NEVER), (), Cause.EXITED, NOW, EVEN)
    assert decision == GiveUp("the restart mode is never")


def test_oom_is_restarted_once_by_default() -> None:
    """The second time out of memory is given up, with a hint; other causes go on."""
    history = (_past(5, Cause.OOM_KILLED),)
    decision = decide_restart(RestartPolicy(), history, Cause.OOM_KILLED, NOW, EVEN)
    assert isinstance(decision, GiveUp)
    assert "memory limit" in decision.reason
    assert isinstance(decide_restart(RestartPolicy(), history, Cause.EXITED, NOW, EVEN), Restart)


def test_oom_is_restarted_again_when_the_other_restarts_had_other_causes() -> None:
    """Only restarts after OOM count against `max_oom_restarts`."""
    assert isinstance(decide_restart(RestartPolicy(), [_past(5)] * 2, Cause.OOM_KILLED, NOW, EVEN), Restart)


@given(policies, st.lists(pasts, max_size=25), st.sampled_from(Cause), dice)
def test_a_decision_keeps_within_the_policy(
    policy: RestartPolicy, history: list[PastRestart], cause: Cause, roll: float
) -> None:
    """A restart is in the future, within the jitter of a legal backoff, and adds itself to a bounded history."""
    decision = decide_restart(policy, history, cause, NOW, roll)
    recent = [past for past in history if abs((NOW - past.at).total_seconds()) < policy.window]
    if isinstance(decision, GiveUp):
        assert decision.reason
        assert len(recent) >= policy.max_restarts or cause is Cause.OOM_KILLED
        return
    assert policy.backoff_initial * (1 - policy.jitter) <= decision.backoff + 1e-9
    assert decision.backoff <= policy.backoff_max * (1 + policy.jitter) + 1e-9
    assert decision.at == NOW + timedelta(seconds=decision.backoff)
    assert decision.history == (*recent, PastRestart(NOW, cause))
    assert len(decision.history) <= policy.max_restarts


@given(policies, st.lists(st.tuples(st.floats(0, 1000), st.sampled_from(Cause), dice), min_size=1, max_size=40))
def test_no_window_ever_holds_more_restarts_than_the_policy_allows(
    policy: RestartPolicy, failures: list[tuple[float, Cause, float]]
) -> None:
    """Whatever fails and when, the restarts within any one window stay within both allowances."""
    now, history, made = NOW, tuple[PastRestart, ...](), []
    for gap, cause, roll in failures:
        now += timedelta(seconds=gap)
        decision = decide_restart(policy, history, cause, now, roll)
        if isinstance(decision, GiveUp):
            continue
        made.append(PastRestart(now, cause))
        history, now = decision.history, decision.at
    for last in made:
        window = [past for past in made if 0 <= (last.at - past.at).total_seconds() < policy.window]
        assert len(window) <= policy.max_restarts
        if last.cause is Cause.OOM_KILLED:
            assert sum(past.cause is Cause.OOM_KILLED for past in window) <= policy.max_oom_restarts


@given(policies, st.lists(pasts, max_size=5), dice)
def test_without_jitter_the_dice_do_not_matter(policy: RestartPolicy, history: list[PastRestart], roll: float) -> None:
    """Chance enters by the jitter only."""
    calm = attrs.evolve(policy, jitter=0.0)
    assert decide_restart(calm, history, Cause.EXITED, NOW, roll) == decide_restart(
        calm, history, Cause.EXITED, NOW, EVEN
    )


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_a_failure_to_leave_behind(cause: Cause) -> None:
    """A record can say of any cause that it was the last."""
    assert failure_code(cause) is FailureCode[cause.name]
