"""The sandbox provider `remote`: `RemoteProvider` has its sandboxes run by a host that serves the runtime API.

Inside: `address` says where the host is, `host` asks it (deadlines, retries, refusals), `answers` and `views` read what
it says, `starts` is what it is asked for, `polling` watches it.
"""

from supervisor.sandbox.remote.host import Host, load_key
from supervisor.sandbox.remote.provider import RemoteProvider

__all__ = ["Host", "RemoteProvider", "load_key"]
