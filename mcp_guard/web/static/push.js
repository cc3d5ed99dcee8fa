"use strict";
// Switches notifications on this device on and off. The functions post, send, attempt and toBytes are those of app.js.

const registered = () => navigator.serviceWorker.register("/service-worker.js", { scope: "/" });
const sameBytes = (one, other) => one.length === other.length && one.every((byte, at) => byte === other[at]);

async function serverKey() {
  const reply = await send("/push/key");
  if (!reply.ok) throw new Error("the pages did not answer; reload the page");
  return toBytes((await reply.json()).key);
}

// Who switched notifications on at this browser. Another person who signs in at it later takes nothing over.
const OWNER = "mcp-guard-notified";
const viewer = () => document.querySelector(".who span").title;

async function ofBrowser() {
  const registration = await navigator.serviceWorker.getRegistration("/");
  return await registration?.pushManager.getSubscription();
}

// The viewer's subscription of this browser, unless it is for another key of the guard's.
async function current() {
  const subscription = await ofBrowser();
  if (!subscription || localStorage.getItem(OWNER) !== viewer()) return null;
  return sameBytes(new Uint8Array(subscription.options.applicationServerKey), await serverKey()) ? subscription : null;
}

async function subscribe() {
  const registration = await navigator.serviceWorker.ready;
  await (await ofBrowser())?.unsubscribe();
  return registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: await serverKey() });
}

async function switchOn() {
  if ((await Notification.requestPermission()) !== "granted") {
    throw new Error("This browser does not allow notifications of this page. Allow them in its settings for this site.");
  }
  await registered();
  const subscription = (await current()) ?? (await subscribe());
  await post("/push/subscriptions", subscription.toJSON());
  localStorage.setItem(OWNER, viewer());
  await show();
}

async function switchOff() {
  const subscription = await current();
  if (subscription) {
    await post("/push/unsubscribe", subscription.toJSON());
    await subscription.unsubscribe();
  }
  await show();
}

async function show() {
  const section = document.getElementById("push");
  const can = "serviceWorker" in navigator && "PushManager" in window;
  const subscription = can ? await current() : null;
  section.querySelector("#push-state").textContent = !can
    ? "This browser cannot show notifications. On an iPhone or iPad, add the page to the home screen first."
    : subscription ? "It is on." : "It is off.";
  section.querySelector("#push-on").hidden = !can || subscription !== null;
  section.querySelector("#push-off").hidden = subscription === null;
  return subscription;
}

document.addEventListener("click", (event) => {
  if (event.target.id === "push-on") attempt(switchOn);
  else if (event.target.id === "push-off") attempt(switchOff);
});

// Whoever opens the page goes on being notified.
if (document.getElementById("push")) {
  renewal = attempt(async () => {
    const subscription = await show();
    if (subscription) await post("/push/subscriptions", subscription.toJSON());
  });
}
