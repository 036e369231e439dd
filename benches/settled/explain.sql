-- Runs each hot statement as in src/store, prepared and with parameters, once with a custom plan for each run and once with
-- PostgreSQL's generic plan. Prints for each statement: milliseconds with both plans (median of :runs), pages touched, and
-- the plan's nodes that read or write. All changes are rolled back.
\set runs 15
SET client_min_messages = warning;

CREATE TEMP TABLE measured (place int GENERATED ALWAYS AS IDENTITY, name text, plan text, custom_ms numeric,
                            generic_ms numeric, pages numeric);

CREATE FUNCTION pg_temp.nodes(plan json) RETURNS SETOF text LANGUAGE sql AS $$
  WITH RECURSIVE node(plan) AS (
    SELECT $1
    UNION ALL
    SELECT json_array_elements(node.plan -> 'Plans') FROM node WHERE node.plan -> 'Plans' IS NOT NULL
  )
  SELECT CASE WHEN plan ->> 'Node Type' = 'ModifyTable' THEN (plan ->> 'Operation') || ' ' || (plan ->> 'Relation Name')
              WHEN plan ->> 'Index Name' IS NOT NULL
                THEN 'Index Scan ' || (plan ->> 'Index Name')
              WHEN plan ->> 'Node Type' = 'Seq Scan' THEN 'Seq Scan ' || (plan ->> 'Relation Name') END
  FROM node
$$;

-- Runs a statement once and rolls its changes back.
CREATE FUNCTION pg_temp.once(statement text, OUT ms numeric, OUT pages numeric, OUT plan text) LANGUAGE plpgsql AS $$
DECLARE
  explained json;
BEGIN
  EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || statement INTO explained;
  ms := (explained -> 0 ->> 'Execution Time')::numeric;
  pages := (explained -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::numeric
    + (explained -> 0 -> 'Plan' ->> 'Shared Read Blocks')::numeric;
  plan := (SELECT string_agg(DISTINCT node, ', ') FROM pg_temp.nodes(explained -> 0 -> 'Plan') AS node);
  RAISE EXCEPTION 'undone' USING ERRCODE = 'ZZ001';
EXCEPTION WHEN SQLSTATE 'ZZ001' THEN
  NULL;
END
$$;

-- The values of an expression for n from 1 to 256.
CREATE FUNCTION pg_temp.numbers(expression text, OUT numbers int8[]) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE 'SELECT array_agg(' || expression || ' ORDER BY n) FROM generate_series(1, 256) AS n' INTO numbers;
END
$$;

CREATE FUNCTION pg_temp.measure(name text, runs int, prepared text, parameters text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  run text := 'EXECUTE measured_statement' || CASE parameters WHEN '' THEN '' ELSE ' (' || parameters || ')' END;
  found record;
  row measured;
BEGIN
  EXECUTE 'PREPARE measured_statement AS ' || prepared;
  FOR mode IN 0..1 LOOP
    PERFORM set_config('plan_cache_mode', (ARRAY['force_custom_plan', 'force_generic_plan'])[mode + 1], false);
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY (once).ms) AS ms,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY (once).pages) AS pages,
           string_agg(DISTINCT (once).plan, ' or ') AS plan
    INTO found FROM (SELECT pg_temp.once(run) AS once FROM generate_series(1, runs) OFFSET 0) AS each;
    IF mode = 0 THEN
      row.custom_ms := found.ms;
      row.plan := found.plan;
    ELSE
      row.generic_ms := found.ms;
      row.pages := found.pages;
      IF found.plan <> row.plan THEN row.plan := row.plan || '; kept: ' || found.plan; END IF;
    END IF;
  END LOOP;
  EXECUTE 'DEALLOCATE measured_statement';
  INSERT INTO measured (name, plan, custom_ms, generic_ms, pages)
  VALUES (measure.name, row.plan, row.custom_ms, row.generic_ms, row.pages);
END
$$;

\set due_columns 'd.event_seq, d.status, d.attempts, d.tries, d.next_at, d.settled_at, d.manual_from, d.manual_next_at'
\set list_columns 'd.event_seq, d.webhook_num, w.id AS webhook_id, e.kind, d.status, d.attempts, d.tries, d.next_at, d.settled_at, d.manual_from, d.manual_next_at'
-- Keys from work.sql: its newest event, a key after all events, and the first event with an open fan-out.
SELECT (MAX(seq) >> 21) + 1704067200000 + 120000 AS horizon, MAX(seq) AS last, MAX(seq) + 1 AS next,
  MIN(seq) FILTER (WHERE tenant_num = 2) + 150 AS open FROM event \gset

