from collections.abc import AsyncIterator

import pytest

from supervisor.agent import V1Driver, open_v1_driver
from tests.agent.stub import StubAgent, serving


@pytest.fixture
async def agent() -> AsyncIterator[StubAgent]:
    """A stub agent server that serves."""
    async with serving(StubAgent()) as agent:
        yield agent


@pytest.fixture
async def driver() -> AsyncIterator[V1Driver]:
    """The driver under test."""
    async with open_v1_driver() as driver:
        yield driver
