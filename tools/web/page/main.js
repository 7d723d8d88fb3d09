// The page: views by the address, one live stream, and the state of the node in the bar.

import "leaflet/dist/leaflet.css";
import "./style.css";
import { $, count, h, say, visible } from "./dom.js";
import { Live, enter, get } from "./api.js";
import { DecideView } from "./decide.js";
import { MapView } from "./map.js";
import { MeshView, islandsOf } from "./mesh.js";
import { RouterView } from "./router.js";
import { TablesView } from "./tables.js";
import { startTheme } from "./theme.js";

class App {
  constructor() {
    this.live = null;
    this.mesh = null;
    this.say = say;
    this.view = null;
    this.badges = new Map();
  }

  async start() {
    try {
      await enter();
    } catch (error) {
      say(error.message, true);
    }
    this.console = await get("/api/console");
    startTheme($("theme"), () => this.views?.map?.onTheme?.());
    if (this.console.token && !this.console.has_token) {
      $("view").replaceChildren(this.door());
      return;
    }
    this.live = this.console.replay ? null : new Live();
    this.views = this.console.replay ? { mesh: new MeshView(null, await get("/api/trace")) } : { map: new MapView(this), mesh: new MeshView(this.live), tables: new TablesView(this), router: new RouterView(this), decide: new DecideView(this) };
    this.live?.listen((name, data) => this.onLive(name, data));
    $("tabs").replaceChildren(...Object.entries(this.views).map(([name, view]) => h("a", { href: `#/${name}`, "data-view": name }, view.title, h("span", { class: "badge", hidden: true }))));
    addEventListener("hashchange", () => this.route());
    this.live?.follow([]);
    this.route();
  }

  // Where the token is missing: a place to put it in.
  door() {
    const token = h("input", { type: "password", "aria-label": "Token", placeholder: "token", autocomplete: "current-password" });
    const open = (event) => {
      event.preventDefault();
      location.hash = `#token=${encodeURIComponent(token.value.trim())}`;
      location.reload();
    };
    return h("form", { class: "door card", onsubmit: open }, h("h2", {}, "This console asks for its token"), h("p", { class: "muted" }, "Open the address that 'mycomesh web' has printed, or put the token in here. It is in the file web-token in the node's state directory."), h("div", { class: "row" }, token, h("button", { type: "submit" }, "Open")));
  }

  go(hash) {
    location.hash = hash;
  }

  follow(tables) {
    this.live?.follow(tables);
  }

  badge(view, number) {
    const name = Object.keys(this.views).find((each) => this.views[each] === view);
    const place = $("tabs").querySelector(`[data-view="${name}"] .badge`);
    if (!place) return;
    place.hidden = !number;
    place.textContent = number > 999 ? "999+" : String(number);
    place.setAttribute("aria-label", `${number} open`);
  }

  // #/view/part or #table/key, which is a row on the map.
  route() {
    const hash = location.hash.slice(1);
    const parts = hash.split("/").map((part) => decodeURIComponent(part));
    const isRow = hash && !hash.startsWith("/") && parts.length >= 2;
    const name = isRow ? "map" : parts[1] in (this.views ?? {}) ? parts[1] : Object.keys(this.views)[0];
    const path = isRow ? [parts[0], parts.slice(1).join("/")] : parts.slice(1);
    if (!this.views[name]) return;
    this.view?.hide?.();
    $("drawer").hidden = true;
    const root = $("view");
    root.replaceChildren();
    root.dataset.view = name;
    this.view = this.views[name];
    for (const link of $("tabs").children) {
      if (link.dataset.view === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `${this.view.title} · mycomesh`;
    this.view.show(root, isRow ? path : path);
  }

  // Where the stream broke, the console may have become another one: a newer page, or another token.
  async onBreak() {
    const found = await get("/api/console").catch(() => this.console);
    if (JSON.stringify(found) !== JSON.stringify(this.console)) location.reload();
  }

  onLive(name, data) {
    const state = $("state");
    if (name === "lost" || (name === "open" && this.lost)) this.onBreak();
    if (name === "open") this.lost = false;
    if (name === "lost") {
      this.lost = true;
      state.className = "state bad";
      state.dataset.key = "";
      state.replaceChildren("no connection to the console");
      return;
    }
    if (name !== "status") return;
    if (!data.running) {
      state.className = "state bad";
      state.dataset.key = "";
      state.replaceChildren(visible(data.why));
      this.mesh = null;
      return;
    }
    this.mesh = data.mesh;
    const { status } = data;
    const linked = status.peers.filter((peer) => peer.state === "linked").length;
    const islands = islandsOf(data.mesh);
    const split = islands > 1;
    state.className = split ? "state bad" : status.hint ? "state warn" : "state";
    const text = [h("b", {}, status.node), ` ${linked} of ${count(status.peers.length, "peer")} linked`, split ? h("b", {}, ` · split: ${islands} islands`) : ""];
    const key = text.map((part) => part.textContent ?? part).join("") + status.hint;
    if (state.dataset.key === key) return; // a screen reader says only what has changed
    state.dataset.key = key;
    state.title = visible(status.hint);
    state.replaceChildren(...text);
  }
}

const app = new App();
globalThis.mycomesh = app; // for the browser's own console
app.start().catch((error) => say(error.message, true));
