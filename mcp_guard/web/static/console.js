"use strict";
// The console's reading pages: searches, new entries as they come, parts that are read later, and downloads.

const TAIL_MILLISECONDS = 2000, POLL_MILLISECONDS = 10000;

// The policy of the pages allows no form to be sent, so a search is an address.
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-query]");
  if (!form) return;
  event.preventDefault();
  const members = [...new FormData(form)].filter(([, value]) => value.trim());
  const query = new URLSearchParams(members).toString();
  location.assign(form.dataset.query + (query ? `?${query}` : ""));
});

async function download(link) {
  const reply = await send(link.getAttribute("href"));
  if (!reply.ok) throw new Error((await reply.json().catch(() => ({}))).problem ?? `the answer was ${reply.status}`);
  const address = URL.createObjectURL(await reply.blob());
  const target = Object.assign(document.createElement("a"), { href: address, download: link.dataset.download });
  target.click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-download]");
  if (!link) return;
  event.preventDefault();
  attempt(() => download(link));
});

// What has the focus keeps it, and what was opened stays open.
function replaceContent(element, text) {
  const fresh = document.createElement("template");
  fresh.innerHTML = text;
  if (fresh.innerHTML === element.dataset.shown) return;
  element.dataset.shown = fresh.innerHTML;
  const open = [...element.querySelectorAll("details")].map((details) => details.open);
  const at = element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  element.replaceChildren(fresh.content);
  element.querySelectorAll("details").forEach((details, index) => { details.open = open[index] ?? false; });
  if (at) element.querySelector(`a[href="${CSS.escape(at)}"]`)?.focus();
  tick();
}

async function followTail() {
  const rows = document.getElementById("rows");
  if (!rows?.dataset.tail || document.hidden || !document.getElementById("live-tail")?.checked) return;
  const size = rows.firstElementChild?.dataset.size ?? "";
  const address = rows.dataset.tail;
  const reply = await send(`${address}${address.includes("?") ? "&" : "?"}part=rows&after=${size}`);
  if (reply.status === 200) replaceContent(rows, await reply.text());
}

async function pollPart() {
  const part = document.getElementById("live-part");
  if (!part || document.hidden) return;
  const reply = await send(part.dataset.poll);
  if (reply.status === 200) replaceContent(part, await reply.text());
}

async function loadParts() {
  for (const part of document.querySelectorAll("[data-part]")) {
    const address = part.dataset.part;
    delete part.dataset.part;
    const reply = await send(address);
    const problem = async () => (await reply.json().catch(() => ({}))).problem ?? `the answer was ${reply.status}`;
    if (reply.ok) replaceContent(part, await reply.text());
    else part.textContent = `This could not be read: ${await problem()}`;
  }
}

const quietly = (work) => () => work().catch(() => {});
setInterval(quietly(followTail), TAIL_MILLISECONDS);
setInterval(quietly(pollPart), POLL_MILLISECONDS);
const load = quietly(loadParts);
new MutationObserver(load).observe(document.documentElement, { childList: true }); // on loopback the body comes later
load();

// Signing in to an upstream, as oneself. This tab keeps what completes it until the browser comes back.
const UPSTREAM_SIGN_IN = "mcp-guard.upstream-sign-in";

async function beginUpstreamSignIn(upstream) {
  const begun = await post("/upstreams/sign-in", { upstream });
  sessionStorage.setItem(UPSTREAM_SIGN_IN, begun.sealed);
  return { go: begun.url };
}

async function finishUpstreamSignIn() {
  const query = location.search.slice(1);
  const upstream = location.pathname.split("/").pop();
  history.replaceState(null, "", location.pathname); // the code stays in no history
  const sealed = sessionStorage.getItem(UPSTREAM_SIGN_IN) ?? "";
  sessionStorage.removeItem(UPSTREAM_SIGN_IN);
  return post("/upstreams/finish", { upstream, query, sealed });
}

document.addEventListener("click", (event) => {
  const { signInTo, signOutOf } = event.target.closest("button")?.dataset ?? {};
  if (signInTo) attempt(() => beginUpstreamSignIn(signInTo));
  if (signOutOf) attempt(() => post("/upstreams/sign-out", { upstream: signOutOf }).then(() => location.reload()));
});
if (document.body.dataset.page === "upstream-sign-in") attempt(finishUpstreamSignIn);
