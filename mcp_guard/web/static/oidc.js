"use strict";
// Sign-in with the identity provider. This browser keeps the sealed attempts that it began, so that it alone completes them.

const ATTEMPTS = "mcp-guard.sign-ins";
const MOST_ATTEMPTS = 5;

function keptAttempts() {
  try {
    return Object.entries(JSON.parse(localStorage.getItem(ATTEMPTS) ?? "{}"));
  } catch {
    return [];
  }
}

// The address that this page stands for, without the host.
function returnAddress() {
  const shown = document.body.dataset.page === "sign-in" && !usesCookie ? sessionStorage.getItem(RETURN_TO) : null;
  const url = new URL(shown ?? location.href, location.origin);
  return url.origin === location.origin ? url.pathname + url.search : "/";
}

async function beginSignIn(button) {
  const { approval, anew } = button.dataset;
  const begun = await post("/sign-in/oidc", { to: returnAddress(), ...(approval && { approval }), ...(anew && { anew: true }) });
  const kept = [...keptAttempts(), [begun.state, begun.sealed]].slice(-MOST_ATTEMPTS);
  localStorage.setItem(ATTEMPTS, JSON.stringify(Object.fromEntries(kept)));
  location.assign(begun.url);
}

// Below the problem that another sign-in solves. On a request's page it is one that its routes demand.
function offerSignIn() {
  if (document.querySelector("main button[data-oidc]")) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Sign in again";
  Object.assign(button.dataset, { oidc: "", anew: "true" });
  const article = document.querySelector("article[data-id]");
  if (article) button.dataset.approval = article.dataset.id;
  document.getElementById("problem").after(button);
  button.focus();
}

async function finishSignIn() {
  const query = location.search.slice(1);
  history.replaceState(null, "", location.pathname); // the code stays in no history
  const state = new URLSearchParams(query).get("state");
  const kept = keptAttempts();
  const sealed = kept.find(([of]) => of === state)?.[1];
  localStorage.setItem(ATTEMPTS, JSON.stringify(Object.fromEntries(kept.filter(([of]) => of !== state))));
  try {
    const session = await post("/sign-in/oidc/finish", { query, sealed: sealed ?? "" });
    if (session.token) localStorage.setItem(SESSION, session.token);
    sessionStorage.removeItem(RETURN_TO);
    location.replace(session.go);
  } catch (error) {
    document.getElementById("signing-in").hidden = true;
    document.getElementById("sign-in-again").hidden = false;
    showProblem(error.message);
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-oidc]");
  if (button) attempt(() => beginSignIn(button));
});
if (document.body.dataset.page === "sign-in-oidc") finishSignIn();
