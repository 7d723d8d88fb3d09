// The map: layers of tables with positions, their tracks, a slider over time, and the members that have a position.

import L from "leaflet";
import { $, ago, count, h, moment, visible } from "./dom.js";
import { get } from "./api.js";
import { addLand } from "./land.js";
import { Layer, ROWS_MAX } from "./layers.js";
import { Points } from "./points.js";
import { rowDrawer } from "./row.js";
import { miniature } from "./mesh.js";
import { PALETTE, RAMP, isDark, style } from "./theme.js";

const FOUND_MAX = 40;
const LAYERS_MAX = 64; // tables of one stream; further layers are hidden at first
const SPEEDS = 300; // positions of the slider while it plays, a tenth of a second each
const STALE = [
  [-1, "auto"],
  [60_000, "after 1 min"],
  [300_000, "after 5 min"],
  [3_600_000, "after 1 h"],
  [86_400_000, "after 1 day"],
  [8e15, "never"],
];

// Colours by a column: its words get colours of the palette, its numbers a place on the ramp.
Layer.prototype.colourOf = function (point, theme) {
  if (!this.colourBy) return PALETTE[this.colour][theme.dark ? 1 : 0];
  const value = point.values[this.colourBy];
  const legend = this.legend ?? this.makeLegend();
  if (legend.kind === "number") {
    if (typeof value !== "number") return theme.stale;
    const place = Math.round(((value - legend.least) / (legend.most - legend.least || 1)) * (RAMP.length - 1));
    return RAMP[Math.max(0, Math.min(RAMP.length - 1, place))];
  }
  const number = legend.words.indexOf(String(value));
  return number < 0 ? theme.stale : PALETTE[number % PALETTE.length][theme.dark ? 1 : 0];
};

Layer.prototype.makeLegend = function () {
  const values = [];
  for (const thing of this.things.values()) values.push(thing.track[thing.track.length - 1].values[this.colourBy]);
  const numbers = values.filter((value) => typeof value === "number");
  const words = [...new Set(values.filter((value) => value !== null).map(String))].sort();
  this.legend =
    numbers.length > values.length / 2 && words.length > PALETTE.length
      ? { kind: "number", least: numbers.reduce((a, b) => Math.min(a, b)), most: numbers.reduce((a, b) => Math.max(a, b)) }
      : { kind: "words", words: words.slice(0, PALETTE.length), more: words.length > PALETTE.length };
  return this.legend;
};

Layer.prototype.labelOf = function (thing, point) {
  const name = ["callsign", "name", "title", "label"].find((each) => typeof point.values[each] === "string" && point.values[each].trim());
  return visible(String(name ? point.values[name].trim() : thing.key).slice(0, 24));
};

export class MapView {
  constructor(app) {
    this.app = app;
    this.title = "Map";
    this.layers = [];
    this.time = Infinity;
    this.selected = null;
    this.playing = 0;
    this.fitted = false;
    this.known = "";
  }

  show(root, path) {
    this.canvas ??= h("div", { class: "map", id: "map" });
    this.panel ??= h("section", { class: "panel", "aria-label": "Layers" });
    this.slider ??= this.makeSlider();
    this.inset ??= h("button", { class: "inset", type: "button", "aria-label": "Mesh", onclick: () => this.app.go("#/mesh") });
    root.append(h("div", { class: "mapview" }, this.canvas, this.panel, this.inset, this.slider));
    if (!this.map) this.start();
    this.map.invalidateSize();
    this.follow();
    this.tick = setInterval(() => this.points.redraw(), 5_000); // things grow old
    if (path.length === 2) this.openRow(path[0], path[1]);
  }

  hide() {
    clearInterval(this.tick);
    this.stop();
  }

