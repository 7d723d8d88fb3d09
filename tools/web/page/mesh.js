// The topology: members as dots in islands, links between them, and a slider over what was seen; also the replay of a trace.

import { ago, bytes, h, svg } from "./dom.js";

const WIDTH = 900;
const HISTORY_MAX = 600; // pictures that are kept
const STATES = { here: "this node", linked: "linked", reachable: "reachable through others", down: "not reachable" };

// Places of the nodes in a box: each island is a ring, the largest first, in rows.
export function layout(mesh, width = WIDTH, gap = 46) {
  const rings = mesh.islands.map((keys) => {
    const radius = keys.length === 1 ? 0 : Math.max(34, (keys.length * gap) / (2 * Math.PI));
    return { keys, radius, size: 2 * (radius + (radius ? 42 : 52)) };
  });
  const places = new Map();
  const boxes = [];
  let x = 0;
  let y = 0;
  let tall = 0;
  const rows = [[]];
  for (const ring of rings) {
    if (x && x + ring.size > width) {
      y += tall;
      x = tall = 0;
      rows.push([]);
    }
    rows[rows.length - 1].push({ ring, x, y });
    x += ring.size + 12;
    tall = Math.max(tall, ring.size);
  }
  const height = y + tall;
  for (const row of rows) {
    const used = row.reduce((sum, each) => sum + each.ring.size + 12, -12);
    const most = Math.max(...row.map((each) => each.ring.size));
    for (const { ring, x: left, y: top } of row) {
      const centre = [left + ring.size / 2 + (width - used) / 2, top + most / 2];
      boxes.push({ x: centre[0], y: centre[1], radius: ring.radius + (ring.radius ? 30 : 38), keys: ring.keys });
      [...ring.keys].sort().forEach((key, number) => {
        const angle = (2 * Math.PI * number) / ring.keys.length - Math.PI / 2;
        places.set(key, [centre[0] + ring.radius * Math.cos(angle), centre[1] + ring.radius * Math.sin(angle), angle, ring.radius]);
      });
    }
  }
  return { places, boxes, height: Math.max(height, 120) };
}

const kindOf = (edge) => (edge.past ? "past" : edge.poor ? "poor" : edge.busy ? "busy" : "ok");

function nodeClass(node) {
  const equal = node.group > 0 || node.equal === false ? "differs" : node.equal || node.group === 0 ? "equal" : "";
  return `node ${node.state} ${equal}`;
}

function lines(mesh, places) {
  return mesh.edges
    .filter((edge) => places.has(edge.first) && places.has(edge.second))
    .map((edge) => {
      const [one, other] = [places.get(edge.first), places.get(edge.second)];
      return svg("line", { x1: one[0], y1: one[1], x2: other[0], y2: other[1], class: `edge ${kindOf(edge)}` });
    });
}

// The whole mesh as a small picture for the corner of the map.
export function miniature(mesh) {
  const { places, height } = layout(mesh, 320, 30);
  const dots = mesh.nodes
    .filter((node) => places.has(node.key))
    .map((node) => svg("circle", { cx: places.get(node.key)[0], cy: places.get(node.key)[1], r: 9, class: nodeClass(node) }));
  return svg("svg", { viewBox: `0 0 320 ${height}`, class: "mesh small", "aria-hidden": "true" }, lines(mesh, places), dots);
}

export const islandsOf = (mesh) => {
  const down = new Set(mesh.nodes.filter((node) => node.state === "down").map((node) => node.key));
  const held = new Set(mesh.edges.filter((edge) => edge.past).flatMap((edge) => [edge.first, edge.second]));
  return mesh.islands.filter((keys) => keys.some((key) => !down.has(key) || held.has(key))).length;
};

export class MeshView {
  // `replay`: the moments of a simulation's trace, which are shown instead of a node.
  constructor(live, replay = null) {
    this.title = "Mesh";
    this.history = replay ? replay.moments.map(({ t, mesh }) => ({ t, mesh, status: null })) : []; // { t, mesh, status }
    this.at = replay ? 0 : -1; // index in the history; -1 follows the newest
    this.chosen = "";
    this.replay = replay;
    live?.listen((name, data) => {
      if (name === "status" && data.running) this.record(Date.now(), data.mesh, data.status);
    });
  }

  show(root) {
    this.root = root;
    root.append((this.view = h("div", { class: "meshview" })));
    this.draw();
  }

  hide() {
    this.stop();
    this.view = null;
  }

