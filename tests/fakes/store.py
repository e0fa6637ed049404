"""The real store with faults: a disk that is full for a while, and a moment to end the daemon at."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.changes import AlreadyExists, Change, JudgedBefore
from supervisor.journal.store import Store, Written


class FaultyStore(Store):
    """Refuses to write while `full`; calls `written` after each transaction.

    It raises `unreadable` for each record that is asked for, and `unprunable` for each prune, if they are set; the disk
    gets full as events from `full_from` on are pruned.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.full = False
        self.refused = 0
        self.written: Callable[[], None] = lambda: None
        self.unreadable: Exception | None = None
        self.unprunable: Exception | None = None
        self.full_from: int | None = None

    def record(self, conversation: ConversationId) -> ConversationRecord | None:
        """As the store does, or not at all."""
        if self.unreadable is not None:
            raise self.unreadable
        return super().record(conversation)

    def prune(self, through: int) -> None:
        """As the store does, or not at all."""
        if self.full_from is not None and through >= self.full_from:
            raise sqlite3.OperationalError("database or disk is full")
        super().prune(through)

    def prune_keys(self, before: datetime) -> None:
        """As the store does, or not at all."""
        if self.unprunable is not None:
            raise self.unprunable
        if self.full:
            self.refused += 1
            raise sqlite3.OperationalError("database or disk is full")
        super().prune_keys(before)

    def write(self, batch: Sequence[Change]) -> list[Written | AlreadyExists | JudgedBefore]:
        """As the store does, or not at all."""
        if self.full:
            self.refused += 1
            raise sqlite3.OperationalError("database or disk is full")
        outcome = super().write(batch)
        self.written()
        return outcome