-- The due poller, once a second: webhooks_with_due.
SELECT pg_temp.measure('due poller', :runs, $$
  WITH RECURSIVE owed(num) AS (
    SELECT MIN(webhook_num) FROM delivery WHERE status = 0
    UNION ALL
    SELECT (SELECT MIN(webhook_num) FROM delivery WHERE status = 0 AND webhook_num > owed.num)
    FROM owed WHERE owed.num IS NOT NULL
  )
  SELECT owed.num AS num FROM owed JOIN webhook w ON w.num = owed.num
  WHERE w.deleted_at IS NOT NULL OR (w.is_active AND w.paused_at IS NULL AND $1 >= (
    SELECT MIN(next_at) FROM delivery WHERE status = 0 AND webhook_num = owed.num))$$, :'horizon');

-- An endpoint that was activated for due rows: due.
SELECT pg_temp.measure('rows that are due', :runs, 'WITH due AS (SELECT ' || :'due_columns' || $$
    FROM delivery d WHERE d.status = 0 AND d.webhook_num = $1 AND d.event_seq <> ALL($3) AND d.next_at <= $4
    ORDER BY next_at, event_seq LIMIT $2),
  sized AS (SELECT d.*, OCTET_LENGTH(e.body) AS size FROM due d JOIN event e ON e.seq = d.event_seq),
  summed AS (SELECT sized.*, COUNT(*) OVER () AS found,
    SUM(size) OVER (ORDER BY next_at, event_seq ROWS UNBOUNDED PRECEDING) AS up_to FROM sized)
  SELECT $$ || :'due_columns' || $$, d.found, e.tenant_num, e.kind, e.body FROM summed d JOIN event e ON e.seq = d.event_seq
  WHERE d.up_to <= 4194304 OR d.up_to = d.size ORDER BY next_at, event_seq$$, '20077, 256, ''{}''::int8[], ' || :'horizon');
SELECT pg_temp.measure('the same, in order', :runs, 'WITH due AS (SELECT ' || :'due_columns' || $$
    FROM delivery d WHERE d.status = 0 AND d.webhook_num = $1 AND d.event_seq <> ALL($3) ORDER BY event_seq LIMIT $2),
  sized AS (SELECT d.*, OCTET_LENGTH(e.body) AS size FROM due d JOIN event e ON e.seq = d.event_seq),
  summed AS (SELECT sized.*, COUNT(*) OVER () AS found,
    SUM(size) OVER (ORDER BY event_seq ROWS UNBOUNDED PRECEDING) AS up_to FROM sized)
  SELECT $$ || :'due_columns' || $$, d.found, e.tenant_num, e.kind, e.body FROM summed d JOIN event e ON e.seq = d.event_seq
  WHERE d.up_to <= 4194304 OR d.up_to = d.size ORDER BY event_seq$$, '20077, 256, ''{}''::int8[]');
SELECT pg_temp.measure('when the next is due', :runs, $$
  SELECT next_at AS num FROM delivery WHERE status = 0 AND webhook_num = $1 AND next_at > $2 ORDER BY next_at LIMIT 1$$, '20077, 0');

-- The dispatcher when it has fallen behind: fanouts, recorded_targets.
SELECT pg_temp.measure('open fan-outs', :runs, $$
  SELECT f.event_seq, f.shard, f.targets, e.tenant_num, e.kind, e.body FROM fanout f JOIN event e ON e.seq = f.event_seq
  WHERE f.event_seq IN (SELECT DISTINCT event_seq FROM fanout WHERE event_seq > $1 ORDER BY event_seq LIMIT $2)
  ORDER BY f.event_seq, f.shard$$, '0, 64');
SELECT pg_temp.measure('targets with a row', :runs,
  'SELECT webhook_num AS num FROM delivery WHERE event_seq = $1 ORDER BY webhook_num', :'open');
SELECT pg_temp.measure('owed by fan-outs alone', :runs, $$
  SELECT f.event_seq, f.targets FROM fanout f WHERE f.event_seq <= $1 AND NOT EXISTS (
    SELECT 1 FROM delivery d WHERE d.event_seq = f.event_seq AND d.webhook_num = $2)$$, :'last' || ', 20077');

