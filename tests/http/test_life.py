"""The life of a conversation over HTTP: a running daemon, the real engine."""

import httpx2 as httpx
import pytest


@pytest.mark.parametrize("prefix", ["/conversations", "/api/conversations"])
async def test_life_of_a_conversation_over_either_path(daemon_client: httpx.AsyncClient, prefix: str) -> None:
    """Started, looked at, paused, resumed, stopped twice, restarted, archived, deleted: each answers in known words."""

    async def command(name: str, **query: str) -> httpx.Response:
        answer = await daemon_client.post(f"{prefix}/c1/{name}", params=query)
        assert answer.status_code == 200, answer.text
        return answer

    async def status() -> str:
        answer = await daemon_client.get(f"{prefix}/c1")
        return str(answer.json()["status"])

    started = (await command("start")).json()
    assert (started["status"], started["conversation_id"], started["conversation_status"]) == ("ok", "c1", "RUNNING")
    assert (await command("pause")).json() == {"success": True}
    assert await status() == "PAUSED"
    assert (await command("resume")).json() == {"success": True}
    assert await status() == "RUNNING"
    assert (await command("stop")).json() == {
        "status": "ok",
        "conversation_id": "c1",
        "message": "Conversation stopped successfully",
        "conversation_status": "STOPPED",
    }
    assert (await command("stop")).json()["message"] == "Conversation was not running"
    assert (await command("restart")).json()["conversation_status"] == "RUNNING"
    assert (await command("stop", force="true")).json()["conversation_status"] == "STOPPED"
    assert (await command("archive")).json()["conversation_status"] == "ARCHIVED"
    assert (await daemon_client.delete(f"{prefix}/c1")).json() == {"success": True}
    assert (await daemon_client.get(f"{prefix}/c1")).status_code == 404
