import pytest

from supervisor.sandbox.remote import RemoteProvider
from tests.sandbox.remote.scripted_host import ScriptedHost


@pytest.fixture
def host() -> ScriptedHost:
    """A host that answers by a script."""
    return ScriptedHost()


@pytest.fixture
def provider(host: ScriptedHost) -> RemoteProvider:
    """The provider under test, whose host that is."""
    return host.provider()
