"""The mailbox and the reply, alone."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervisor.actors.mailbox import (
    Answer,
    BootEnded,
    CommandMessage,
    ExecutionReport,
    ForcedStop,
    Look,
    Mailbox,
    Reply,
    Unhealthy,
)
from supervisor.conversation.errors import Busy, NotFound, ShuttingDown
from supervisor.conversation.lifecycle import Command
from supervisor.conversation.record import ExecutionStatus
from tests.journal.samples import record


def command() -> CommandMessage:
    """Any command."""
    return CommandMessage(Command.STOP)


async def test_reply_is_given_once() -> None:
    """The first answer counts, for everyone who waits and whoever comes later."""
    reply: Reply[int] = Reply()
    assert not reply.is_given
    reply.answer(1)
    reply.answer(2)
    reply.fail(NotFound("late"))
    assert (reply.is_given, await reply.wait(), await reply.wait()) == (True, 1, 1)
    failed: Reply[int] = Reply()
    failed.fail(NotFound("first"))
    failed.fail(NotFound("second"))
    failed.answer(1)
    for _ in range(2):
        with pytest.raises(NotFound, match="first"):
            await failed.wait()


async def test_commands_come_in_order_and_bounded() -> None:
    """First in, first out; the bound counts commands only, and what was taken makes room."""
    mailbox = Mailbox(limit=2)
    first, second, third = command(), command(), command()
    mailbox.put(first)
    mailbox.hint(Look())
    mailbox.put(second)
    with pytest.raises(Busy):
        mailbox.put(third)
    assert await mailbox.take() is first
    mailbox.put(third)
    assert await mailbox.take() == Look()
    assert await mailbox.take() is second
    assert await mailbox.take() is third
    assert mailbox.is_empty


async def test_hints_are_conflated() -> None:
    """Of each kind the newest one waits, in the place of the oldest: they can neither overflow nor get lost."""
    mailbox = Mailbox(limit=1)
    for number in range(1000):
        mailbox.hint(Look())
        mailbox.hint(Unhealthy(number, ""))
        mailbox.hint(ExecutionReport(ExecutionStatus.IDLE if number % 2 else ExecutionStatus.RUNNING))
        mailbox.hint(BootEnded())
    taken = [await mailbox.take() for _ in range(4)]
    assert taken == [Look(), Unhealthy(999, ""), ExecutionReport(ExecutionStatus.IDLE), BootEnded()]
    assert mailbox.is_empty


async def test_forced_stop_comes_first() -> None:
    """Before everything that waits, several of them as one, and beyond the bound."""
    mailbox = Mailbox(limit=1)
    mailbox.put(command())
    replies: list[Reply[Answer]] = [Reply(), Reply()]
    for reply in replies:
        mailbox.force_stop(reply)
    waits = [mailbox.has_forced_stop]
    taken = await mailbox.take()
    assert isinstance(taken, ForcedStop)
    assert taken.replies == tuple(replies)
    assert [*waits, mailbox.has_forced_stop] == [True, False]
    assert isinstance(await mailbox.take(), CommandMessage)


@pytest.mark.parametrize("how", ["put", "hint", "force_stop"])
async def test_taking_waits_for_whatever_comes(how: str) -> None:
    """An empty mailbox is waited at; a cancelled wait loses nothing."""
    mailbox = Mailbox()
    taken: list[object] = []

    async def take() -> None:
        taken.append(await mailbox.take())

    with trio.move_on_after(0):
        await mailbox.take()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        assert taken == []
        if how == "put":
            mailbox.put(command())
        elif how == "hint":
            mailbox.hint(Look())
        else:
            mailbox.force_stop(Reply())
    assert len(taken) == 1


async def test_refusing_all_answers_everyone() -> None:
    """Commands and forced stops get the error, hints are dropped, and the mailbox is as new."""
    mailbox = Mailbox(limit=1)
    message, reply = command(), Reply[Answer]()
    mailbox.put(message)
    mailbox.hint(Look())
    mailbox.force_stop(reply)
    mailbox.refuse_all(ShuttingDown("the end"))
    for answer in (message.reply, reply):
        with pytest.raises(ShuttingDown):
            await answer.wait()
    assert mailbox.is_empty
    mailbox.put(command())
    answered = Reply[Answer]()
    answered.answer(Answer(record(), acted=True))
    assert (await answered.wait()).acted
