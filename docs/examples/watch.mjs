// Follows a table of the node over HTTP: node docs/examples/watch.mjs http://127.0.0.1:7480 drones [LAST_ID]
const [base, table, last] = process.argv.slice(2);
const headers = { Accept: "text/event-stream" };
if (last) headers["Last-Event-ID"] = last; // goes on behind that change
if (process.env.TOKEN) headers.Authorization = `Bearer ${process.env.TOKEN}`;

const rows = await (await fetch(`${base}/api/tables/${encodeURIComponent(table)}?limit=3`, { headers })).json();
console.log(`${rows.columns.join(", ")}: ${rows.rows.length} rows${rows.more ? " and more" : ""}`);

const answer = await fetch(`${base}/api/changes?table=${encodeURIComponent(table)}`, { headers });
if (!answer.ok) throw new Error(await answer.text());
let rest = "";
for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
  const events = (rest + chunk).split("\n\n");
  rest = events.pop();
  for (const text of events) {
    const fields = Object.fromEntries(text.split("\n").map((line) => [line.split(": ", 1)[0], line.slice(line.indexOf(": ") + 2)]));
    if (fields.event === "ready") console.log("ready");
    if (fields.event === "reset") console.log("missed some changes; load the table again");
    if (fields.event === "change") {
      const change = JSON.parse(fields.data);
      console.log(change.op, change.row, JSON.stringify(change.values), "by", change.who, fields.id);
    }
  }
}
