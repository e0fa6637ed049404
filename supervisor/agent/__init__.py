"""The agent drivers.

`open_v1_driver()` is for the OpenHands agent server, `open_server_driver()` for one whose conversations are not ours,
`NoAgent` for a container without an agent.
"""

from supervisor.agent.none import NoAgent
from supervisor.agent.port import AgentDriver, AgentSession
from supervisor.agent.server import ServerDriver, open_server_driver
from supervisor.agent.v1 import V1Driver, open_v1_driver

__all__ = [
    "AgentDriver",
    "AgentSession",
    "NoAgent",
    "ServerDriver",
    "V1Driver",
    "open_server_driver",
    "open_v1_driver",
]
