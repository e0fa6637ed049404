"""One workspace, and agent servers over it in containers as hardened as the sandboxes of the daemon are. No pytest."""

import json
import secrets
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio
from docker import APIClient
from docker.errors import NotFound

from supervisor.agent import AgentDriver, AgentSession
from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.port import Endpoint
from tests.e2e import image, v0_stub
from tests.e2e.work import read_steps

BOOTS: Final = 5
PYTHON: Final = "/opt/agent/bin/python"


class BootFailed(Exception):
    """The server ended while it booted, as real ones do now and then."""


@attrs.frozen
class Program:
    """What a container runs, and the port that it listens on; without an entrypoint it is the image's."""

    port: int
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()

    def config(self) -> str:
        """The program as lines of `[sandbox]`."""
        entrypoint = f"entrypoint = {json.dumps(self.entrypoint)}\n" if self.entrypoint else ""
        return f"port = {self.port}\n{entrypoint}command = {json.dumps(self.command)}\n"


V1: Final = Program(image.PORT)
V0: Final = Program(v0_stub.PORT, (PYTHON, "-u", "-c"), (Path(v0_stub.__file__).read_text(),))


class Machine:
    """The containers of one workspace, one after the other; its servers may have many conversations."""

    def __init__(self, engine: APIClient, image: str, program: Program = V1) -> None:
        self.name = f"conversationd-agent-{uuid.uuid4().hex[:12]}"
        self.key = secrets.token_hex(16)
        self.secret = secrets.token_hex(16)
        self._engine = engine
        self._image = image
        self._program = program

    async def boot(self, driver: AgentDriver) -> AgentSession:
        """Start the next container over the workspace, again if it fails to boot."""
        failures: list[str] = []
        while len(failures) < BOOTS:
            await trio.to_thread.run_sync(self.kill)
            session = await trio.to_thread.run_sync(self._start, driver)
            try:
                await self._wait_ready(driver, session)
            except* BootFailed as failed:
                failures.append(str(failed.exceptions[0]))
            else:
                return session
        raise AssertionError("\n".join(["all boots failed:", *failures]))

    def kill(self) -> None:
        """End the container without a warning, and take it away."""
        with suppress(NotFound):
            self._engine.remove_container(self.name, force=True)

    def freeze(self) -> None:
        """Stop everything in the container where it is."""
        self._engine.pause(self.name)

    def thaw(self) -> None:
        """Let it go on."""
        self._engine.unpause(self.name)

    def remove(self) -> None:
        """Remove everything."""
        self.kill()
        with suppress(NotFound):
            self._engine.remove_volume(self.name, force=True)

    async def steps(self) -> list[str]:
        """The lines that the agent has written so far."""
        return await trio.to_thread.run_sync(read_steps, self._engine, self.name)

    def _start(self, driver: AgentDriver) -> AgentSession:
        port = self._program.port
        host_config = self._engine.create_host_config(
            binds={self.name: {"bind": "/workspace", "mode": "rw"}},
            cap_drop=["ALL"],
            init=True,
            mem_limit="2g",
            pids_limit=512,
            port_bindings={port: ("127.0.0.1", None)},
            security_opt=["no-new-privileges"],
        )
        self._engine.create_container(
            self._image,
            entrypoint=list(self._program.entrypoint) or None,
            command=list(self._program.command) or None,
            environment=dict(driver.environment(self.key, self.secret, "/workspace")),
            host_config=host_config,
            labels={"conversationd.e2e": "test"},
            name=self.name,
            ports=[port],
        )
        self._engine.start(self.name)
        published = self._engine.inspect_container(self.name)["NetworkSettings"]["Ports"][f"{port}/tcp"][0]
        endpoint = Endpoint("127.0.0.1", int(published["HostPort"]))
        return AgentSession(ConversationId("works"), "/workspace", endpoint, None, self.key, self.secret)

    async def _wait_ready(self, driver: AgentDriver, session: AgentSession) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_exit)
            await driver.wait_ready(session)
            nursery.cancel_scope.cancel()

    async def _watch_exit(self) -> None:
        exit_code = await trio.to_thread.run_sync(self._engine.wait, self.name, abandon_on_cancel=True)
        logs = await trio.to_thread.run_sync(lambda: self._engine.logs(self.name, tail=20))
        raise BootFailed(f"exit {exit_code}: {logs.decode(errors='replace')}")
