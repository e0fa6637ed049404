"""What sandboxes have written into their workspaces: whatever is done to them, it is there, and nothing of another's.

A conversation is started with a token of its own, as a label and in its environment. Each boot of its sandbox adds a
line to a file in the workspace: that token, and the container's host name. The files are read beside the daemon and
the engine, from the engine's disk, so that what was written once can be asked for at the end.
"""

import secrets
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import attrs
import trio

from supervisor.control.client import ControlClient, Conversation
from supervisor.conversation.ids import parse_conversation_id
from supervisor.conversation.lifecycle import Status
from supervisor.sandbox.names import workspace_name
from tests.engine_host import root_prefix

COMMAND: Final = """["sh", "-c", 'echo "$LIFE $HOSTNAME" >>/workspace/boots && exec sleep 100000']"""
"""What every sandbox runs, in TOML."""

_LABEL: Final = "life"
_READ_AGAIN_AFTER: Final = 1.0
_READ: Final = 'cd "$1/volumes" && exec grep -s -H "" -- */_data/boots'
_HOST_NAME: Final = 12
Written: TypeAlias = Mapping[str, tuple[str, ...]]
"""The lines of each volume's file, by the volume's name."""


async def start_with_token(
    client: ControlClient, conversation: str, *, wait: bool = True, within: float | None = None
) -> Conversation:
    """Start a conversation whose sandboxes sign its workspace; one that is there keeps the token that it has.

    Raises:
        RemoteError: it was refused, or failed.
        ConnectionLost: nobody knows.
    """
    life = secrets.token_hex(8)
    labels = {_LABEL: life}
    return await client.start(conversation, labels=labels, spec={"env": {"LIFE": life}}, wait=wait, within=within)


@attrs.define(eq=False)
class Workspaces:
    """All workspaces of one daemon on an engine whose data are below `root`; `losses` is what vanished from them."""

    root: str
    owner: str
    losses: list[str] = attrs.field(factory=list)
    _seen: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    _reading: trio.Lock = attrs.field(factory=trio.Lock)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Read them again and again, for as long as the block lasts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            yield
            nursery.cancel_scope.cancel()

    @property
    def boots(self) -> int:
        """How many boots were read of."""
        return sum(len(lines) for lines in self._seen.values())

    async def compare(self, conversations: Iterable[Conversation]) -> list[str]:
        """Read them, and tell what is not there that has to be, or is there and must not be."""
        written = await self._read()
        return [wrong for one in conversations for wrong in self._wrong_with(one, written)]

    def _wrong_with(self, conversation: Conversation, written: Written) -> Iterator[str]:
        life = conversation.labels[_LABEL]
        name = workspace_name(self.owner, parse_conversation_id(conversation.id))
        lines, seen = written.get(name, ()), self._seen.get(life, ())
        if lines[: len(seen)] != seen:
            yield f"the workspace of {conversation.id} has {lines} and had {seen}"
        if any(line.partition(" ")[0] != life for line in lines):
            yield f"the workspace of {conversation.id} has {lines}, not all of which {life} has written"
        if conversation.status is Status.RUNNING and _host_name(conversation) not in lines[-1:]:
            yield f"the sandbox of {conversation.id} has not written to its workspace: {lines}"

    async def _watch(self) -> None:
        while True:
            await self._read()
            await trio.sleep(_READ_AGAIN_AFTER)

    async def _read(self) -> Written:
        async with self._reading:  # in turn: what an earlier reading found must not be heard of after a later one's
            return await self._read_now()

    async def _read_now(self) -> Written:
        command = [*root_prefix(), "sh", "-c", _READ, "sh", self.root]
        done = await trio.run_process(command, capture_stdout=True, check=False, stderr=subprocess.DEVNULL)
        written: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
        for line in done.stdout.decode().splitlines():
            path, _, text = line.partition(":")
            written[path.partition("/")[0]] += (text,)
        for lines in written.values():
            self._remember(lines)
        return written

    def _remember(self, lines: tuple[str, ...]) -> None:
        """A workspace only ever gets longer, until it is gone with its conversation and that one's token."""
        life = lines[0].partition(" ")[0]
        seen = self._seen.get(life, ())
        if lines[: len(seen)] != seen:
            self.losses.append(f"a workspace had {seen} and has {lines}")
        self._seen[life] = lines


def _host_name(conversation: Conversation) -> str:
    """The last line that its sandbox has to have written."""
    assert conversation.sandbox is not None
    assert conversation.sandbox.id is not None
    return f"{conversation.labels[_LABEL]} {conversation.sandbox.id[:_HOST_NAME]}"
