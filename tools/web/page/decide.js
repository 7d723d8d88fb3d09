// What waits for a person: conflicts, parked rows, dead letters; and who reads the changes.

import { cell, grid, h, say } from "./dom.js";
import { get, post } from "./api.js";
import { basesCards } from "./bases.js";
import { quote } from "./row.js";

const when = (at) => at.slice(0, 19).replace("T", " ");

export class DecideView {
  constructor(app) {
    this.app = app;
    this.title = "Decide";
    app.live?.listen((name, data) => {
      if (name === "status" && data.running) this.onStatus(data.status);
    });
  }

  async show(root) {
    this.root = root;
    this.app.follow([]);
    root.append((this.view = h("div", { class: "decideview" }, h("p", { class: "hint" }, "loading…"))));
    await this.load();
  }

  hide() {
    this.view = null;
  }

  onStatus(status) {
    const shape = JSON.stringify([status.tables.map((table) => [table.conflicts, table.parked]), status.children?.map((each) => [each.state, each.figures?.refused])]);
    this.status = status;
    if (shape !== this.shape) this.load();
    this.shape = shape;
    this.drawOthers(); // their figures change each second; the lists above keep their place and focus
  }

  async load() {
    if (this.loading) return;
    this.loading = true;
    try {
      const [conflicts, parked, dead] = await Promise.all([get("/api/conflicts"), get("/api/parked"), get("/api/dead")]);
      this.app.badge(this, conflicts.filter((each) => !each.restored_at).length + parked.length + dead.length);
      if (this.view) this.draw(conflicts, parked, dead);
    } catch (error) {
      this.view?.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
    }
    this.loading = false;
  }

  draw(conflicts, parked, dead) {
    this.letters = dead;
    this.others = h("div", { class: "others" });
    this.drawn = "";
    const { writes, has_token } = this.app.console;
    const may = writes && has_token;
    const why = may ? "" : writes ? "Open the address with the token to decide here." : "This console is read-only. Run the commands, or start it with --allow-writes.";
    this.view.replaceChildren(
      why ? h("p", { class: "hint" }, why) : "",
      this.section("Conflicts", conflicts, "No write has lost to a concurrent one.", () => conflicts.map((each) => this.conflict(each, may))),
      this.section("Parked rows", parked, "No row is refused by a constraint.", () => [this.parked(parked, may)]),
      this.section("Dead letters", dead, "No reader has set a change aside.", () => [this.dead(dead, may)]),
      this.others,
    );
    this.drawOthers();
  }

  section(title, items, none, draw) {
    return h("section", { class: "card" }, h("h2", {}, title, items.length ? h("span", { class: "number badge" }, String(items.length)) : ""), items.length ? draw() : h("p", { class: "muted" }, none));
  }

  action(label, may, path, body, command) {
    const run = async (event) => {
      event.target.disabled = true;
      try {
        say((await post(path, body)).done);
        await this.load();
      } catch (error) {
        say(error.message, true);
      }
      event.target.disabled = false;
    };
    return h("div", { class: "action" }, may ? h("button", { type: "button", onclick: run }, label) : h("span", {}, label), h("code", { title: "the equivalent command" }, command));
  }

  conflict(each, may) {
    const side = (title, values, by, site, at) =>
      h("div", { class: "side" }, h("h4", {}, title), values === null ? h("p", { class: "muted" }, "a delete") : h("dl", {}, Object.entries(values).map(([name, value]) => [h("dt", {}, name), h("dd", {}, cell(value))])), h("p", { class: "muted" }, `${by || site.slice(0, 8)}, ${when(at)}`));
    const lost = Object.keys(each.lost).length ? each.lost : null;
    return h(
      "article",
      { class: "conflict" },
      h("h3", {}, h("a", { href: `#${encodeURIComponent(each.table)}/${encodeURIComponent(each.key)}` }, `${each.table} ${each.key}`), each.restored_at ? h("span", { class: "badge" }, "restored") : ""),
      h("p", { class: "muted" }, each.reason),
      h("div", { class: "sides" }, side("Lost", lost, each.lost_by, each.lost_site, each.lost_at), side("Won", each.won, each.won_by, each.won_site, each.won_at)),
      each.restored_at
        ? this.action("Undo", may, "/api/restore", { conflict: each.id, undo: true }, `mycomesh restore ${each.id} --undo`)
        : [this.action("Restore what lost", may, "/api/restore", { conflict: each.id }, `mycomesh restore ${each.id}`), lost ? this.action("Keep both", may, "/api/restore", { conflict: each.id, as_new_row: true }, `mycomesh restore ${each.id} --as-new-row`) : ""],
    );
  }

