// The replay of a simulation inside of its report: the view of the mesh, in a page that needs neither a server nor a network.

import "./style.css";
import { MeshView } from "./mesh.js";

// The moments are in the report as JSON, compressed by gzip, in base 64.
async function moments(text) {
  const data = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function start() {
  const place = document.getElementById("replay");
  const root = place.attachShadow({ mode: "open" }); // the styles of the report and of the page leave each other alone
  root.append(document.getElementById("replay-style").content);
  const view = document.createElement("div");
  root.append(view);
  new MeshView(null, await moments(document.getElementById("replay-trace").textContent)).show(view);
}

start();
