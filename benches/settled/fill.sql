-- The settled work: 10,000 webhooks and :deliveries settled deliveries, ten for each event, with one attempt each. Their
-- tenant is deleted, so that `posthaste bench` treats the database as unused.
\set webhooks 10000
\set fan_out 10
\set day 86400000

BEGIN;

INSERT INTO tenant (num, id, name, allow_undeclared_types, version, created_at, updated_at, deleted_at)
VALUES (1, uuid_send(gen_random_uuid()), 'Settled', true, 1, 0, 0, 1);
SELECT setval(pg_get_serial_sequence('tenant', 'num'), 1);

INSERT INTO webhook (num, id, tenant_num, name, url, events, headers, policy, is_active, version, created_at, updated_at,
                     deleted_at)
SELECT num, uuid_send(gen_random_uuid()), 1, 'Settled', 'https://settled.example/', '["*"]', '', '{}', true, 1, 0, 0, 1
FROM generate_series(1, :webhooks) AS num;
SELECT setval(pg_get_serial_sequence('webhook', 'num'), :webhooks);

-- The newest event is one day old, the oldest 31 days; a key is milliseconds since 2024 above 21 bits of tail.
CREATE TEMP TABLE settled AS
SELECT n, ((now_ms - :day - 30 * :day::int8 * (total - n) / total - 1704067200000) << 21) + n % 2097152 AS seq
FROM (SELECT n, :deliveries::int8 / :fan_out AS total, (EXTRACT(EPOCH FROM now()) * 1000)::int8 AS now_ms
      FROM generate_series(1, :deliveries::int8 / :fan_out) AS n) AS numbered;

INSERT INTO event (seq, tenant_num, kind, occurred_at, matched, body)
SELECT seq, 1, 'message.sent', (seq >> 21) + 1704067200000, :fan_out, convert_to(repeat('settled ', 64), 'UTF8')
FROM settled ORDER BY seq;

-- Each event goes to ten webhooks whose numbers are a thousand apart.
INSERT INTO delivery (event_seq, webhook_num, status, attempts, tries, next_at, settled_at)
SELECT seq, (n * 7919 + k * 1000) % :webhooks + 1, CASE WHEN n % 200 = 0 THEN 2 ELSE 1 END, 1, 1, NULL,
       (seq >> 21) + 1704067200050
FROM settled, generate_series(0, :fan_out - 1) AS k ORDER BY 1, 2;

INSERT INTO attempt (event_seq, webhook_num, number, reason, started_at, duration_us, head_us, status_code, outcome,
                     response_headers, response_body)
SELECT event_seq, webhook_num, 1, 0, settled_at - 40, 12345, 12000, CASE status WHEN 1 THEN 200 ELSE 500 END,
       CASE status WHEN 1 THEN 0 ELSE 1 END, '[["content-type","text/plain"]]', convert_to('OK', 'UTF8')
FROM delivery ORDER BY event_seq, webhook_num;

INSERT INTO delivery_log (webhook_num, event_seq)
SELECT webhook_num, event_seq FROM delivery ORDER BY webhook_num, event_seq;

-- The log index is complete, so the next start has nothing to add to it.
INSERT INTO engine_state (name, value) SELECT 'log_indexed_to', COALESCE(MAX(seq), 0) FROM event;
UPDATE shard SET log_indexed_to = (SELECT COALESCE(MAX(seq), 0) FROM event);

COMMIT;
VACUUM (ANALYZE);
CHECKPOINT;