  parked(rows, may) {
    const tables = [...new Set(rows.map((each) => each.table))];
    return h(
      "div",
      {},
      tables.map((table) => this.action(`Try ${table} again`, may, "/api/parked/retry", { table }, `mycomesh parked --retry ${quote(table)}`)),
      grid(["Table", "Key", "Reason", "Since"], rows.map((each) => [each.table, each.key, each.reason, when(each.since)])),
    );
  }

  dead(letters, may) {
    return h(
      "div",
      {},
      letters.map((each) =>
        h(
          "article",
          { class: "conflict" },
          h("h3", {}, `${each.table} ${each.row}`),
          h("p", { class: "muted" }, `${each.reader}, tried ${each.tries === 1 ? "once" : `${each.tries} times`}, ${when(each.last_at)}: ${each.why}`),
          h("details", {}, h("summary", {}, "What it says"), h("pre", {}, content(each.body))),
          this.action("Try again", may, "/api/dead", { retry: each.number }, `mycomesh dead --retry ${each.number}`),
          this.action("Forget", may, "/api/dead", { drop: each.number }, `mycomesh dead --drop ${each.number}`),
        ),
      ),
    );
  }

  // Readers of the change feed, and bridges, flows and bases where they are configured.
  drawOthers() {
    const { readers = [], children = [], mailboxes = [] } = this.status ?? {};
    const shape = JSON.stringify([readers, children, mailboxes]);
    if (!this.view || !this.others || shape === this.drawn) return;
    this.drawn = shape;
    const card = (title, ...content) => h("section", { class: "card" }, h("h2", {}, title), ...content);
    const bridges = children.filter((each) => each.kind === "bridge");
    const more = children.filter((each) => each.kind !== "bridge");
    const found = basesCards(mailboxes);
    if (bridges.length) found.push(card("Bridges", grid(["Bridge", "State", "Behind", "Lag", ...COUNTS.map(([head]) => head), "Dead letters", "Note"], bridges.map((each) => this.bridge(each, readers))), h("p", { class: "hint" }, "Since each bridge started: rows sent, messages received, those refused, and those that were there already. ", h("code", {}, "mycomesh bridge pause NAME"), " and ", h("code", {}, "resume NAME"), " stop and start one.")));
    if (readers.length) {
      const rows = readers.map((each) => [each.cursor, each.table, each.behind, lag(each.behind_s), when(each.moved_at)]);
      found.push(card("Readers of changes", grid(["Cursor", "Table", "Behind", "Lag", "Moved"], rows)));
    }
    if (more.length) found.push(card("Other processes of the node", grid(["Kind", "Name", "State", "Note", "Figures"], more.map((each) => [each.kind, each.name, each.state, each.text ?? "", figures(each.figures)]))));
    this.others.replaceChildren(...found);
  }

  bridge(each, readers) {
    const own = readers.filter((reader) => reader.cursor === `bridge.${each.name}`);
    const behind = own.reduce((sum, reader) => sum + reader.behind, 0);
    const oldest = Math.max(-1, ...own.map((reader) => reader.behind_s ?? -1));
    const letters = (this.letters ?? []).filter((letter) => letter.reader === `bridge.${each.name}` || letter.reader === `bridge.${each.name}.in`).length;
    return [each.name, each.state, behind, lag(oldest < 0 ? null : oldest), ...COUNTS.map(([, name]) => Math.round(each.figures?.[name] ?? 0)), letters, each.text ?? ""];
  }
}

// The message as it came, or the row of a change.
function content(body) {
  try {
    const value = JSON.parse(body);
    return typeof value.body === "string" ? value.body : JSON.stringify(value.values ?? value, null, 1);
  } catch {
    return body;
  }
}

const COUNTS = [["Sent", "sent"], ["Received", "received"], ["Refused", "refused"], ["Duplicates", "duplicates"]];
const lag = (seconds) => (seconds === null ? "" : `${Math.round(seconds)} s`);
const figures = (value) => (value && typeof value === "object" ? (Array.isArray(value) ? value : Object.entries(value)).map(([name, number]) => `${name} ${number}`).join(", ") : "");
