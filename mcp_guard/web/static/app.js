"use strict";
// The inbox: sign-in, the live list, passkeys and keyboard shortcuts. The server makes all decisions; this script only sends and shows.
//
// At an https origin the session is a cookie that this script cannot read. On loopback it is in localStorage, which belongs to this scheme, host
// and port: a cookie would be sent to every port of localhost.

const SESSION = "mcp-guard.session";
const RETURN_TO = "mcp-guard.return-to";
const DONE = "mcp-guard.done";
const usesCookie = location.protocol === "https:";
const toBytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const toText = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

// A problem with what was entered in one field, which is shown beside it.
class FieldProblem extends Error {
  constructor(field, text) {
    super(text);
    this.field = field;
  }
}

function showProblem(text, field) {
  for (const shown of document.querySelectorAll("#problem, .field-problem")) shown.hidden = true;
  for (const wrong of document.querySelectorAll("[aria-invalid]")) wrong.removeAttribute("aria-invalid");
  if (!text) return;
  const problem = document.querySelector(`[data-for="${field?.id}"]`) ?? document.getElementById("problem");
  problem.textContent = text;
  problem.hidden = false;
  field?.setAttribute("aria-invalid", "true");
  field?.focus();
  problem.scrollIntoView({ block: "nearest" });
}

// A session that nobody uses ends, whatever the pages ask for by themselves.
let isAttended = true;
for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(kind, () => { isAttended = true; }, { passive: true });

async function send(path, options = {}) {
  const token = usesCookie ? null : localStorage.getItem(SESSION);
  const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }), ...(isAttended && { "mcp-guard-attended": "1" }) };
  isAttended = false;
  const credentials = usesCookie ? "same-origin" : "omit";
  const reply = await fetch(path, { ...options, headers, cache: "no-store", credentials, redirect: options.redirect ?? "error" });
  const renewed = reply.headers.get("mcp-guard-session");
  if (renewed && localStorage.getItem(SESSION) === token) localStorage.setItem(SESSION, renewed);
  if (reply.status === 401) {
    if (token && localStorage.getItem(SESSION) === token) localStorage.removeItem(SESSION);
    askToSignIn();
  }
  return reply;
}

async function post(path, body = {}) {
  const isForm = body instanceof URLSearchParams;
  const headers = isForm ? {} : { "content-type": "application/json" };
  const reply = await send(path, { method: "POST", headers, body: isForm ? body : JSON.stringify(body) });
  const answer = await reply.json().catch(() => ({ problem: `the inbox answered ${reply.status}`, hint: "" }));
  if (!reply.ok) throw Object.assign(new Error(answer.problem + (answer.hint ? ` (${answer.hint})` : "")), { vouch: answer.vouch, signIn: answer.sign_in });
  return answer;
}

// With a cookie, the address itself answers with the sign-in page.
function askToSignIn() {
  if (document.body.dataset.page === "sign-in") return;
  if (usesCookie) return location.reload();
  sessionStorage.setItem(RETURN_TO, location.href);
  location.replace("/sign-in");
}

function enter(go) {
  if (go) return location.replace(go);
  if (usesCookie) return location.pathname === "/sign-in" ? location.replace("/") : location.reload();
  const target = new URL(sessionStorage.getItem(RETURN_TO) ?? "/", location.origin);
  sessionStorage.removeItem(RETURN_TO);
  location.replace(target.origin === location.origin ? target.href : "/");
}

// The answer also clears this origin's storage.
async function signIn(path, body) {
  const target = sessionStorage.getItem(RETURN_TO);
  const session = await post(path, body);
  if (session.token) localStorage.setItem(SESSION, session.token);
  if (target && !session.go) sessionStorage.setItem(RETURN_TO, target);
  enter(session.go);
}

// A page arrives without data. With the session, the same address answers with the whole page.
async function fill() {
  const page = document.body.dataset.page;
  if (page === "sign-in" && location.hash) { // the code in the link that the command line prints
    document.getElementById("code").value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
  } else if (page === "shell") {
    if (!localStorage.getItem(SESSION)) return askToSignIn();
    const reply = await send(location.href, { redirect: "follow", mode: "same-origin" });
    if (reply.status === 401) return undefined;
    if (reply.redirected) history.replaceState(null, "", reply.url);
    const filled = new DOMParser().parseFromString(await reply.text(), "text/html");
    document.title = filled.title;
    document.body = document.adoptNode(filled.body);
    tick();
  }
  return undefined;
}

