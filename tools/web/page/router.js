// The Router: tables and flows as boxes, their rows a second and lag on the wires, and steps that are `mycomesh flow` commands.

import { cell, count, h, say, svg } from "./dom.js";
import { get, post } from "./api.js";
import { BOX, place, wirePath } from "./graph.js";

const NARROW = 700; // pixels, below which the picture goes down instead of across
const CHARS = 20; // of a name in a box
const NOTE_CHARS = 28;
const SAMPLE = 10;
const WRITABLE = /^\s*(sql|onnx)\s*:/;
const cut = (text, most = CHARS) => ([...text].length > most ? `${[...text].slice(0, most - 1).join("")}…` : text);

export class RouterView {
  constructor(app) {
    this.app = app;
    this.title = "Router";
    this.flows = [];
    this.dead = new Map();
    this.rates = new Map(); // flow -> {at, inputs, rate}
    this.undos = [];
    this.chosen = null; // name of a flow, or "" for a new one
    app.live?.listen((name, data) => {
      if (name === "status" && data.running) this.onStatus(data.status);
    });
  }

  async show(root, path) {
    this.picture = h("div", { class: "picture", tabindex: "0", role: "region", "aria-label": "Tables and flows" });
    this.undo = h("button", { type: "button", disabled: true, onclick: () => this.takeBack() }, "Undo");
    this.said = h("code", { class: "said", "aria-live": "polite" });
    this.panel = h("section", { class: "card step", "aria-label": "Flow", hidden: true });
    const add = h("button", { type: "button", onclick: () => this.open("") }, "Add a flow");
    root.append((this.view = h("div", { class: "routerview" }, h("div", { class: "tools" }, h("h2", {}, "Router"), this.may ? [add, this.undo] : h("span", { class: "hint" }, this.why), this.said), h("div", { class: "halves" }, this.picture, this.panel))));
    this.app.follow([]);
    this.drawUndo();
    this.resized = () => this.draw();
    addEventListener("resize", this.resized);
    await this.load();
    if (path[1]) this.open(path[1]);
  }

  hide() {
    removeEventListener("resize", this.resized);
    this.view = null;
  }

  get may() {
    return this.app.console.writes && this.app.console.has_token;
  }

  get why() {
    return this.app.console.writes ? "Open the address with the token to change flows." : "This console is read-only. Run the commands, or start it with --allow-writes.";
  }

  async load() {
    try {
      const [flows, letters, tables] = await Promise.all([get("/api/flows"), get("/api/dead"), get("/api/tables")]);
      this.flows = flows;
      this.tables = tables;
      this.dead = new Map();
      for (const letter of letters) this.dead.set(letter.reader, (this.dead.get(letter.reader) ?? 0) + 1);
      this.draw();
    } catch (error) {
      this.picture?.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
    }
  }

  onStatus(status) {
    const now = performance.now();
    this.children = new Map(status.children?.filter((each) => each.kind === "flow").map((each) => [each.name, each]));
    this.readers = new Map(status.readers?.map((each) => [each.cursor, each]));
    for (const [name, child] of this.children) {
      const inputs = child.figures?.inputs ?? 0;
      const before = this.rates.get(name);
      if (before && now - before.at < 900) continue;
      const rate = before && inputs >= before.inputs ? (1000 * (inputs - before.inputs)) / (now - before.at) : 0;
      this.rates.set(name, { at: now, inputs, rate });
    }
    if (!this.view) return;
    const failed = JSON.stringify([...this.children.values()].map((each) => [each.name, each.figures?.failed]));
    if (this.failed !== undefined && failed !== this.failed) this.load();
    this.failed = failed;
    this.draw();
    this.tellState?.();
  }

  state(flow) {
    const child = this.children?.get(flow.name);
    const reader = this.readers?.get(`flow.${flow.name}`);
    const dead = this.dead.get(`flow.${flow.name}`) ?? 0;
    const state = flow.error ? "wrong" : (child?.state ?? "no process");
    const bad = dead > 0 || ["refused", "stopped", "failed", "wrong"].includes(state);
    return { state, bad, dead, text: flow.error || child?.text || "", behind: reader?.behind ?? 0, lag: reader?.behind_s, rate: this.rates.get(flow.name)?.rate ?? 0 };
  }

