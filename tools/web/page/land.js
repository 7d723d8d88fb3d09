// The land of the whole world, bundled with the page: Natural Earth at 1:50 million, drawn on a canvas below the data.

import L from "leaflet";
import { feature } from "topojson-client";

export async function addLand(map, style) {
  const topology = await (await fetch("/static/land.json")).json();
  const pane = map.createPane("land");
  pane.style.zIndex = 150;
  const renderer = L.canvas({ pane: "land", padding: 0.3 });
  const land = L.geoJSON(feature(topology, topology.objects.land), {
    renderer,
    interactive: false,
    smoothFactor: 1.2,
    style: () => ({ stroke: true, weight: 0.8, color: style().coast, fill: true, fillColor: style().land, fillOpacity: 1 }),
  }).addTo(map);
  return () => land.setStyle({ color: style().coast, fillColor: style().land });
}
