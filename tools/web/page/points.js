// Draws the things of all layers on one canvas above the map: thousands at each frame, where an element each would stall.

import L from "leaflet";

const RADIUS = 5;
const TRACKS_MAX = 400; // things whose tracks are drawn; with more, the selected thing's alone
const LABELS_MAX = 60;
const BANDS = 4; // of a track, each fainter than the newer one
const MANY = 1_500; // things; more of them are written into the pixels, which takes a fifth of the time
const TOUCH_PX = 22;
const MOUSE_PX = 12;

// The horizontal place of a point on the screen: of its copies around the world, the one nearest to the middle.
const across = ({ scale, x, size }, point) => {
  const at = point.x * scale - x;
  return at + 256 * scale * Math.round((size.x / 2 - at) / (256 * scale));
};

export const Points = L.Layer.extend({
  initialize(state) {
    this.state = state; // { layers, time, selected, links(), style() }
    this.sprites = new Map();
    this.stamps = new Map();
    this.frame = 0;
    this.frames = 0; // drawn so far; tests and the benchmark read it
    this.drawn = 0;
  },

  onAdd(map) {
    this.map = map;
    this.canvas = L.DomUtil.create("canvas", "points leaflet-zoom-hide");
    this.canvas.setAttribute("aria-hidden", "true");
    // Drawn by the processor: ten thousand small images are faster so than through a graphics card, let alone without one.
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
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
    this.stamps.clear();
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
    const view = { scale: 2 ** map.getZoom(), x: origin.x, y: origin.y, size, context: this.context };
    view.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    view.context.clearRect(0, 0, size.x, size.y);
    const style = state.style();
    const layers = state.layers.filter((layer) => layer.visible);
    const many = layers.reduce((sum, layer) => sum + layer.things.size, 0) > MANY;
    const labels = [];
    this.drawn = 0;
    if (many) this.drawMany(view, layers, style, ratio);
    // What is drawn now goes behind dots that are there already.
    view.context.globalCompositeOperation = many ? "destination-over" : "source-over";
    for (const layer of layers) this.drawTracks(view, layer, style);
    this.drawLinks(view, style);
    view.context.globalCompositeOperation = "source-over";
    if (!many) for (const layer of layers) this.drawThings(view, layer, style, labels);
    this.drawChosen(view, style);
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
        let before = 0;
        for (let at = Math.max(0, from - 1); at < to; at++) {
          const x = across(view, track[at]);
          const y = track[at].y * scale - view.y;
          // Half of the world away: the thing has left the screen on one side and comes from the other.
          if (at === Math.max(0, from - 1) || Math.abs(x - before) > 128 * scale) context.moveTo(x, y);
          else context.lineTo(x, y);
          before = x;
        }
        context.stroke();
      }
    }
    context.globalAlpha = 1;
  },

  drawThings(view, layer, style, labels) {
    const { context, scale, size } = view;
    const { time } = this.state;
    const edge = RADIUS + 3;
    const before = layer.staleBefore(time);
    const stale = this.sprite(style.stale, style.halo, true);
    const plain = layer.colourBy ? null : this.sprite(layer.colourOf(null, style), style.halo, false);
    for (const thing of layer.things.values()) {
      const point = layer.at(thing, time);
      if (!point) continue;
      const x = across(view, point);
      const y = point.y * scale - view.y;
      if (x < -edge || y < -edge || x > size.x + edge || y > size.y + edge) continue;
      this.drawn++;
      const sprite = point.t < before ? stale : plain ?? this.sprite(layer.colourOf(point, style), style.halo, false);
      context.drawImage(sprite, x - edge, y - edge, 2 * edge, 2 * edge);
      if (labels.length <= LABELS_MAX) labels.push([x, y, layer.labelOf(thing, point)]);
    }
  },

  // The same for thousands: their pixels are copied into one image, without edges that blend.
  drawMany(view, layers, style, ratio) {
    const { context, scale, y: top, size } = view;
    const width = size.x * ratio;
    const height = size.y * ratio;
    if (this.image?.width !== width || this.image.height !== height) {
      this.image = context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const { pixels } = this;
    pixels.fill(0);
    const { time } = this.state;
    const edge = (RADIUS + 3) * ratio;
    for (const layer of layers) {
      const before = layer.staleBefore(time);
      const stale = this.stamp(style.stale, style.halo, true, width);
      const plain = layer.colourBy ? null : this.stamp(layer.colourOf(null, style), style.halo, false, width);
      for (const thing of layer.things.values()) {
        const point = layer.at(thing, time);
        if (!point) continue;
        const x = Math.round(across(view, point) * ratio - edge);
        const y = Math.round((point.y * scale - top) * ratio - edge);
        if (x < 0 || y < 0 || x + 2 * edge >= width || y + 2 * edge >= height) continue;
        this.drawn++;
        const { places, colours } = point.t < before ? stale : plain ?? this.stamp(layer.colourOf(point, style), style.halo, false, width);
        const at = y * width + x;
        for (let number = 0; number < places.length; number++) pixels[at + places[number]] = colours[number];
      }
    }
    context.putImageData(this.image, 0, 0);
  },

  // The pixels of a sprite that are not clear: their places in an image of a width, and their colours.
  stamp(colour, halo, stale, width) {
    const name = `${colour} ${stale} ${width}`;
    let stamp = this.stamps.get(name);
    if (!stamp) {
      const sprite = this.sprite(colour, halo, stale);
      const data = new Uint32Array(sprite.getContext("2d").getImageData(0, 0, sprite.width, sprite.height).data.buffer);
      const kept = [...data.keys()].filter((at) => data[at] >>> 24 > 127);
      const places = Int32Array.from(kept, (at) => Math.floor(at / sprite.width) * width + (at % sprite.width));
      this.stamps.set(name, (stamp = { places, colours: Uint32Array.from(kept, (at) => (data[at] | 0xff000000) >>> 0) }));
    }
    return stamp;
  },

  drawChosen(view, style) {
    const { context, scale, y } = view;
    const { selected, time } = this.state;
    const thing = selected?.layer.visible && selected.layer.things.get(selected.key);
    const point = thing && selected.layer.at(thing, time);
    if (!point) return;
    context.strokeStyle = style.text;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(across(view, point), point.y * scale - y, RADIUS + 5, 0, 7);
    context.stroke();
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
      const from = across(view, one);
      let to = across(view, other);
      if (Math.abs(to - from) > 128 * scale) to += from < to ? -256 * scale : 256 * scale; // the short way
      context.moveTo(from, one.y * scale - view.y);
      context.lineTo(to, other.y * scale - view.y);
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
    const view = { scale, x: origin.x, size: map.getSize() };
    let best = null;
    let least = (touch ? TOUCH_PX : MOUSE_PX) ** 2;
    for (const layer of state.layers) {
      if (!layer.visible) continue;
      for (const thing of layer.things.values()) {
        const point = layer.at(thing, state.time);
        if (!point) continue;
        const away = (across(view, point) - place.x) ** 2 + (point.y * scale - origin.y - place.y) ** 2;
        if (away <= least) {
          least = away;
          best = { layer, key: thing.key, point };
        }
      }
    }
    return best;
  },
});
