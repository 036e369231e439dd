// Checks recorded requests with `verify.mjs` and the published library: node check_recorded.mjs TOOLS FILE
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { verifyPlain, verifyStandard } from "./verify.mjs";

const [tools, file] = process.argv.slice(2);
const { Webhook, WebhookVerificationError } = createRequire(join(tools, "node/"))("standardwebhooks");

function verifyLibrary(secret, headers, body) {
  try {
    assert.deepEqual(new Webhook(secret).verify(body, headers), JSON.parse(body));
    return true;
  } catch (error) {
    if (error instanceof WebhookVerificationError) return false;
    throw error;
  }
}

function allAgree(secret, headers, body, wanted) {
  for (const verify of [verifyPlain, verifyStandard, verifyLibrary]) {
    assert.equal(verify(secret, headers, body), wanted, `${verify.name}: ${JSON.stringify(headers)}`);
  }
}

const foreign = `whsec_${Buffer.from("somebody else's secret, 32 bytes").toString("base64")}`;
let [verified, refused] = [0, 0];
for (const request of JSON.parse(readFileSync(file, "utf8"))) {
  const { headers } = request;
  const body = Buffer.from(request.body, "base64");
  for (const secret of request.secrets) {
    allAgree(secret, headers, body, true);
    verified += 1;
    // Four forgeries: the same JSON in other bytes, other JSON, an empty object, and a foreign secret.
    const texts = [`${body} `, `${body.subarray(0, -2)}1}}`, "{}"].map((text) => Buffer.from(text));
    for (const [key, text] of [...texts.map((text) => [secret, text]), [foreign, body]]) {
      allAgree(key, headers, text, false);
      refused += 1;
    }
    const old = { ...headers, "webhook-timestamp": String(headers["webhook-timestamp"] - 301) };
    assert(!verifyStandard(secret, old, body) && !verifyLibrary(secret, old, body), "an old request passed");
  }
}
console.log(`verified ${verified}, refused ${refused} forgeries`);