  start() {
    this.map = L.map(this.canvas, { worldCopyJump: true, minZoom: 1, maxZoom: 19, zoomControl: false, attributionControl: false });
    this.map.setView([25, 10], 2);
    L.control.zoom({ position: "topright" }).addTo(this.map);
    if (innerWidth > 760) L.control.scale({ imperial: false, position: "bottomright" }).addTo(this.map);
    L.control.attribution({ prefix: false, position: "bottomright" }).addAttribution("Natural Earth").addTo(this.map);
    this.points = new Points({
      get layers() {
        return view.layers;
      },
      get time() {
        return view.time;
      },
      get selected() {
        return view.selected;
      },
      style,
      links: () => this.links(),
    }).addTo(this.map);
    const view = this;
    this.map.on("click", (event) => this.onClick(event));
    this.map.on("mousemove", (event) => {
      this.canvas.classList.toggle("over", Boolean(this.points.nearest(event.containerPoint, false)));
    });
    this.ground();
    this.loadLayers();
    this.app.live.listen((name, data) => this.onLive(name, data));
  }

  async ground() {
    try {
      this.recolour = await addLand(this.map, style);
    } catch {
      this.app.say("the land map could not be loaded", true);
    }
    await this.base();
  }

  async base() {
    const about = this.app.console.basemap;
    if (!about) return;
    const { addBasemap } = await import("./basemap.js");
    this.basemap?.remove();
    this.basemap = await addBasemap(this.map, about, isDark());
  }

  onTheme() {
    this.recolour?.();
    this.points?.restyle();
    if (this.basemap) this.base();
    this.drawPanel();
  }

  // ---- layers

  async loadLayers() {
    let tables;
    try {
      tables = (await get("/api/tables")).filter((table) => table.layer);
    } catch (error) {
      this.app.say(error.message, true);
      return;
    }
    const names = JSON.stringify(tables.map((table) => [table.name, table.layer, table.columns]));
    if (names === this.known) return;
    this.known = names;
    const before = new Map(this.layers.map((layer) => [layer.table, layer]));
    this.layers = tables.map((table, number) => {
      const old = before.get(table.name);
      if (old && JSON.stringify(old.info) === JSON.stringify(table.layer)) return old;
      return Object.assign(new Layer(table, number % PALETTE.length), { visible: number < LAYERS_MAX });
    });
    this.follow();
    const wanted = this.layers.filter((layer) => layer.visible && !layer.version);
    const loading = wanted.map(async (layer) => {
      await layer.load();
      layer.legend = null;
      this.points.redraw();
      this.drawPanel();
    });
    this.drawPanel();
    await Promise.all(loading);
    if (!this.fitted) this.fit();
    this.drawPanel();
    this.updateSlider();
    this.waiting?.();
  }

  follow() {
    const tables = this.layers.filter((layer) => layer.visible).map((layer) => layer.table);
    if (tables.length > LAYERS_MAX) this.app.say(`${tables.length} layers are shown; the first ${LAYERS_MAX} of them follow their changes`, true);
    this.app.follow(tables.slice(0, LAYERS_MAX));
  }

  fit() {
    const places = [];
    for (const layer of this.layers) {
      if (layer.visible) for (const thing of layer.things.values()) places.push(layer.at(thing, this.time) ?? thing.track[0]);
    }
    if (!places.length) return;
    this.fitted = true;
    this.map.fitBounds(boundsOf(places), { paddingTopLeft: [innerWidth > 760 ? 320 : 40, 80], paddingBottomRight: [60, 100], maxZoom: 12, animate: false });
  }

  onLive(name, data) {
    if (name === "changes") {
      const layer = this.layers.find((each) => each.table === data.table);
      if (!layer) return;
      const before = layer.things.size;
      if (layer.where) layer.reloadSoon(() => this.changed(layer));
      else layer.onChanges(data.changes);
      this.changed(layer, before !== layer.things.size);
    } else if (name === "reset" || name === "ready") {
      // Also when a stream begins: what changed between the load and its beginning is in neither.
      for (const layer of this.layers) if (!data.table || layer.table === data.table) layer.reloadSoon(() => this.changed(layer));
    } else if (name === "status" && data.running) {
      this.inset?.replaceChildren(miniature(data.mesh));
      const tables = JSON.stringify(data.status.tables.map((table) => [table.name, table.rows > 0]));
      if (tables !== this.tables) {
        this.tables = tables; // a table has come, gone, or got its first rows
        this.loadLayers();
      }
    }
  }

