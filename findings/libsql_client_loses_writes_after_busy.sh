#!/usr/bin/env bash
# @libsql/client 0.18.0 (npm) on a local file: after one INSERT was refused with SQLITE_BUSY, the next INSERTs are reported as
# done, and are not in the file once the process has ended. With `PRAGMA busy_timeout` before, all are there.
#
# Expected by a user: an INSERT that resolves is committed, as with better-sqlite3 or Python's sqlite3.
# Seen: of 20 INSERTs after the refused one, 20 are reported as done and 0 are in the file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-fund --no-audit @libsql/client@0.18.0 >/dev/null
cat > hold.py <<'PY'
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
db.execute("COMMIT")
print("free", flush=True)
PY
cat > write.cjs <<'JS'
const { spawn } = require('child_process');
const { createClient } = require('@libsql/client');
const [file, timeout] = process.argv.slice(2);
const line = (child) => new Promise((resolve) => child.stdout.once('data', resolve));
(async () => {
  const db = createClient({ url: 'file:' + file });
  if (timeout !== '0') await db.execute(`PRAGMA busy_timeout = ${timeout}`);
  const holder = spawn('python3', ['hold.py', file, '0.5']);
  await line(holder);
  let refused = 0, done = 0;
  try { await db.execute("INSERT INTO t VALUES('first')"); } catch (error) { refused = error.code === 'SQLITE_BUSY' ? 1 : 2; }
  await new Promise((resolve) => holder.on('exit', resolve));
  for (let number = 0; number < 20; number += 1) {
    await db.execute({ sql: 'INSERT INTO t VALUES(?)', args: ['row ' + number] });
    done += 1;
  }
  db.close();
  console.log(refused, done);
})();
JS
try() {
  python3 -c "import sqlite3,sys; d=sqlite3.connect(sys.argv[1]); d.execute('PRAGMA journal_mode=WAL'); d.execute('CREATE TABLE t(v)'); d.commit()" "$1"
  said=$(node write.cjs "$1" "$2")
  found=$(python3 -c "import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute(\"SELECT count(*) FROM t WHERE v LIKE 'row%'\").fetchone()[0])" "$1")
  echo "busy_timeout $2: refused, reported as done: $said; in the file: $found"
}
without=$(try "$work/a.db" 0)
with=$(try "$work/b.db" 5000)
echo "$without"
echo "$with"
[ "$without" = "busy_timeout 0: refused, reported as done: 1 20; in the file: 0" ] || { echo "this has changed"; exit 1; }
[ "$with" = "busy_timeout 5000: refused, reported as done: 0 20; in the file: 20" ] || { echo "this has changed"; exit 1; }
