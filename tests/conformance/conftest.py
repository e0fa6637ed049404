"""The sandbox port's promises are tried on one bench after the other."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.benches import BENCHES
from tests.conformance.benches.bench import Bench


@pytest.fixture(params=BENCHES)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Each in turn; nothing is left of any."""
    async with BENCHES[request.param](request) as bench:
        yield bench
