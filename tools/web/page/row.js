// The drawer with one row: its values, who wrote each of them and when, and the writes that lost.

import { $, cell, h } from "./dom.js";
import { get } from "./api.js";

const when = (at) => at.slice(0, 19).replace("T", " ");

export async function rowDrawer(app, table, key, { values, columns, note = "", onclose } = {}) {
  const drawer = $("drawer");
  const back = document.activeElement;
  const close = () => {
    drawer.hidden = true;
    onclose?.();
    if (back?.isConnected) back.focus();
  };
  drawer.onkeydown = (event) => event.key === "Escape" && close();
  const body = h("div", { class: "body" });
  drawer.replaceChildren(
    h("div", { class: "head" }, h("h2", { tabindex: "-1" }, h("span", { class: "muted" }, `${table} `), key), h("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: close }, "✕")),
    note ? h("p", { class: "muted" }, note) : "",
    body,
  );
  drawer.hidden = false;
  drawer.querySelector("h2").focus({ preventScroll: true });
  draw(body, values, columns, null);
  const asked = (drawer.dataset.row = `${table}/${key}`);
  try {
    const why = await get(`/api/why/${encodeURIComponent(table)}/${encodeURIComponent(key)}`);
    if (drawer.dataset.row === asked) draw(body, values ?? Object.fromEntries(why.cells.map((each) => [each.column, each.value])), columns ?? why.cells.map((each) => each.column), why);
  } catch (error) {
    if (drawer.dataset.row === asked) body.append(h("p", { class: "muted" }, error.status === 404 ? "nobody has written this row on the mesh" : error.message));
  }
  const link = h("a", { href: `#${encodeURIComponent(table)}/${encodeURIComponent(key)}` }, "link to this row");
  const command = h("code", {}, `mycomesh why ${quote(table)} ${quote(key)}`);
  if (drawer.dataset.row === asked) body.append(h("p", { class: "muted foot" }, link, " · ", command));
}

export const quote = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function draw(body, values, columns, why) {
  const cells = new Map((why?.cells ?? []).map((each) => [each.column, each]));
  const rows = (columns ?? []).map((name) => {
    const written = cells.get(name);
    return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, cell(values?.[name], 400)), h("td", { class: "by" }, written ? [written.by || written.site.slice(0, 8), h("br"), h("time", { datetime: written.at }, when(written.at))] : ""));
  });
  const birth = why?.existence;
  body.replaceChildren(
    h("table", { class: "cells" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Column"), h("th", { scope: "col" }, "Value"), h("th", { scope: "col" }, "Written by"))), h("tbody", {}, rows)),
    birth ? h("p", { class: "muted" }, `${why.state === "deleted" ? "deleted" : "inserted"} by ${birth.by || birth.site.slice(0, 8)}, ${when(birth.at)}`) : "",
    why?.parked ? h("p", { class: "error" }, `parked: ${why.parked}`) : "",
    why?.losses?.length
      ? h("div", {}, h("h3", {}, "Writes that lost"), h("ul", { class: "losses" }, why.losses.map((loss) => h("li", {}, Object.entries(loss.lost).map(([name, value]) => [`${name} = `, cell(value), " "]), h("span", { class: "muted" }, `${loss.lost_by || loss.lost_site.slice(0, 8)}, ${when(loss.lost_at)}: ${loss.reason}`)))))
      : "",
  );
}