  record(t, mesh, status) {
    if (this.replay) return;
    const shape = JSON.stringify([mesh.nodes.map((node) => [node.key, node.state, node.equal]), mesh.edges.map((edge) => [edge.first, edge.second, edge.past, edge.poor])]);
    const last = this.history[this.history.length - 1];
    if (last && last.shape === shape) Object.assign(last, { mesh, status });
    else {
      this.history.push({ t, mesh, status, shape });
      if (this.history.length > HISTORY_MAX) {
        this.history.shift();
        if (this.at > 0) this.at--;
      }
    }
    if (this.view && this.at < 0) this.draw();
  }

  draw() {
    if (!this.view) return;
    const shown = this.history[this.at < 0 ? this.history.length - 1 : this.at];
    if (!shown) {
      this.view.replaceChildren(h("p", { class: "hint" }, "waiting for the node…"));
      return;
    }
    const active = this.view.getRootNode().activeElement;
    const focused = active?.dataset?.key;
    const sliding = active === this.slider;
    const islands = islandsOf(shown.mesh);
    const away = shown.mesh.nodes.filter((node) => node.state === "down").length;
    this.head ??= h("div", { class: "head", "aria-live": "polite" });
    this.head.replaceChildren(
      h("h2", {}, shown.mesh.title.split(/[:,] /)[0]),
      h("span", { class: islands > 1 ? "badge bad" : "badge" }, islands > 1 ? `split: ${islands} islands` : "one island"),
      away ? h("span", { class: "badge bad" }, this.replay ? `${away} down` : `${away} not reachable`) : "",
    );
    const parts = [this.head, this.picture(shown), this.timeline(shown), h("div", { class: "columns" }, this.members(shown), this.events(shown))];
    const scrolled = [...this.view.querySelectorAll("[data-key]")].filter((each) => each.scrollTop || each.scrollLeft).map((each) => [each.dataset.key, each.scrollLeft, each.scrollTop]);
    this.view.replaceChildren(...parts.filter(Boolean));
    const again = (key) => this.view.querySelector(`[data-key="${CSS.escape(key)}"]`);
    for (const [key, left, top] of scrolled) again(key)?.scrollTo(left, top);
    if (focused) again(focused)?.focus({ preventScroll: true });
    if (sliding) this.slider.focus();
  }

