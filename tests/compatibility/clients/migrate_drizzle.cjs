// An application with Drizzle in three versions: migrate_drizzle.cjs FILE migrate|pending|insert VERSION [NAME].
const { createClient } = require("@libsql/client");
const { drizzle } = require("drizzle-orm/libsql");
const { migrate } = require("drizzle-orm/libsql/migrator");
const fs = require("fs"), os = require("os"), path = require("path");
const [file, action, text, name] = process.argv.slice(2);
const version = Number(text), next = "--> statement-breakpoint\n";
const steps = [
  "CREATE TABLE `drizzle_item` (`id` integer PRIMARY KEY NOT NULL, `name` text NOT NULL, `price` integer NOT NULL, `note` text);\n",
  "ALTER TABLE `drizzle_item` DROP COLUMN `note`;" + next + "ALTER TABLE `drizzle_item` ADD `starred` integer DEFAULT 0 NOT NULL;",
  "PRAGMA foreign_keys=OFF;" + next +
    "CREATE TABLE `__new_drizzle_item` (`id` integer PRIMARY KEY NOT NULL, `name` text NOT NULL UNIQUE, `price` real, `starred` integer DEFAULT 0 NOT NULL);\n" + next +
    'INSERT INTO `__new_drizzle_item`("id", "name", "price", "starred") SELECT "id", "name", "price", "starred" FROM `drizzle_item`;' + next +
    "DROP TABLE `drizzle_item`;" + next + "ALTER TABLE `__new_drizzle_item` RENAME TO `drizzle_item`;" + next + "PRAGMA foreign_keys=ON;",
];

async function main() {
  const client = createClient({ url: "file:" + file });
  await client.execute("PRAGMA busy_timeout = 20000");
  const db = drizzle(client);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "drizzle-"));
  const entries = steps.slice(0, version).map((sql, idx) => {
    fs.writeFileSync(path.join(folder, `000${idx}_step.sql`), sql);
    return { idx, version: "6", when: 1700000000000 + idx, tag: `000${idx}_step`, breakpoints: true };
  });
  fs.mkdirSync(path.join(folder, "meta"));
  fs.writeFileSync(path.join(folder, "meta", "_journal.json"), JSON.stringify({ version: "7", dialect: "sqlite", entries }));
  if (action === "migrate") await migrate(db, { migrationsFolder: folder });
  else if (action === "pending") {
    const done = await client.execute("SELECT count(*) AS n FROM __drizzle_migrations").catch(() => ({ rows: [{ n: 0 }] }));
    console.log(Number(done.rows[0].n) < version ? "pending" : "none");
  } else {
    await client.execute({ sql: "INSERT INTO drizzle_item(name, price) VALUES(?, 7)", args: [name] });
    await client.execute({ sql: "UPDATE drizzle_item SET name = name, price = 8 WHERE name = ?", args: [name] });
  }
  client.close();
  fs.rmSync(folder, { recursive: true });
}
main().catch((error) => { console.error(error); process.exit(1); });
