// Talks to the console: requests, the one live stream, and the token's exchange for a cookie.

export class ApiError extends Error {}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new ApiError("the console does not answer; is 'mycomesh web' still running?");
  }
  if (answer.ok) return answer;
  let text = `the console answered ${answer.status}`;
  try {
    const value = await answer.json();
    text = `${value.error} [${value.code}]`;
  } catch {
    // not one of its own answers
  }
  const error = new ApiError(text);
  error.status = answer.status;
  throw error;
}

export const get = async (path) => (await ask(path)).json();
export const getLines = async (path) =>
  (await (await ask(path)).text())
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
export const post = async (path, body) =>
  (await ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })).json();

export const rowsPath = (table, options = {}) => {
  const query = new URLSearchParams(Object.entries(options).filter(([, value]) => value !== "" && value !== undefined));
  return `/api/tables/${encodeURIComponent(table)}?${query}`;
};

// Exchanges the token of the address for a cookie, and takes it out of the address and the history.
export async function enter() {
  const token = /^#token=(.+)$/.exec(location.hash);
  if (!token) return;
  history.replaceState(null, "", location.pathname + "#/map");
  await post("/session", { token: decodeURIComponent(token[1]) });
}

// One stream for the page: browsers allow six connections to one server, over all tabs.
export class Live {
  constructor() {
    this.listeners = new Set();
    this.tables = [];
    this.source = null;
    this.timer = 0;
  }

  // Calls `listener(name, data)` for each event; returns a function that ends it.
  listen(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  follow(tables) {
    const wanted = [...new Set(tables)].sort();
    if (this.source && JSON.stringify(wanted) === JSON.stringify(this.tables)) return;
    this.tables = wanted;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), this.source ? 50 : 0);
  }

  open() {
    this.source?.close();
    const query = this.tables.map((table) => `table=${encodeURIComponent(table)}`).join("&");
    const source = new EventSource(`/api/live?${query}`);
    this.source = source;
    for (const name of ["status", "notice", "changes", "reset", "ready"]) {
      source.addEventListener(name, (event) => this.tell(name, JSON.parse(event.data)));
    }
    source.onopen = () => this.tell("open", {});
    source.onerror = () => {
      this.tell("lost", {});
      // The browser connects again by itself, except after an answer that is no stream.
      if (source.readyState === EventSource.CLOSED && this.source === source) {
        this.timer = setTimeout(() => this.open(), 3000);
      }
    };
  }

  tell(name, data) {
    for (const listener of this.listeners) listener(name, data);
  }
}
