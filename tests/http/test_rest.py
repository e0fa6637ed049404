"""Every route, over a scripted service."""

import httpx2 as httpx

from tests.http.clients import Running


async def test_get_shows_a_running_conversation_with_its_key(client: httpx.AsyncClient, running: Running) -> None:
    """All fields, and only here the way to its agent server."""
    answer = await client.get("/conversations/c1")
    assert answer.status_code == 200
    assert answer.json() == {
        "conversation_id": "c1",
        "title": "Conversation c1",
        "status": "RUNNING",
        "runtime_status": "STATUS$READY",
        "url": "http://127.0.0.1:49153",
        "session_api_key": "the-session-key",
        "created_at": "2025-11-22T12:30:15.000042Z",
        "last_updated_at": "2025-11-22T12:30:15.000042Z",
        "conversation_version": "V1",
        "execution_status": None,
        "agent_state": "LOADING",
        "error": None,
    }
    assert running.service.calls == [("get", "c1"), ("connect", "c1")]
