// The official TypeScript SDK's client, once through what it can do; prints what it got as one JSON document.
// Usage: node client.mjs http URL TOKEN | node client.mjs stdio COMMAND ARGS…
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ListRootsRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const [front, where, ...rest] = process.argv.slice(2);
const transport =
  front === "http"
    ? new StreamableHTTPClientTransport(new URL(where), {
        requestInit: { headers: { authorization: `Bearer ${rest[0]}` } },
      })
    : new StdioClientTransport({ command: where, args: rest, env: process.env });

const client = new Client({ name: "typescript", version: "1" }, { capabilities: { roots: {} } });
client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [{ uri: "file:///x", name: "x" }] }));
await client.connect(transport);

const call = (name, args = {}, options = undefined) => client.callTool({ name, arguments: args }, undefined, options);
const steps = [];
const result = {
  tools: (await client.listTools()).tools.map((tool) => tool.name),
  echo: await call("up__echo", { text: "hi" }),
  asked: await call("up__ask_client", {}, { onprogress: (news) => steps.push(news.progress) }),
  steps,
  refused: await call("up__tool_error"),
  unknown: await call("up__nothing").catch((error) => ({ code: error.code })),
};
if (front === "http") await transport.terminateSession();
await client.close();
console.log(JSON.stringify(result));
