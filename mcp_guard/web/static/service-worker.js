"use strict";
// Shows what the guard has pushed, and opens the page that it is about. It keeps nothing and answers no request of the pages.

const text = (value, other) => (typeof value === "string" && value ? value : other);

function read(event) {
  try {
    return event.data.json() ?? {};
  } catch {
    return {};
  }
}

async function open(path) {
  const target = new URL(path, self.location.origin);
  const address = target.origin === self.location.origin ? target.href : self.location.origin;
  for (const client of await self.clients.matchAll({ type: "window" })) {
    if (client.url === address) return client.focus();
  }
  return self.clients.openWindow(address);
}

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("push", (event) => {
  const message = read(event);
  const isOver = message.over === true; // browsers allow no message that shows nothing
  const options = {
    body: text(message.body, ""), tag: text(message.tag, "mcp-guard"), data: { path: text(message.path, "/") },
    requireInteraction: !isOver, silent: isOver,
  };
  event.waitUntil(self.registration.showNotification(text(message.title, "A request needs approval"), options));
});
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open(event.notification.data.path));
});
