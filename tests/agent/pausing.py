"""How tests ask a driver to pause."""

import trio

from supervisor.agent.port import AgentDriver, AgentSession


async def pause(driver: AgentDriver, session: AgentSession) -> bool:
    """Ask, and say whether the driver told of an agent that runs: once, if it did."""
    told = 0

    async def runs() -> None:
        nonlocal told
        await trio.lowlevel.checkpoint()
        told += 1

    await driver.pause(session, runs)
    assert told <= 1
    return told == 1
