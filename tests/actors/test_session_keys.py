"""Session keys: each sandbox has its own, and one that was shown for a dead sandbox opens no other."""

from collections.abc import Callable
from pathlib import Path

import attrs
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from supervisor.actors.context import sandbox_key
from supervisor.actors.settings import Health
from supervisor.agent import open_v1_driver
from supervisor.control.service import StartRequest
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.restart import RestartMode, RestartPolicy
from tests.actors.test_deadlines import QUICK
from tests.actors.test_restart import crash, name_of, policy
from tests.agent.stub import CONVERSATION, PATH, Reply, StubAgent, info, serving
from tests.fakes.engine import FakeEngine
from tests.world import C1, SETTINGS, open_world, until

ID = ConversationId(CONVERSATION)
SECONDS = 20
IMPATIENT = attrs.evolve(
    SETTINGS,
    health=Health(interval=0.05, failures=1000),
    restart=RestartPolicy(jitter=0.0, backoff_initial=0.05),
)


def env_of(engine: FakeEngine, incarnation: int, conversation: ConversationId = C1) -> dict[str, str]:
    """The environment that a sandbox was made with."""
    return dict(engine.sandboxes[engine.sandbox_name(conversation, incarnation)].plan.env)


def well_spoken(port: int = 0) -> StubAgent:
    """A stub that answers as an agent server does whose agent is at work."""

    async def silent(connection: WebSocketConnection) -> None:
        await connection.get_message()

    stub = StubAgent()
    stub.port = port
    for line in ("GET /ready", "GET /health"):
        stub.on(line, Reply())
    stub.on("POST /api/conversations", Reply(201, info("running").body))
    stub.on(f"GET {PATH}", info("running"))
    stub.sockets = [silent]
    return stub


def publishing_at(engine: FakeEngine, port: int) -> Callable[[str], None]:
    """What makes the engine publish every sandbox at this port."""

    def publish(call: str) -> None:
        for sandbox in engine.sandboxes.values():
            sandbox.port = port

    return publish


async def test_thief_of_a_dead_sandboxs_port_hears_no_key_of_the_next_one(tmp_path: Path) -> None:
    """While the engine is away somebody takes the port, answers as the agent server would, and keeps what comes."""
    engine = FakeEngine()
    with trio.fail_after(SECONDS):
        async with (
            open_v1_driver() as driver,
            open_world(tmp_path, settings=IMPATIENT, engine=engine, driver=driver) as world,
        ):
            async with serving(well_spoken()) as agent:
                engine.done = publishing_at(engine, agent.port)
                await world.start(ID)
            first = env_of(engine, 1, ID)
            engine.go_down()
            engine.die(engine.sandbox_name(ID, 1))
            async with serving(well_spoken(agent.port)) as thief:
                await thief.asked("GET /health")
                await thief.asked(f"GET {PATH}")
                engine.done = lambda call: None
                engine.come_up()
                await until(lambda: engine.sandbox_name(ID, 2) in engine.sandboxes)
            second = env_of(engine, 2, ID)
    heard = f"{thief.requests}{thief.first_frames}"
    # It is told the dead one's: the daemon could not know. That opens nothing any more.
    assert first["OH_SESSION_API_KEYS_0"] in heard
    assert first["OH_SESSION_API_KEYS_0"] not in second.values()
    for key in second["OH_SESSION_API_KEYS_0"], second["OH_SECRET_KEY"]:
        assert key not in heard
    assert all("x-session-api-key" not in asked.headers for asked in thief.requests if asked.line == "GET /health")
    # What is encrypted on the disk outlives the sandbox, and so does the key to it.
    assert first["OH_SECRET_KEY"] == second["OH_SECRET_KEY"]


async def test_number_of_a_sandbox_that_was_seen_never_comes_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its key was shown while the start waited; that it was to be removed for the engine's absence changes nothing."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.agent.close_gate("begin")
        await world.start(request=StartRequest(wait=False))
        await world.until(lambda record: record.phase == "agent")
        shown = env_of(world.engine, 1)["KEY"]
        world.engine.go_down()
        await world.until_status(Status.ERROR)
        world.engine.come_up()
        await until(lambda: world.engine.sandboxes == {})
        world.agent.open_gate("begin")
        assert (await world.supervisor.restart(C1, None, force=False)).incarnation == 2
        assert env_of(world.engine, 2)["KEY"] != shown


async def test_number_of_a_sandbox_that_was_never_seen_comes_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nobody was shown its key, and by its name the engine makes no second one, however late it makes the first."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.engine.close_gate("launch")
        await world.start(request=StartRequest(wait=False))
        await world.until(lambda record: record.phase == "create")
        world.engine.go_down()
        await world.until_status(Status.ERROR)
        world.engine.open_gate("launch")
        world.engine.come_up()
        await until(lambda: world.record().intent is None)
        assert (await world.supervisor.restart(C1, None, force=False)).incarnation == 1
        assert world.engine.most_at_once[C1] == 1


async def test_resume_keeps_the_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The sandbox is the same one; only another boot has another key."""
    async with open_world(tmp_path) as world:
        await world.start()
        before = await world.supervisor.connect(C1)
        await world.supervisor.pause(C1, None)
        await world.supervisor.resume(C1, None)
        assert await world.supervisor.connect(C1) == before


async def test_last_lines_tell_neither_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A sandbox that prints its environment as it dies."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, mode=RestartMode.NEVER))) as world:
        record = await world.start()
        env = env_of(world.engine, 1)
        assert env["KEY"] == sandbox_key(record) != env["SECRET"]
        world.engine.sandboxes[name_of(world)].lines = [f"{name}={value}" for name, value in env.items()]
        await crash(world)
        error = world.record().error
        assert error is not None
        assert error.log_tail == ("KEY=***", "SECRET=***", "WORKSPACE=/workspace")
