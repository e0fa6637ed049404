"""The ledger: the alerts that stand, in memory as in the journal, changed by one judgement at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeAlias

import attrs
import structlog
import trio

from supervisor.actors.clock import Clock
from supervisor.alerts.notices import Turn
from supervisor.alerts.rules import Outcome, Over, Raised
from supervisor.alerts.settings import AlertSettings
from supervisor.alerts.sinks import configured
from supervisor.conversation.alerts import AlertState, StandingAlert
from supervisor.journal.changes import JournalError, Judged, JudgedBefore, Notice
from supervisor.journal.journal import Journal

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

Standing: TypeAlias = Sequence[StandingAlert]
Rule: TypeAlias = Callable[[Standing], Iterable[Outcome]]
"""What it says is about one conversation at most."""

_AGAIN_AFTER: Final = 1.0
_PROLONGED_BY: Final = timedelta(seconds=1)
"""The least by which a repeated cause moves an alert's end: a bug that is met all the time is not to write all the
time."""
_UNWRITTEN: Final = 1000
"""Events that came to nothing and are judged once more after a restart, at most."""


class AlertLedger:
    """See the module. `queued` is called when there is something to tell; `new_id` makes an alert's id."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        settings: Callable[[], AlertSettings],
        new_id: Callable[[], str],
        queued: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._settings = settings
        self._new_id = new_id
        self._queued = queued
        self._standing: dict[str, StandingAlert] = {}
        self._judgements = 0
        self._written = 0
        self._one_at_a_time = trio.Lock()
        self._changed = trio.Event()
        self.through = 0

    @property
    def standing(self) -> Standing:
        """The alerts that are not over."""
        return tuple(self._standing.values())

    async def changes(self) -> None:
        """Wait until other alerts stand, or stand for longer, than now."""
        await self._changed.wait()

    async def load(self) -> None:
        """Take what the journal holds; waits for a journal that cannot be read."""
        async with self._one_at_a_time:
            await self._load()

    async def pass_by(self, seq: int) -> None:
        """Remember that an event raises nothing and ends nothing."""
        if seq - self._written < _UNWRITTEN:
            await trio.lowlevel.checkpoint()
            self.through = seq
        else:
            await self.judge(lambda _: (), seq)

    async def judge(self, rule: Rule, through: int | None = None) -> None:
        """Let a rule see the alerts that stand, and commit what it says; `through` is the event that it judges.

        What cannot be written is judged again until it can: nothing that was raised is lost while we live.
        """
        async with self._one_at_a_time:
            while through is None or self.through < through:
                try:
                    await self._decide(rule(self.standing), self.through if through is None else through)
                except (JournalError, JudgedBefore) as error:
                    _log.warning("alerts.not_recorded", error=repr(error))
                    await trio.sleep(_AGAIN_AFTER)
                    await self._load()
                    self._queued()
                else:
                    return

    async def _load(self) -> None:
        while True:
            try:
                judgement = await self._journal.judgement()
            except JournalError as error:
                _log.warning("alerts.not_read", error=str(error))
                await trio.sleep(_AGAIN_AFTER)
            else:
                self._standing = {alert.cause: alert for alert in judgement.standing}
                self._judgements, self._written = judgement.number, judgement.through
                self.through = max(self.through, judgement.through)
                return

    async def _decide(self, outcomes: Iterable[Outcome], through: int) -> None:
        await trio.lowlevel.checkpoint()
        after = dict(self._standing)
        turns = tuple(self._turns(outcomes, after, self._clock.now()))
        if turns or after != self._standing or through - self._written >= _UNWRITTEN:
            await self._write(after, turns, through)
        self.through = through

    def _turns(self, outcomes: Iterable[Outcome], after: dict[str, StandingAlert], now: datetime) -> Iterator[Turn]:
        for outcome in outcomes:
            stands = after.get(outcome.cause)
            match outcome:
                case Raised() if stands is not None:
                    after[outcome.cause] = _prolonged(stands, outcome.over_at)
                case Raised() if outcome.kind in self._settings().kinds:
                    alert = StandingAlert(id=self._new_id(), raised_at=now, **attrs.asdict(outcome))
                    after[outcome.cause] = alert
                    yield Turn(alert, AlertState.RAISED, outcome.message, now)
                case Over() if stands is not None:
                    del after[outcome.cause]
                    yield Turn(stands, AlertState.OVER, outcome.message, now)
                case _:
                    pass

    async def _write(self, after: dict[str, StandingAlert], turns: Sequence[Turn], through: int) -> None:
        before, sinks = self._standing, configured(self._settings())
        await self._journal.commit(
            Judged(
                number=self._judgements,
                through=through,
                at=self._clock.now(),
                conversation=turns[0].alert.conversation if turns else None,
                events=tuple(turn.event() for turn in turns),
                standing=tuple(alert for cause, alert in after.items() if before.get(cause) is not alert),
                over=tuple(cause for cause in before if cause not in after),
                notices=tuple(
                    Notice(sink, turn.alert.id, turn.state, turn.body(self._journal.instance))
                    for turn in turns
                    for sink in sinks
                ),
            )
        )
        self._standing, self._judgements, self._written = after, self._judgements + 1, through
        self._changed.set()
        self._changed = trio.Event()
        self._queued()


def _prolonged(alert: StandingAlert, over_at: datetime | None) -> StandingAlert:
    if alert.over_at is None or over_at is None or over_at - alert.over_at < _PROLONGED_BY:
        return alert
    return attrs.evolve(alert, over_at=over_at)
