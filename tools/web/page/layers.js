// The data of the map: for each layer the things on it, each with its newest position and its track.

import { get, getLines, rowsPath } from "./api.js";

export const ROWS_MAX = 20_000; // that are loaded of one table; the newest, if it has more
const TRACK_MAX = 2_000; // positions of one thing
const TRAIL_MAX = 200; // positions of one thing that moves in its row
const DAY_MS = 86_400_000;
const RETRY_MS = 3_000; // before rows that could not be loaded are asked for again

export const worldX = (lon) => ((lon + 180) / 360) * 256;
export const worldY = (lat) => {
  const sine = Math.sin((Math.max(-85.05, Math.min(85.05, lat)) * Math.PI) / 180);
  return 128 - (Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)) * 256;
};

// Milliseconds of a value that says when: Unix seconds, milliseconds or microseconds, or ISO 8601.
export function timeOf(value) {
  if (typeof value === "object" && value && "integer" in value) value = Number(value.integer);
  if (typeof value === "number") {
    if (value > 1e17) return value / 1e6;
    if (value > 1e14) return value / 1e3;
    if (value > 1e11) return value;
    return value > 1e8 ? value * 1000 : NaN;
  }
  if (typeof value !== "string" || value.length < 8) return NaN;
  const zoned = /(Z|[+-]\d\d:?\d\d)$/.test(value) ? value : `${value.replace(" ", "T")}Z`;
  return Date.parse(zoned);
}

// [lon, lat] of a geometry: a point, or the middle of the first line.
function positionOf(layer, values) {
  if (layer.kind === "pair") return [values[layer.lon], values[layer.lat]];
  const value = values[layer.lat];
  if (layer.kind === "geojson") {
    try {
      let geometry = JSON.parse(value);
      if (geometry.type === "Feature") geometry = geometry.geometry;
      let place = geometry.coordinates ?? geometry.geometries[0].coordinates;
      while (Array.isArray(place[0])) place = place[Math.floor(place.length / 2)];
      return place;
    } catch {
      return [NaN, NaN];
    }
  }
  return value && value.base64 ? positionOfBlob(value.base64) : [NaN, NaN];
}

// The first point of a geometry as GeoPackage or plain WKB has it, or the middle of one of SpatiaLite.
export function positionOfBlob(base64) {
  const data = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const view = new DataView(data.buffer);
  let at = 0;
  try {
    if (data[0] === 0 && data[38] === 0x7c) {
      const [west, south, east, north] = [6, 14, 22, 30].map((place) => view.getFloat64(place, data[1] === 1));
      return [(west + east) / 2, (south + north) / 2];
    }
    if (data[0] === 0x47 && data[1] === 0x50) at = 8 + [0, 32, 48, 48, 64][(data[3] >> 1) & 7];
    for (let depth = 0; depth < 8; depth++) {
      const little = data[at] === 1;
      let code = view.getUint32(at + 1, little);
      at += 5;
      if (code & 0x20000000) at += 4;
      code = (code & 0x0fffffff) % 1000;
      if (code === 1) return [view.getFloat64(at, little), view.getFloat64(at + 8, little)];
      at += 4;
      if (code === 3) at += 4;
      if (code === 2 || code === 3) return [view.getFloat64(at, little), view.getFloat64(at + 8, little)];
    }
  } catch {
    // shorter than it says
  }
  return [NaN, NaN];
}

export class Layer {
  constructor(table, colour) {
    this.table = table.name;
    this.columns = table.columns;
    this.info = table.layer;
    this.rows = table.rows;
    this.colour = colour;
    this.visible = true;
    this.where = "";
    this.colourBy = "";
    this.staleMs = -1; // -1: five minutes, unless the data is a recording
    this.things = new Map();
    this.loading = null; // the promise of a load that is under way
    this.again = false; // whether somebody asked for the rows while they were loading
    this.error = "";
    this.pending = null; // changes that arrive while the rows are loading
    this.cut = false;
    this.newest = -Infinity;
    this.oldest = Infinity;
    this.version = 0;
    this.reloadTimer = 0;
    this.loadMs = 0;
  }

  // The key of the thing that a row is about.
  thingOf(row, values) {
    const entity = this.info.entity;
    return entity && values[entity] !== null ? String(values[entity]) : row;
  }

  // Loads the rows; whoever asks while they are loading gets what the filter lets through by then.
  load() {
    this.again = true;
    this.loading ??= this.loadAll().finally(() => {
      this.loading = null;
    });
    return this.loading;
  }

  async loadAll() {
    while (this.again) {
      this.again = false;
      await this.loadOnce();
    }
    if (this.error) this.reloadSoon(() => {}, RETRY_MS);
  }

