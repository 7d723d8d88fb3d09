// Run SQL lines from standard input through one JavaScript driver with its defaults; print what came of it as JSON.
// node node_drivers.js DRIVER FILE; packages are found by NODE_PATH.
const fs = require('fs');

async function open(driver, file) {
  if (driver === 'better-sqlite3') {
    const db = new (require('better-sqlite3'))(file);
    return sql => db.exec(sql);
  }
  if (driver === 'node:sqlite') {
    const db = new (require('node:sqlite').DatabaseSync)(file);
    return sql => db.exec(sql);
  }
  if (driver === '@libsql/client') {
    const db = require('@libsql/client').createClient({ url: 'file:' + file });
    let group = null; // a client has a pool, so a transaction is an object
    return async sql => {
      if (sql.startsWith('BEGIN')) group = await db.transaction('write');
      else if (sql === 'COMMIT') { const done = group; group = null; await done.commit(); }
      else await (group || db).execute(sql);
    };
  }
  if (driver === 'sql.js') { // it reads the whole file, and writes it back after each commit
    const SQL = await require('sql.js')();
    let db = new SQL.Database(fs.readFileSync(file)), inside = false;
    return sql => {
      if (!inside) db = new SQL.Database(fs.readFileSync(file));
      db.run(sql);
      inside = sql.startsWith('BEGIN') || (inside && sql !== 'COMMIT');
      if (!inside) fs.writeFileSync(file, db.export());
    };
  }
  throw new Error('no driver ' + driver);
}

(async () => {
  const [driver, file] = process.argv.slice(2);
  const version = driver === 'node:sqlite' ? process.version.slice(1)
    : JSON.parse(fs.readFileSync(require.resolve.paths(driver).map(p => `${p}/${driver}/package.json`).find(p => fs.existsSync(p)))).version;
  const run = await open(driver, file);
  let ok = 0, refused = 0, error = '';
  const started = Date.now();
  for (const sql of fs.readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
    try { await run(sql); ok++; } catch (why) { refused++; error = error || String(why.message).slice(0, 200); }
  }
  console.log(JSON.stringify({ ok, refused, s: (Date.now() - started) / 1000, error, version }));
  process.exit(0);
})().catch(why => { console.error(why); process.exit(1); });
