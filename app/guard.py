"""Inside vLLM: nothing is answered without the key. Its own guard leaves out the routes that put it to sleep.

Copied to where the server is started, as it runs in another environment: nothing of this project is there.
"""

import os
import secrets
from typing import Any


class Guard:
    """ASGI middleware (``--middleware``): all but ``/health`` needs ``VLLM_API_KEY``."""

    def __init__(self, app: Any) -> None:
        self._app, self._key = app, f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] != "http" or scope["path"] == "/health" or secrets.compare_digest(given, self._key):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"The key is missing or wrong."})
