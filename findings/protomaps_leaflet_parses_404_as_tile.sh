#!/usr/bin/env bash
# protomaps-leaflet 5.1.0 (npm), ZxySource: the body of a 404 answer is parsed as a vector tile. A server that has no tile at a place,
# as every server of a map of one country, and answers 404 with a line of text, makes `get` reject with "Unimplemented type: ..."
# for each such place; with an empty body the same 404 is an empty tile.
#
# Expected by a user: a 404 is a place without a tile, as in the PMTiles source of the same package and in Leaflet's own layers.
# Seen: the text of the error is decoded as protobuf.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-fund --no-audit protomaps-leaflet@5.1.0 >/dev/null
cat > try.mjs <<'JS'
import { createServer } from 'node:http';
globalThis.window ??= globalThis;
const { ZxySource } = await import('protomaps-leaflet');
const server = createServer((request, answer) => {
  answer.writeHead(404, { 'Content-Type': 'application/json' });
  answer.end(request.url.startsWith('/text') ? '{"error": "no such tile"}' : '');
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const base = `http://127.0.0.1:${server.address().port}`;
for (const kind of ['text', 'empty']) {
  const source = new ZxySource(`${base}/${kind}/{z}/{x}/{y}.mvt`, false);
  try {
    const tile = await source.get({ x: 0, y: 0, z: 1 }, 256);
    console.log(`404 with ${kind} body: a tile of ${tile.size} layers`);
  } catch (error) {
    console.log(`404 with ${kind} body: ${error.message}`);
  }
}
server.close();
JS
said=$(node try.mjs)
echo "protomaps-leaflet 5.1.0: "
echo "$said"
grep -q '404 with text body: Unimplemented type' <<<"$said" && grep -q '404 with empty body: a tile of 0 layers' <<<"$said"
