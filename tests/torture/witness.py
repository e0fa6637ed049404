"""A subscriber that comes back with `since`: whatever happens to the daemon it sees each event once, in order."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, Event, resumable_events
from supervisor.conversation.lifecycle import Status, is_legal
from tests.torture.ledger import Ledger
from tests.torture.waiting import comes_true


@attrs.define
class Witness:
    """What was seen, by sequence number, and what was wrong with it."""

    seen: dict[int, tuple[str | None, str]] = attrs.field(factory=dict)
    losses: list[str] = attrs.field(factory=list)
    last: int = 0

    @asynccontextmanager
    async def watching(self, address: UnixAddress) -> AsyncIterator[None]:
        """See everything from the first event on, for as long as the block lasts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, address)
            yield
            nursery.cancel_scope.cancel()

    async def _watch(self, address: UnixAddress) -> None:
        async with resumable_events(address, since=0) as events:
            async for event in events:
                if event.seq != self.last + 1:
                    self.losses.append(f"event {event.seq} came after event {self.last}")
                self.last = event.seq
                self.seen[event.seq] = (event.conversation, event.kind)


@attrs.define
class Reading:
    """The journal, read once from its beginning: are its numbers whole, every walk legal, and every end excused?"""

    ledger: Ledger
    losses: list[str] = attrs.field(factory=list)
    events: int = 0
    _status: dict[str, Status | None] = attrs.field(factory=dict)
    _deaths: Counter[str] = attrs.field(factory=Counter)

    def read(self, event: Event) -> None:
        """The next event."""
        self.events += 1
        if event.seq != self.events:
            self.losses.append(f"the journal has event {event.seq} in place {self.events}")
            self.events = event.seq
        if event.conversation is None:
            return
        if event.kind == "created":
            self._status[event.conversation] = None
        elif event.kind == "status":
            self._walk(event.conversation, event)
        elif event.kind == "restart_scheduled":
            self._bury(event.conversation, event)

    def _walk(self, conversation: str, event: Event) -> None:
        before = None if event.data["from"] is None else Status(event.data["from"])
        after = Status(event.data["to"])
        stood = self._status.get(conversation)
        if before is not stood or not is_legal(before, after):
            self.losses.append(f"event {event.seq}: {conversation} stood in {stood} and went {before} -> {after}")
        self._status[conversation] = after
        if after is Status.ERROR and not self.ledger.steadiness.may_fail(event.data["reason"]):
            self.losses.append(f"event {event.seq}: {conversation} failed of no fault: {event.data['message']}")

    def _bury(self, conversation: str, event: Event) -> None:
        self._deaths[conversation] += 1
        excused = self.ledger.steadiness.may_die(conversation)
        if not excused and self._deaths[conversation] > self.ledger.vain_kills[conversation]:
            self.losses.append(f"event {event.seq}: {conversation} died of no fault: {event.data['message']}")


async def read_journal(client: ControlClient, ledger: Ledger) -> Reading:
    """Read the whole journal over the control channel, and hold it to what a trial excuses."""
    reading = Reading(ledger)
    target = (await client.info()).seq
    async with client.subscribe(since=0) as events:
        while reading.events < target:
            reading.read(await anext(events))
    return reading


async def hear_witness(witness: Witness, client: ControlClient, within: float) -> list[str]:
    """Everything that the witness was told has to be in the journal, and everything in the journal told to it."""
    last, target = witness.last, (await client.info()).seq
    losses = list(witness.losses)
    if last > target:
        losses.append(f"event {last} was told and the journal ends with {target}")
    if not await comes_true(lambda: witness.last >= target, within):
        losses.append(f"the witness heard nothing after event {witness.last}, the journal has {target}")
    async with client.subscribe(since=0) as events:
        for number in range(1, target + 1):
            event = await anext(events)
            if witness.seen.get(number) != (event.conversation, event.kind):
                losses.append(f"event {number} was told as {witness.seen.get(number)} and is {event.kind}")
    return losses
