"""The report and the trace file: what they say is what happened, and taking it down changes nothing."""

from __future__ import annotations

import argparse
import io
import json
import time
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from mycomesh.simulations.cli import add_arguments, main
from mycomesh.simulations.console import Bar
from mycomesh.simulations.recorder import Recorder
from mycomesh.simulations.report import open_report, page, quantile
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenarios import build
from mycomesh.simulations.svg import Line, lines, ring, ticks
from mycomesh.simulations.tap import Tap


@pytest.fixture(scope="module")
def recorded():
    text = io.StringIO()
    scenario = build("split-brain", seed=2, nodes=4, duration_s=20)
    with Tap() as tap:
        record = Recorder(text, tap=tap)
        result = run(scenario, 2, record=record)
    return result, record, [json.loads(line) for line in text.getvalue().splitlines()]


@pytest.mark.slow
def test_recording_changes_nothing(recorded):
    assert run(build("split-brain", seed=2, nodes=4, duration_s=20), 2).trace == recorded[0].trace


def test_trace_begins_with_header_and_ends_with_result(recorded):
    result, _, trace = recorded
    assert trace[0]["kind"] == "header"
    assert (trace[0]["version"], trace[0]["nodes"], trace[0]["names"][3]) == (1, 4, "node3")
    assert trace[-1]["kind"] == "result"
    assert trace[-1]["trace"] == result.trace
    assert [line["t"] for line in trace] == sorted(line["t"] for line in trace)


def test_topology_shows_split_and_mesh_before_and_after_it(recorded):
    frames = {line["label"]: line for line in recorded[2] if line["kind"] == "topology" and line["label"]}
    begun, ended, last = frames["before split"], frames["before heal"], frames["at the end"]
    assert len(begun["links"]) == len(last["links"]) == 6
    assert len(ended["links"]) < 6
    assert set(last["groups"]) == {0}
    assert all(rtt is None or rtt > 0 for _, _, rtt, _ in last["links"])
    assert all(size > 0 for *_, size in last["links"])


def test_only_faults_of_the_schedule_are_counted(recorded):
    assert recorded[0].faults["split"] == 2
    assert "clock" not in recorded[0].faults  # the correction of clocks at the end does not count


def test_plot_keeps_its_size_and_scrolls_on_narrow_pages(recorded):
    text = page(*recorded[:2], "replay")
    assert text.count('<div class="plot"') == text.count("</svg></div>") == 5
    assert ".plot{overflow-x:auto}" in text


def test_samples_count_bytes_by_kind_and_copies(recorded):
    result, record, trace = recorded
    last = record.samples[-1]
    assert last.agree == last.up == 4
    assert 0.3 * last.bytes < sum(last.kinds.values()) <= last.bytes <= result.bytes
    assert last.copies >= last.firsts > 20
    assert {"batch", "round: digests"} <= set(last.kinds)
    assert any(line["kind"] == "sample" and line["agree"] < 4 for line in trace)


def test_latencies_are_those_of_the_network(recorded):
    ordered = sorted(recorded[1].latencies_ms)
    assert len(ordered) > 20
    assert 0.8 < quantile(ordered, 0.5) < 100, "one hop takes 0.8 ms and more, a live batch no fraction of a second"


def test_a_node_that_dies_takes_its_links_along():
    text = io.StringIO()
    run(build("rolling-restart", seed=2, nodes=3, duration_s=20), 2, record=Recorder(text))
    frames = [line for line in map(json.loads, text.getvalue().splitlines()) if line["kind"] == "topology"]
    dead = [(frame, node) for frame in frames for node, group in enumerate(frame["groups"]) if group is None]
    assert dead, "no snapshot caught a node that was down"
    assert len(frames[-1]["links"]) == 3


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.refers = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.refers += [value for name, value in attrs if name in ("src", "href")]


def test_page_stands_alone_and_its_drawings_are_well_formed(recorded):
    result, record, _ = recorded
    html = page(result, record, "mycomesh simulate <x>")
    parsed = Page()
    parsed.feed(html)
    assert parsed.refers == []
    assert "script" not in parsed.tags
    assert "&lt;x&gt;" in html
    drawings = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in html.split("<svg")[1:]]
    assert len(drawings) >= 8
    for drawing in drawings:
        ET.fromstring(drawing)
    for words in ("Equal replicas", "Latency", "Bytes by kind", "Duplicate ratio", "before heal", result.trace):
        assert words in html


def test_time_named_cpu_is_not_that_of_the_clock(monkeypatch):
    """A run that waits for the disk or for another process takes time by the clock, and no CPU."""
    monkeypatch.setattr("mycomesh.simulations.runner.violations", lambda _cluster: time.sleep(1.0) or [])
    result = run(build("two-nodes", seed=1, duration_s=2), 1, mesh="plain")
    assert result.real_s - result.cpu_s > 0.9
    assert f"{result.cpu_s:.1f} s of CPU ({result.real_s:.1f} s by the clock)" in page(
        result, Recorder(io.StringIO()), "x"
    )


def test_ticks_are_round_and_inside():
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.13, 0.41, 3) == [0.2, 0.3, 0.4]
    assert ticks(7, 7) == [7]


def test_plots_of_nothing_and_of_one_point_are_drawn():
    assert "nothing was measured" in lines([], title="t", x_label="x", y_label="y")
    ET.fromstring(lines([Line("one", [(3, 0)], 0)], title="t", x_label="x", y_label="y").split("<p class")[0])
    names = ring([("<a>", None)], [], title="t")
    assert "&lt;a&gt;: down" in names


def simulate(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args(words))


def test_the_command_writes_page_and_trace(tmp_path, capsys):
    where = tmp_path / "out"
    assert simulate("two-nodes", "--duration", "3", "--report", str(where)) == 0
    assert f"report: {where / 'index.html'}" in capsys.readouterr().out
    assert (where / "index.html").read_text().startswith("<!doctype html>")
    assert json.loads((where / "trace.jsonl").read_text().splitlines()[-1])["kind"] == "result"


def test_report_takes_the_part_that_plays_its_trace(tmp_path, recorded):
    result, record, _ = recorded
    report = open_report(str(tmp_path), lambda trace: f"<p>plays {trace.name}</p>")
    report.write(result, record, "x")
    html = report.page.read_text()
    assert "<p>plays trace.jsonl</p><div class=frames>" in html
    assert html.replace("<p>plays trace.jsonl</p>", "") == page(result, record, "x")


def test_report_of_many_seeds_or_without_directory_is_refused(tmp_path, capsys):
    assert simulate("two-nodes", "--seeds", "1..2", "--report", str(tmp_path)) == 2
    (tmp_path / "file").write_text("")
    assert simulate("two-nodes", "--report", str(tmp_path / "file")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--report" in err
    assert err.count("\n") == 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_tells_virtual_time_on_a_terminal_alone():
    assert not Bar("x", 10, io.StringIO()).live
    bar = Bar("x seed 1", 10, terminal := Terminal())
    assert bar.live
    bar.show(5)
    assert "5 of 10 s, writes and faults" in terminal.getvalue()
    bar.show(12)
    assert "until all are equal" in terminal.getvalue()
    bar.clear()
    assert terminal.getvalue().endswith("\r")
