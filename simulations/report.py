"""The report of one run: an HTML page with inline plots, beside the trace file.

Invariants: the page needs no network, and a script only to play the topology; each number in it comes from the recorder or
the result.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.svg import COLOURS, Band, Line, bars, lines, ring

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mycomesh.simulations.recorder import Recorder, Snapshot
    from mycomesh.simulations.runner import Result

__all__ = ["PAGE", "TRACE", "Report", "open_report", "page", "quantile"]

PAGE, TRACE = "index.html", "trace.jsonl"
FRAMES_MAX = 6
FAULTS_LISTED = 60
KINDS_SHOWN = 10
POINTS = 200  # of the curve of latencies
LATENCY_MS_MIN = 0.1  # lower end of the logarithmic axis

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--paper:#fff;--card:#f6f8fa;--rule:#d8dee4;
--bad:#b42318;--good:#1a7f37;
--c0:#0063b1;--c1:#c2410c;--c2:#14776a;--c3:#9333a5;--c4:#8a6d00;--c5:#be185d;--c6:#3f6212;--c7:#475569}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa5b1;--paper:#0d1117;--card:#161b22;--rule:#30363d;--bad:#ff8b7e;
--good:#56d364;--c0:#58a6ff;--c1:#ff9e5e;--c2:#43c8b4;--c3:#d08bff;--c4:#e3c34d;--c5:#ff7fb4;--c6:#a3d65c;--c7:#a7b3c2}}
*{box-sizing:border-box}body{margin:0 auto;max-width:860px;padding:28px 20px 60px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}h1{font-size:26px;margin:0 0 2px}h2{font-size:18px;margin:34px 0 4px}p{margin:4px 0 10px}
.soft,figcaption{color:var(--soft);font-size:14px}code{font:13px/1.5 ui-monospace,monospace;
background:var(--card);padding:2px 5px;
border-radius:4px;overflow-wrap:anywhere}.verdict{font-weight:600}.good{color:var(--good)}.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 12px}.tile b{display:block;
font-size:21px;
font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}.ytick,.barname{text-anchor:end}
.xtick,.xlabel,.ylabel,.nodename{text-anchor:middle}svg .value,svg .barname{fill:var(--ink)}.grid{stroke:var(--rule)}
.axis{stroke:var(--soft)}.band{fill:var(--soft);opacity:.13}svg .bandname{font-size:11px;text-anchor:end}.line{fill:none;
stroke-width:2;
stroke-linejoin:round}.area{opacity:.16;stroke:none}.link{stroke:var(--soft);opacity:.45}.down{fill:none;stroke:var(--bad);
stroke-width:2;stroke-dasharray:2 2}.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:14px;margin:2px 0 0}
.key{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:6px;vertical-align:middle}
.frames{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:14px}figure{margin:0}
.plot{overflow-x:auto}.plot svg{min-width:640px}@media(max-width:560px){.frames{grid-template-columns:1fr 1fr}}
figcaption{text-align:center}table{border-collapse:collapse;font-size:14px;width:100%}td{padding:3px 8px 3px 0;vertical-align:top;
border-top:1px solid var(--rule);overflow-wrap:anywhere}td:first-child{white-space:nowrap;font-variant-numeric:tabular-nums}
"""
_COLOURS = "".join(
    f".line.c{number}{{stroke:var(--c{number})}}.area.c{number},.bar.c{number},.dot.c{number}{{fill:var(--c{number})}}"
    f".key.c{number}{{background:var(--c{number})}}"
    for number in range(COLOURS)
)


@dataclass(frozen=True, slots=True)
class Report:
    """The files of one report; `player_of` makes HTML that plays a trace, "" where that is not installed."""

    page: Path
    trace: Path
    player_of: Callable[[Path], str] | None = None

    def write(self, result: Result, record: Recorder, replay: str) -> None:
        """Write the page, once the trace is complete."""
        player = "" if self.player_of is None else self.player_of(self.trace)
        self.page.write_text(page(result, record, replay, player), encoding="utf-8")


def open_report(directory: str, player_of: Callable[[Path], str] | None = None) -> Report:
    """Create the directory of a report.

    Raises:
        ScenarioError: the directory cannot be created or written.
    """
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / TRACE).touch()
    except OSError as error:
        raise ScenarioError(f"--report {directory}: {error.strerror}; give a writable directory") from error
    return Report(path / PAGE, path / TRACE, player_of)


