"""What an engine that was started again says of what it finds on its disk."""

import trio

from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.port import SandboxPlan, SandboxState
from tests.engine.sandboxes import C1, tiny_spec
from tests.engine_host import isolated_engine
from tests.tiny_image import tiny_image


async def test_workspace_without_a_container_is_ours_after_the_engines_restart(owner: str) -> None:
    """The engine answers for it without its labels then; it was taken for somebody else's."""
    with isolated_engine() as engine, tiny_image(engine.base_url) as image:
        plan = SandboxPlan(C1, 1, tiny_spec(image), {})
        async with DockerProvider(engine.base_url, owner, Lanes()) as provider:
            view = await provider.launch(plan)
            await provider.remove(view.name)
            await trio.to_thread.run_sync(engine.stop)
            await trio.to_thread.run_sync(engine.start)
            assert await provider.list_workspaces() == [C1]
            again = await provider.launch(plan)
            assert again.state is SandboxState.RUNNING
            await provider.remove(again.name)
