"""The benches on which the sandbox port's promises are tried: one file for each provider, one line for each here."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeAlias

import pytest

from tests.conformance.benches.bench import Bench, RealBench
from tests.conformance.benches.docker import open_docker_bench
from tests.conformance.benches.fake import open_fake_bench
from tests.conformance.benches.process import open_process_bench
from tests.conformance.benches.remote import open_remote_bench

OpenBench: TypeAlias = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Bench]]
OpenRealBench: TypeAlias = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[RealBench]]

REAL_BENCHES: Final[Mapping[str, OpenRealBench]] = {
    "docker": open_docker_bench,
    "process": open_process_bench,
}

BENCHES: Final[Mapping[str, OpenBench]] = {
    "fake": open_fake_bench,
    **REAL_BENCHES,
    "remote": open_remote_bench,
}
