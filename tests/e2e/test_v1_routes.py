"""A real agent that a front end starts over the V1 routes."""

import json
from pathlib import Path

import httpx2
import trio
from docker import APIClient

from tests.daemon_fixtures import MakeDaemon
from tests.e2e.conftest import config_for
from tests.e2e.work import PATIENCE, model, secrets_told, work_of
from tests.http.clients import http_client
from tests.http.v1_front_end import CONVERSATIONS, SANDBOXES, the_one, until_ready
from tests.http_door import HTTP, http_door


async def test_agent_of_the_v1_routes_works_with_what_the_request_file_says(
    make_daemon: MakeDaemon, agent_image: str, raw: APIClient, tmp_path: Path
) -> None:
    """A message is all that the front end brings: the LLM and its key are the file's, and nobody is told of them."""
    with trio.fail_after(PATIENCE), model(raw, 2) as llm:
        llm.hold(1)
        handed = llm.request_body()
        message = handed.pop("initial_message")
        del message["run"]
        path = tmp_path / "request.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(handed))
        config = config_for(agent_image).replace("[agent]\n", f'[agent]\nrequest_file = "{path}"\n')
        daemon = make_daemon(f"{config}{HTTP}")
        daemon.start()
        async with http_client(*http_door(daemon)) as client:
            begun = await client.post(CONVERSATIONS, json={"initial_message": message, "system_message_suffix": "Hm."})
            task = await until_ready(client, begun.json())
            assert (task["status"], task["request"]["llm_model"]) == ("READY", "openai/stub")
            async with work_of(daemon, raw, llm, task["app_conversation_id"]) as work:
                await work.asked(2)
                await check_access(client, task["app_conversation_id"])
                llm.release()
                await work.told("execution", to="finished")
                assert await work.steps() == ["step-0", "step-1"]
            assert (await client.post(f"{SANDBOXES}/{task['sandbox_id']}/pause", json={})).json() == {"success": True}
            paused = await the_one(client, CONVERSATIONS, "ids", task["app_conversation_id"])
            assert paused is not None
            assert (paused["sandbox_status"], paused["execution_status"]) == ("PAUSED", None)
    assert secrets_told(daemon) == []


async def check_access(client: httpx2.AsyncClient, one: str) -> None:
    """The URL and the key lead to the agent server's own view of the conversation; the suffix is in its prompt."""
    found = await the_one(client, CONVERSATIONS, "ids", one)
    assert found is not None
    assert found["execution_status"] == "running"
    headers = {"X-Session-API-Key": found["session_api_key"]}
    async with httpx2.AsyncClient(trust_env=False, headers=headers) as http:
        own = (await http.get(found["conversation_url"])).json()
    assert own["id"].replace("-", "") == one
    assert own["agent"]["agent_context"]["system_message_suffix"] == "Hm."
