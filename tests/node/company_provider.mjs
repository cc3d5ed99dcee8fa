// A company's identity provider (the certified `oidc-provider`) that exchanges users' tokens (RFC 8693) for its client
// `guard`: for access tokens of the resource that is asked for, or for ID-JAGs.
// Usage: node company_provider.mjs PORT SECRET; prints a line when it listens.
//
// A test posts to /control/token with `user` and `audience` for an access token of the client `agent`, and to
// /control/refuse with `user`, whose tokens are not exchanged any more.
import { createServer } from "node:http";
import { SignJWT, decodeJwt, exportJWK, generateKeyPair, jwtVerify } from "jose";
import Provider, { errors } from "oidc-provider";

const [port, secret] = [Number(process.argv[2]), process.argv[3]];
const issuer = `http://localhost:${port}`;
const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
const TYPE = "urn:ietf:params:oauth:token-type:";
const refused = new Set();
const { privateKey, publicKey } = await generateKeyPair("RS256", { extractable: true });
const key = { ...(await exportJWK(privateKey)), kid: "one", alg: "RS256", use: "sig" };

const provider = new Provider(issuer, {
  clients: [
    { client_id: "guard", client_secret: secret, grant_types: [EXCHANGE], redirect_uris: [], response_types: [] },
    { client_id: "agent", client_secret: secret, grant_types: [], redirect_uris: [], response_types: [] },
  ],
  jwks: { keys: [key] },
  features: {
    devInteractions: { enabled: false },
    resourceIndicators: { enabled: true, getResourceServerInfo: () => ({ scope: "write" }), defaultResource: () => [] },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  ttl: { AccessToken: 300 },
});

async function accessToken(user, audience, client) {
  const token = new provider.AccessToken({ accountId: user, client, scope: "write", gty: "test" });
  token.resourceServer = new provider.ResourceServer(audience, { scope: "write", accessTokenFormat: "jwt" });
  return token.save();
}

async function assertion(user, { audience, resource, scope }, client) {
  return new SignJWT({ client_id: client.clientId, resource, scope, jti: crypto.randomUUID() })
    .setProtectedHeader({ alg: "RS256", typ: "oauth-id-jag+jwt", kid: key.kid })
    .setIssuer(issuer).setSubject(user).setAudience(audience).setIssuedAt().setExpirationTime("5m")
    .sign(privateKey);
}

async function exchange(ctx) {
  const { client, params } = ctx.oidc;
  const { sub } = decodeJwt(params.subject_token);
  await jwtVerify(params.subject_token, publicKey, { issuer, typ: "at+jwt" }).catch(() => {
    throw new errors.InvalidGrant("not a token of ours");
  });
  if (refused.has(sub)) {
    throw new errors.AccessDenied(`no: ${params.subject_token}`);
  }
  const wanted = params.requested_token_type;
  ctx.body = wanted === `${TYPE}id-jag`
    ? { access_token: await assertion(sub, params, client), token_type: "N_A", issued_token_type: wanted, expires_in: 300 }
    : { access_token: await accessToken(sub, params.resource, client), token_type: "Bearer", issued_token_type: wanted, expires_in: 300 };
}

provider.registerGrantType(EXCHANGE, exchange, [
  "subject_token", "subject_token_type", "requested_token_type", "audience", "resource", "scope",
]);

async function control(action, { user, audience }) {
  if (action === "token") {
    return accessToken(user, audience, await provider.Client.find("agent"));
  }
  refused.add(user);
  return "done";
}

async function read(request) {
  const parts = [];
  for await (const part of request) {
    parts.push(part);
  }
  return JSON.parse(Buffer.concat(parts).toString());
}

const serve = provider.callback();
createServer(async (request, response) => {
  if (!request.url.startsWith("/control/")) {
    return serve(request, response);
  }
  try {
    response.end(await control(request.url.slice("/control/".length), await read(request)));
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error.stack));
  }
}).listen(port, "127.0.0.1", () => console.log(JSON.stringify({ issuer })));
