// Verify a webhook with Node's own crypto. `headers` has lower-case names, `body` is the raw Buffer.
import { createHmac, timingSafeEqual } from "node:crypto";

const sign = (key, ...text) => text.reduce((mac, part) => mac.update(part), createHmac("sha256", key));

function same(ours, theirs) {
  const [a, b] = [Buffer.from(ours), Buffer.from(theirs)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** X-Webhook-Signature: hex HMAC of the body, keyed with the secret as it was shown. */
export function verifyPlain(secret, headers, body) {
  const ours = sign(secret, body).digest("hex");
  return (headers["x-webhook-signature"] ?? "").split(",").some((theirs) => same(ours, theirs));
}

/** webhook-signature (Standard Webhooks): also covers the id and the time, so that a replay is detected. */
export function verifyStandard(secret, headers, body, toleranceS = 300) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature = "" } = headers;
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= toleranceS)) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const ours = `v1,${sign(key, `${id}.${timestamp}.`, body).digest("base64")}`;
  return signature.split(" ").some((theirs) => same(ours, theirs));
}
