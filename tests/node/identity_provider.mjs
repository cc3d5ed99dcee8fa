// An OpenID Provider (the certified `oidc-provider`) with a sign-in page of its own, for the tests of signing in.
// Usage: node identity_provider.mjs PORT CLIENT (JSON); prints a line when it listens.
//
// A person signs in by any name; `ACCOUNTS` has their claims. The button "with a second factor" gives `acr` and `amr`.
// Clients may be named by the URL of their metadata document, at a host that is this machine, and get tokens for the
// resource that they ask for. A test posts to /control/rotate for new keys; to /control/logout for the latest back-channel logout token, which is sent
// nowhere else; to /control/alter with `claims` or `header`, and in the next ID token
// they are replaced (null removes one) before it is signed; to /control/answer with parameters that replace those of the
// next redirect to the client.
import { createServer } from "node:http";
import { get } from "node:https";
import { SignJWT, decodeJwt, decodeProtectedHeader, exportJWK, generateKeyPair, importJWK } from "jose";
import Provider from "oidc-provider";

const [port, client] = [Number(process.argv[2]), JSON.parse(process.argv[3])];
const issuer = `http://localhost:${port}`;
const ACCOUNTS = {
  "alice-at-idp": { name: "Alice Example", email: "alice@example.com", email_verified: true, groups: ["approvers"] },
  "carol-at-idp": { name: "Carol Example", email: "carol@example.com", email_verified: true, groups: ["audit"] },
  "dave-at-idp": { name: "Dave Example", groups: ["staff"] },
  "mallory-at-idp": { name: "Mallory", email: "alice@example.com", email_verified: false, groups: [] },
};
const STRONG = "urn:example:strong";

let keys = [];
let altered = null;
let answer = null;
let serve = null;
let logoutToken = "";

async function newKey() {
  const { privateKey } = await generateKeyPair("RS256", { extractable: true });
  return { ...(await exportJWK(privateKey)), kid: crypto.randomUUID(), alg: "RS256", use: "sig" };
}

async function resign(token) {
  const [change, key] = [altered, keys[0]];
  altered = null;
  const claims = Object.entries({ ...decodeJwt(token), ...change.claims }).filter(([, value]) => value !== null);
  const header = { ...decodeProtectedHeader(token), ...change.header };
  if (header.alg === "none") {
    const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
    return `${encode(header)}.${encode(Object.fromEntries(claims))}.`;
  }
  const secret = header.alg === "HS256" ? new TextEncoder().encode(client.client_secret) : await importJWK(key, "RS256");
  return new SignJWT(Object.fromEntries(claims)).setProtectedHeader(header).sign(secret);
}

/** A document of this machine, whatever its host is called. */
function fetchHere(url) {
  const lookup = (_, options, done) => done(null, [{ address: "127.0.0.1", family: 4 }]);
  return new Promise((resolve, reject) => {
    get(url, { lookup }, async (response) => {
      const headers = { "content-type": response.headers["content-type"] };
      resolve(new Response(await read(response), { status: response.statusCode, headers }));
    }).on("error", reject);
  });
}

async function start() {
  const provider = new Provider(issuer, {
    clients: [client],
    jwks: { keys },
    acrValues: [STRONG],
    claims: {
      openid: ["sub", "acr", "amr", "auth_time"],
      profile: ["name"],
      email: ["email", "email_verified"],
      groups: ["groups"],
    },
    conformIdTokenClaims: client.client_id !== "all-in-id-token", // otherwise only userinfo has them
    cookies: { keys: ["only for tests"] },
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      clientIdMetadataDocument: { enabled: true, ack: "draft-02" },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => [],
        getResourceServerInfo: () => ({ scope: "write", accessTokenFormat: "jwt" }),
        useGrantedResource: () => true,
      },
    },
    fetch: async (url, options) => {
      if (options.method === "GET") {
        return fetchHere(url);
      }
      logoutToken = new URLSearchParams(await new Response(options.body).text()).get("logout_token");
      return new Response("", { status: 200 });
    },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...ACCOUNTS[id] }) }),
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    async loadExistingGrant(ctx) {
      const { account, client: asking } = ctx.oidc;
      const grant = new provider.Grant({ clientId: asking.clientId, accountId: account.accountId });
      grant.addOIDCScope("openid profile email groups");
      Object.keys(ctx.oidc.resourceServers ?? {}).forEach((resource) => grant.addResourceScope(resource, "write"));
      await grant.save();
      return grant;
    },
    pkce: { required: () => true },
    ttl: { AccessToken: 300, AuthorizationCode: 60, IdToken: 300, Interaction: 300, Session: 3600, Grant: 3600 },
  });
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.oidc?.route === "token" && altered && ctx.body?.id_token) {
      ctx.body.id_token = await resign(ctx.body.id_token);
    }
    const location = ctx.response.get("location") ?? "";
    if (answer && location.startsWith(client.redirect_uris[0])) {
      const url = new URL(location);
      for (const [name, value] of Object.entries(answer)) {
        value === null ? url.searchParams.delete(name) : url.searchParams.set(name, value);
      }
      answer = null;
      ctx.set("location", url.href);
    }
  });
  const callback = provider.callback();
  serve = async (request, response, body) => {
    if (!request.url.startsWith("/interaction/")) {
      return callback(request, response);
    }
    const { params, uid } = await provider.interactionDetails(request, response);
    if (request.method === "GET") {
      response.setHeader("content-type", "text/html");
      return response.end(`<!doctype html><html lang="en"><title>Example sign-in</title>
        <h1>Example identity provider</h1><p id="asked">${JSON.stringify(params).replace(/[<&]/g, "")}</p>
        <form method="post" action="/interaction/${uid}"><label>Name <input name="login" autofocus></label>
        <button name="factor" value="one">Sign in</button>
        <button name="factor" value="two">Sign in with a second factor</button>
        <button name="factor" value="none">Cancel</button></form></html>`);
    }
    const form = new URLSearchParams(body);
    const strong = form.get("factor") === "two" ? { acr: STRONG, amr: ["pwd", "otp", "mfa"] } : {};
    const result =
      form.get("factor") === "none"
        ? { error: "access_denied", error_description: "the person said no" }
        : { login: { accountId: form.get("login"), ...strong } };
    return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
  };
}

async function control(action, body) {
  if (action === "rotate") {
    keys = [await newKey()];
    await start(); // sessions and codes end with the old one
  } else if (action === "alter") {
    altered = JSON.parse(body);
  } else if (action === "answer") {
    answer = JSON.parse(body);
  } else if (action === "logout") {
    return logoutToken;
  }
  return "done";
}

async function read(request) {
  const parts = [];
  for await (const part of request) {
    parts.push(part);
  }
  return Buffer.concat(parts).toString();
}

keys = [await newKey()];
await start();
const server = createServer(async (request, response) => {
  try {
    if (request.url.startsWith("/control/")) {
      response.end(await control(request.url.slice("/control/".length), await read(request)));
    } else {
      const isForm = request.url.startsWith("/interaction/") && request.method === "POST";
      await serve(request, response, isForm ? await read(request) : "");
    }
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
    response.end(String(error));
  }
});
server.listen(port, "127.0.0.1", () => console.log(JSON.stringify({ issuer })));