  changed(layer, number = true) {
    if (this.selected?.layer === layer) {
      const thing = layer.things.get(this.selected.key);
      if (thing) this.selected.point = layer.at(thing, this.time);
    }
    this.points.redraw();
    if (!this.fitted && layer.things.size) this.fit();
    this.updateSlider();
    clearTimeout(this.panelTimer);
    this.panelTimer = setTimeout(() => this.drawCounts(), number ? 60 : 500);
  }

  // Links between members whose names are keys of things on the map.
  links() {
    const mesh = this.app.mesh;
    if (!mesh) return [];
    const places = new Map();
    for (const node of mesh.nodes) {
      for (const layer of this.layers) {
        const thing = layer.visible && layer.things.get(node.name);
        const point = thing && layer.at(thing, this.time);
        if (point) places.set(node.key, point);
      }
    }
    return mesh.edges
      .filter((edge) => places.has(edge.first) && places.has(edge.second))
      .map((edge) => [places.get(edge.first), places.get(edge.second), edge.past ? "past" : edge.poor ? "poor" : "ok"]);
  }

  // ---- the panel

  drawPanel() {
    if (!this.panel) return;
    const wasOpen = this.panel.querySelector("details.all")?.open ?? innerWidth > 700;
    const open = new Set([...this.panel.querySelectorAll("details.layer[open]")].map((each) => each.dataset.table));
    const items = this.layers.map((layer) => this.layerItem(layer, open.has(layer.table)));
    const hint = this.layers.length
      ? null
      : h("p", { class: "hint" }, "No table has positions yet. Tables with lat and lon, latitude and longitude, GeoJSON or GeoPackage points appear here by themselves.");
    this.panel.replaceChildren(
      h(
        "details",
        { class: "all", open: wasOpen },
        h("summary", {}, h("h2", {}, "Layers"), h("span", { class: "total" })),
        hint,
        h("ul", { class: "layers" }, items),
        this.layers.length ? this.finder() : null,
        this.layers.length ? h("div", { class: "row" }, h("button", { type: "button", onclick: () => this.fit() }, "Show all")) : null,
      ),
    );
    this.drawCounts();
  }

  layerItem(layer, open) {
    const name = h("input", {
      type: "checkbox",
      "aria-label": `Show ${layer.table}`,
      onchange: async (event) => {
        layer.visible = event.target.checked;
        this.follow();
        if (layer.visible) await layer.load();
        this.changed(layer);
      },
    });
    name.checked = layer.visible;
    const where = h("input", { type: "text", class: "where", placeholder: "battery < 20", "aria-label": `Filter of ${layer.table} in SQL`, value: layer.where, spellcheck: "false", autocapitalize: "off" });
    const filter = async (event) => {
      event.preventDefault();
      layer.where = where.value.trim();
      await layer.load();
      layer.legend = null;
      this.changed(layer);
      this.drawPanel();
    };
    const select = (label, value, choices, choose) => {
      const box = h("select", { onchange: (event) => choose(event.target.value) }, choices.map(([key, text]) => h("option", { value: key }, text)));
      box.value = String(value);
      return h("label", { class: "field" }, h("span", {}, label), box);
    };
    return h(
      "li",
      {},
      h("div", { class: "head" }, name, h("span", { class: `swatch colour-${layer.colour}`, "aria-hidden": "true" }), h("span", { class: "name" }, layer.table), h("span", { class: "count", "data-count": layer.table })),
      h(
        "details",
        { class: "layer", "data-table": layer.table, open },
        h("summary", {}, "Filter and colours"),
        h("form", { class: "row", onsubmit: filter }, where, h("button", { type: "submit" }, "Filter")),
        select("Colour by", layer.colourBy, [["", "layer"], ...layer.columns.map((each) => [each, each])], (value) => {
          layer.colourBy = value;
          layer.legend = null;
          this.drawPanel();
          this.points.redraw();
        }),
        select("Track by", layer.info.entity, [["", "row"], ...layer.columns.map((each) => [each, each])], async (value) => {
          layer.info = { ...layer.info, entity: value };
          await layer.load();
          this.changed(layer);
        }),
        select("Grey", layer.staleMs, STALE, (value) => {
          layer.staleMs = Number(value);
          this.points.redraw();
        }),
        h("p", { class: "hint" }, h("a", { href: `/api/tables/${encodeURIComponent(layer.table)}?format=geojson&limit=${ROWS_MAX}`, download: `${layer.table}.geojson` }, "GeoJSON"), " · ", h("a", { href: `#/tables/${encodeURIComponent(layer.table)}` }, "rows")),
      ),
      this.legendOf(layer),
      h("p", { class: "error", role: "alert" }, layer.error),
    );
  }

