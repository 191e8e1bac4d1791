"""What the tests of handlers share."""

from __future__ import annotations

from typing import Any

from server.support import Connect, Response, Serve, get
from whimbrel.web import RequestHandler

# Loggers.
APP = "whimbrel.application"
ACCESS = "whimbrel.access"
GENERAL = "whimbrel.general"

# What a response begins with, behind its status line, as `without_date` leaves it.
HTML = b"Server: whimbrel\r\nContent-Type: text/html; charset=UTF-8\r\n"


def answering(function: Any) -> type[RequestHandler]:
    """A handler whose get() is `function`."""
    return type("Answering", (RequestHandler,), {"get": function})


async def ask(serve: Serve, connect: Connect, function: Any, **kwargs: Any) -> Response:
    """The response to GET / by a handler whose get() is `function`."""
    return await (await connect(serve(answering(function)))).ask(get(**kwargs))
