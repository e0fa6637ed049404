"""Conversations in the making: never two for one id or one idempotency key, and never two actors for one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

import trio

from supervisor.actors.clock import Clock
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.journal import Journal
from supervisor.journal.store import KnownKey

KEYS_LIVE: Final = timedelta(hours=24)


class Creations:
    """What is being created, and which key has made which conversation."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._keys: dict[str, KnownKey] = {}
        self._claimed: dict[ConversationId, trio.Event] = {}
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

    async def settled(self, conversation: ConversationId) -> None:
        """Wait until nobody has claimed this conversation; nothing stands between that and going on."""
        await trio.lowlevel.checkpoint()
        while conversation in self._claimed:
            await self._claimed[conversation].wait()

    async def made_before(self, key: str | None, conversation: ConversationId) -> ConversationRecord | None:
        """What a start with this key has made. With None, nothing stands between now and making the conversation."""
        while True:
            await trio.lowlevel.checkpoint()
            known = self._keys.get(key) if key is not None else None
            if known is not None and self._clock.now() - known.at > KEYS_LIVE:
                known = None
            claimed = self._claimed.get(conversation if known is None else known.conversation)
            if claimed is not None:
                await claimed.wait()
            elif known is None:
                return None
            else:
                record = await self._made_with(known)
                if record is not None:
                    return record

    @contextmanager
    def making(self, record: ConversationRecord, key: str | None) -> Iterator[None]:
        """Let nobody else make this conversation or use its key meanwhile; the key of one that is not made is free."""
        if key is not None:
            self._keys[key] = KnownKey(key, record.id, record.created_at)
        self._creating += 1
        try:
            with self.claiming(record.id):
                yield
        except BaseException:
            self._keys.pop(key or "", None)
            raise
        finally:
            self._creating -= 1

    @contextmanager
    def claiming(self, conversation: ConversationId) -> Iterator[None]:
        """Let nobody else make this conversation, or give it an actor, meanwhile; it must not be claimed already."""
        settled = self._claimed[conversation] = trio.Event()
        try:
            yield
        finally:
            del self._claimed[conversation]
            settled.set()

    async def _made_with(self, known: KnownKey) -> ConversationRecord | None:
        """The conversation that a key made. If it was deleted since, the key goes, too, whoever has the id now."""
        record = await self._journal.record(known.conversation)
        if record is not None and record.created_at == known.at:
            return record
        self._keys.pop(known.key, None)
        return None
