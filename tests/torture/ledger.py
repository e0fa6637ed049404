"""What the daemon told its clients, so that it can be held to it."""

from collections import Counter
from enum import StrEnum
from re import Pattern

import attrs

from supervisor.control.client import Conversation, RemoteError
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import FailureCode


class Presence(StrEnum):
    """Whether a conversation exists, as far as its client can know."""

    ABSENT = "absent"
    PERHAPS = "perhaps"
    PRESENT = "present"


@attrs.frozen
class Steadiness:
    """What a trial's faults excuse: nothing else may happen to a conversation, or to the daemon.

    Sandboxes may die where the trial ends some (`die`), or only those of the `victims`. `failures` are the codes with
    which a conversation may end in ERROR. `trouble` is found in what the daemon raises for want of what was taken away
    from it, its disk or its descriptors: then it may answer `internal`, and log an incident.
    """

    die: bool = False
    victims: frozenset[str] = frozenset()
    failures: frozenset[FailureCode] = frozenset()
    trouble: Pattern[str] | None = None

    def may_die(self, conversation: str) -> bool:
        """Whether its sandbox may."""
        return self.die or conversation in self.victims

    def may_fail(self, code: str) -> bool:
        """Whether a conversation may end in ERROR with this code."""
        return code in self.failures


@attrs.define
class Ledger:
    """All that was lost, and what the clients counted, over all conversations of a trial.

    `vain_kills` are each conversation's forced stops that failed or were cut: a forced stop kills before it is written
    down, so each of them may have ended a sandbox that is wanted still.
    """

    steadiness: Steadiness = attrs.field(factory=Steadiness)
    losses: list[str] = attrs.field(factory=list)
    answers: Counter[str] = attrs.field(factory=Counter)
    refusals: Counter[str] = attrs.field(factory=Counter)
    vain_kills: Counter[str] = attrs.field(factory=Counter)
    accounts: dict[str, "Account"] = attrs.field(factory=dict)

    def account(self, conversation: str) -> "Account":
        """What is known of a conversation."""
        return self.accounts.setdefault(conversation, Account(conversation, self))

    def lose(self, what: str) -> None:
        """Note that something is not as it was told."""
        self.losses.append(what)

    @property
    def commands(self) -> int:
        """How many commands were answered, one way or the other."""
        return self.answers.total() + self.refusals.total()

    def tell(self) -> str:
        """The figures for the table."""
        refused = ", ".join(f"{count} {code}" for code, count in self.refusals.most_common())
        return f"{self.commands} commands answered" + (f" ({refused})" if refused else "")


@attrs.define
class Account:
    """One conversation, as its client knows it.

    `status` is what was last told or seen, None when that is uncertain. It is only `sure` after an answered command:
    what a cut one has begun may go on by itself. `contested` are commands that others are sent beside.
    """

    conversation: str
    ledger: Ledger
    contested: bool = False
    presence: Presence = Presence.ABSENT
    status: Status | None = None
    incarnation: int = 0
    sure: bool = True

    def learn(self, told: Conversation, *expected: Status) -> None:
        """An answer came; `expected` is what the command promises."""
        self.ledger.answers[told.status] += 1
        if told.status not in expected and not self.contested and not self._may_fail(told):
            wanted = " or ".join(expected)
            self.ledger.lose(f"{self.conversation}: told {told.status} instead of {wanted}: {told.error}")
        self.presence, self.sure = Presence.PRESENT, True
        self._take(told)

    def check(self, seen: Conversation | None) -> None:
        """Compare what the daemon says now, None for not found, with what it said last."""
        if seen is None:
            if self.presence is Presence.PRESENT:
                self.ledger.lose(f"{self.conversation}: was told {self.status or 'to exist'} and is gone")
            self.forget()
            return
        if self.presence is Presence.ABSENT:
            self.ledger.lose(f"{self.conversation}: was deleted, or never accepted, and is {seen.status}")
        elif seen.status is Status.ERROR and not self._may_fail(seen):
            self.ledger.lose(f"{self.conversation}: failed without a fault: {seen.error}")
        elif self.sure and self.status is not None:
            self._compare(self.status, seen)
        self._take(seen)

    def refused(self, error: RemoteError, presence: Presence) -> None:
        """A command failed, in words."""
        self.ledger.refusals[error.code] += 1
        self.doubt(presence)
        if error.has(ErrorCode.INTERNAL) and self.ledger.steadiness.trouble is None:
            self.ledger.lose(f"{self.conversation}: {error.code}: {error.message} {dict(error.data)}")

    def doubt(self, presence: Presence) -> None:
        """A command was cut or failed: how far it came is unknown."""
        self.status, self.sure = None, False
        if self.presence is Presence.ABSENT or presence is Presence.PERHAPS:
            self.presence = presence

    def forget(self) -> None:
        """It is gone, for certain."""
        self.presence, self.status, self.incarnation, self.sure = Presence.ABSENT, None, 0, True

    def _take(self, seen: Conversation) -> None:
        self.status, self.incarnation = seen.status, seen.incarnation

    def _may_fail(self, seen: Conversation) -> bool:
        failure = seen.error if seen.status is Status.ERROR else None
        return failure is not None and self.ledger.steadiness.may_fail(failure.code)

    def _compare(self, told: Status, seen: Conversation) -> None:
        becomes, mortal = {told}, self.ledger.steadiness.may_die(self.conversation)
        if told is Status.STARTING or (mortal and told is Status.RUNNING):
            becomes |= {Status.STARTING, Status.RUNNING, *([Status.ERROR] if self._may_fail(seen) else [])}
        if seen.status not in becomes:
            self.ledger.lose(f"{self.conversation}: was told {told} and is {seen.status}: {seen.error}")
        elif told is not Status.STARTING and not mortal and seen.incarnation != self.incarnation:
            self.ledger.lose(f"{self.conversation}: boot {self.incarnation} ran on and is boot {seen.incarnation} now")
