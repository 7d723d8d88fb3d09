// Draws the things of all layers on one canvas above the map: thousands at each frame, where an element each would stall.

import L from "leaflet";

const RADIUS = 5;
const TRACKS_MAX = 400; // things whose tracks are drawn; with more, the selected thing's alone
const LABELS_MAX = 60;
const BANDS = 4; // of a track, each fainter than the newer one
const TOUCH_PX = 22;
const MOUSE_PX = 12;

export const Points = L.Layer.extend({
  initialize(state) {
    this.state = state; // { layers, time, selected, links(), style() }
    this.sprites = new Map();
    this.frame = 0;
    this.frames = 0; // drawn so far; tests and the benchmark read it
    this.drawn = 0;
  },

  onAdd(map) {
    this.map = map;
    this.canvas = L.DomUtil.create("canvas", "points leaflet-zoom-hide");
    this.canvas.setAttribute("aria-hidden", "true");
    map.getPanes().overlayPane.append(this.canvas);
    map.on("move zoomend viewreset resize", this.redraw, this);
    this.redraw();
  },

  onRemove(map) {
    map.off("move zoomend viewreset resize", this.redraw, this);
    this.canvas.remove();
  },

  redraw() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
  },

  restyle() {
    this.sprites.clear();
    this.redraw();
  },

  draw() {
    this.frame = 0;
    const { map, canvas, state } = this;
    const size = map.getSize();
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (canvas.width !== size.x * ratio || canvas.height !== size.y * ratio) {
      canvas.width = size.x * ratio;
      canvas.height = size.y * ratio;
      canvas.style.width = `${size.x}px`;
      canvas.style.height = `${size.y}px`;
    }
    const corner = map.containerPointToLayerPoint([0, 0]);
    L.DomUtil.setPosition(canvas, corner);
    const origin = map.getPixelOrigin().add(corner);
    const view = { scale: 2 ** map.getZoom(), x: origin.x, y: origin.y, size, context: canvas.getContext("2d") };
    view.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    view.context.clearRect(0, 0, size.x, size.y);
    const style = state.style();
    this.drawn = 0;
    for (const layer of state.layers) if (layer.visible) this.drawTracks(view, layer, style);
    this.drawLinks(view, style);
    const labels = [];
    for (const layer of state.layers) if (layer.visible) this.drawThings(view, layer, style, labels);
    this.drawLabels(view, labels, style);
    this.frames++;
  },

  drawTracks(view, layer, style) {
    const { context, scale } = view;
    const chosen = this.state.selected;
    context.lineJoin = "round";
    for (const thing of layer.things.values()) {
      const isChosen = chosen && chosen.layer === layer && chosen.key === thing.key;
      if (layer.things.size > TRACKS_MAX && !isChosen) continue;
      const track = thing.track;
      const end = this.state.time === Infinity ? track.length : track.findLastIndex((point) => point.t <= this.state.time) + 1;
      if (end < 2) continue;
      context.strokeStyle = layer.colourOf(track[end - 1], style);
      context.lineWidth = isChosen ? 2.5 : 1.5;
      for (let band = 0; band < BANDS; band++) {
        const from = Math.floor((end * band) / BANDS);
        const to = Math.floor((end * (band + 1)) / BANDS);
        context.globalAlpha = ((band + 1) / BANDS) ** 1.5 * (isChosen ? 1 : 0.6);
        context.beginPath();
        for (let at = Math.max(0, from - 1); at < to; at++) {
          const x = track[at].x * scale - view.x;
          const y = track[at].y * scale - view.y;
          // Half of the world away: the thing has crossed the date line.
          if (at === Math.max(0, from - 1) || Math.abs(track[at].x - track[at - 1].x) > 128) context.moveTo(x, y);
          else context.lineTo(x, y);
        }
        context.stroke();
      }
    }
    context.globalAlpha = 1;
  },

  drawThings(view, layer, style, labels) {
    const { context, scale, size } = view;
    const { time, selected } = this.state;
    const edge = RADIUS + 3;
    for (const thing of layer.things.values()) {
      const point = layer.at(thing, time);
      if (!point) continue;
      const x = point.x * scale - view.x;
      const y = point.y * scale - view.y;
      if (x < -edge || y < -edge || x > size.x + edge || y > size.y + edge) continue;
      this.drawn++;
      const stale = layer.isStale(point, time);
      const sprite = this.sprite(stale ? style.stale : layer.colourOf(point, style), style.halo, stale);
      context.drawImage(sprite, x - edge, y - edge, 2 * edge, 2 * edge);
      if (selected && selected.layer === layer && selected.key === thing.key) {
        context.strokeStyle = style.text;
        context.lineWidth = 2;
        context.beginPath();
        context.arc(x, y, RADIUS + 5, 0, 7);
        context.stroke();
      }
      if (labels.length <= LABELS_MAX) labels.push([x, y, layer.labelOf(thing, point)]);
    }
  },

  drawLabels({ context }, labels, style) {
    if (labels.length > LABELS_MAX) return;
    context.font = "12px system-ui, sans-serif";
    context.lineWidth = 3;
    context.strokeStyle = style.halo;
    context.fillStyle = style.text;
    const taken = [];
    for (const [x, y, text] of labels) {
      const box = [x + 9, y - 7, x + 9 + 6.5 * text.length, y + 7];
      if (taken.some((each) => box[0] < each[2] && box[2] > each[0] && box[1] < each[3] && box[3] > each[1])) continue;
      taken.push(box);
      context.strokeText(text, x + 9, y + 4);
      context.fillText(text, x + 9, y + 4);
    }
  },

  // Links between members that have a position on the map.
  drawLinks(view, style) {
    const { context, scale } = view;
    for (const [one, other, kind] of this.state.links()) {
      context.strokeStyle = kind === "past" ? style.bad : kind === "poor" ? style.warn : style.link;
      context.setLineDash(kind === "past" ? [3, 5] : []);
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(one.x * scale - view.x, one.y * scale - view.y);
      context.lineTo(other.x * scale - view.x, other.y * scale - view.y);
      context.stroke();
    }
    context.setLineDash([]);
  },

  sprite(colour, halo, stale) {
    const name = `${colour} ${stale}`;
    let sprite = this.sprites.get(name);
    if (!sprite) {
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      const edge = RADIUS + 3;
      sprite = document.createElement("canvas");
      sprite.width = sprite.height = 2 * edge * ratio;
      const context = sprite.getContext("2d");
      context.scale(ratio, ratio);
      context.beginPath();
      context.arc(edge, edge, RADIUS, 0, 7);
      context.fillStyle = stale ? halo : colour;
      context.strokeStyle = stale ? colour : halo;
      context.lineWidth = stale ? 2 : 1.5;
      context.fill();
      context.stroke();
      this.sprites.set(name, sprite);
    }
    return sprite;
  },

  // The layer and thing nearest to a point of the container, if it is near enough to be meant.
  nearest(place, touch) {
    const { map, state } = this;
    const scale = 2 ** map.getZoom();
    const origin = map.getPixelOrigin().add(map.containerPointToLayerPoint([0, 0]));
    let best = null;
    let least = (touch ? TOUCH_PX : MOUSE_PX) ** 2;
    for (const layer of state.layers) {
      if (!layer.visible) continue;
      for (const thing of layer.things.values()) {
        const point = layer.at(thing, state.time);
        if (!point) continue;
        const away = (point.x * scale - origin.x - place.x) ** 2 + (point.y * scale - origin.y - place.y) ** 2;
        if (away <= least) {
          least = away;
          best = { layer, key: thing.key, point };
        }
      }
    }
    return best;
  },
});
