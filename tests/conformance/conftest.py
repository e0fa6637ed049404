"""The ports' promises are tried on one bench after the other."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conformance.agents import agent_bench, kinds
from tests.conformance.benches import BENCHES, REAL_BENCHES
from tests.conformance.benches.bench import Bench, RealBench
from tests.conformance.benches.remote import running_host
from tests.daemon_process import DaemonProcess
from tests.e2e.conftest import agent_image, engine, out_loud

__all__ = ["agent_bench", "agent_image", "engine", "kinds", "out_loud"]


@pytest.fixture(scope="module")
def remote_host(engine_url: str, tiny_image: str) -> Iterator[DaemonProcess]:
    """A second daemon, which is the host of remote sandboxes."""
    with running_host(engine_url, tiny_image) as daemon:
        yield daemon


@pytest.fixture(params=BENCHES)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Each in turn; nothing is left of any."""
    async with BENCHES[request.param](request) as bench:
        yield bench


@pytest.fixture(params=REAL_BENCHES)
async def real_bench(request: pytest.FixtureRequest) -> AsyncIterator[RealBench]:
    """Each of those whose sandboxes are real processes."""
    async with REAL_BENCHES[request.param](request) as bench:
        yield bench
