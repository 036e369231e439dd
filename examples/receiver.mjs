// A webhook receiver with Node.js alone: verifies, ignores repetitions, answers at once.
//
//     WEBHOOK_SECRET=whsec_… node examples/receiver.mjs 127.0.0.1:9000
//
// LISTEN may name the address instead. Run it behind a proxy that terminates TLS.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const TOLERANCE_S = 300; // Refuses a recorded request that is replayed later.
const BODY_LIMIT = 2 * 1024 * 1024; // By default Posthaste accepts 1 MiB; id and timestamp come on top.
const REMEMBERED = 10_000; // Ids in memory. A restart forgets them: see `handleOnce`.

const secret = process.env.WEBHOOK_SECRET ?? "";
const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
if (!secret.startsWith("whsec_") || key.length < 16) {
  console.error("WEBHOOK_SECRET must be the webhook's signing secret");
  process.exit(1);
}

/** Checks a request as Standard Webhooks describes it, over the raw body; returns what is wrong with it. */
function refusal(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures } = headers;
  if (!id || !timestamp || !signatures) return "a header is missing";
  // Not `>`: a timestamp that is no number must not pass.
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= TOLERANCE_S)) {
    return "webhook-timestamp is too far from the current time";
  }
  const mac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body);
  const ours = Buffer.from(`v1,${mac.digest("base64")}`);
  // During a rotation there is one signature for each secret. `timingSafeEqual` compares in constant time.
  const isOurs = (text) => {
    const theirs = Buffer.from(text);
    return theirs.length === ours.length && timingSafeEqual(theirs, ours);
  };
  return signatures.split(" ").some(isOurs) ? undefined : "no signature in webhook-signature is right";
}

const seen = new Set(); // The last ids, in the order in which they came.

/**
 * Replace this: store the event and its id in one transaction, in which a unique id refuses repetitions even after a
 * restart, and do the work later. Answer 500 if it fails; a 204 ends the retries.
 */
function handleOnce(id, event) {
  if (seen.has(id)) return;
  console.log(`handled ${id} ${event.event}`);
  seen.add(id);
  if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
}

const server = createServer({ requestTimeout: 10_000 }, (request, response) => {
  const answer = (status, reason) => {
    response.writeHead(status, reason ? { "content-type": "text/plain" } : {}).end(reason);
  };
  const chunks = [];
  let size = 0;
  request.on("data", (chunk) => {
    size += chunk.length;
    if (size <= BODY_LIMIT) return chunks.push(chunk);
    if (response.headersSent) return;
    response.setHeader("connection", "close");
    answer(413, "the body is too long");
  });
  request.on("end", () => {
    if (response.headersSent) return;
    if (request.method !== "POST") return answer(405, "only POST is accepted");
    const body = Buffer.concat(chunks);
    const reason = refusal(request.headers, body);
    if (reason) return answer(400, reason);
    try {
      handleOnce(request.headers["webhook-id"], JSON.parse(body));
    } catch (error) {
      console.error(error);
      return answer(500, "the event could not be stored");
    }
    answer(204);
  });
});

const [, host, port] = /^(.*):(\d+)$/.exec(process.argv[2] ?? process.env.LISTEN ?? "127.0.0.1:9000");
process.on("SIGTERM", () => {
  server.close(); // Requests under way are answered.
  server.closeIdleConnections();
});
server.listen(Number(port), host, () => console.log(`listening on http://${host}:${server.address().port}`));
