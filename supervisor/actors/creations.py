"""Conversations in the making: never two for one id or one idempotency key, and never two actors for one of them."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Final

import trio

from supervisor.actors.clock import Clock
from supervisor.actors.registry import Registry
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.changes import JournalError
from supervisor.journal.journal import Journal
from supervisor.journal.store import KnownKey

KEYS_LIVE: Final = timedelta(hours=24)
_SETTLED_WITHIN: Final = 60.0


class Creations:
    """What is being created, and which key has made which conversation."""

    def __init__(self, registry: Registry, journal: Journal, clock: Clock) -> None:
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self._keys: dict[str, KnownKey] = {}
        self._claims: dict[ConversationId, trio.Lock] = {}
        self._creating = 0

    def __len__(self) -> int:
        """How many are being created right now."""
        return self._creating

    async def load_keys(self) -> None:
        """Remember the idempotency keys of before the daemon's start."""
        self._keys = {known.key: known for known in await self._journal.keys()}

    def forget_keys(self, before: datetime) -> None:
        """Forget the idempotency keys that are older than a time."""
        self._keys = {key: known for key, known in self._keys.items() if known.at >= before}

    def is_claimed(self, conversation: ConversationId) -> bool:
        """Whether somebody makes this conversation, or gives it an actor, or waits for his turn to."""
        return conversation in self._claims

    @asynccontextmanager
    async def claiming(self, conversation: ConversationId) -> AsyncGenerator[None]:
        """Let nobody else make this conversation, or give it an actor, meanwhile.

        Those who want to come in the order in which they asked. Once it has an actor nobody may hold a claim for longer
        than it takes to put something into its mailbox: a forced stop may wait for its turn.
        """
        claim = self._claims.setdefault(conversation, trio.Lock())
        try:
            async with claim:
                yield
        finally:
            # Who stopped waiting as the last one was done comes too late: it may be another claim by now.
            if self._claims.get(conversation) is claim and not claim.locked():
                del self._claims[conversation]

    @asynccontextmanager
    async def starting(
        self, key: str | None, conversation: ConversationId
    ) -> AsyncGenerator[ConversationRecord | None]:
        """Claim a conversation for a start. It gets what a start with the same key has made, None if none has."""
        while True:
            meant = self._meant(key, conversation)
            async with self.claiming(meant):
                made = await self._made_with(key, meant)
                if made is not None or self._meant(key, conversation) == meant == conversation:
                    yield made
                    return

    @contextmanager
    def making(self, record: ConversationRecord, key: str | None) -> Iterator[None]:
        """Make a claimed conversation, and let nobody else use its key; the key of one that is not made is free.

        Where that is not known, as the journal did not say, the next one with the key finds out.
        """
        if key is not None:
            self._keys[key] = KnownKey(key, record.id, record.created_at)
        self._creating += 1
        try:
            yield
        except JournalError:
            raise
        except BaseException:
            self._keys.pop(key or "", None)
            raise
        finally:
            self._creating -= 1

    def _known(self, key: str | None) -> KnownKey | None:
        """What is known of a key, unless that is too long ago."""
        known = self._keys.get(key) if key is not None else None
        return None if known is None or self._clock.now() - known.at > KEYS_LIVE else known

    def _meant(self, key: str | None, conversation: ConversationId) -> ConversationId:
        """Which conversation a start with this key is about."""
        known = self._known(key)
        return conversation if known is None else known.conversation

    async def _made_with(self, key: str | None, claimed: ConversationId) -> ConversationRecord | None:
        """The claimed conversation, if this key made it. If that was deleted since the key goes, too."""
        await trio.lowlevel.checkpoint()
        known = self._known(key)
        if known is None or known.conversation != claimed:
            return None
        handle = self._registry.find(claimed)
        record = handle.record if handle is not None else await self._find_settled(claimed)
        if record is not None and record.created_at == known.at:
            return record
        if self._keys.get(known.key) is known:
            del self._keys[known.key]
        return None

    async def _find_settled(self, claimed: ConversationId) -> ConversationRecord | None:
        """The record of a conversation without an actor, once no commit that was given up on can make it any more.

        One that was made that way gets its actor now; any other one is ARCHIVED.

        Raises:
            JournalError: that commit does not return.
        """
        with trio.move_on_after(_SETTLED_WITHIN) as scope:
            await self._journal.probe()
        if scope.cancelled_caught:
            raise JournalError("an earlier start is still being written: is the disk of the state_dir well?")
        record = await self._journal.record(claimed)
        if record is not None and record.status is not Status.ARCHIVED:
            self._registry.take_up(record)
        return record
