"""The agent drivers.

`open_v1_driver()` is for the OpenHands agent server, `open_v0_driver()` for the older OpenHands server,
`open_server_driver()` for either of them whose conversations are not ours, `NoAgent` for a container without an agent.
"""

from supervisor.agent.none import NoAgent
from supervisor.agent.port import AgentDriver, AgentSession
from supervisor.agent.server import ServerDriver, open_server_driver
from supervisor.agent.v0 import V0Driver, open_v0_driver
from supervisor.agent.v1 import V1Driver, open_v1_driver

__all__ = [
    "AgentDriver",
    "AgentSession",
    "NoAgent",
    "ServerDriver",
    "V0Driver",
    "V1Driver",
    "open_server_driver",
    "open_v0_driver",
    "open_v1_driver",
]
