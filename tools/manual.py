"""The manual: for each command, examples and the shape of its `--json` output, as `mycomesh help COMMAND` prints them.

A shape is JSON with a word instead of each value: text, int, number, bool or any; `?` after a word allows null. A list contains
any number of its one item; the key `*` allows any keys.

Invariants (tests/tools/test_manual.py): every command has a page, its parser accepts every example, and its `--json` output has
the shape given here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["MANUAL", "Page"]


@dataclass(frozen=True, slots=True)
class Page:
    """Examples as (command line, purpose). A command without `--json` has `shape` None and gives the reason in `why_not`."""

    examples: tuple[tuple[str, str], ...]
    shape: Any = None
    why_not: str = ""
    shape_of_files: Any = None  # for a command that can read files instead of asking a node


_PEER = {
    "node_id": "text",
    "name": "text",
    "roles": ["text"],
    "state": "text",
    "address": "text",
    "rtt_ms": "number?",
    "offset_ms": "number?",
    "equal": "bool?",
    "seen_ms_ago": "int?",
    "sent_bytes": "int",
    "received_bytes": "int",
    "catching_up": "any?",
    "links": [{"node_id": "text", "rtt_ms": "int?", "moved_bytes": "int"}],
    "protocol": "text",
}
_TABLE = {
    "name": "text",
    "rows": "int",
    "digest": "text",
    "conflicts": "int",
    "parked": "int",
    "note": "text",
    "equal_on": "int?",
    "horizon": "text",
    "cut": "int",
    "refused": "int",
    "areas_by": "text",
}
_AREA = {
    "table": "text",
    "area": "text",
    "kept": "bool",
    "changes": "int",
    "digest": "text",
    "equal_on": "int",
    "behind": "int",
    "holders": "int",
    "wanted": "int",
    "withheld": "bool",
}
_RETAINED = {
    "table": "text",
    "age_ms": "int",
    "by": "text",
    "local_ms": "int",
    "horizon": "text",
    "cutting": "bool",
    "cut": "int",
    "refused": "int",
    "untimed": "int",
}
_ACCOUNT = {
    "node_id": "text",
    "name": "text",
    "rows": "int",
    "bytes": "int",
    "conflicts": "int",
    "parked": "int",
    "since": "text",
    "stated": {"*": "int"},
}
_READER = {
    "cursor": "text",
    "table": "text",
    "behind": "int",
    "behind_s": "number?",
    "moved_at": "text",
    "idle": "bool",
}
_CHILD = {
    "kind": "text",
    "name": "text",
    "state": "text",
    "text": "text",
    "pid": "int?",
    "starts": "int",
    "figures": {"*": "number"},
}
_MAILBOX = {
    "url": "text",
    "base": "text",
    "state": "text",
    "text": "text",
    "envelopes": "int",
    "bytes": "int",
    "parcels": "int",
    "kept_bytes": "int",
    "removes": "text",
    "removes_text": "text",
    "clock_offset_s": "number?",
    "clock": "text",
    "streams": [
        {
            "member": "text",
            "base": "text",
            "node_id": "text",
            "position": "int",
            "waiting": "int",
            "lag_s": "number",
            "bytes": "int",
            "taken": "int",
            "copies": "int",
            "refused": "int",
            "why": "text",
            "behind": ["text"],
            "proved_s_ago": "number?",
            "names": ["text"],
        }
    ],
}
_STATUS = {
    "schema": "int",
    "version": "text",
    "phase": "text",
    "mesh": "text",
    "mesh_id": "text",
    "node": "text",
    "node_id": "text",
    "pid": "int",
    "uptime_ms": "int",
    "file": "text",
    "port": "int",
    "site": "text",
    "pending": "int",
    "hint": "text",
    "clock_offset_ms": "number?",
    "peers": [_PEER],
    "tables": [_TABLE],
    "not_after_s": "int",
    "scrub": "any?",
    "lock_held_ms": "number",
    "roles": ["text"],
    "trouble": "any?",
    "free_bytes": "int?",
    "accounts": [_ACCOUNT],
    "readers": [_READER],
    "children": [_CHILD],
    "mailboxes": [_MAILBOX],
    "metered": "any?",
    "areas": [_AREA],
    "areas_more": "int",
    "traffic": [
        {
            "kind": "text",
            "in_circuits": "bool",
            "sent": "int",
            "sent_bytes": "int",
            "received": "int",
            "received_bytes": "int",
        }
    ],
    "revoked": "bool",
}
_MEMBER = {
    "name": "text",
    "node_id": "text",
    "roles": ["text"],
    "grants": [["text"]],
    "serial": "text",
    "not_before_s": "int",
    "not_after_s": "int",
    "renewed_by": "text",
    "revoked_s": "int?",
    "dropped_since_ms": "int?",
    "self": "bool",
}
_CONFLICT = {
    "id": "text",
    "number": "int",
    "table": "text",
    "key": "text",
    "lost": {"*": "any?"},
    "won": "any?",
    "lost_site": "text",
    "won_site": "text",
    "lost_at": "text",
    "won_at": "text",
    "seen_at": "text",
    "reason": "text",
    "restored_at": "text",
    "lost_by": "text",
    "won_by": "text",
}
_WRITTEN = {"column": "text", "value": "any?", "at": "text", "site": "text", "hlc": "text", "by": "text"}
_LOSS = {
    "number": "int",
    "lost": {"*": "any?"},
    "lost_at": "text",
    "lost_site": "text",
    "won_at": "text",
    "won_site": "text",
    "reason": "text",
    "restored_at": "text",
    "lost_by": "text",
    "won_by": "text",
}

MANUAL = {
    "init": Page(
        (
            ("mycomesh init", "create a mesh; this machine keeps its root key"),
            ("mycomesh init --name fleet --node-name ground", "choose the names that people see"),
        ),
        {"mesh": "text", "mesh_id": "text", "node": "text", "node_id": "text"},
    ),
    "invite": Page(
        (
            ("mycomesh invite", "a code for one machine, valid for an hour"),
            ("mycomesh invite --uses 3 --expires 7d", "for three machines, valid for a week"),
            ("mycomesh invite --role read-only", "for a machine that may only read"),
            ("mycomesh invite --write 'alerts*' --read '*'", "for a machine that may write some tables"),
        ),
        {"code": "text", "expires_s": "int", "uses": "int", "answered": "bool"},
    ),
    "join": Page(
        (
            ("mycomesh join CODE", "with the code that 'mycomesh invite' printed"),
            ("mycomesh join ./drone7.ticket", "with a file from 'mycomesh ticket'"),
            ("mycomesh join CODE --peer 10.0.0.5:7447", "if the network blocks multicast"),
        ),
        {"joined": "bool", "mesh": "text", "node": "text"},
    ),
    "ticket": Page(
        (
            ("mycomesh ticket drone7", "write drone7.ticket, to carry to that machine"),
            ("mycomesh ticket drone7 -o /media/usb/drone7.ticket --role read-only", "with fewer rights"),
        ),
        {"file": "text", "name": "text"},
    ),
    "members": Page(
        (
            ("mycomesh members", "list the members and when their certificates expire"),
            ("mycomesh members remove drone3 drone4", "two that are gone for good, or never came"),
        ),
        [_MEMBER],
    ),
    "revoke": Page(
        (
            ("mycomesh revoke drone7", "by name"),
            ("mycomesh revoke 1a2b3c4d", "by the first digits of its id"),
            ("mycomesh revoke drone7 --drop-since 2h --dry-run", "count what it has written in the last two hours"),
            (
                "mycomesh revoke drone7 --drop-since 2026-11-30T06:00Z --confirm 214",
                "revoke it, and drop these 214 changes on every node",
            ),
        ),
        {
            "name": "text",
            "node_id": "text",
            "since_ms": "int?",
            "changes": "int",
            "tables": {"*": {"inserts": "int", "updates": "int", "deletes": "int"}},
            "done": "bool",
        },
    ),
    "up": Page(
        (
            ("mycomesh up fleet.db", "serve a file until ^C"),
            ("mycomesh up fleet.db --except logs --except cache", "do not replicate two tables"),
            ("mycomesh up fleet.db --urgent alerts", "send alerts first on a slow link"),
            ("mycomesh up fleet.db --keep telemetry=self", "of a table cut by drone, keep this node's rows only"),
            ("mycomesh up fleet.db --peer 10.0.0.5:7447", "if the network blocks multicast"),
            ("mycomesh up fleet.db --web 127.0.0.1:7480", "with the web console, as a process that the node starts"),
            ("mycomesh --home second up second.db --loopback --port 0", "run another node on this machine"),
        ),
        why_not="it runs until it is stopped; 'mycomesh log --json' has its events",
    ),
    "status": Page((("mycomesh status", "for people"), ("mycomesh status --json", "for programs")), _STATUS),
    "top": Page(
        (
            ("mycomesh top", "the mesh of the running node, until q"),
            ("mycomesh top --replay report/trace.jsonl", "a simulation, from 'mycomesh simulate --report'"),
        ),
        {
            "title": "text",
            "nodes": [
                {
                    "key": "text",
                    "name": "text",
                    "state": "text",
                    "roles": ["text"],
                    "equal": "bool?",
                    "rtt_ms": "number?",
                    "offset_ms": "number?",
                    "lag_rows": "int?",
                    "lag_ms": "int?",
                    "sent_bytes": "int?",
                    "received_bytes": "int?",
                    "address": "text",
                    "group": "int?",
                    "traffic": ["int"],
                    "lags": ["int"],
                }
            ],
            "edges": [{"first": "text", "second": "text", "poor": "bool", "busy": "bool", "past": "bool"}],
            "tables": [_TABLE],
            "events": [{"at": "text", "level": "text", "text": "text"}],
            "note": "text",
            "readers": [_READER],
            "children": [_CHILD],
            "mailboxes": [_MAILBOX],
            "areas": [_AREA],
            "traffic": ["int"],
            "lags": ["int"],
            "lag_unit": "text",
        },
    ),
    "web": Page(
        (
            ("mycomesh web", "serve the console of the running node at 127.0.0.1:7480"),
            (
                "mycomesh web 0.0.0.0:7480 --allow-writes",
                "for other machines, and with decisions; prints the address with the token",
            ),
            ("mycomesh web run", "as the section [web] of config.toml has it"),
            ("mycomesh web --basemap alps.pmtiles", "with a map of streets and mountains below the data"),
            ("mycomesh web --replay report/trace.jsonl", "look at a simulation instead of a node"),
        ),
        why_not="it serves until it is stopped",
    ),
    "peers": Page((("mycomesh peers", "list every other member, as this node sees it"),), [_PEER]),
    "tables": Page((("mycomesh tables", "equal hashes on two nodes mean equal contents"),), [_TABLE]),
    "verify": Page(
        (
            ("mycomesh verify", "check that this node and its linked peers are equal"),
            ("mycomesh verify a.db b.db", "show the rows in which two files differ"),
            ("mycomesh verify a.db b.db --limit 0 --json", "only count them, for programs"),
        ),
        {
            "converged": "bool",
            "tables": [
                {
                    "name": "text",
                    "rows": "int",
                    "hash": "text",
                    "conflicts": "int",
                    "parked": "int",
                    "note": "text",
                    "peers": [{"peer": "text", "equal": "bool", "equal_ms": "int?"}],
                }
            ],
            "areas": [
                {
                    "table": "text",
                    "area": "text",
                    "changes": "int",
                    "hash": "text",
                    "holders": "int",
                    "peers": [{"peer": "text", "equal": "bool", "equal_ms": "int?"}],
                }
            ],
            "peers": [{"name": "text", "node_id": "text", "state": "text", "answered": "bool", "equal": "bool?"}],
        },
        shape_of_files={
            "equal": "bool",
            "tables": [
                {
                    "table": "text",
                    "equal": "bool",
                    "rows": ["int"],
                    "only_first": "int",
                    "only_second": "int",
                    "differing": "int",
                    "note": "text",
                    "missing": ["text"],
                    "shown": [{"where": "text", "first": "any?", "second": "any?"}],
                }
            ],
        },
    ),
    "wait": Page(
        (
            ("mycomesh wait --replicas 3", "wait until three nodes have what is committed here"),
            ("mycomesh wait --replicas 2 --timeout 5", "exit code 3 after five seconds"),
        ),
        {"reached": "bool", "replicas": "int", "wanted": "int", "linked": "int", "least": "text"},
    ),
    "isolate": Page((("mycomesh isolate", "rehearse a split; local writes go on"),), {"done": "text"}),
    "rejoin": Page((("mycomesh rejoin", "end the isolation"),), {"done": "text"}),
    "scrub": Page((("mycomesh scrub", "after a file was edited with its triggers off"),), {"done": "text"}),
    "accept-drop": Page(
        (("mycomesh accept-drop missions", "believe the member that 'mycomesh status' names"),),
        {"table": "text", "changes": "int"},
    ),
    "keep-rows": Page(
        (("mycomesh keep-rows missions", "do not believe the member that 'mycomesh status' names"),),
        {"table": "text", "changes": "int"},
    ),
    "counter": Page(
        (("mycomesh counter stock amount", "concurrent 'SET amount = amount - 1' add up from now on"),),
        {"table": "text", "column": "text"},
    ),
    "policy": Page(
        (
            ("mycomesh policy missions", "show the policy of a table"),
            ("mycomesh policy missions keep-both", "keep both of two rows that got the same automatic id"),
            ("mycomesh policy missions own-ids", "number each node's rows from blocks of its own (AUTOINCREMENT)"),
            ("mycomesh policy orders signed", "take in only rows that their writers have signed"),
        ),
        {"table": "text", "policy": "text", "ids": "text", "next_id": "int?", "ids_left": "int?", "areas_by": "text"},
    ),
    "retain": Page(
        (
            ("mycomesh retain", "list the tables whose rows go with time, and what has gone"),
            ("mycomesh retain telemetry 7d BY at", "keep rows for a week, by the time in their column"),
            ("mycomesh retain log 90d", "keep rows for 90 days after their insert"),
            ("mycomesh retain telemetry --local 1d", "keep only a day on this node"),
            ("mycomesh retain telemetry off", "keep all rows from now on"),
        ),
        {"tables": [_RETAINED]},
    ),
    "area": Page(
        (
            ("mycomesh area telemetry BY drone_id", "cut a table, on every node and for good"),
            ("mycomesh area", "list the tables that are cut"),
            (
                "mycomesh area telemetry",
                "list the areas of a table, which of them this node keeps, their rows here, and who wrote them",
            ),
        ),
        {
            "tables": [
                {
                    "table": "text",
                    "by": "text",
                    "areas": [
                        {
                            "area": "text",
                            "rows": "int",
                            "kept": "bool",
                            "writers": [{"node_id": "text", "changes": "int"}],
                        }
                    ],
                    "more": "int",
                    "no_area": "int",
                }
            ],
            "decided": "any?",
        },
    ),
    "migrate": Page(
        (
            ("mycomesh migrate --dry-run 2026.sql", "show what nodes would drop and rename"),
            ("mycomesh migrate 2026.sql", "run it here in one transaction, then on every node"),
        ),
        {"file": "text", "dry_run": "bool", "done": ["text"]},
    ),
    "conflicts": Page(
        (
            ("mycomesh conflicts", "list the latest 50"),
            ("mycomesh conflicts --limit 1000 --json", "list more, for programs"),
        ),
        [_CONFLICT],
    ),
    "why": Page(
        (
            ("mycomesh why drones 7", "show who wrote each column of row 7"),
            ("mycomesh why readings '[3, \"2026-01-01\"]'", "with a key of two columns"),
            ("mycomesh why drones 7 --file fleet.db --json", "read a file without a node, for programs"),
        ),
        {
            "table": "text",
            "key": "text",
            "state": "text",
            "existence": "any?",
            "cells": [_WRITTEN],
            "losses": [_LOSS],
            "parked": "text",
            "pending": "bool",
            "made_by": [
                {
                    "flow": "text",
                    "version": "text",
                    "table": "text",
                    "row": "text",
                    "id": "text",
                    "who": "text",
                    "at": "text",
                    "values": "any",
                    "model": "text",
                }
            ],
        },
    ),
    "restore": Page(
        (
            ("mycomesh restore c7xq2mzpa", "with an id that 'mycomesh conflicts' shows, on any node that shows it"),
            ("mycomesh restore 12 --as-new-row", "with a number of this file; as a row beside the one that won"),
            ("mycomesh restore 12 --undo", "take that back"),
        ),
        {"conflict": "text", "done": "text"},
    ),
    "parked": Page(
        (
            ("mycomesh parked", "list the parked rows and the reasons"),
            ("mycomesh parked --retry drones", "try the refused rows of a table again"),
        ),
        [{"table": "text", "key": "text", "reason": "text", "content": "any?", "since": "text"}],
    ),
    "log": Page(
        (
            ("mycomesh log", "print the last ten events, then follow until ^C"),
            ("mycomesh log --past 100 --limit 100", "print the last hundred events and exit"),
            ("mycomesh log -v --limit 20", "print twenty events, debug events included"),
            ("mycomesh log --json", "print one JSON object a line"),
        ),
        {"time": "text", "level": "text", "event": "text", "text": "text", "detail": "any"},
    ),
    "tail": Page(
        (
            ("mycomesh tail drones", "print each change from now on, until ^C"),
            ("mycomesh tail drones --cursor reports", "go on where the last run with this name ended"),
            ("mycomesh tail drones --once --json", "print the rows that are there, for programs"),
            ("mycomesh tail drones --where 'battery < 20'", "print only some rows"),
        ),
        {
            "id": "text",
            "table": "text",
            "op": "text",
            "row": "text",
            "who": "text",
            "at": "text",
            "key": "any",
            "values": "any?",
            "columns": ["text"],
        },
    ),
    "bridge": Page(
        (
            ("mycomesh bridge list", "print the bridges of config.toml"),
            ("mycomesh bridge status", "print what each does, and what it has sent and received"),
            ("mycomesh bridge pause ground", "end the process of one until 'resume'"),
            ("mycomesh bridge run ground", "run one in the foreground"),
            ("mycomesh bridge replay ground --since 2h", "send again what was written in the last two hours"),
            ("mycomesh bridge test nats://127.0.0.1:4222", "publish and read back one message"),
        ),
        [_CHILD],
    ),
    "flow": Page(
        (
            ("mycomesh flow list", "print the flows of config.toml"),
            ("mycomesh flow status", "print what each does, how far it is behind, and how many rows it took in"),
            ("mycomesh flow test low_battery --sample 10", "run one for the latest ten rows, and write nothing"),
            ("mycomesh flow pause low_battery", "end the process of one until 'resume'"),
            ("mycomesh flow remove low_battery", "end one and remove its section; its results stay"),
            (
                "mycomesh flow edit low_battery --run 'sql: SELECT id FROM new WHERE battery < 30'",
                "change its function",
            ),
            ("mycomesh flow rollback low_battery", "take the last edit back, or put a removed flow back"),
            (
                "mycomesh flow add low_battery --on drones --into alerts --run 'sql: SELECT id FROM new WHERE battery < 20'",
                "check a flow and write its section into config.toml",
            ),
            (
                "mycomesh flow add low_battery --share --on drones --into alerts --run 'sql: SELECT id FROM new'",
                "let the nodes run it that accept flows of this one",
            ),
        ),
        [_CHILD],
    ),
    "model": Page(
        (
            ("mycomesh model add battery", "add the bundled model; with a file any ONNX model"),
            ("mycomesh model list", "print all versions, and whether their bytes are here"),
            (
                "mycomesh model test battery --on telemetry --sample 10",
                "run it for the latest ten rows, and write nothing",
            ),
            ("mycomesh model rollout battery --version 2 --nodes 'drone-*'", "let only these nodes use version 2"),
            ("mycomesh model rollback battery", "let all nodes use the version before"),
        ),
        [
            {
                "name": "text",
                "version": "int",
                "sha256": "text",
                "size": "int",
                "nodes": "text",
                "parts": "int",
                "parts_total": "int",
                "card": "text",
            }
        ],
    ),
    "dead": Page(
        (
            ("mycomesh dead", "list them with the reasons"),
            ("mycomesh dead --retry 3", "let the readers of its table see the row again"),
            ("mycomesh dead --resume pager", "after the command of a hook was repaired"),
        ),
        [
            {
                "number": "int",
                "reader": "text",
                "id": "text",
                "table": "text",
                "row": "text",
                "body": "text",
                "why": "text",
                "tries": "int",
                "first_at": "text",
                "last_at": "text",
            }
        ],
    ),
    "cursors": Page(
        (
            ("mycomesh cursors", "list them with what they have not read yet"),
            ("mycomesh cursors --drop reports", "forget a reader; deletes wait for it no longer"),
        ),
        [_READER],
    ),
    "backup": Page(
        (
            ("mycomesh backup /backups/monday.db", "make a consistent copy that is safe to serve later"),
            ("mycomesh backup /backups/monday.db --recipe fleet.db", "print how to put it back"),
        ),
        {"file": "text", "bytes": "int"},
    ),
    "mailbox": Page(
        (
            (
                "mycomesh mailbox export /media/stick",
                "write this node's rows to a stick, sealed for members of the mesh",
            ),
            ("mycomesh mailbox import /media/stick", "take in the rows of all other nodes on it"),
            ("mycomesh mailbox test /media/stick", "try whether the directory can be a mailbox"),
            (
                "mycomesh mailbox test 's3://fleet/boxes?endpoint=https://s3.example.org' --credentials s3.toml",
                "the same for a bucket: rights, conditional put, limits, clock",
            ),
            ("mycomesh mailbox test nats://hub.example.org", "the same for JetStream"),
        ),
        {
            "mailbox": "text",
            "envelopes": "int",
            "bytes": "int",
            "left_out": ["text"],
            "parcels": [{"member": "text", "state": "text", "why": "text"}],
            "findings": [{"step": "text", "good": "bool", "text": "text"}],
        },
    ),
    "import": Page(
        (
            ("mycomesh import flight.tlog track", "the positions of a flight after its first 3D fix, as rows"),
            ("mycomesh import log171.bin flight --messages GPS,ATT", "messages of a log, as flight_gps and flight_att"),
            ("mycomesh import sites.geojson sites", "a row for each feature, with its properties and its geometry"),
            ("mycomesh import drones.csv drones --key drone_id", "rows whose key is a column of the file"),
            ("mycomesh import drones.csv drones --file fleet.db", "into a file, also while no node runs"),
        ),
        {
            "file": "text",
            "log": "text",
            "tables": [{"name": "text", "new": "int", "there": "int"}],
            "skipped": "int",
            "first_skipped": "text",
            "notes": ["text"],
            "seconds": "number",
        },
    ),
    "doctor": Page(
        (
            ("mycomesh doctor", "exit code 1 if a problem keeps nodes from working"),
            (
                "mycomesh doctor fleet.db",
                "before a node serves a file: the tables whose ids will collide, with the choices",
            ),
        ),
        [{"name": "text", "well": "bool?", "found": "text", "remedy": "text"}],
    ),
    "explain": Page(
        (
            ("mycomesh explain database.busy", "explain the code in brackets behind an error"),
            ("mycomesh explain 69", "explain an exit code"),
            ("mycomesh explain", "list all codes"),
        ),
        [{"code": "text", "what": "text", "why": "text", "remedy": "text"}],
    ),
    "metrics": Page(
        (
            ("mycomesh metrics", "print the current metrics in Prometheus' text format"),
            (
                "mycomesh metrics > node.prom",
                "for a textfile collector; 'mycomesh up --metrics' serves HTTP",
            ),
        ),
        why_not="its output, Prometheus' text format, is for programs already",
    ),
    "service": Page(
        (
            ("mycomesh service show fleet.db", "print the systemd unit"),
            ("mycomesh service install fleet.db --now", "run the node while this user is logged in"),
            ("mycomesh service install fleet.db --system --now", "as root: run the node from boot on"),
            ("mycomesh service uninstall", "stop the node and remove the unit"),
        ),
        {"unit": "text", "text": "text", "started": "bool"},
    ),
    "down": Page(
        (
            ("mycomesh down", "stop; triggers record writes for the next 'up'"),
            ("mycomesh down --remove", "stop, and make the file an ordinary database again"),
        ),
        {"file": "text", "pid": "int", "stopped": "bool", "removed": "bool"},
    ),
    "forget": Page(
        (("mycomesh forget old.db", "remove mycomesh from a file that no node serves"),),
        {"file": "text", "triggers": "int", "tables": "int", "conflicts": "int", "parked": "int"},
    ),
    "demo": Page(
        (
            ("mycomesh demo", "run for half a minute"),
            ("mycomesh demo --quick --keep demo", "run faster, and keep the databases in ./demo"),
        ),
        why_not="it is for people; its exit code says whether all files ended equal",
    ),
    "simulate": Page(
        (
            ("mycomesh simulate --list", "list the scenarios"),
            ("mycomesh simulate split-brain --nodes 6 --seed 1", "run one seed"),
            ("mycomesh simulate storm --seeds 1..20 --jobs 2", "run twenty seeds in two processes"),
            (
                "mycomesh simulate storm --seeds 1..999 --results storm.jsonl",
                "run many seeds, and continue another day",
            ),
            ("mycomesh simulate area-fleet --nodes 40 --areas 4", "nodes that keep one area each"),
            ("mycomesh simulate split-brain --watch", "watch the topology while it runs"),
            ("mycomesh simulate split-brain --seed 1 --report report", "write a page with plots and a trace for 'top'"),
        ),
        {
            "scenario": "text",
            "seed": "int",
            "nodes": "int",
            "converged": "bool",
            "trace": "text",
            "violations": ["text"],
            "virtual_s": "number",
            "events": "int",
            "bytes": "int",
            "healed_s": "number?",
            "commits": "int",
            "content": "text",
            "received": {"*": "int"},
            "faults": {"*": "int"},
            "notices": {"*": "int"},
            "real_s": "number",
            "cpu_s": "number",
        },
    ),
    "completion": Page(
        (
            ("mycomesh completion bash > ~/.local/share/bash-completion/completions/mycomesh", "bash"),
            ("mycomesh completion fish > ~/.config/fish/completions/mycomesh.fish", "fish"),
            ("mycomesh completion zsh > ~/.zfunc/_mycomesh", "zsh, with ~/.zfunc in fpath"),
        ),
        why_not="it prints a script",
    ),
    "help": Page(
        (("mycomesh help", "list every command"), ("mycomesh help wait", "describe one, with examples")),
        [{"name": "text", "summary": "text"}],
    ),
}