  legendOf(layer) {
    if (!layer.colourBy || !layer.things.size) return null;
    const legend = layer.legend ?? layer.makeLegend();
    if (legend.kind === "number") {
      return h("div", { class: "legend ramp" }, h("span", {}, shortNumber(legend.least)), h("span", { class: "gradient", "aria-hidden": "true" }), h("span", {}, shortNumber(legend.most)));
    }
    return h(
      "ul",
      { class: "legend" },
      legend.words.map((word, number) => h("li", {}, h("span", { class: `swatch colour-${number}`, "aria-hidden": "true" }), word.slice(0, 30))),
      legend.more ? h("li", {}, h("span", { class: "swatch stale", "aria-hidden": "true" }), "others") : null,
    );
  }

  drawCounts() {
    let all = 0;
    for (const layer of this.layers) {
      const place = this.panel.querySelector(`[data-count="${CSS.escape(layer.table)}"]`);
      if (layer.visible) all += layer.things.size;
      if (place) place.textContent = layer.loading ? "…" : `${layer.things.size.toLocaleString("en")}${layer.cut ? ` of ${layer.rows?.toLocaleString("en") ?? "more"}` : ""}`;
    }
    const total = this.panel.querySelector(".total");
    if (total) total.textContent = this.layers.length ? count(all, "thing") : "";
    if (this.find?.value !== undefined) this.drawFound();
  }

  finder() {
    this.find = h("input", { type: "search", placeholder: "Find on the map", "aria-label": "Find on the map", oninput: () => this.drawFound() });
    this.found = h("ul", { class: "found", "aria-label": "Found" });
    return h("div", { class: "finder" }, this.find, this.found);
  }

  drawFound() {
    const words = this.find.value.trim().toLowerCase();
    const hits = [];
    for (const layer of this.layers) {
      if (!words || !layer.visible) continue;
      for (const thing of layer.things.values()) {
        const point = layer.at(thing, this.time);
        if (!point || hits.length >= FOUND_MAX) continue;
        const label = layer.labelOf(thing, point);
        if (`${label} ${thing.key}`.toLowerCase().includes(words)) hits.push([layer, thing.key, point, label]);
      }
    }
    this.found.replaceChildren(
      ...hits.map(([layer, key, point, label]) =>
        h("li", {}, h("button", { type: "button", onclick: () => this.select({ layer, key, point }, true) }, label, h("span", { class: "age" }, ` ${layer.table}, ${ago(Date.now() - point.t)}`))),
      ),
      words && !hits.length ? h("li", { class: "hint" }, "nothing by that name") : "",
    );
  }

  // ---- selection

  onClick(event) {
    const found = this.points.nearest(event.containerPoint, event.originalEvent.pointerType === "touch");
    if (found) this.select(found, false);
    else this.unselect();
  }

