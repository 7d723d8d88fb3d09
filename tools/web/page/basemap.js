// A map of streets and mountains that the user has given, as one file: PMTiles or MBTiles, with vector or image tiles.
// This part is loaded only then.

import L from "leaflet";
import { PMTiles, leafletRasterLayer } from "pmtiles";
import { LineSymbolizer, PolygonSymbolizer, leafletLayer } from "protomaps-leaflet";

const VECTOR = 1; // the type of tiles in the header of PMTiles

// Rules for tiles of any schema: what is named as water, wood or building is filled, all else is a line.
function rulesFor(layers, dark) {
  const colours = dark
    ? { water: "#12303d", wood: "#16302a", building: "#2b3138", line: "#55606b" }
    : { water: "#a9d3e0", wood: "#cfe3cf", building: "#ddd6cd", line: "#b0a695" };
  const kinds = [
    [/water|ocean|lake/, colours.water],
    [/land(use|cover)|wood|forest|park|nature/, colours.wood],
    [/building/, colours.building],
  ];
  return layers.map((name) => {
    const kind = kinds.find(([pattern]) => pattern.test(name));
    return kind
      ? { dataLayer: name, symbolizer: new PolygonSymbolizer({ fill: kind[1] }), filter: (zoom, each) => each.geomType === 3 }
      : { dataLayer: name, symbolizer: new LineSymbolizer({ color: colours.line, width: 1 }), filter: (zoom, each) => each.geomType === 2 };
  });
}

// Names of the layers; a file that was converted from MBTiles may have them as a text inside.
function layersOf(metadata) {
  let found = metadata.vector_layers;
  try {
    found ??= JSON.parse(metadata.json ?? "{}").vector_layers;
  } catch {
    // it says nothing about its layers, so none is drawn
  }
  return (found ?? []).map((each) => String(each.id));
}

const escaped = (text) => text.replace(/<[^>]*>/g, " ").replace(/[&<>"]/g, "");

export async function addBasemap(map, about, dark) {
  const url = new URL("/basemap/file", location.href).href;
  let layer;
  if (about.kind === "pmtiles") {
    const archive = new PMTiles(url);
    const header = await archive.getHeader();
    const metadata = await archive.getMetadata();
    const attribution = escaped(String(metadata.attribution ?? about.name));
    if (header.tileType === VECTOR) {
      const layers = layersOf(metadata);
      const isProtomaps = layers.includes("earth") && layers.includes("roads");
      const look = isProtomaps
        ? { flavor: dark ? "dark" : "light", lang: "en" }
        : { paintRules: rulesFor(layers, dark), labelRules: [], backgroundColor: "transparent" };
      layer = leafletLayer({ url: archive, maxDataZoom: header.maxZoom, attribution, ...look });
    } else {
      layer = leafletRasterLayer(archive, { attribution, maxNativeZoom: header.maxZoom, maxZoom: 19 });
    }
  } else {
    const attribution = escaped(about.attribution || about.name);
    const tiles = "/basemap/tiles/{z}/{x}/{y}";
    const most = about.maxzoom ? Number(about.maxzoom) : 14; // texts, of which "0" is a zoom
    layer =
      about.format === "pbf"
        ? leafletLayer({ url: `${location.origin}${tiles}`, maxDataZoom: most, attribution, paintRules: rulesFor(about.layers, dark), labelRules: [], backgroundColor: "transparent" })
        : L.tileLayer(tiles, { attribution, minNativeZoom: Number(about.minzoom) || 0, maxNativeZoom: most, maxZoom: 19 });
  }
  layer.addTo(map);
  return layer;
}