-- A start: last_event, ledger.
SELECT pg_temp.measure('start: the last event', :runs, 'SELECT MAX(seq) FROM event', '');
SELECT pg_temp.measure('start: pending rows', :runs, $$
  SELECT webhook_num, COUNT(*) AS pending, MIN(event_seq) AS oldest FROM delivery WHERE status = 0
  GROUP BY webhook_num ORDER BY webhook_num$$, '');
SELECT pg_temp.measure('start: their moments', :runs, $$
  SELECT webhook_num, next_at / 1000 AS second, COUNT(*) AS scheduled FROM delivery
  WHERE status = 0 AND webhook_num BETWEEN $1 AND $2 AND next_at > $3 GROUP BY webhook_num, next_at / 1000$$, '1, 20200, 0');
SELECT pg_temp.measure('start: open fan-outs', :runs, $$
  SELECT event_seq, shard, targets FROM fanout WHERE (event_seq, shard) > ($1, $2) ORDER BY event_seq, shard LIMIT $3$$, '0, 32767, 256');
SELECT pg_temp.measure('start: their rows', :runs, $$
  SELECT f.event_seq, f.shard, d.webhook_num FROM fanout f JOIN delivery d ON d.event_seq = f.event_seq
  WHERE f.event_seq BETWEEN $1 AND $2 ORDER BY f.event_seq, f.shard, d.webhook_num$$, '0, ' || :'last');

-- A page of a log.
SELECT pg_temp.measure('a webhook''s log, a page', :runs, 'SELECT ' || :'list_columns' || $$
  FROM delivery_log l JOIN delivery d ON d.event_seq = l.event_seq AND d.webhook_num = l.webhook_num
  JOIN event e ON e.seq = d.event_seq JOIN webhook w ON w.num = d.webhook_num
  WHERE e.tenant_num = $1 AND l.webhook_num = $2 ORDER BY l.event_seq DESC, d.webhook_num DESC LIMIT $3$$, '2, 20077, 51');
SELECT pg_temp.measure('the same, pending only', :runs, 'SELECT ' || :'list_columns' || $$
  FROM delivery d JOIN event e ON e.seq = d.event_seq JOIN webhook w ON w.num = d.webhook_num
  WHERE e.tenant_num = $1 AND d.webhook_num = $2 AND d.status = 0 ORDER BY d.event_seq DESC, d.webhook_num DESC LIMIT $3$$, '2, 20077, 51');
SELECT pg_temp.measure('a tenant''s log, a page', :runs, 'SELECT ' || :'list_columns' || $$
  FROM event e JOIN delivery d ON d.event_seq = e.seq JOIN webhook w ON w.num = d.webhook_num
  WHERE e.tenant_num = $1 ORDER BY e.seq DESC, d.webhook_num DESC LIMIT $2$$, '2, 51');

-- A batch of the journal: 256 events to one webhook each, as RowStatement writes them.
SELECT pg_temp.measure('insert 256 events', :runs, $$
  INSERT INTO event (seq, tenant_num, kind, occurred_at, caller_id, matched, body)
  SELECT seq, tenant_num, kind, occurred_at, NULLIF(caller_id, ''), matched, body
  FROM unnest($1::int8[], $2::int8[], $3::text[], $4::int8[], $5::text[], $6::int8[], $7::bytea[])
    AS row (seq, tenant_num, kind, occurred_at, caller_id, matched, body)$$,
  replace($$pg_temp.numbers('next + n'), array_fill(2::int8, ARRAY[256]),
  array_fill('message.sent'::text, ARRAY[256]), array_fill(0::int8, ARRAY[256]), array_fill(''::text, ARRAY[256]),
  array_fill(1::int8, ARRAY[256]), array_fill(convert_to(repeat('a', 500), 'UTF8'), ARRAY[256])$$, 'next', :'next'));
SELECT pg_temp.measure('insert 256 fan-outs', :runs, $$
  INSERT INTO fanout (event_seq, shard, targets) SELECT event_seq, shard, targets
  FROM unnest($1::int8[], $2::int2[], $3::bytea[]) AS row (event_seq, shard, targets)$$,
  replace($$pg_temp.numbers('next + n'), array_fill(0::int2, ARRAY[256]),
  array_fill('\x01'::bytea, ARRAY[256])$$, 'next', :'next'));
