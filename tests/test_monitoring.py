"""The alert rules, the board and the page about them name metrics that a node has, in words that Prometheus understands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mycomesh.mesh.node.control.metrics import exposition
from mycomesh.mesh.node.status import TroubleView
from tests.mesh.node.control.readings import STATUS

FOLDER = Path(__file__).parents[1] / "docs" / "monitoring"
RULES = (FOLDER / "alerts.yml").read_text()
BOARD = json.loads((FOLDER / "grafana.json").read_text())
PROMTOOL = shutil.which("promtool")  # apt-get install prometheus
NAME = re.compile(r"\bmycomesh_[a-z_]+")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (apt-get install prometheus)")


def metrics():
    """Return {name: (kind, labels)} of a node of which everything is known."""
    trouble = TroubleView("disk.low", "full", 1_000)
    families = text_string_to_metric_families(exposition(replace(STATUS, trouble=trouble, free_bytes=1)))
    found = {}
    for family in families:
        for sample in family.samples:
            found[sample.name] = (family.type, tuple(sample.labels))
    return found


def expressions():
    """Return every expression of the rules, then those of the board with all nodes chosen."""
    rules = re.findall(r"^ +expr: (.+)$", RULES, re.MULTILINE)
    board = [target["expr"].replace("$instance", ".*") for panel in BOARD["panels"] for target in panel["targets"]]
    return rules + board


def test_rules_and_board_name_metrics_that_exist():
    found = metrics()
    for expression in expressions():
        named = NAME.findall(expression)
        assert named or expression.startswith("up{")
        assert set(named) <= set(found), expression
        for labels in re.findall(r"\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", labels)) <= {"instance", "job", "state"}


def test_legends_name_labels_that_their_metric_has():
    found = metrics()
    texts = [(t["expr"], t["legendFormat"]) for panel in BOARD["panels"] for t in panel["targets"]]
    texts += [(rule.partition("expr: ")[2].partition("\n")[0], rule) for rule in RULES.split("- alert:")[1:]]
    for expression, text in texts:
        labels = {label for name in NAME.findall(expression) for label in found[name][1]} | {"instance"}
        for label in re.findall(r"\{\{ ?\$?(?:labels\.)?(\w+) ?\}\}", text):
            assert label in labels | {"value"}, expression


def test_the_page_lists_every_metric_with_kind_and_labels():
    rows = re.findall(r"^\| `(mycomesh_\w+)` \| (\w+) \| ([^|]*)\|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    listed = {name: (kind, tuple(filter(None, re.split(r",? +", labels)))) for name, kind, labels in rows}
    assert listed == metrics()


def test_a_board_has_no_two_panels_at_one_place():
    cells = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells
        assert at["x"] + at["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@needs_promtool
def test_prometheus_understands_rules_and_board(tmp_path):
    board = tmp_path / "board.yml"
    records = "".join(f"      - {{record: 'r:{n}', expr: {json.dumps(e)}}}\n" for n, e in enumerate(expressions()))
    board.write_text(f"groups:\n  - name: board\n    rules:\n{records}")
    subprocess.run([PROMTOOL, "check", "rules", FOLDER / "alerts.yml", board], check=True, capture_output=True)


# Metric lines at 0, 1, ... minutes, then what fires after 30 minutes.
FIRING = {
    "MycomeshFileNotWritable": "mycomesh_database_writable 0x40",
    "MycomeshAlone": 'mycomesh_peers{state="linked"} 0x40\nmycomesh_peers{state="down"} 2x40',
    "MycomeshPeerDiffers": 'mycomesh_peer_equal{peer="b"} 0x40',
    "MycomeshRowsParked": 'mycomesh_table_parked{table="t"} 3x40',
    "MycomeshManyConflicts": 'mycomesh_table_conflicts{table="t"} 0+20x40',
    "MycomeshCertificateExpires": "mycomesh_certificate_expiry_timestamp_seconds 86400x40",
    "MycomeshDown": 'up{job="mycomesh"} 0x40',
}
QUIET = {
    "MycomeshFileNotWritable": "mycomesh_database_writable 1x40",
    "MycomeshAlone": 'mycomesh_peers{state="linked"} 1x40\nmycomesh_peers{state="down"} 2x40',
    "MycomeshPeerDiffers": 'mycomesh_peer_equal{peer="b"} 0 1 0 1 0 1x35',
    "MycomeshManyConflicts": 'mycomesh_table_conflicts{table="t"} 5000x40',
}


@needs_promtool
def test_alerts_fire_for_their_cause_and_not_otherwise(tmp_path):
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    tests = []
    for fires, cases in ((True, FIRING), (False, QUIET)):
        for alert, lines in cases.items():
            series = [
                line.rpartition(" ") if line.count(" ") == 1 else line.partition(" ") for line in lines.split("\n")
            ]
            given = "".join(
                f"      - {{series: {json.dumps(name)}, values: {json.dumps(values)}}}\n" for name, _, values in series
            )
            count = f"count(ALERTS{{alertname='{alert}', alertstate='firing'}})"
            wanted = "[{value: 1, labels: '{}'}]" if fires else "[]"
            tests.append(
                f"  - interval: 1m\n    input_series:\n{given}    promql_expr_test:\n"
                f"      - {{expr: {json.dumps(count)}, eval_time: 30m, exp_samples: {wanted}}}\n"
            )
    (tmp_path / "test.yml").write_text("rule_files: [alerts.yml]\nevaluation_interval: 1m\ntests:\n" + "".join(tests))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", tmp_path / "test.yml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