  picture({ mesh, status }) {
    const width = Math.max(320, Math.min(WIDTH, this.root.clientWidth - 32));
    const { places, boxes, height } = layout(mesh, width, mesh.nodes.length > 30 ? 26 : 46);
    const rtts = this.chosen ? roundTrips(status, this.chosen) : new Map();
    const labels = [];
    for (const [key, rtt] of rtts) {
      const [one, other] = [places.get(this.chosen), places.get(key)];
      if (one && other) labels.push(svg("text", { x: (one[0] + other[0]) / 2, y: (one[1] + other[1]) / 2 - 4, class: "rtt" }, `${rtt} ms`));
    }
    const dots = mesh.nodes.map((node) => {
      const place = places.get(node.key);
      if (!place) return null;
      const [x, y, angle, radius] = place;
      const away = radius ? 15 : 0;
      const left = radius && Math.cos(angle) < -0.3;
      const right = radius && Math.cos(angle) > 0.3;
      const anchor = left ? "end" : right ? "start" : "middle";
      const dy = left || right ? 4 : radius && Math.sin(angle) < 0 ? -14 : 24;
      return svg(
        "g",
        {
          class: `${nodeClass(node)}${node.key === this.chosen ? " chosen" : ""}`,
          tabindex: "0",
          role: "button",
          "data-key": node.key,
          "aria-label": `${node.name}, ${STATES[node.state] ?? node.state}`,
          "aria-pressed": String(node.key === this.chosen),
          onclick: () => this.choose(node.key),
          onkeydown: (event) => {
            if (event.key !== "Enter" && event.key !== " ") return;
            event.preventDefault();
            this.choose(node.key);
          },
        },
        svg("circle", { cx: x, cy: y, r: 22, class: "hit" }),
        svg("circle", { cx: x, cy: y, r: node.state === "here" ? 10 : 8, class: "dot" }),
        svg("text", { x: x + (left ? -away : right ? away : 0), y: y + dy, "text-anchor": anchor }, node.name.slice(0, 20)),
      );
    });
    const rings = boxes.map((box) => svg("circle", { cx: box.x, cy: box.y, r: box.radius, class: "island" }));
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "mesh", role: "group", "aria-label": `${mesh.nodes.length} members in ${mesh.islands.length} groups` }, rings, lines(mesh, places), labels, dots);
  }

  choose(key) {
    this.chosen = this.chosen === key ? "" : key;
    this.draw();
  }

  timeline(shown) {
    const most = this.history.length - 1;
    if (most < 1) return null;
    this.slider ??= h("input", { type: "range", min: "0", "aria-label": "Moment of the mesh", oninput: () => this.onSlide() });
    this.slider.max = String(most);
    this.slider.value = String(this.at < 0 ? most : this.at);
    const when = this.replay ? `${shown.t.toFixed(1)} s` : this.at < 0 ? "now" : `${ago(Date.now() - shown.t)} ago`;
    return h(
      "div",
      { class: "slider still", role: "group", "aria-label": "Topology over time" },
      h("button", { type: "button", class: "play", "data-key": "play", "aria-label": this.playing ? "Pause" : "Play", onclick: () => (this.playing ? this.stop() : this.play()) }, this.playing ? "❚❚" : "▶"),
      this.slider,
      h("output", { class: "when" }, when),
      this.replay ? null : h("button", { type: "button", "data-key": "now", onclick: () => this.toNow() }, "Now"),
    );
  }

  onSlide() {
    const place = Number(this.slider.value);
    this.at = place === this.history.length - 1 && !this.replay ? -1 : place;
    this.draw();
  }

  toNow() {
    this.stop();
    this.at = -1;
    this.draw();
  }

  play() {
    if (this.at < 0 || this.at >= this.history.length - 1) this.at = 0;
    this.playing = setInterval(() => {
      if (this.at >= this.history.length - 1) {
        this.stop();
        return;
      }
      this.at++;
      this.draw();
    }, 250);
    this.draw();
  }

  stop() {
    clearInterval(this.playing);
    this.playing = 0;
    this.draw();
  }

  members({ mesh, status }) {
    const peers = new Map((status?.peers ?? []).map((peer) => [peer.node_id, peer]));
    const columns = [
      ["Member", "", (node) => [h("span", { class: `dot ${nodeClass(node)}`, "aria-hidden": "true" }), node.name]],
      ["State", "", (node) => this.stateOf(node, peers.get(node.key))],
      ["Lacks", "", lacks],
      ["Round trip", "number", (node) => (node.rtt_ms === null ? "" : `${node.rtt_ms < 10 ? node.rtt_ms.toFixed(1) : Math.round(node.rtt_ms)} ms`)],
      ["Sent / received", "number", (node) => (node.sent_bytes === null ? "" : `${bytes(node.sent_bytes)} / ${bytes(node.received_bytes)}`)],
    ].filter(([, , text]) => !this.replay || mesh.nodes.some((node) => text(node) !== "")); // a trace has no round trips
    const head = columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name));
    const rows = mesh.nodes.map((node) => h("tr", { class: node.key === this.chosen ? "chosen" : "" }, columns.map(([, kind, text], at) => (at ? h("td", { class: kind }, text(node)) : h("th", { scope: "row" }, text(node))))));
    return h(
      "section",
      { class: "card" },
      h("h3", {}, "Members"),
      h("div", { class: "scroll", tabindex: "0", role: "region", "data-key": "members", "aria-label": "Members" }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows))),
    );
  }

  stateOf(node, peer) {
    if (peer?.state === "down" && peer.seen_ms_ago !== null) return `down, ${ago(peer.seen_ms_ago)}`;
    return this.replay ? (node.state === "down" ? "down" : "running") : (STATES[node.state] ?? node.state);
  }

  events({ mesh }) {
    const items = [...mesh.events].reverse().slice(0, 30);
    return h(
      "section",
      { class: "card" },
      h("h3", {}, "Events"),
      h("ol", { class: "events", tabindex: "0", "data-key": "events", "aria-label": "Events" }, items.length ? items.map((event) => h("li", { class: event.level }, h("time", {}, event.at), " ", event.text)) : h("li", { class: "hint" }, "nothing yet")),
    );
  }
}

// What a member lacks, in words.
function lacks(node) {
  if (node.state === "here") return "";
  if (node.group !== null && node.group !== undefined) return node.group === 0 ? "equal" : "differs";
  if (node.lag_rows) return `${node.lag_rows.toLocaleString("en")} rows`;
  return node.equal === null ? "" : node.equal ? "equal" : "differs";
}

// Round trips of one member's links by the key of the other end.
function roundTrips(status, key) {
  const found = new Map();
  for (const peer of status?.peers ?? []) {
    if (key === status.node_id && peer.rtt_ms !== null) found.set(peer.node_id, Math.round(peer.rtt_ms * 10) / 10);
    if (peer.node_id === key) {
      for (const link of peer.links) if (link.rtt_ms !== null) found.set(link.node_id, link.rtt_ms);
      if (peer.rtt_ms !== null) found.set(status.node_id, Math.round(peer.rtt_ms * 10) / 10);
    }
  }
  return found;
}
