"""Notifications on a person's devices, switched on and off on the page of their keys; the service worker that shows
them, and the manifest that makes the pages installable.

Only at an https origin with a notifier of kind `push`.
"""

from collections.abc import Collection
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.model import DAY
from mcp_guard.notify.push import KIND, read_subscription, seal, services_of, vapid_public
from mcp_guard.shared_secret import SharedSecret, read_shared_secret
from mcp_guard.storage.items import Item
from mcp_guard.web.console import Console, NavigationLink, read_json
from mcp_guard.web.roles import Role
from mcp_guard.web.view import HERE

NAV: tuple[NavigationLink, ...] = ()
KEPT_DAYS = 90
"""How long a subscription is kept without its owner having opened the page."""
MAX_DEVICES = 10
"""Of one person; one more forgets that which was renewed the longest time ago."""


def routes(console: Console) -> list[Route]:
    if not console.offers_push:
        return []
    notifiers = [notifier for notifier in console.settings.notifiers.values() if notifier.kind == KIND]
    services = dict.fromkeys(service for notifier in notifiers for service in services_of(notifier.options))
    pages = _PushPages(console, read_shared_secret(console.settings), tuple(services))
    return [
        Route("/service-worker.js", pages.worker),
        Route("/manifest.webmanifest", pages.manifest),
        Route("/push/key", pages.key),
        Route("/push/subscriptions", pages.subscribe, methods=["POST"]),
        Route("/push/unsubscribe", pages.unsubscribe, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _PushPages:
    console: Console
    secret: SharedSecret
    services: Collection[str]

    async def worker(self, _: Request) -> Response:
        return FileResponse(HERE / "static" / "service-worker.js", media_type="text/javascript")

    async def manifest(self, _: Request) -> Response:
        icon = {"src": f"/static/{self.console.assets}/icon.svg", "sizes": "any", "type": "image/svg+xml"}
        manifest = {
            "name": "mcp-guard approvals",
            "short_name": "mcp-guard",
            "id": "/",
            "start_url": "/",
            "scope": "/",
            "display": "standalone",
            "icons": [icon],
        }
        return JSONResponse(manifest, media_type="application/manifest+json")

    async def key(self, request: Request) -> Response:
        await self.console.allowed(request, Role.APPROVER, is_part=True)
        return JSONResponse({"key": vapid_public(self.secret)})

    async def subscribe(self, request: Request) -> Response:
        """Keep the subscription of the viewer's browser, which is theirs from now on whoever had it before."""
        console = self.console
        viewer, document, now = await console.allowed(request, Role.APPROVER), await read_json(request), console.now()
        try:
            subscription = read_subscription(document, self.services)
        except ValueError as error:
            raise HTTPException(400, f"notifications cannot be switched on: {error}") from None
        value = seal(subscription, viewer.approver, self.secret)
        await console.items.put(Item(KIND, subscription.key, viewer.approver, value, now + KEPT_DAYS * DAY), now)
        await console.forget_oldest(KIND, viewer.approver, MAX_DEVICES)
        return JSONResponse({})

    async def unsubscribe(self, request: Request) -> Response:
        console = self.console
        viewer, document = await console.allowed(request, Role.APPROVER), await read_json(request)
        try:
            subscription = read_subscription(document, self.services)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        item = await console.items.get(KIND, subscription.key, console.now())
        if item is not None and item.owner == viewer.approver:
            await console.items.delete(KIND, item.key)
        return JSONResponse({})
