"""Each form of keeping processes together, in turn."""

from collections.abc import AsyncIterator

import pytest

from tests.sandbox.process.rig import Rig, homes_here, open_rig

HOMES = homes_here()


@pytest.fixture(params=HOMES)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A provider in each form that this host has."""
    async with open_rig(HOMES[request.param]) as rig:
        yield rig


@pytest.fixture
async def loose() -> AsyncIterator[Rig]:
    """A provider without control groups."""
    async with open_rig() as rig:
        yield rig