// What was recorded is said on the next page. Screen readers say what changes while a region is there, so not at once.
function showDone() {
  const text = sessionStorage.getItem(DONE);
  sessionStorage.removeItem(DONE);
  if (text) setTimeout(() => { document.getElementById("done").textContent = text; }, 200);
}

const otherWay = () => {
  if (document.body.dataset.page === "keys") return "";
  return document.getElementById("code") ? ", or sign in with a code" : ", or enrol one for this device on the page Keys";
};

// Of WebAuthn level 3, §5.1.3 and §5.1.4
const REFUSALS = {
  get NotAllowedError() { return `The passkey was not used. Nothing was done. Try again${otherWay()}.`; },
  InvalidStateError: "This device has a passkey for the inbox already.",
};

let isBusy = false;

async function attempt(work, field) {
  showProblem("");
  isBusy = true;
  try {
    const answer = await work();
    if (answer?.done) sessionStorage.setItem(DONE, answer.done);
    if (answer?.go) return location.assign(answer.go);
  } catch (error) {
    showProblem(REFUSALS[error.name] ?? error.message, error.field ?? field);
    if (error.signIn) offerSignIn(); // of oidc.js, which every page has where such a sign-in can be asked for
  }
  isBusy = false;
  return undefined;
}

const descriptors = (list) => (list ?? []).map((descriptor) => ({ ...descriptor, id: toBytes(descriptor.id) }));

async function assertion(options) {
  const publicKey = { ...options, challenge: toBytes(options.challenge), allowCredentials: descriptors(options.allowCredentials) };
  const credential = await navigator.credentials.get({ publicKey });
  const response = credential.response;
  return {
    id: credential.id, rawId: toText(credential.rawId), type: credential.type,
    response: {
      clientDataJSON: toText(response.clientDataJSON), authenticatorData: toText(response.authenticatorData), signature: toText(response.signature),
      userHandle: response.userHandle ? toText(response.userHandle) : null,
    },
    sealed: options.sealed,
  };
}

async function enrol() {
  const options = await post("/passkeys/options");
  const publicKey = {
    ...options, challenge: toBytes(options.challenge), user: { ...options.user, id: toBytes(options.user.id) },
    excludeCredentials: descriptors(options.excludeCredentials),
  };
  const credential = await navigator.credentials.create({ publicKey });
  const created = {
    id: credential.id, rawId: toText(credential.rawId), type: credential.type,
    response: { clientDataJSON: toText(credential.response.clientDataJSON), attestationObject: toText(credential.response.attestationObject) },
    sealed: options.sealed,
  };
  await post("/passkeys", created).catch(async (error) => {
    if (!error.vouch) throw error;
    await post("/passkeys/vouch", await assertion(error.vouch));
  });
  location.reload();
}

// Nothing is signed twice: these buttons do nothing meanwhile, and stay so until the next page, if one follows.
async function signOnce(buttons, work) {
  const used = document.activeElement;
  const live = [...buttons].filter((button) => !button.disabled);
  for (const button of live) button.disabled = true;
  try {
    return await work();
  } catch (error) {
    for (const button of live) button.disabled = false;
    used?.focus();
    throw error;
  }
}

// Once the terms of a grant are there to be filled in, the button that sends them comes first.
function offerGrant(form) {
  const [approve, grant] = ["approve", "grant"].map((verdict) => form.querySelector(`[data-verdict="${verdict}"]`));
  approve.firstChild.textContent = "Approve only this call ";
  approve.classList.remove("primary");
  grant.textContent = "Approve and grant";
  grant.classList.add("primary");
  approve.before(grant);
}

async function decide(verdict) {
  const form = document.getElementById("decide");
  const rationale = document.getElementById("rationale");
  const terms = document.getElementById("terms");
  if (verdict === "grant" && terms.hidden) {
    terms.hidden = false;
    offerGrant(form);
    document.getElementById("more").focus();
    return undefined;
  }
  if (!rationale.value.trim()) {
    throw new FieldProblem(rationale, "Enter a rationale: it is required.");
  }
  const free = [...form.querySelectorAll('input[name="free"]:checked')].map((box) => box.value);
  const more = Number(document.getElementById("more").value);
  if (verdict === "grant" && !(Number.isInteger(more) && more >= 1 && more <= 100)) {
    throw new FieldProblem(document.getElementById("more"), "Enter a number from 1 to 100.");
  }
  const seconds = Number(document.getElementById("seconds").value);
  const id = document.querySelector("article").dataset.id;
  const decision = { verdict: verdict === "deny" ? "deny" : "approve", rationale: rationale.value };
  const earlier = form.querySelector('[data-verdict="approve"]')?.dataset.terms;
  if (verdict === "grant") decision.terms = { more, seconds, free };
  else if (verdict === "approve" && earlier) decision.terms = JSON.parse(earlier);
  return signOnce(form.querySelectorAll("[data-verdict]"), async () => {
    const options = await post(`/requests/${id}/options`, decision);
    const answer = await post(`/requests/${id}/decide`, await assertion(options));
    await closeNotifications(id).catch(() => {});
    return answer;
  });
}

