// The land of the whole world, bundled with the page: Natural Earth at 1:50 million, drawn on a canvas below the data.

import L from "leaflet";
import { feature } from "topojson-client";

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

// The polygons of a world, those that cross 180 degrees on both of its sides.
export function wholeWorld(polygons) {
  return polygons.flatMap((polygon) => {
    const rings = polygon.map(unwrapped);
    const places = rings[0].map(([x]) => x);
    const beyond = Math.max(...places) > 180.01 ? -360 : Math.min(...places) < -180.01 ? 360 : 0;
    return beyond ? [rings, rings.map((ring) => ring.map(([x, y]) => [x + beyond, y]))] : [rings];
  });
}

export async function addLand(map, style) {
  const topology = await (await fetch("/static/land.json")).json();
  const pane = map.createPane("land");
  pane.style.zIndex = 150;
  const renderer = L.canvas({ pane: "land", padding: 0.3 });
  const { features } = feature(topology, topology.objects.land);
  const coordinates = wholeWorld(features.flatMap(({ geometry }) => geometry.coordinates));
  const land = L.geoJSON({ type: "MultiPolygon", coordinates }, {
    renderer,
    interactive: false,
    smoothFactor: 1.2,
    style: () => ({ stroke: true, weight: 0.8, color: style().coast, fill: true, fillColor: style().land, fillOpacity: 1 }),
  }).addTo(map);
  return () => land.setStyle({ color: style().coast, fillColor: style().land });
}
