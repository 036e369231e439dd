// Creates a webhook, publishes, reads and replays with a client that is generated from the OpenAPI document.
// Arguments: URL of the server, admin key, URL of a receiver.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type EventView = components["schemas"]["Event"];

const [url, adminKey, receiver] = process.argv.slice(2);
if (!url || !adminKey || !receiver) throw new Error("give the server's URL, the admin key and a receiver's URL");

function ok<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.data === undefined) throw new Error(`${answer.response.status}: ${JSON.stringify(answer.error)}`);
  return answer.data;
}

async function until<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
  for (let turn = 0; turn < 100; turn += 1) {
    const found = await look();
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${what} did not happen`);
}

const client = (key: string) => createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });

const admin = client(adminKey);
const tenant = ok(await admin.POST("/api/v1/tenants", { body: { name: "TypeScript" } }));
const key = ok(
  await admin.POST("/api/v1/tenants/{id}/keys", {
    params: { path: { id: tenant.id } },
    body: { name: "client", scopes: ["read", "publish", "manage", "operate"] },
  }),
);
const api = client(key.key);

const webhook = ok(
  await api.POST("/api/v1/webhooks", {
    body: { name: "generated", url: receiver, events: ["message.*"] },
    params: { header: { "Idempotency-Key": "typescript-1" } },
  }),
);
if (!webhook.secret.startsWith("whsec_")) throw new Error("no secret");

const published = ok(await api.POST("/api/v1/events", { body: { event: "message.sent", data: { n: 1 } } }));
const read = async (): Promise<EventView | undefined> => {
  const event = ok(await api.GET("/api/v1/events/{id}", { params: { path: { id: published.id } } }));
  return event.progress.success === 1 ? event : undefined;
};
const event = await until("the delivery", read);
if (event.data?.["n"] !== 1) throw new Error("other data than published");

const log = ok(
  await api.GET("/api/v1/webhooks/{id}/logs", {
    params: { path: { id: webhook.id }, query: { status: "success", limit: 1 } },
  }),
);
if (log.data[0]?.lastAttempt?.outcome !== "success") throw new Error("no successful attempt in the log");

const replay = ok(
  await api.POST("/api/v1/webhooks/{id}/replay", {
    params: { path: { id: webhook.id } },
    body: { status: "success", dryRun: false },
  }),
);
if (!("state" in replay)) throw new Error("a dry run was not asked for");
const done = await until("the replay", async () => {
  const operation = ok(await api.GET("/api/v1/operations/{id}", { params: { path: { id: replay.id } } }));
  return operation.state === "done" ? operation : undefined;
});
if (done.success !== 1) throw new Error("the replay did not succeed");

const refused = await api.POST("/api/v1/webhooks", { body: { name: "", url: receiver, events: ["*"] } });
if (refused.error?.code !== "validation_failed" || refused.error.errors?.[0]?.pointer !== "/name") {
  throw new Error("a bad name was not refused with a pointer");
}
console.log("TypeScript: created, published, read, replayed");