// On this device, of a request that is over.
async function closeNotifications(id) {
  const registration = await navigator.serviceWorker?.getRegistration("/");
  for (const shown of (await registration?.getNotifications({ tag: id })) ?? []) shown.close();
}

// A form of the class `sign`: what it says is signed with a passkey. `data-sign` is the path, `data-fixed` (JSON) what is sent with the fields.
async function sign(form, button) {
  for (const field of form.querySelectorAll("[required]")) {
    if (!field.value.trim()) throw new FieldProblem(field, "Say why: it is required and recorded.");
  }
  const fields = Object.fromEntries(new FormData(form, button));
  return signOnce(form.querySelectorAll("button"), async () => {
    const options = await post(`${form.dataset.sign}/options`, { ...JSON.parse(form.dataset.fixed ?? "{}"), ...fields });
    const answer = await post(form.dataset.sign, await assertion(options));
    if (!answer.go) location.reload();
    return answer;
  });
}

// A form of the class `post` is sent as it is; the answer says where to go.
async function submitForm(form) {
  for (const field of form.querySelectorAll("[required]")) {
    if (!field.value.trim()) throw new FieldProblem(field, "Enter something here: it is required.");
  }
  return post(form.dataset.post, Object.fromEntries(new FormData(form)));
}

// A part that is being computed says so, and is asked for again until it is there.
async function follow(part) {
  if (part.dataset.busy) return;
  part.dataset.busy = "1";
  while (part.isConnected) {
    const reply = await send(part.dataset.follow);
    if (!reply.ok) {
      part.textContent = "This could not be read. Reload the page.";
      return;
    }
    part.innerHTML = await reply.text();
    if (!part.querySelector("[data-again]")) return;
    await new Promise((resolve) => setTimeout(resolve, 700));
  }
}

// Set by push.js while the page renews its subscription.
let renewal = Promise.resolve();

// Whoever signs in next at this browser is not told of requests that another may decide.
async function endNotifications() {
  await renewal; // otherwise it could subscribe again after this
  const registration = await navigator.serviceWorker?.getRegistration("/");
  const subscription = await registration?.pushManager?.getSubscription();
  if (!subscription) return;
  await Promise.allSettled([post("/push/unsubscribe", subscription.toJSON()), subscription.unsubscribe()]);
}

const MAX_WAIT_FOR_PUSH = 3000;

async function signOut(path) {
  // Whatever the browser's push service does: nobody stays signed in because of it.
  await Promise.race([endNotifications().catch(() => {}), new Promise((resolve) => setTimeout(resolve, MAX_WAIT_FOR_PUSH))]);
  const answer = await post(path);
  if (usesCookie) localStorage.setItem(SESSION, `out ${Date.now()}`); // tells the other tabs
  localStorage.removeItem(SESSION);
  if (answer.notice) alert(answer.notice);
  location.replace(answer.go ?? "/sign-in");
}

function inWords(seconds) {
  if (seconds >= 3600) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min left`;
  if (seconds >= 600) return `${Math.floor(seconds / 60)} min left`;
  return seconds >= 60 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s left` : `${seconds} s left`;
}

// Counts by the clock, because a page in the background is not called every second.
function tick() {
  for (const counter of document.querySelectorAll("[data-left]")) {
    counter.expires ??= Date.now() + Number(counter.dataset.left) * 1000;
    const left = Math.max(0, Math.ceil((counter.expires - Date.now()) / 1000));
    counter.textContent = left ? inWords(left) : "expired";
    counter.classList.toggle("soon", left < 120);
    if (!left && counter.closest('article[data-state="requested"]')) return location.reload();
  }
  return undefined;
}

function showKeys() {
  document.getElementById("letters").checked = !localStorage.getItem(NO_LETTERS);
  document.getElementById("keys").showModal();
}

let shownCount = null;

