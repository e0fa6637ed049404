"""What the daemon told its clients, so that it can be held to it."""

from collections import Counter
from enum import StrEnum

import attrs

from supervisor.control.client import Conversation, RemoteError
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.lifecycle import Status


class Presence(StrEnum):
    """Whether a conversation exists, as far as its client can know."""

    ABSENT = "absent"
    PERHAPS = "perhaps"
    PRESENT = "present"


@attrs.frozen
class Steadiness:
    """What a trial does to sandboxes: whether they may die (`die`), and whether a command may end in ERROR (`fail`).

    `incidents` says that the daemon may answer `internal`: its disk or its descriptors are taken away.
    """

    die: bool = False
    fail: bool = False
    incidents: bool = False


@attrs.define
class Ledger:
    """All that was lost, and what the clients counted, over all conversations of a trial."""

    steadiness: Steadiness = attrs.field(factory=Steadiness)
    losses: list[str] = attrs.field(factory=list)
    answers: Counter[str] = attrs.field(factory=Counter)
    refusals: Counter[str] = attrs.field(factory=Counter)
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
        failed = told.status is Status.ERROR and self.ledger.steadiness.fail
        if told.status not in expected and not self.contested and not failed:
            self.ledger.lose(f"{self.conversation}: told {told.status} instead of {' or '.join(expected)}")
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
        elif seen.status is Status.ERROR and not self.ledger.steadiness.fail:
            self.ledger.lose(f"{self.conversation}: failed without a fault: {seen.error}")
        elif self.sure and self.status is not None:
            self._compare(self.status, seen)
        self._take(seen)

    def refused(self, error: RemoteError, presence: Presence) -> None:
        """A command failed, in words."""
        self.ledger.refusals[error.code] += 1
        self.doubt(presence)
        if error.has(ErrorCode.INTERNAL) and not self.ledger.steadiness.incidents:
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

    def _compare(self, told: Status, seen: Conversation) -> None:
        becomes = {told}
        if told is Status.STARTING or (self.ledger.steadiness.die and told is Status.RUNNING):
            becomes |= {Status.STARTING, Status.RUNNING}
        if self.ledger.steadiness.fail and told in (Status.RUNNING, Status.STARTING, Status.PAUSED):
            becomes.add(Status.ERROR)
        if seen.status not in becomes:
            self.ledger.lose(f"{self.conversation}: was told {told} and is {seen.status}: {seen.error}")
        elif told is not Status.STARTING and not self.ledger.steadiness.die and seen.incarnation != self.incarnation:
            self.ledger.lose(f"{self.conversation}: boot {self.incarnation} ran on and is boot {seen.incarnation} now")
