// Builds elements. Text goes in as text nodes alone, so nothing from a table can become markup.

const SHOWN = new Set(["title", "aria-label"]);

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return fill(element, attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return fill(element, attributes, children);
}

// Characters that turn the order of text around them, or are not seen, as their numbers: a cell shall look like what it is.
export const visible = (text) => text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (char) => `⟨${char.charCodeAt(0).toString(16).padStart(2, "0")}⟩`);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : SHOWN.has(name) ? visible(String(value)) : String(value));
  }
  const shown = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...shown.map((child) => (child instanceof Node ? child : visible(String(child)))));
  return element;
}

export const $ = (id) => document.getElementById(id);

let toastTimer = 0;

// Says one line to the user, as what an action did or why it failed.
export function say(text, bad = false) {
  const toast = $("toast");
  toast.textContent = visible(text);
  toast.className = bad ? "toast bad" : "toast";
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (toast.hidden = true), bad ? 8000 : 4000);
}

// A value of SQL as a person reads it, with the kind for its style.
export function shown(value) {
  if (value === null || value === undefined) return ["NULL", "null"];
  if (typeof value === "number") return [Number.isInteger(value) ? String(value) : String(+value.toPrecision(12)), "number"];
  if (typeof value === "object") {
    if ("integer" in value) return [value.integer, "number"];
    if ("real" in value) return [value.real, "number"];
    if ("base64" in value) return [`blob, ${Math.floor((value.base64.length * 3) / 4)} B`, "blob"];
    if ("too long" in value) return [`${value["too long"].toLocaleString("en")} B, too long to show`, "blob"];
    if ("text in base64" in value) return [atob(value["text in base64"]), "blob"];
    return [JSON.stringify(value), "text"];
  }
  return [String(value), "text"];
}

export function cell(value, limit = 120) {
  const [text, kind] = shown(value);
  const cut = text.length > limit ? `${text.slice(0, limit)}…` : text;
  return h("span", { class: `value ${kind}`, title: cut === text ? null : text.slice(0, 2000) }, cut);
}

export function ago(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 2) return "now";
  if (s >= 2 * 31_557_600) return `${Math.floor(s / 31_557_600)} years`;
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (s >= 2 * size || (unit === "d" && s >= size)) return `${Math.floor(s / size)} ${unit}`;
  return s >= 60 ? "1 min" : `${Math.floor(s)} s`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  if (count < 1e6) return `${(count / 1e3).toFixed(1)} kB`;
  return `${(count / 1e6).toFixed(1)} MB`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
export const moment = (ms) => new Date(ms).toISOString().slice(0, 19).replace("T", " ") + "Z";

// A word for how many of something there are.
export const count = (number, word, plural = `${word}s`) => `${number.toLocaleString("en")} ${number === 1 ? word : plural}`;

// A table that scrolls by itself where it is too wide; a column is right-aligned if its first value is a number.
export function grid(heads, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": heads.join(", ") }, h("table", {}, h("thead", {}, h("tr", {}, heads.map((head, at) => h("th", { scope: "col", class: typeof rows[0]?.[at] === "number" ? "number" : null }, head)))), h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value) => h("td", { class: typeof value === "number" ? "number" : null }, cell(value))))))));
}
