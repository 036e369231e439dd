#!/usr/bin/env bash
# Measures whether settled deliveries slow down current work on PostgreSQL. Starts a private server from the installed
# programs, creates one database with 5,000,000 settled deliveries and one without, and compares them: first each hot
# statement (plans, times, pages), then alternating runs of `posthaste bench`. Needs 8 GB of disk and about ten minutes;
# leaves nothing behind.
#
#   cargo build --release && benches/settled.sh
#   DELIVERIES=50000 ROUNDS=1 benches/settled.sh target/debug/posthaste
set -euo pipefail
cd "$(dirname "$0")/.."

posthaste=$(realpath "${1:-target/release/posthaste}")
deliveries=${DELIVERIES:-5000000}
rounds=${ROUNDS:-5}
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)
export POSTHASTE_MASTER_KEY
POSTHASTE_MASTER_KEY=$(head -c 32 /dev/urandom | base64)

dir=$(mktemp -d)
# PostgreSQL refuses to run as root.
as() { if [ "$(id -u)" = 0 ]; then (cd / && setpriv --reuid postgres --regid postgres --clear-groups -- "$@"); else "$@"; fi; }
[ "$(id -u)" != 0 ] || chown postgres:postgres "$dir"
chmod 755 "$dir"
clear() {
  as "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null || true
  rm -rf "$dir"
}
trap clear EXIT
as "$bin/initdb" -D "$dir/data" -U posthaste -A trust -E UTF8 --locale=C.UTF-8 --no-instructions >"$dir/initdb.log"
as "$bin/pg_ctl" -D "$dir/data" -l "$dir/server.log" -w start >/dev/null \
  -o "-c listen_addresses= -k $dir -c shared_buffers=256MB -c max_wal_size=4GB"

sql() { "$bin/psql" -X -q -h "$dir" -U posthaste -v ON_ERROR_STOP=1 "$@"; }
url() { echo "postgres://posthaste@localhost/$1?host=$dir"; }
copy() { sql -d postgres -c "CREATE DATABASE $2 TEMPLATE $1"; }

filled() {
  sql -d postgres -c "CREATE DATABASE $1"
  "$posthaste" migrate up --database-url "$(url "$1")" >/dev/null 2>&1
  sql -d "$1" -v deliveries="$2" -f benches/settled/fill.sql >/dev/null
}

explained() {
  copy "$1" work
  sql -d work -f benches/settled/work.sql >/dev/null
  sql -d work -f benches/settled/explain.sql | grep '|'
  sql -d postgres -c "DROP DATABASE work"
}

filled none 0
filled settled "$deliveries"
sql -t -d settled -c "SELECT pg_size_pretty(pg_database_size('settled')) || ' with ' || (SELECT COUNT(*) FROM delivery) || ' deliveries'"

explained none >"$dir/none"
explained settled >"$dir/all"
echo '| statement | plan with settled rows | without: custom / generic plan, pages | with | ratio of the generic plan |'
echo '|---|---|---|---|---|'
join -t '|' --nocheck-order "$dir/all" "$dir/none" | awk -F '|' '
  { printf "| %s | %s | %s / %s ms, %s | %s / %s ms, %s | %.2f |\n", $1, $2, $7, $8, $9, $3, $4, $5, $8 ? $4 / $8 : 1 }'

for round in 1 2; do
  for rows in none settled; do
    copy $rows bench
    sql -d postgres -c CHECKPOINT
    printf '\n%s, %s: ' "$rows" "$round"
    "$posthaste" bench --database-url "$(url bench)" --fan-out 100 --rounds "$rounds" --latency-seconds 0
    sql -d postgres -c "DROP DATABASE bench"
  done
done