  draw() {
    if (!this.view || !this.tables) return;
    const nodes = new Map();
    const wires = [];
    const key = (name) => `table ${name.toLowerCase()}`;
    for (const table of this.tables) nodes.set(key(table.name), { table: table.name, rows: table.rows });
    for (const flow of this.flows) {
      const id = `flow ${flow.name}`;
      nodes.set(id, { flow });
      if (!flow.table) continue;
      for (const name of [flow.table, flow.into]) if (!nodes.has(key(name))) nodes.set(key(name), { table: name, missing: true });
      wires.push({ from: key(flow.table), to: id, flow, input: true }, { from: id, to: key(flow.into), flow });
    }
    const vertical = this.picture.clientWidth < NARROW;
    const used = new Set(wires.flatMap((wire) => [wire.from, wire.to]));
    const lone = [...nodes].filter(([id, node]) => !used.has(id) && !node.flow);
    for (const [id] of lone) nodes.delete(id);
    const { spots, width, height } = place(nodes, wires, vertical);
    const lines = wires.map((wire) => this.wire(wire, spots, vertical));
    const boxes = [...nodes].map(([id, node]) => (node.flow ? this.flowBox(node.flow, spots.get(id)) : this.tableBox(node, spots.get(id))));
    const focus = document.activeElement?.dataset?.box;
    const image = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "flows" }, lines, boxes);
    const others = lone.map(([, node]) => h("button", { type: "button", class: "quiet", disabled: !this.may, onclick: () => this.open("", node.table) }, cut(node.table), node.rows === null || node.rows === undefined ? "" : h("span", { class: "muted" }, ` ${node.rows}`)));
    this.picture.replaceChildren(
      this.flows.length ? image : h("p", { class: "hint" }, "No flow yet. A flow lets the writes of a table go through SQL or a model, and the results are rows of another table."),
      others.length ? h("div", { class: "lone" }, h("span", { class: "muted" }, "Tables without a flow: "), others.slice(0, 30), others.length > 30 ? h("span", { class: "muted" }, `and ${others.length - 30} more`) : "") : "",
    );
    if (focus) this.picture.querySelector(`[data-box="${CSS.escape(focus)}"]`)?.focus();
  }

  wire({ from, to, flow, input }, spots, vertical) {
    const { path, x, y } = wirePath(spots.get(from), spots.get(to), vertical);
    const { rate, behind, lag, bad } = this.state(flow);
    const moving = rate >= 0.05;
    const label = input ? [moving ? `${rate < 10 ? rate.toFixed(1) : Math.round(rate)}/s` : "", behind ? `${behind} behind${lag ? `, ${Math.round(lag)} s` : ""}` : ""].filter(Boolean).join(" · ") : "";
    return svg("g", { class: `wire${moving ? " moving" : ""}${bad && !input ? " bad" : ""}` }, svg("path", { d: path }), label ? svg("text", { x, y, "text-anchor": vertical ? "start" : "end" }, label) : null);
  }

  tableBox({ table, rows, missing }, { x, y }) {
    const note = missing ? "not there yet" : rows === null || rows === undefined ? "table" : count(rows, "row");
    return svg("g", { class: `box table${missing ? " missing" : ""}`, transform: `translate(${x} ${y})` }, svg("title", {}, table), svg("rect", { width: BOX.width, height: BOX.height, rx: 4 }), svg("text", { x: 12, y: 25, class: "name" }, cut(table)), svg("text", { x: 12, y: 44 }, note));
  }

  flowBox(flow, { x, y }) {
    const { state, bad, dead } = this.state(flow);
    const note = [state, dead ? count(dead, "dead letter") : ""].filter(Boolean).join(" · ");
    const open = () => this.open(flow.name);
    const onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    };
    return svg("g", { class: `box flow${bad ? " bad" : ""}${state === "paused" ? " paused" : ""}${this.chosen === flow.name ? " chosen" : ""}`, transform: `translate(${x} ${y})`, tabindex: "0", role: "button", "data-box": flow.name, onclick: open, onkeydown }, svg("rect", { width: BOX.width, height: BOX.height, rx: 18 }), svg("text", { x: 16, y: 25, class: "name" }, cut(flow.name)), " ", svg("text", { x: 16, y: 44 }, cut(note, NOTE_CHARS)));
  }

  // The panel of one flow, or of a new one.
  open(name, table = "") {
    const flow = this.flows.find((each) => each.name === name);
    if (name && !flow) return;
    this.chosen = name;
    const may = this.may && !flow?.author; // its author alone changes what another member shares
    const section = flow?.section ?? { on: table, run: "sql: SELECT  FROM new WHERE ", into: "" };
    const plain = (key) => (typeof section[key] === "string" ? section[key] : "");
    const field = (label, key, control) => h("label", {}, h("span", {}, label), control ?? h("input", { name: key, value: plain(key), disabled: !may, spellcheck: "false", autocomplete: "off" }));
    const run = h("textarea", { name: "run", rows: "4", spellcheck: "false", disabled: !may || (flow && !WRITABLE.test(plain("run"))) }, plain("run"));
    const where = h("select", { name: "where", disabled: !may || (section.where !== undefined && typeof section.where !== "string") }, ["", "here", "everywhere", "one"].map((each) => h("option", { value: each, selected: each === plain("where") }, each || "default (here)")));
    const command = h("code", { class: "command" });
    const results = h("div", { class: "results", "aria-live": "polite" });
    const form = h(
      "form",
      {},
      flow ? null : field("Name", "name"),
      field("On (a table, or a SELECT over it)", "on"),
      field("Run", "run", run),
      field("Into (the table of the results)", "into"),
      field("Where", "where", where),
    );
    const step = () => this.step(form, flow);
    form.addEventListener("submit", (event) => event.preventDefault());
    const button = (label, action) => h("button", { type: "button", onclick: (event) => this.press(event.target, action(), results) }, label);
    const deploy = button("Deploy", step);
    const tell = () => {
      const made = step();
      command.textContent = commandOf(made);
      deploy.disabled = !Object.keys(made.section).length;
    };
    const simple = (action) => () => ({ action, name: flow.name });
    const badge = h("span", { class: "badge" });
    const note = h("p");
    const ends = () => ["paused", "stopped", "refused"].includes(badge.textContent);
    const toggle = button("", () => simple(ends() ? "resume" : "pause")());
    // A step, another console or the command changes the state while the panel is open: what is typed in it stays.
    this.tellState = flow && (() => {
      const now = this.flows.find((each) => each.name === name) ?? flow;
      const { state, text } = this.state(now);
      badge.textContent = state;
      note.textContent = text;
      note.hidden = !text;
      note.className = now.error ? "error" : "muted";
      toggle.textContent = ends() ? "Resume" : "Pause";
    });
    this.tellState?.();
    const buttons = [
      may ? deploy : null,
      button(`Try on ${SAMPLE} rows`, () => ({ ...step(), action: "test", sample: SAMPLE, name: step().name || "draft" })),
      flow ? [toggle, may ? [button("Roll back", simple("rollback")), button("Remove", simple("remove"))] : null] : null,
    ];
    this.panel.hidden = false;
    this.panel.replaceChildren(
      h("div", { class: "head" }, h("h3", {}, flow ? flow.name : "A new flow"), flow ? badge : null, h("button", { type: "button", class: "quiet close", "aria-label": "Close", onclick: () => this.close() }, "×")),
      flow ? note : "",
      flow?.author ? h("p", { class: "muted" }, `Shared by ${flow.author}.`) : "",
      form,
      h("p", { class: "muted" }, "The same as: ", command),
      this.may ? h("div", { class: "row" }, buttons) : "",
      results,
    );
    form.addEventListener("input", tell);
    tell();
    this.draw();
    if (!flow) form.querySelector("input")?.focus();
  }

  close() {
    this.chosen = this.tellState = null;
    this.panel.hidden = true;
    this.draw();
  }

  // What "Deploy" does by now: a flow is added with what is filled in, or edited in what has changed.
  step(form, flow) {
    const given = Object.fromEntries([...new FormData(form)].map(([key, value]) => [key, value.trim()]));
    const section = {};
    for (const key of ["on", "run", "into", "where"]) {
      const before = flow?.section[key];
      if (given[key] && given[key] !== (typeof before === "string" ? before.trim() : undefined)) section[key] = given[key];
    }
    return flow ? { action: "edit", name: flow.name, section } : { action: "add", name: given.name ?? "", section };
  }

  async press(button, step, results) {
    button.disabled = true;
    try {
      const answer = await post("/api/flows", step);
      this.said.textContent = answer.command;
      if (step.action === "test") {
        results.replaceChildren(sample(answer.rows));
      } else {
        say(answer.done);
        if (answer.undo) this.undos.push(answer.undo);
        await this.after(step);
      }
    } catch (error) {
      results.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
    }
    button.disabled = false;
    this.drawUndo();
  }

  async after(step) {
    await this.load();
    const name = this.flows.some((each) => each.name === step.name) ? step.name : null;
    if (name) this.open(name);
    else this.close();
  }

  async takeBack() {
    const step = this.undos.pop();
    this.drawUndo();
    try {
      const answer = await post("/api/flows", step);
      this.said.textContent = answer.command;
      say(answer.done);
      await this.after(step);
    } catch (error) {
      say(error.message, true);
    }
  }

  drawUndo() {
    this.undo.disabled = !this.undos.length;
    this.undo.title = this.undos.length ? commandOf(this.undos.at(-1)) : "";
  }
}

const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
const commandOf = ({ action, name, section = {} }) => ["mycomesh flow", action, word(name || "NAME"), ...["on", "run", "into", "where", "from"].filter((key) => section[key]).map((key) => word(`--${key}=${section[key]}`))].join(" ");

// The rows of a test, each with its results.
function sample(rows) {
  if (!rows.length) return h("p", { class: "hint" }, "The table has no rows yet.");
  const text = (row) => Object.entries(row).map(([name, value]) => [h("span", { class: "muted" }, `${name} `), cell(value, 60), " "]);
  const line = (each) => h("tr", {}, h("td", {}, text(each.row)), h("td", { class: each.error ? "error" : null }, each.error || (each.results.length ? each.results.map((result) => h("div", {}, text(result))) : h("span", { class: "muted" }, "none"))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Rows and results" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Row"), h("th", { scope: "col" }, "Results"))), h("tbody", {}, rows.map(line))));
}