def page(result: Result, record: Recorder, replay: str, player: str = "") -> str:
    """Return the whole page. `replay` is the command that repeats the run, `player` the part that plays its trace."""
    verdict = (
        '<span class="verdict good">everything held</span>'
        if result.ok
        else f'<span class="verdict bad">{len(result.violations)} violation(s)</span>'
    )
    found = "".join(
        f"<tr><td>{number}</td><td>{escape(line)}</td></tr>" for number, line in enumerate(result.violations, 1)
    )
    parts = [
        (
            f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{escape(result.scenario)} seed {result.seed}: mycomesh simulation</title>"
            f"<style>{_STYLE}{_COLOURS}</style></head><body>"
        ),
        (
            f"<h1>{escape(result.scenario)}, {result.nodes} nodes, seed {result.seed}</h1><p>{verdict}. Replay: "
            f"<code>{escape(replay)}</code></p>"
        ),
        _tiles(result, record),
        f"<h2>Violations</h2><table>{found}</table>" if found else "",
        _agreement(result, record),
        _topology(record, player),
        _latency(record),
        _traffic(record),
        _duplicates(record),
        _faults(result, record),
        (
            f'<p class="soft">Times are virtual seconds. Trace hash <code>{result.trace}</code>; every sample and event is in '
            f"<code>{TRACE}</code> beside this page, also for <code>mycomesh web --replay {TRACE}</code>.</p></body></html>"
        ),
    ]
    return "\n".join(part for part in parts if part)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values by nearest rank, 0 without values."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def _tiles(result: Result, record: Recorder) -> str:
    ordered = sorted(record.latencies_ms)
    last = record.samples[-1] if record.samples else None
    healed = "never" if result.healed_s is None else f"{result.healed_s:.2f} s"
    tiles = [
        (healed, "from the end of the faults until all nodes were equal"),
        (_span(quantile(ordered, 0.5)) if ordered else "none", "commit to another node, median"),
        (_span(quantile(ordered, 0.99)) if ordered else "none", "and 99th percentile"),
        (f"{result.commits:,}", "commits by applications"),
        (_size(result.bytes), "sent by all nodes"),
        (
            f"{last.copies / last.firsts:.2f}" if last and last.firsts else "none",
            "copies of a batch for each node (1 is best)",
        ),
        (
            f"{result.virtual_s:,.0f} s",
            f"virtual time, in {result.cpu_s:.1f} s of CPU ({result.real_s:.1f} s by the clock)",
        ),
        (f"{result.events:,}", "events"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{a}</b><span>{b}</span></div>' for a, b in tiles)
        + "</div>"
    )


def _bands(record: Recorder) -> list[Band]:
    """Return the spans from each split to its end, and the span without writes."""
    bands: list[Band] = []
    begun: float | None = None
    for t, kind, _ in record.faults:
        if kind in ("Split", "Heal") and begun is not None:
            bands.append(Band("split", begun, t))
            begun = None
        if kind == "Split":
            begun = t
    end = record.calm_s
    if begun is not None and end is not None:
        bands.append(Band("split", begun, end))
    if end is not None and record.samples:
        bands.append(Band("no writes", end, record.samples[-1].t))
    return bands


def _agreement(result: Result, record: Recorder) -> str:
    series = [
        Line("nodes up", [(sample.t, sample.up) for sample in record.samples], 7, steps=True),
        Line("nodes with equal tables", [(s.t, s.agree) for s in record.samples], 0, steps=True, fill=True),
    ]
    plot = lines(
        series,
        title="Equal replicas over time",
        x_label="virtual time (s)",
        y_label="nodes",
        y_max=result.nodes,
        bands=_bands(record),
    )
    return (
        "<h2>Equal replicas</h2><p class=soft>The largest group of nodes whose tables are all equal at one "
        f"time. While applications write, some batch is always on its way.</p>{plot}"
    )


def _topology(record: Recorder, player: str) -> str:
    chosen = _frames(record.snapshots)
    if not chosen:
        return ""
    figures = "".join(
        f"<figure>{ring(_dots(each), [link[:2] for link in each.links], title=f'Topology at {each.t:.0f} s')}"
        f"<figcaption>{each.t:.1f} s{': ' + escape(each.label) if each.label else ''}<br>"
        f"{len(each.links)} links, {_contents(each)}</figcaption></figure>"
        for each in chosen
    )
    return (
        "<h2>Topology</h2><p class=soft>One colour is one content of all tables; a dashed ring is a node that is down; "
        f"lines are open links.</p>{player}<div class=frames>{figures}</div>"
    )


def _frames(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the snapshots to show: those around faults, and others evenly spread; at most `FRAMES_MAX`."""
    named = [each for each in snapshots if each.label]
    if len(named) < FRAMES_MAX:
        plain = [each for each in snapshots if not each.label]
        room = FRAMES_MAX - len(named)
        named += [plain[number * len(plain) // room] for number in range(min(room, len(plain)))]
        named.sort(key=lambda each: each.t)
    if len(named) > FRAMES_MAX:
        named = [named[number * (len(named) - 1) // (FRAMES_MAX - 1)] for number in range(FRAMES_MAX)]
    return named


def _contents(snapshot: Snapshot) -> str:
    count = len({group for group in snapshot.groups if group is not None})
    return "all equal" if count == 1 else f"{count} different contents"


def _dots(snapshot: Snapshot) -> list[tuple[str, int | None]]:
    return [(f"node{number}", group) for number, group in enumerate(snapshot.groups)]


def _latency(record: Recorder) -> str:
    ordered = sorted(record.latencies_ms)
    if not ordered:
        return ""
    low = max(ordered[0], LATENCY_MS_MIN)
    shares_at = [(number / POINTS) for number in range(POINTS + 1)]
    curve = [(max(quantile(ordered, share), low), 100 * share) for share in shares_at]
    plot = lines(
        [Line("deliveries so far", curve, 0, fill=True)],
        title="Distribution of the time from a commit to another node",
        x_label="milliseconds from a commit to another node's file, at most (logarithmic)",
        y_label="deliveries (%)",
        y_max=100,
        log_x=True,
    )
    shares = (("median", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("99.9 %", 0.999))
    said = ", ".join(f"{name} {_span(quantile(ordered, share))}" for name, share in shares)
    return (
        f"<h2>Latency</h2><p>{said}, longest {_span(ordered[-1])} ({len(ordered):,} deliveries).</p><p class=soft>Batches "
        f"that came live, over any number of hops; the longest waited in a cut stream. Rounds are not included.</p>{plot}"
    )


def _traffic(record: Recorder) -> str:
    samples = record.samples
    if not samples:
        return ""
    last = samples[-1]
    sealed = sum(last.kinds.values())
    ordered = sorted(last.kinds.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered[:KINDS_SHOWN]
    rest = sum(size for _, size in ordered[KINDS_SHOWN:])
    rows = [(name, float(size), f"{_size(size)}, {100 * size / last.bytes:.1f} %") for name, size in shown]
    if rest:
        rows.append(("other", float(rest), f"{_size(rest)}, {100 * rest / last.bytes:.1f} %"))
    if sealed:
        over = last.bytes - sealed
        rows.append(
            ("handshakes, sealing", float(max(0, over)), f"{_size(max(0, over))}, {100 * over / last.bytes:.1f} %")
        )
    rate = [
        (after.t, (after.bytes - before.bytes) / 1_000 / (after.t - before.t))
        for before, after in itertools.pairwise(samples)
        if after.t > before.t
    ]
    plot = lines(
        [Line("all nodes together", rate, 2, fill=True)],
        title="Traffic over time",
        x_label="virtual time (s)",
        y_label="kB/s",
        bands=_bands(record),
    )
    kinds = (
        bars(rows, title="Bytes by kind of message")
        if rows
        else "<p class=soft>Only runs on the real mesh count bytes by kind.</p>"
    )
    return f"<h2>Traffic</h2><p>{_size(last.bytes)} in all.</p>{plot}<h2>Bytes by kind</h2>{kinds}"


def _duplicates(record: Recorder) -> str:
    points = [(each.t, each.copies / each.firsts) for each in record.samples if each.firsts]
    if not points:
        return ""
    plot = lines(
        [Line("received copies of each batch that was new to the node", points, 3)],
        title="Duplicate ratio over time",
        x_label="virtual time (s)",
        y_label="copies",
        bands=_bands(record),
    )
    text = f"{points[-1][1]:.3f} copies for each node at the end; 1 means that no batch came twice."
    return f"<h2>Duplicate ratio</h2><p>{text}</p>{plot}"


def _faults(result: Result, record: Recorder) -> str:
    # Moves occur every second; the topology shows their effect.
    listed = [(t, text) for t, kind, text in record.faults if kind != "Move"]
    if not listed:
        return ""
    rows = "".join(f"<tr><td>{t:.1f} s</td><td>{escape(text)}</td></tr>" for t, text in listed[:FAULTS_LISTED])
    more = len(listed) - FAULTS_LISTED
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in result.faults.items())
    tail = f"<p class=soft>and {more} more</p>" if more > 0 else ""
    return f"<h2>Faults</h2><p>{escape(counts)}</p><table>{rows}</table>{tail}"


def _span(milliseconds: float) -> str:
    return f"{milliseconds / 1_000:.2f} s" if milliseconds >= 1_000 else f"{milliseconds:.1f} ms"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"
