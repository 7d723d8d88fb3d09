// Tables: paged, sortable, filtered by SQL, and up to date while they are looked at.

import { cell, count, h } from "./dom.js";
import { get, rowsPath } from "./api.js";
import { rowDrawer } from "./row.js";

const PAGE = 50;

export class TablesView {
  constructor(app) {
    this.app = app;
    this.title = "Tables";
    this.tables = [];
    this.table = "";
    this.page = { where: "", order: "", desc: false, offset: 0 };
    app.live?.listen((name, data) => {
      if (this.root && ((name === "changes" && data.table === this.table) || name === "reset")) this.refreshSoon();
      if (this.root && name === "status" && data.running) this.onTables(data.status.tables);
    });
  }

  async show(root, path) {
    this.root = root;
    this.list = h("nav", { class: "list", "aria-label": "Tables" });
    this.main = h("section", { class: "grid" });
    root.append(h("div", { class: "tablesview" }, this.list, this.main));
    await this.load(path[1]);
  }

  hide() {
    this.root = null;
    clearTimeout(this.timer);
    this.timer = 0;
  }

  async load(name) {
    try {
      this.tables = await get("/api/tables");
    } catch (error) {
      this.main.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
      return;
    }
    if (!this.root) return;
    const wanted = name ?? this.table;
    const found = this.tables.find((each) => each.name === wanted) ?? this.tables[0];
    if (found && found.name !== this.table) {
      this.table = found.name;
      this.page = { where: "", order: "", desc: false, offset: 0 };
    }
    this.drawList();
    if (found) {
      this.app.follow([this.table]);
      this.drawTools();
      await this.refresh();
    } else {
      this.main.replaceChildren(h("p", { class: "hint" }, "The file has no tables yet. Create one with any SQLite client."));
    }
  }

  onTables(views) {
    const names = JSON.stringify(views.map((each) => [each.name, each.rows]));
    if (names === this.seen) return;
    this.seen = names;
    const known = new Map(this.tables.map((each) => [each.name, each]));
    if (views.every((view) => known.has(view.name))) {
      for (const view of views) Object.assign(known.get(view.name), { rows: view.rows, view });
      this.drawList();
    } else if (!document.activeElement?.closest(".grid")) this.load();
  }

  drawList() {
    this.list.replaceChildren(
      h("h2", {}, "Tables"),
      h(
        "ul",
        {},
        this.tables.map((each) =>
          h("li", {}, h("a", { href: `#/tables/${encodeURIComponent(each.name)}`, "aria-current": each.name === this.table ? "page" : null }, h("span", { class: "name" }, each.name), h("span", { class: "count" }, each.rows === null ? "not replicated" : each.rows.toLocaleString("en")))),
        ),
      ),
    );
  }

  drawTools() {
    const where = h("input", { type: "text", class: "where", placeholder: "a condition in SQL: battery < 20", "aria-label": "Filter in SQL", value: this.page.where, spellcheck: "false", autocapitalize: "off" });
    const filter = (event) => {
      event.preventDefault();
      this.page.where = where.value.trim();
      this.page.offset = 0;
      this.refresh();
    };
    const spec = this.tables.find((each) => each.name === this.table);
    this.files = h("span", { class: "files" });
    this.note = h("p", { class: "muted" }, spec?.view?.note ?? "");
    this.body = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Rows of ${this.table}` });
    this.foot = h("div", { class: "pager" });
    this.error = h("p", { class: "error", role: "alert" });
    this.main.replaceChildren(h("div", { class: "tools" }, h("h2", {}, this.table), h("form", { class: "row", onsubmit: filter }, where, h("button", { type: "submit" }, "Filter")), this.files), this.note, this.error, this.body, this.foot);
  }

  refreshSoon() {
    if (!this.timer) this.timer = setTimeout(() => ((this.timer = 0), this.refresh()), Math.max(250, 5 * (this.tookMs ?? 0)));
  }

  async refresh() {
    const { where, order, desc, offset } = this.page;
    const started = performance.now();
    try {
      this.found = await get(rowsPath(this.table, { where, order, desc: desc ? 1 : "", offset, limit: PAGE }));
      this.error.textContent = "";
    } catch (error) {
      this.error.textContent = error.message;
      return;
    }
    this.tookMs = performance.now() - started;
    if (this.root) this.drawRows();
  }

  drawRows() {
    const { columns, rows, keys, more } = this.found;
    const { order, desc, offset, where } = this.page;
    const head = columns.map((name, place) =>
      h("th", { scope: "col", class: rows.some((cells) => typeof cells[place] === "number") ? "number" : null, "aria-sort": order === name ? (desc ? "descending" : "ascending") : null }, h("button", { type: "button", class: "sort", onclick: () => this.sort(name) }, name, h("span", { "aria-hidden": "true" }, order === name ? (desc ? " ▼" : " ▲") : ""))),
    );
    const open = (number) => rowDrawer(this.app, this.table, keys[number], { values: Object.fromEntries(columns.map((name, place) => [name, rows[number][place]])), columns });
    const focused = document.activeElement?.dataset?.open;
    const body = rows.map((cells, number) =>
      h(
        "tr",
        { onclick: () => open(number) },
        cells.map((value, place) =>
          h("td", { class: typeof value === "number" ? "number" : null }, place === 0 ? h("button", { type: "button", class: "open", "data-open": keys[number], "aria-label": `Row ${keys[number]}`, onclick: (event) => (event.stopPropagation(), open(number)) }, cell(value)) : cell(value)),
        ),
      ),
    );
    this.body.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
    if (focused) this.body.querySelector(`[data-open="${CSS.escape(focused)}"]`)?.focus();
    const move = (by) => {
      this.page.offset = Math.max(0, offset + by);
      this.refresh();
    };
    this.foot.replaceChildren(
      h("button", { type: "button", disabled: offset === 0, onclick: () => move(-PAGE) }, "Previous"),
      h("span", {}, rows.length ? `rows ${(offset + 1).toLocaleString("en")} to ${(offset + rows.length).toLocaleString("en")}` : count(0, "row")),
      h("button", { type: "button", disabled: !more, onclick: () => move(PAGE) }, "Next"),
    );
    const link = (format) => h("a", { href: rowsPath(this.table, { where, format, limit: 20000 }), download: `${this.table}.${format}` }, format === "csv" ? "CSV" : "GeoJSON");
    const spec = this.tables.find((each) => each.name === this.table);
    this.files.replaceChildren(link("csv"), ...(spec?.layer ? [" ", link("geojson")] : []));
  }

  sort(name) {
    const { order, desc } = this.page;
    this.page.desc = order === name ? !desc : false;
    this.page.order = name;
    this.page.offset = 0;
    this.refresh();
  }
}
