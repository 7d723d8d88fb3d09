// The mailboxes of a gateway, and how far each other base was read.

import { ago, bytes, count, grid, h } from "./dom.js";

// Cards of what `mycomesh status` has under "mailboxes"; none where no base is configured.
export function basesCards(mailboxes) {
  return mailboxes.map((box) =>
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Bases"),
      h("p", {}, box.base ? [h("b", {}, box.base), " meets the others at "] : "This base meets the others at ", h("code", {}, box.url), ": ", box.state),
      box.text ? h("p", { class: "error", role: "status" }, box.text) : "",
      box.streams.length ? grid(HEADS, box.streams.map(row)) : h("p", { class: "muted" }, "No other base has written here yet."),
      h("p", { class: "hint" }, `${count(box.envelopes, "envelope")} appended since this node started (${bytes(box.bytes)}, ${count(box.parcels, "parcel")}); ${bytes(box.kept_bytes)} kept in the mailbox. `, h("code", {}, "mycomesh mailbox test URL"), " tries the storage."),
    ),
  );
}

const HEADS = ["Base", "Gateway", "State", "Waiting", "Lag", "Read", "Runs", "Refused", "Proved equal", "Note"];

function row(each) {
  const state = each.behind.length ? "behind" : each.waiting ? "waiting" : "current";
  const proved = each.proved_s_ago === null ? "not yet" : ago(each.proved_s_ago * 1000);
  const note = each.behind.length ? `${each.behind.join(", ")}: ${each.why}` : each.why;
  return [each.base, each.member, state, each.waiting, each.waiting ? ago(each.lag_s * 1000) : "", bytes(each.bytes), each.taken, each.refused, proved, note];
}