function showList(live, text) {
  const fresh = document.createElement("div");
  fresh.innerHTML = text;
  const stable = (node) => {
    const copy = node.cloneNode(true);
    copy.querySelectorAll("[data-left]").forEach((counter) => counter.remove());
    delete copy.firstElementChild.dataset.version;
    return copy.innerHTML;
  };
  if (stable(fresh) === stable(live)) {
    live.firstElementChild.dataset.version = fresh.firstElementChild.dataset.version;
    return;
  }
  const name = ["href", "data-revoke"].find((attribute) => document.activeElement?.hasAttribute(attribute));
  const at = name && document.activeElement.getAttribute(name);
  live.innerHTML = text;
  if (name) live.querySelector(`[${name}="${CSS.escape(at)}"]`)?.focus();
  tick();
}

async function refresh() {
  for (const part of document.querySelectorAll("[data-follow]:not([data-busy])")) follow(part).catch(() => {});
  const page = document.body.dataset.page;
  if (page === "list" && document.getElementById("live")) {
    const live = document.getElementById("live");
    const shown = live.firstElementChild.dataset.version;
    const reply = await send(`/?part=list&shown=${shown}${location.search.replace("?", "&")}`);
    if (!reply.ok) return undefined;
    if (reply.status !== 204) showList(live, await reply.text()); // 204: nothing has changed
    const count = live.firstElementChild.dataset.count;
    if (count !== shownCount && shownCount !== null) document.getElementById("news").textContent = `Open requests: ${count}`;
    shownCount = count;
    document.title = document.title.replace(/^(\(\d+\+?\) )?/, count === "0" ? "" : `(${count}) `);
  } else if (page === "request") {
    const article = document.querySelector("article");
    if (article.dataset.state !== "requested") return closeNotifications(article.dataset.id);
    const reply = await send(`/requests/${article.dataset.id}/state`);
    if (reply.ok && (await reply.json()).state !== "requested" && !isBusy) location.reload(); // somebody else decided
  }
  return undefined;
}

// Letters alone act only as long as this is wanted (WCAG 2.1.4): speech input types them too.
const NO_LETTERS = "mcp-guard-no-letters";

document.addEventListener("change", (event) => {
  if (event.target.id !== "letters") return;
  if (event.target.checked) localStorage.removeItem(NO_LETTERS);
  else localStorage.setItem(NO_LETTERS, "1");
});

function move(by) {
  const cards = [...document.querySelectorAll("a.card")];
  const at = cards.indexOf(document.activeElement);
  cards[Math.min(cards.length - 1, Math.max(0, at + by))]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
  if (event.key !== "?" && localStorage.getItem(NO_LETTERS)) return;
  const verdicts = { a: "approve", d: "deny", g: "grant" };
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "u") document.getElementById("back")?.click();
  else if (event.key === "?") showKeys();
  else if (event.key in verdicts && document.getElementById("decide")) {
    event.preventDefault();
    document.querySelector(`[data-verdict="${verdicts[event.key]}"]`)?.click();
  }
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "passkey-sign-in") attempt(async () => signIn("/sign-in/passkey", await assertion(await post("/sign-in/options"))));
  else if (button.id === "sign-out") attempt(() => signOut("/sign-out"));
  else if (button.id === "sign-out-everywhere") attempt(() => signOut("/sign-out/everywhere"));
  else if (button.id === "enrol") attempt(enrol);
  else if (button.dataset.verdict) {
    event.preventDefault();
    attempt(() => decide(button.dataset.verdict));
  } else if (button.dataset.revoke) {
    const rationale = prompt("Why do you revoke this? Your reason is recorded.");
    if (rationale) attempt(() => post(`/revoke/${button.dataset.revoke}`, { rationale }));
  }
});

document.addEventListener("submit", (event) => {
  if (event.target.matches("form.sign")) {
    event.preventDefault();
    return attempt(() => sign(event.target, event.submitter));
  }
  if (event.target.matches("form.post")) {
    event.preventDefault();
    return attempt(() => submitForm(event.target));
  }
  if (event.target.id !== "code-sign-in") return undefined;
  event.preventDefault();
  attempt(() => signIn("/sign-in", new URLSearchParams(new FormData(event.target))), document.getElementById("code"));
  return undefined;
});

document.addEventListener("input", (event) => event.target.hasAttribute("aria-invalid") && showProblem(""));

// Signed in or out in another tab, or brought back by the back button: ask the server again.
addEventListener("storage", (event) => {
  if (event.key !== SESSION) return;
  if (document.body.dataset.page === "sign-in" && event.newValue && !usesCookie) enter();
  else location.reload();
});
addEventListener("pageshow", (event) => event.persisted && location.reload());

// On a narrow screen the bar of pages scrolls.
const showCurrentPage = () => document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

fill().then(showDone).then(showCurrentPage).catch(() => showProblem("The inbox does not answer. Is it still running?"));
setInterval(tick, 1000);
setInterval(() => refresh().catch(() => {}), 1500);