  select(found, fly) {
    this.selected = found;
    this.points.redraw();
    if (fly) {
      this.map.setView([found.point.lat, found.point.lon], Math.max(this.map.getZoom(), 8), { animate: false });
      if (innerWidth <= 760) this.map.panBy([0, this.map.getSize().y * 0.3], { animate: false }); // above the drawer
    }
    history.replaceState(null, "", `#${encodeURIComponent(found.layer.table)}/${encodeURIComponent(found.point.row)}`);
    rowDrawer(this.app, found.layer.table, found.point.row, {
      values: found.point.values,
      columns: found.layer.columns,
      note: Number.isFinite(found.point.t) ? `${moment(found.point.t)}, ${ago(Date.now() - found.point.t)} ago` : "",
      onclose: () => this.unselect(),
    });
  }

  unselect() {
    if (!this.selected) return;
    this.selected = null;
    $("drawer").hidden = true;
    this.points.redraw();
    history.replaceState(null, "", "#/map");
  }

  // Opens the row of a link such as #drones/d7; a row without a position is shown by itself.
  openRow(table, key) {
    const look = () => {
      const layer = this.layers.find((each) => each.table === table);
      const thing = layer?.has(key);
      if (thing) {
        this.select({ layer, key: thing.key, point: thing.track.find((point) => point.row === key) }, true);
        return true;
      }
      return false;
    };
    if (look()) return;
    rowDrawer(this.app, table, key, { onclose: () => this.unselect() });
    this.waiting = () => {
      this.waiting = null;
      look();
    };
  }

  // ---- time

  makeSlider() {
    this.range = h("input", { type: "range", min: "0", max: "1000", value: "1000", "aria-label": "Time", oninput: () => this.onSlide() });
    this.when = h("output", { class: "when" });
    this.play = h("button", { type: "button", class: "play", "aria-label": "Play", onclick: () => (this.playing ? this.stop() : this.startPlaying()) }, "▶");
    this.now = h("button", { type: "button", onclick: () => this.toNow() }, "Now");
    return h("div", { class: "slider", hidden: true, role: "group", "aria-label": "Time of the tracks" }, this.play, this.range, this.when, this.now);
  }

  span() {
    let from = Infinity;
    let to = -Infinity;
    for (const layer of this.layers) {
      if (!layer.visible || !layer.things.size) continue;
      from = Math.min(from, layer.oldest);
      to = Math.max(to, layer.newest);
    }
    return [from, to];
  }

  updateSlider() {
    const [from, to] = this.span();
    this.slider.hidden = !(to - from > 1000);
    if (this.time === Infinity && Number.isFinite(to)) this.when.textContent = `${moment(to)}`;
  }

  onSlide() {
    const [from, to] = this.span();
    const place = Number(this.range.value);
    this.time = place >= 1000 ? Infinity : from + ((to - from) * place) / 1000;
    this.when.textContent = moment(this.time === Infinity ? to : this.time);
    this.points.redraw();
  }

  startPlaying() {
    if (Number(this.range.value) >= 1000) this.range.value = "0";
    this.play.textContent = "❚❚";
    this.play.setAttribute("aria-label", "Pause");
    this.playing = setInterval(() => {
      this.range.value = String(Number(this.range.value) + 1000 / SPEEDS);
      this.onSlide();
      if (Number(this.range.value) >= 1000) this.stop();
    }, 100);
  }

  stop() {
    clearInterval(this.playing);
    this.playing = 0;
    this.play.textContent = "▶";
    this.play.setAttribute("aria-label", "Play");
  }

  toNow() {
    this.stop();
    this.range.value = "1000";
    this.onSlide();
  }
}

// The narrowest box around places, which may cross 180 degrees.
export function boundsOf(places) {
  const east = places.map((point) => point.lon).sort((one, two) => one - two);
  let start = 0; // behind the widest gap
  let widest = 360 - (east.at(-1) - east[0]);
  for (let at = 1; at < east.length; at++) {
    if (east[at] - east[at - 1] <= widest) continue;
    widest = east[at] - east[at - 1];
    start = at;
  }
  return L.latLngBounds(places.map((point) => [point.lat, point.lon < east[start] ? point.lon + 360 : point.lon]));
}

function shortNumber(value) {
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
}
