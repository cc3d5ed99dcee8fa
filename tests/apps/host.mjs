// A host for MCP Apps in a browser: the official client and AppBridge, in front of the guard. tests/apps/run.py drives it.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { AppBridge, PostMessageTransport, getToolUiResourceUri } from "@modelcontextprotocol/ext-apps/app-bridge";

/** What apps asked for and got, in order: `{method, params}` and `{result}` or `{error}`. */
window.messages = [];

window.connect = async (url, token) => {
  const client = new Client({ name: "apps-host", version: "1" });
  const requestInit = { headers: { Authorization: `Bearer ${token}` } };
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }));
  window.client = client;
  return (await client.listTools()).tools;
};

/** Calls a tool for the model and shows its app, as hosts do. Returns the result of the call. */
window.open = async (tool, args) => {
  const uri = getToolUiResourceUri(tool);
  const { contents } = await window.client.readResource({ uri });
  const result = await window.client.callTool({ name: tool.name, arguments: args });
  const frame = document.createElement("iframe");
  frame.name = uri;
  frame.sandbox = "allow-scripts";
  document.body.append(frame);
  window.addEventListener("message", ({ source, data }) => source === frame.contentWindow && window.messages.push(data));
  const bridge = new AppBridge(window.client, { name: "apps-host", version: "1" }, { serverTools: {}, serverResources: {} });
  const ready = new Promise((resolve) => (bridge.oninitialized = resolve));
  const toApp = new PostMessageTransport(frame.contentWindow, frame.contentWindow);
  const send = toApp.send.bind(toApp);
  toApp.send = (message) => (window.messages.push(message), send(message));
  await bridge.connect(toApp);
  frame.srcdoc = contents[0].text;
  await ready;
  await bridge.sendToolInput({ arguments: args });
  await bridge.sendToolResult(result);
  return result;
};
