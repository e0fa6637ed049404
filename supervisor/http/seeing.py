"""A conversation as a client may see it: its record, and what reaches its agent server."""

import attrs
import trio

from supervisor.control.service import AgentAccess, ConversationService
from supervisor.conversation.errors import InvalidTransition, NotFound
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord


@attrs.frozen
class Seen:
    """A conversation as it is, and what reaches its agent server if it is RUNNING and has a port."""

    record: ConversationRecord
    access: AgentAccess | None


async def see(service: ConversationService, record: ConversationRecord) -> Seen:
    """Ask for the way to its agent server, if there can be one.

    Raises:
        NotFound: it was deleted meanwhile.
    """
    await trio.lowlevel.checkpoint()
    if record.status is Status.RUNNING:
        try:
            return Seen(record, await service.connect(record.id))
        except (InvalidTransition, NotFound):
            # It has no port, or has left RUNNING meanwhile: then it is shown as it is now, without a key.
            record = await service.get(record.id)
    return Seen(record, None)