  async loadOnce() {
    this.error = "";
    this.pending = [];
    const started = performance.now();
    try {
      const changes = await this.fetch();
      this.things.clear();
      this.newest = -Infinity;
      this.oldest = Infinity;
      for (const change of changes) this.take(change);
      const pending = this.pending;
      this.pending = null;
      if (!this.where) for (const change of pending) this.take(change);
    } catch (error) {
      this.error = error.message;
    }
    this.pending = null;
    this.loadMs = performance.now() - started;
    this.version++;
  }

  async fetch() {
    this.cut = false;
    if (!this.where && (this.rows ?? 0) <= ROWS_MAX) {
      // From the feed: it says too who wrote a row and when.
      return getLines(`/api/changes?table=${encodeURIComponent(this.table)}&once=1`);
    }
    const order = this.info.time || "";
    const found = await get(rowsPath(this.table, { where: this.where, limit: ROWS_MAX, order, desc: order ? 1 : "" }));
    this.cut = found.more;
    const place = found.columns;
    const changes = found.rows.map((cells, number) => ({
      op: "insert",
      row: found.keys[number],
      who: "",
      at: "",
      values: Object.fromEntries(place.map((name, column) => [name, cells[column]])),
    }));
    return order ? changes.reverse() : changes;
  }

  // Takes live changes. With a filter only the server can tell which rows it lets through, so the rows are loaded again.
  onChanges(changes) {
    if (this.where) {
      this.reloadSoon();
      return;
    }
    if (this.pending) {
      this.pending.push(...changes);
      return;
    }
    for (const change of changes) this.take(change);
    this.version++;
  }

  reloadSoon(then = () => {}, afterMs = 300) {
    if (this.reloadTimer) return;
    this.reloadTimer = setTimeout(
      async () => {
        this.reloadTimer = 0;
        await this.load();
        then();
      },
      Math.max(afterMs, 5 * this.loadMs),
    );
  }

  take(change) {
    const { row, values } = change;
    if (values === null) {
      this.remove(row);
      return;
    }
    const [lon, lat] = positionOf(this.info, values);
    // Beyond these, as 91 and 181 of a receiver without a fix, it is no place.
    if (typeof lon !== "number" || typeof lat !== "number" || !(Math.abs(lon) <= 180 && Math.abs(lat) <= 90)) {
      this.remove(row);
      return;
    }
    const stamped = this.info.time ? timeOf(values[this.info.time]) : NaN;
    const t = Number.isFinite(stamped) ? stamped : change.at ? Date.parse(change.at) : NaN;
    if (t > this.newest) this.newest = t;
    if (t < this.oldest) this.oldest = t;
    const key = this.thingOf(row, values);
    const point = { row, values, who: change.who, t, x: worldX(lon), y: worldY(lat), lat, lon };
    let thing = this.things.get(key);
    if (!thing) this.things.set(key, (thing = { key, track: [] }));
    const track = thing.track;
    if (this.info.entity) {
      const same = change.op === "update" ? track.findIndex((each) => each.row === row) : -1;
      if (same >= 0) track.splice(same, 1);
      let at = track.length;
      while (at > 0 && track[at - 1].t > t) at--;
      track.splice(at, 0, point);
      if (track.length > TRACK_MAX) track.shift();
    } else {
      const last = track[track.length - 1];
      if (last && last.x === point.x && last.y === point.y) track[track.length - 1] = point;
      else track.push(point);
      if (track.length > TRAIL_MAX) track.shift();
    }
  }

  remove(row) {
    if (!this.info.entity) {
      this.things.delete(row);
      return;
    }
    for (const [key, thing] of this.things) {
      const kept = thing.track.filter((point) => point.row !== row);
      if (kept.length === thing.track.length) continue;
      if (kept.length) thing.track = kept;
      else this.things.delete(key);
      return;
    }
  }

  // The newest position of a thing up to a time; undefined before its first.
  at(thing, time) {
    const track = thing.track;
    if (time === Infinity) return track[track.length - 1];
    let low = 0;
    let high = track.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (track[middle].t <= time) low = middle + 1;
      else high = middle;
    }
    return track[low - 1];
  }

  // Whether the data is of now, so that its age says something.
  isLive() {
    return Date.now() - this.newest < DAY_MS;
  }

  // The time before which a position is stale, seen from a place of the slider.
  staleBefore(time) {
    const limit = this.staleMs >= 0 ? this.staleMs : this.isLive() ? 300_000 : Infinity;
    const now = time === Infinity ? (this.isLive() ? Date.now() : this.newest) : time;
    return now - limit;
  }

  has(row) {
    for (const thing of this.things.values()) if (thing.track.some((point) => point.row === row)) return thing;
    return null;
  }
}
