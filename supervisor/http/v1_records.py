"""Conversations as the V1 routes look them up: by an id in any spelling, and page by page, newest first."""

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

import attrs
import trio

from supervisor.control.service import ConversationService
from supervisor.conversation.errors import NotFound
from supervisor.conversation.ids import ConversationId, parse_conversation_id
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.http.seeing import Seen, see


@attrs.frozen
class SeenPage:
    """One page; `next_page_id` is None on the last one."""

    items: tuple[Seen, ...]
    next_page_id: str | None


def _anything(_: ConversationRecord) -> bool:
    return True


@attrs.frozen
class Search:
    """What is looked for. Nothing from before `since` is; `only` is the one id that may be found."""

    limit: int
    page_id: str | None
    keep: Callable[[ConversationRecord], bool] = _anything
    since: datetime | None = None
    only: str | None = None
    statuses: Sequence[Status] = ()
    newest_first: bool = True


async def find(service: ConversationService, text: str) -> ConversationRecord | None:
    """The conversation of an id.

    UUIDs may be written with dashes or without: OpenHands takes both and answers without.
    """
    await trio.lowlevel.checkpoint()
    for conversation in _spellings(text):
        with suppress(NotFound):
            return await service.get(conversation)
    return None


async def find_all(service: ConversationService, texts: Sequence[str]) -> Sequence[Seen | None]:
    """The conversations of some ids and how they are reached; None for each that is not there."""
    await trio.lowlevel.checkpoint()
    found: list[Seen | None] = []
    for text in texts:
        record = await find(service, text)
        seen = () if record is None else await _see_each(service, (record,))
        found.append(seen[0] if seen else None)
    return found


async def search(service: ConversationService, wanted: Search) -> SeenPage:
    """One page of what is looked for.

    A page that a filter leaves less than half full is filled up from those that follow, so it may have fewer than
    `limit`; only the last one has none to follow.
    """
    if wanted.only is not None:
        records, following = await _the_one(service, wanted), None
    else:
        records, following = await _walk(service, wanted)
    return SeenPage(await _see_each(service, records), following)


def new_id(wanted: str | None) -> ConversationId:
    """An id for a conversation to come: a UUID in the spelling that OpenHands answers with, or what is wanted."""
    if wanted is None:
        return ConversationId(uuid.uuid4().hex)
    as_uuid = _uuid_of(wanted)
    return ConversationId(wanted if as_uuid is None else as_uuid.hex)


async def _see_each(service: ConversationService, records: Sequence[ConversationRecord]) -> tuple[Seen, ...]:
    """Leaves out what was deleted meanwhile."""
    await trio.lowlevel.checkpoint()
    seen: list[Seen] = []
    for record in records:
        with suppress(NotFound):
            seen.append(await see(service, record))
    return tuple(seen)


async def _the_one(service: ConversationService, wanted: Search) -> list[ConversationRecord]:
    record = await find(service, wanted.only or "")
    return [record] if record is not None and wanted.keep(record) and _is_recent(record, wanted) else []


async def _walk(service: ConversationService, wanted: Search) -> tuple[list[ConversationRecord], str | None]:
    found: list[ConversationRecord] = []
    cursor = wanted.page_id
    while True:
        page = await service.list(
            wanted.statuses, {}, wanted.limit - len(found), cursor, newest_first=wanted.newest_first
        )
        found += [record for record in page.items if _is_recent(record, wanted) and wanted.keep(record)]
        cursor = page.next_cursor
        if wanted.newest_first and page.items and not _is_recent(page.items[-1], wanted):
            return found, None
        if cursor is None or 2 * len(found) >= wanted.limit:
            return found, cursor


def _is_recent(record: ConversationRecord, wanted: Search) -> bool:
    return wanted.since is None or record.created_at >= wanted.since


def _spellings(text: str) -> Sequence[ConversationId]:
    try:
        given = parse_conversation_id(text)
    except ValueError:
        return ()
    as_uuid = _uuid_of(text)
    others = () if as_uuid is None else (as_uuid.hex, str(as_uuid))
    return [given, *(ConversationId(other) for other in others if other != given)]


def _uuid_of(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