SELECT pg_temp.measure('insert 256 deliveries', :runs, $$
  INSERT INTO delivery (event_seq, webhook_num, status, attempts, tries, next_at, settled_at, manual_from, manual_next_at)
  SELECT event_seq, webhook_num, status, attempts, tries, NULLIF(next_at, '-9223372036854775808'::int8),
    NULLIF(settled_at, '-9223372036854775808'::int8), NULLIF(manual_from, '-32768'::int2),
    NULLIF(manual_next_at, '-9223372036854775808'::int8)
  FROM unnest($1::int8[], $2::int8[], $3::int2[], $4::int2[], $5::int2[], $6::int8[], $7::int8[], $8::int2[], $9::int8[])
    AS row (event_seq, webhook_num, status, attempts, tries, next_at, settled_at, manual_from, manual_next_at)
  ON CONFLICT (event_seq, webhook_num) DO UPDATE SET
    status = CASE WHEN delivery.status = 3 AND excluded.status <> 1 THEN 3 ELSE excluded.status END,
    next_at = CASE WHEN delivery.status = 3 THEN NULL ELSE excluded.next_at END,
    settled_at = CASE WHEN delivery.status = 3 THEN delivery.settled_at ELSE excluded.settled_at END,
    attempts = excluded.attempts, tries = excluded.tries,
    manual_from = excluded.manual_from, manual_next_at = excluded.manual_next_at$$,
  replace($$pg_temp.numbers('next + n'), pg_temp.numbers('20000 + n % 200'),
  array_fill(1::int2, ARRAY[256]), array_fill(1::int2, ARRAY[256]), array_fill(1::int2, ARRAY[256]),
  array_fill('-9223372036854775808'::int8, ARRAY[256]), array_fill(1::int8, ARRAY[256]),
  array_fill('-32768'::int2, ARRAY[256]), array_fill('-9223372036854775808'::int8, ARRAY[256])$$, 'next', :'next'));
-- Attempts as large as the existing ones, and smaller ones.
SELECT $$
  INSERT INTO attempt (event_seq, webhook_num, number, reason, started_at, duration_us, head_us, status_code, outcome, error,
    response_headers, response_body)
  SELECT event_seq, webhook_num, number, reason, started_at, duration_us, NULLIF(head_us, '-9223372036854775808'::int8),
    NULLIF(status_code, '-32768'::int2), outcome, NULLIF(error, ''), NULLIF(response_headers, ''),
    NULLIF(response_body, ''::bytea)
  FROM unnest($1::int8[], $2::int8[], $3::int2[], $4::int2[], $5::int8[], $6::int8[], $7::int8[], $8::int2[], $9::int2[],
    $10::text[], $11::text[], $12::bytea[])
    AS row (event_seq, webhook_num, number, reason, started_at, duration_us, head_us, status_code, outcome, error,
    response_headers, response_body)
  ON CONFLICT DO NOTHING$$ AS attempts,
  replace($$pg_temp.numbers('next + n'), pg_temp.numbers('20000 + n % 200'), array_fill(1::int2, ARRAY[256]),
  array_fill(0::int2, ARRAY[256]), array_fill(1::int8, ARRAY[256]), array_fill(1::int8, ARRAY[256]), array_fill(1::int8, ARRAY[256]),
  array_fill(200::int2, ARRAY[256]), array_fill(0::int2, ARRAY[256]), array_fill(''::text, ARRAY[256]),
  array_fill('[["content-type","text/plain"]]'::text, ARRAY[256]), array_fill('\x4f4b'::bytea, ARRAY[256])$$, 'next', :'next') AS rows \gset
SELECT pg_temp.measure('insert 256 attempts', :runs, :'attempts', :'rows');
SELECT pg_temp.measure('insert 256 smaller attempts', :runs, :'attempts', replace(:'rows', '["content-type","text/plain"]', ''));
SELECT pg_temp.measure('delete 100 fan-outs', :runs, $$
  DELETE FROM fanout USING unnest($1::int8[], $2::int2[]) AS row (event_seq, shard)
  WHERE fanout.event_seq = row.event_seq AND fanout.shard = row.shard$$,
  replace($$pg_temp.numbers('open + n - 1'), array_fill(0::int2, ARRAY[256])$$, 'open', :'open'));
SELECT pg_temp.measure('index 256 log entries', :runs, $$
  INSERT INTO delivery_log (webhook_num, event_seq) SELECT webhook_num, event_seq
  FROM unnest($1::int8[], $2::int8[]) AS row (webhook_num, event_seq) ON CONFLICT DO NOTHING$$,
  replace($$pg_temp.numbers('n * 39'), pg_temp.numbers('next + n')$$,
  'next', :'next'));

\pset format unaligned
\pset tuples_only on
\pset fieldsep '|'
SELECT name, plan, round(custom_ms, 3), round(generic_ms, 3), round(pages) FROM measured ORDER BY place;
