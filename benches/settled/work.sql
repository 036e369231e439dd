-- The current work, the same in both databases: one tenant with 200 webhooks. Each webhook has 50 pending and 100 settled
-- deliveries. 100 fan-outs go to all webhooks; half of their targets have a row.
\set webhooks 200

BEGIN;

INSERT INTO tenant (num, id, name, allow_undeclared_types, version, created_at, updated_at)
VALUES (2, uuid_send(gen_random_uuid()), 'At work', true, 1, 0, 0);

INSERT INTO webhook (num, id, tenant_num, name, url, events, headers, policy, is_active, version, created_at, updated_at)
SELECT 20000 + num, uuid_send(gen_random_uuid()), 2, 'At work', 'https://work.example/', '["*"]', '', '{}', true, 1, 0, 0
FROM generate_series(1, :webhooks) AS num;

-- Events 1 to 50 are pending, 51 to 150 settled, 151 to 250 have open fan-outs.
CREATE TEMP TABLE work AS
SELECT n, (((EXTRACT(EPOCH FROM now()) * 1000)::int8 - 60000 - 1704067200000) << 21) + n AS seq
FROM generate_series(1, 250) AS n;

INSERT INTO event (seq, tenant_num, kind, occurred_at, matched, body)
SELECT seq, 2, 'message.sent', (seq >> 21) + 1704067200000, :webhooks, convert_to(repeat('at work ', 64), 'UTF8')
FROM work ORDER BY seq;

INSERT INTO delivery (event_seq, webhook_num, status, attempts, tries, next_at, settled_at)
SELECT seq, 20000 + num, (n > 50)::int::int2, 1, 1, CASE WHEN n <= 50 THEN (seq >> 21) + 1704067201000 + num END,
       CASE WHEN n > 50 THEN (seq >> 21) + 1704067200050 END
FROM work, generate_series(1, :webhooks) AS num WHERE n <= 150 OR num <= :webhooks / 2 ORDER BY 1, 2;

INSERT INTO attempt (event_seq, webhook_num, number, reason, started_at, duration_us, head_us, status_code, outcome,
                     response_headers, response_body)
SELECT event_seq, webhook_num, 1, 0, (event_seq >> 21) + 1704067200010, 12345, 12000, CASE status WHEN 1 THEN 200 ELSE 500 END,
       CASE status WHEN 1 THEN 0 ELSE 1 END, '[["content-type","text/plain"]]', convert_to('OK', 'UTF8')
FROM delivery WHERE webhook_num > 20000 ORDER BY event_seq, webhook_num;

INSERT INTO delivery_log (webhook_num, event_seq)
SELECT webhook_num, event_seq FROM delivery WHERE webhook_num > 20000 ORDER BY webhook_num, event_seq;

-- Only the size of a fan-out matters here; its targets are not read.
INSERT INTO fanout (event_seq, shard, targets)
SELECT seq, 0, decode(repeat('01', :webhooks), 'hex') FROM work WHERE n > 150;

COMMIT;
VACUUM (ANALYZE);
CHECKPOINT;
