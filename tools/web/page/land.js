// The land of the whole world, bundled with the page: Natural Earth at 1:50 million, drawn on a canvas below the data.

import L from "leaflet";
import { feature } from "topojson-client";

const BEYOND = 200; // degrees from the middle of a world, beyond which nothing of it reaches: Siberia ends at 190

// A ring whose coast crosses 180 degrees goes on beyond it, where it would cross the whole map; one around a pole is closed there.
function unwrapped(ring) {
  let shift = 0;
  const found = ring.map(([x, y], at) => {
    const step = at > 0 ? x - ring[at - 1][0] : 0;
    shift += step > 180 ? -360 : step < -180 ? 360 : 0;
    return [x + shift, y];
  });
  if (shift !== 0) {
    const pole = found[0][1] < 0 ? -90 : 90;
    found.push([found.at(-1)[0], pole], [found[0][0], pole], found[0]);
  }
  return found;
}

const moved = (polygons, shift) => polygons.map((rings) => rings.map((ring) => ring.map(([x, y]) => [x + shift, y])));

// Draws the world, and beside it those copies of it that come into view.
export async function addLand(map, style) {
  const topology = await (await fetch("/static/land.json")).json();
  const pane = map.createPane("land");
  pane.style.zIndex = 150;
  const renderer = L.canvas({ pane: "land", padding: 0.3 });
  const { features } = feature(topology, topology.objects.land);
  const polygons = features.flatMap(({ geometry }) => geometry.coordinates.map((rings) => rings.map(unwrapped)));
  const worlds = new Map();
  const show = () => {
    const bounds = map.getBounds();
    for (const shift of [-360, 0, 360]) {
      if (worlds.has(shift) || bounds.getWest() > shift + BEYOND || bounds.getEast() < shift - BEYOND) continue;
      const shape = { type: "MultiPolygon", coordinates: moved(polygons, shift) };
      const look = () => ({ stroke: true, weight: 0.8, color: style().coast, fill: true, fillColor: style().land, fillOpacity: 1 });
      worlds.set(shift, L.geoJSON(shape, { renderer, interactive: false, smoothFactor: 1.2, style: look }).addTo(map));
    }
  };
  map.on("moveend", show);
  show();
  return () => {
    for (const world of worlds.values()) world.setStyle({ color: style().coast, fillColor: style().land });
  };
}
