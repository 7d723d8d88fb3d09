// An application with TypeORM's synchronize in three versions, the second without a column: migrate_typeorm.cjs FILE ACTION VERSION [NAME].
require("reflect-metadata");
const { DataSource, EntitySchema } = require("typeorm");
const [file, action, text, name] = process.argv.slice(2);
const version = Number(text);
const columns = [
  { id: { type: "integer", primary: true, generated: true }, name: { type: "varchar" }, price: { type: "integer" }, note: { type: "text", nullable: true } },
  { id: { type: "integer", primary: true, generated: true }, name: { type: "varchar" }, price: { type: "real", nullable: true }, starred: { type: "boolean", default: false } },
  { id: { type: "integer", primary: true, generated: true }, name: { type: "varchar", length: 80, unique: true }, price: { type: "real", nullable: true }, starred: { type: "boolean", default: false } },
][version - 1];
const Item = new EntitySchema({ name: "typeorm_item", columns });

async function main() {
  const source = new DataSource({ type: "better-sqlite3", driver: require("libsql"), database: file, entities: [Item], timeout: 20000 });
  await source.initialize();
  if (action === "migrate") await source.synchronize();
  else if (action === "pending") {
    const plan = await source.driver.createSchemaBuilder().log();
    for (const query of plan.upQueries) console.error(query.query);
    console.log(plan.upQueries.length ? "pending" : "none");
  } else {
    const items = source.getRepository(Item);
    const made = await items.save(items.create({ name, price: 7 }));
    made.price = 8;
    await items.save(made);
  }
  await source.destroy();
}
main().catch((error) => { console.error(error); process.exit(1); });
