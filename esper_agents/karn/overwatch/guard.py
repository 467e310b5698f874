"""Lets in who may look, and nobody else: pages, what they are made of, and their socket alike."""

from __future__ import annotations

import ipaddress
import secrets
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The browser itself sees to it that a page asks no other machine for anything."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(host: str) -> str | None:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


class Guard:
    """Refuses requests with status 403, before anything else sees them.

    Without a token only requests to this machine's own names pass, so that no foreign name that was made to point
    here can be used to read a run. With one, every request must bring it: in the query once, in a cookie from then on.
    What another site's page asks for is refused in either case.

    Args:
        app: what is guarded.
        host: address that is listened at.
        port: its port.
        token: what visitors must bring; ``None``: nothing.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int, token: str | None) -> None:
        self.app, self.token = app, token
        self.names = LOOPBACK | {host.lower()}
        self.cookie = f"overwatch_{port}"  # browsers do not keep the cookies of two ports apart

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self.app(scope, receive, self._adorned(scope, send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        else:
            await PlainTextResponse(refusal + "\n", 403)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> str | None:
        host = headers.get("host", "").lower()
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host:
            return "Overwatch answers its own pages only"
        if self.token is None:
            return None if _name(host) in self.names else f"Overwatch is not at the name {host!r}"
        cookies = [cookie_parser(header).get(self.cookie, "") for header in headers.getlist("cookie")]
        brought = [self._token_of_query(scope), *cookies]
        return None if any(self._is_right(token) for token in brought) else "the address needs ?token=..."

    def _is_right(self, token: str) -> bool:
        return self.token is not None and secrets.compare_digest(token.encode(), self.token.encode())

    def _token_of_query(self, scope: Scope) -> str:
        query: bytes = scope["query_string"]
        return parse_qs(query.decode("latin-1")).get("token", [""])[0]

    def _adorned(self, scope: Scope, send: Send) -> Send:
        async def adorned(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if self.token is not None and self._is_right(self._token_of_query(scope)):
                    cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                    headers.append("Set-Cookie", cookie)
            await send(message)

        return adorned
