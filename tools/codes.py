"""The catalogue behind `mycomesh explain`: each code of the product with its meaning, its cause and a remedy.

Invariant: every code that the source can raise or report has an entry here, and every entry is raised or reported somewhere
(tests/tools/test_explain.py).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CODES", "Code"]


@dataclass(frozen=True, slots=True)
class Code:
    """One code: what happened, why, and what to do; `remedy` is "" where there is nothing to do."""

    code: str
    what: str
    why: str
    remedy: str = ""


_EXITS = (
    Code("0", "exit code: done", "the command did what was asked; if it compared something, both sides are equal"),
    Code(
        "1",
        "exit code: failed",
        "the command could not do what was asked; the message on stderr ends with a code in brackets",
        "mycomesh explain CODE, with that code",
    ),
    Code(
        "2",
        "exit code: usage",
        "the command line is wrong; nothing was changed",
        "mycomesh help COMMAND shows the arguments and examples",
    ),
    Code(
        "3",
        "exit code: not converged, or timed out",
        "time ran out before enough nodes had the write, or before all were equal; this is not a fault yet",
        "wait longer; mycomesh status shows which peers are linked and which are equal",
    ),
    Code(
        "69",
        "exit code: no node runs",
        "the command asks a running node, and none runs for this home (EX_UNAVAILABLE of sysexits.h)",
        "mycomesh up FILE.db",
    ),
    Code("130", "exit code: interrupted", "^C ended the command; a running node still does what it was asked to do"),
)

_LOCAL = (
    Code(
        "import.file",
        "a file to be imported is damaged, or is not what its name says",
        "the message names the line, the feature or the byte; of CSV, JSON and GeoJSON nothing was imported, because they are"
        " checked whole beforehand; of a flight log the rows before the damage are in the table",
        "repair the file and run the same command again: rows that are there are not doubled",
    ),
    Code(
        "usage",
        "an argument is wrong",
        "an option is unknown, or a value or a file does not fit; nothing was changed",
        "mycomesh help COMMAND shows the arguments and examples",
    ),
    Code(
        "config.wrong",
        "a setting is wrong",
        "a value on the command line or in config.toml has the wrong type or is out of range",
        "correct the setting that the message names; docs/config.md lists all of them with their ranges",
    ),
    Code(
        "home.unusable",
        "a directory or file that the node needs cannot be used",
        "it cannot be created, read or written, or the database's directory does not exist",
        "check the path and its permissions with mycomesh doctor, or choose another --home",
    ),
    Code(
        "keystore.unusable",
        "a key or state file is missing, damaged or open to other users",
        "this machine is not in a mesh yet, or its files were changed by hand; they are never replaced silently",
        "mycomesh init creates a mesh, mycomesh join CODE joins one; a file that is open to others needs chmod 600",
    ),
    Code(
        "node.running",
        "another process serves this home or this database",
        "two nodes on one file would stamp its writes twice",
        "mycomesh down, then try again; give another node on this machine its own --home",
    ),
    Code(
        "node.none",
        "no node runs for this home",
        "no node was started here, or it was started with another --home",
        "mycomesh up FILE.db",
    ),
    Code(
        "node.refused",
        "the node or the command refused a request",
        "the node is starting, stopping, busy or of another version, a name is unknown, or the root key is elsewhere;"
        " nothing was changed",
        "mycomesh status shows the node; restart it after an update; run mycomesh invite and mycomesh ticket on the machine"
        " where mycomesh init ran",
    ),
    Code(
        "mailbox.away",
        "a gateway cannot use its mailbox, and waits",
        "the directory is absent, full or closed to this user, the server or the way to it is down, or its credentials were"
        " withdrawn; changes stay in the file meanwhile, and local writes go on",
        "run mycomesh mailbox test with the URL; the gateway goes on by itself once the mailbox works",
    ),
    Code(
        "mailbox.back",
        "a gateway can use its mailbox again",
        "the storage or the way to it works again; what changed meanwhile is carried now",
        "nothing",
    ),
    Code(
        "mailbox.unusable",
        "a mailbox between bases cannot be used",
        "its directory is absent, full or closed to this user, or its server is away, full or refuses the login; batches wait",
        "'mycomesh mailbox test PLACE' says which step fails; a comparison of two nodes brings what was left out",
    ),
    Code(
        "port.unusable",
        "the TCP port cannot be opened",
        "another program uses it, or only root may open it",
        "choose another number; mycomesh up --port 0 takes any free port",
    ),
    Code(
        "process.failed",
        "a node of the demo or of a benchmark ended by itself",
        "a fault of this machine, such as a full disk, or of the program",
        "mycomesh doctor, then mycomesh demo --keep DIR and read DIR/NAME.log",
    ),
    Code(
        "demo.failed",
        "the demo cannot go on",
        "its directory cannot be created or contains an earlier demo, or a step took longer than 30 seconds",
        "give another directory; mycomesh demo --keep DIR leaves the files and logs there",
    ),
    Code(
        "scenario.wrong",
        "a simulation cannot be run as asked",
        "the scenario, one of its values or an option does not fit; nothing was run",
        "mycomesh simulate --list names the scenarios, docs/simulations.md describes their settings",
    ),
    Code(
        "sweep.stopped",
        "a sweep of simulations cannot go on",
        "a process or a worker that ran seeds ended, or the file of results cannot be written",
        "repeat the command with --results FILE: it continues from there; fewer --jobs need less memory",
    ),
)

_DATABASE = (
    Code(
        "sql.refused",
        "SQLite refused a program's statement",
        "`node.execute` or `node.watch` of the Python API was given invalid SQL, or the statement breaks a constraint",
        "correct the statement at the end of the message; SQLite's own error precedes it",
    ),
    Code(
        "sync",
        "the database cannot be synced",
        "a fault of the database side that has no code of its own",
        "mycomesh doctor; report it with the message if it persists",
    ),
    Code(
        "database.unusable",
        "the file cannot be served",
        "it is not an SQLite database or an encrypted one, is read-only or damaged, or the disk is full; nothing was changed",
        "check its permissions and those of its directory, and the free space; PRAGMA integrity_check finds damage",
    ),
    Code(
        "database.extension",
        "a loadable extension cannot be loaded",
        "the file that 'extensions' in config.toml names is no extension of SQLite, lacks a library that it needs, or is for"
        " another processor; nothing was changed",
        "try it with sqlite3: .load FILE; correct the path, or take it out of 'extensions'",
    ),
    Code(
        "database.busy",
        "another program holds the write lock",
        "a transaction of some program has been open for more than two seconds; nothing was changed",
        "end that transaction (COMMIT or ROLLBACK); the node tries again by itself",
    ),
    Code(
        "database.replaced",
        "the file changed behind the node's back while the node served it",
        "sqlite3's .restore or a program with SQLite's backup API overwrote the file, or someone dropped one of the node's"
        " internal tables; the node opened the file again, fetches missing rows from its peers and sends them new ones",
    ),
    Code(
        "database.mended",
        "recreated internal tables",
        "someone dropped or altered them; the node compares every row with the change log to find writes that no trigger"
        " captured. Conflict records that were in a dropped mycomesh_conflicts are lost",
    ),
    Code(
        "database.foreign",
        "the file belongs to another mesh or another version, or no node has served it yet",
        "its internal tables are those of another mesh or of a later format, or are missing where they are needed",
        "check the path; mycomesh forget FILE.db makes it an ordinary database that any mesh accepts",
    ),
    Code(
        "database.refused",
        "the node could not write to its file",
        "the disk is full, or writing to it failed; rows of other nodes wait and come in once the file takes writes again",
        "free some disk space; look at the disk if it has room",
    ),
    Code(
        "database.locked",
        "a program has had the database locked for more than five seconds",
        "its transaction is open, for example an unsaved edit in a database browser or a long import; until it ends, rows of"
        " other nodes wait and writes of this node are not sent",
        "COMMIT or ROLLBACK in the program that the line names; the node continues by itself",
    ),
    Code(
        "database.writable",
        "the database takes writes again",
        "the lock is free or the disk has room; the rows that waited come in",
    ),
    Code(
        "disk.low",
        "the disk has less free space than the floor",
        "the floor keeps room for the application: below it the node takes in no rows of other nodes, while its own rows are"
        " sent as before",
        "free some disk space, or set free_mb_min in config.toml",
    ),
    Code(
        "decision.refused",
        "a decision about a table, a row or a conflict cannot be carried out",
        "the table, row or conflict does not exist, the table does not allow it, or this node may not write; nothing was"
        " changed",
        "mycomesh tables and mycomesh conflicts list what exists; a node with the right to write the table must decide",
    ),
    Code(
        "hook.failed",
        "a hook's command failed",
        "it ended with another exit code than 0, took too long, or its table cannot be read; its changes are tried again, and one"
        " that goes on failing becomes a dead letter",
        "mycomesh dead lists the dead letters with what the command said; mycomesh dead --retry ID tries one again",
    ),
    Code(
        "hook.stopped",
        "a hook has stopped",
        "20 of its last 50 changes failed, so that going on would set all changes aside; its cursor stays where it is",
        "repair the command in config.toml or on the machine, then run mycomesh dead --resume NAME",
    ),
    Code(
        "cursor.idle",
        "a reader of the change feed has been away for long",
        "its cursor has not moved for the days of cursor_days in config.toml (30), so that the file does not keep deletes for it"
        " any more; when it comes back it gets all changes, but perhaps not the deletes of that time",
        "start the reader again, or forget it with mycomesh cursors --drop NAME",
    ),
    Code(
        "child.ended",
        "a process that the node runs for a section of config.toml has ended",
        "it failed, or something killed it; the notice has its last words, and the node starts it again, later each time",
        "mycomesh status shows whether it runs; run it in the foreground to see more, such as: mycomesh bridge run NAME",
    ),
    Code(
        "child.paused_unread",
        "the file that names the paused processes cannot be read, so that all of them start",
        "bridges that a person had paused run again; nothing is lost",
        "run mycomesh bridge pause NAME again; that writes the file again",
    ),
    Code(
        "child.refused",
        "a process that the node runs cannot use its section of config.toml",
        "the notice says what is wrong there; the process is not started again by itself, and the node goes on without it",
        "correct config.toml, then run mycomesh bridge resume NAME, or mycomesh web resume",
    ),
    Code(
        "child.alone",
        "nodes with one bridge cannot see whose turn it is",
        "they follow each other by rows of bridge_positions (flow_positions for a flow), and 'only' or 'except' keeps that table"
        " on this node; so every node publishes, and messages go out once for each",
        "let 'only' and 'except' of each node include the table, then start the nodes again",
    ),
    Code(
        "bridge.shared_id",
        "two vehicles speak as the same system and component",
        "most vehicles leave the factory as system 1; ground stations and logs mix such a pair up, and only the addresses of the"
        " senders keep their rows apart here",
        "give each vehicle its own id: SYSID_THISMAV (ArduPilot) or MAV_SYS_ID (PX4)",
    ),
    Code(
        "bridge.waiting",
        "a bridge has no connection",
        "the outside system cannot be reached or ended the connection; the bridge tries again, and the change log keeps what"
        " is to be sent",
        "check the address and the network; mycomesh bridge test URL tries it step by step",
    ),
    Code(
        "bridge.refused",
        "the outside system refuses what a bridge asks for",
        "its name or password is wrong, a right, a stream, a queue or a topic is missing; the bridge tries again every 15 s, and"
        " nothing is lost",
        "do what the notice says, or set create = true in the bridge's section",
    ),
    Code(
        "bridge.stopped",
        "a bridge has stopped",
        "20 of the last 50 changes or messages failed, so that going on would set all aside; its position stays where it is",
        "mycomesh dead lists them with the reasons; repair the cause, then run mycomesh bridge resume NAME",
    ),
    Code(
        "flow.refused",
        "a flow that a member shares does not run here",
        "its section is wrong, or asks for what only this node's own config.toml may: a Python function, a command, a webhook"
        " at a host that [flows] does not name, or more than 16 flows",
        "ask its author, add the host to hosts in [flows], or write the flow into config.toml yourself",
    ),
    Code(
        "flow.stopped",
        "a flow has stopped",
        "its function failed for 20 of the last 50 changes, so that going on would set all aside; its position stays where it is",
        "mycomesh dead lists them with the reasons; repair the cause, then run mycomesh flow resume NAME",
    ),
    Code(
        "feed.refused",
        "a reader of the change feed cannot read",
        "the table or the cursor does not exist, another reader uses the cursor, or the cursor holds no position; nothing was"
        " changed",
        "mycomesh cursors lists the cursors, mycomesh tables the tables; mycomesh cursors --drop NAME removes a cursor",
    ),
    Code(
        "migration.refused",
        "a migration cannot be run",
        "SQLite refuses one of its statements, or the statement is one that no migration may contain; nothing was changed",
        "correct the script; mycomesh migrate --dry-run FILE.sql shows what it would do",
    ),
    Code(
        "merge.conflict",
        "two nodes wrote the same cell without knowing of each other",
        "every node keeps the later write; mycomesh_conflicts keeps the other",
        "mycomesh conflicts lists both sides, mycomesh why TABLE KEY shows one row, mycomesh restore ID brings a lost write"
        " back",
    ),
    Code(
        "merge.parked",
        "a constraint of the local table refuses a peer's row",
        "the row violates UNIQUE, CHECK or NOT NULL here; it is parked and enters the table once the cause is gone",
        "mycomesh parked shows the reason; change the row that it collides with, or the constraint; UPDATE does not find a parked"
        " row: INSERT it again, whole, with values that fit, and DELETE it then if it should go",
    ),
    Code(
        "site.renewed",
        "the file went back in time and continues as another site",
        "it was restored from a backup or copied; under its old site, peers would take its new writes for known ones",
    ),
    Code(
        "site.set_back",
        "writes with stamps in the future were stamped again, as another site",
        "this node's clock was minutes ahead of the time on which two members agree, so other nodes refused its writes",
        "the writes need nothing; if 'clock.wrong' was reported too, set the clock or start the machine's time service",
    ),
    Code(
        "write.withheld",
        "writes of this machine do not leave it",
        "this node's certificate does not allow it to write the tables that the notice names",
        "join again with a code or ticket that grants the right: mycomesh invite --write PATTERN, where the root key is",
    ),
    Code(
        "capture.adopted",
        "rows without a primary key from before the mesh replicate from now on",
        "the file had them when this node first looked at it; two untouched copies of a file settle as one, but of a"
        " changed copy only its equal beginning does, so if another node has such a copy, the rows behind it are there twice",
        "on the second machine, give 'mycomesh up' a path where no file exists: the rows come from the mesh",
    ),
    Code(
        "capture.restored",
        "tables were rebuilt or had lost the triggers that capture writes",
        "a program or a person rebuilt them, loaded a dump or dropped the triggers; the node reinstalled these and finds the"
        " writes in between by comparing each row with the change log",
    ),
    Code(
        "scrub.found",
        "found rows that no trigger had captured",
        "a program wrote with its triggers off, rebuilt a table or put a file back; the node has captured these rows",
    ),
    Code(
        "scrub.done",
        "compared every row with the change log",
        "'mycomesh scrub' was called, or the background pass has ended",
    ),
    Code("tombstones.collected", "removed delete markers", "every member has received these deletes"),
)

_ROUNDS = (
    Code("round.progress", "rows are arriving from a peer", "this node was away or is new, and is catching up"),
    Code("round.done", "caught up with a peer", "this node has everything that the peer had when the round began"),
    Code(
        "round.refused",
        "some changes of a peer were refused",
        "their stamps are more than a minute ahead of this clock and would win over every later write; or the peer defines"
        " the table differently and has not received the definition of the mesh yet",
        "set the clock of the peer that the notice names, and its changes arrive by themselves; for a table see the note in"
        " mycomesh tables",
    ),
    Code(
        "round.audited",
        "removed rows that other nodes deleted while this one was away",
        "this node was away for longer than delete markers are kept; it keeps only those of its own writes that no other node"
        " has seen; mycomesh_conflicts has the values, and the notice names the member that reported the deletes",
        "mycomesh restore NUMBER writes a row again",
    ),
    Code(
        "parked.full",
        "further inserts of a member are left out, as too many of its rows are parked",
        "a constraint here refuses them: 10,000 rows or 64 MB of one node wait; others, updates and deletes go on",
        "mycomesh parked shows the reason; once some fit or go, rounds bring the others; a hostile member: mycomesh revoke NAME",
    ),
    Code(
        "round.kept",
        "rows were written again that a member reports as deleted",
        "a person ran 'mycomesh keep-rows'; as writes of this moment they win on every node",
    ),
    Code(
        "round.doubted",
        "kept rows that a member reports as deleted",
        "one member alone reports more than one in a hundred changes of a table, or more than a thousand, as deleted long ago; a"
        " node believes that only if a second member reports the same",
        "if the rows should go: mycomesh accept-drop TABLE; if they should stay: mycomesh keep-rows TABLE",
    ),
    Code(
        "rows.large_key",
        "left out changes of rows whose primary key takes more than 64 KiB",
        "a node with a version before this limit, or a hostile one, has written them; a key cannot be divided",
        "upgrade that node, and put the long value into another column; a hostile one: mycomesh revoke NAME",
    ),
    Code(
        "rows.unsigned",
        "left out changes of signed tables that their writers have not signed",
        "a peer passed them on without a seal of their writer: it altered them, or runs a version that knows no signed tables",
        "upgrade that peer if it is older; otherwise ask who runs it, or revoke it",
    ),
    Code(
        "repair.done",
        "repaired damaged or lost entries from a peer",
        "a write bypassed the triggers, or the file was edited or damaged; comparing digests with the peer found it",
        "if it happens again: mycomesh doctor, PRAGMA integrity_check, and check the disk",
    ),
)

_BATCHES = (
    Code(
        "statement.failed",
        "SQLite failed on what a peer sent, in a way that the node does not expect",
        "the message is refused and nothing of it was done; a row or a definition that SQLite refuses does not do this",
        "look at the named table with mycomesh verify; report it as a bug if it comes again",
    ),
    Code(
        "batch.refused",
        "a live batch was refused as a whole",
        "its stamps belong to another node, or are more than a minute ahead of this clock; none of it was stored",
        "set the sender's clock; a forged site means a broken or hostile member: mycomesh revoke NAME",
    ),
    Code(
        "batch.forbidden",
        "a member wrote tables that it may not write",
        "its certificate grants no write right for them; this node did not store the writes",
        "stop the program that writes there, or invite the node again with --write PATTERN",
    ),
    Code(
        "batch.forged",
        "a batch does not carry the signature of the node that it names",
        "a member on the way changed or invented it; this node dropped it",
        "find the member that sent it (mycomesh log -v) and revoke it",
    ),
    Code(
        "batch.revoked",
        "a batch of a revoked node was dropped",
        "the node was revoked, so its later writes are not accepted",
    ),
    Code(
        "protocol.malformed",
        "received bytes violate the protocol",
        "the peer has another version, is broken or hostile, or a file of this node is damaged",
        "update the older side (mycomesh --version); if a file of this node is damaged, restore it or join again",
    ),
    Code(
        "limit.exceeded",
        "a request exceeds a limit",
        "limits keep nodes small and safe from each other; nothing was sent or changed",
        "send less at once",
    ),
)

_LINKS = (
    Code(
        "mesh",
        "the network side refused something",
        "a fault of links or members that has no code of its own",
        "mycomesh log -v shows the events before it; report it with the message if it persists",
    ),
    Code("link.up", "linked with a member", "both nodes have proved that they belong to the mesh"),
    Code(
        "link.down",
        "the link with a member has ended",
        "the member stopped or could not be reached for some seconds; this node dials it again by itself",
    ),
    Code(
        "link.dropped",
        "this node has cut a link",
        "the peer violated the protocol or asked for too much; local data is unchanged",
        "update the older side; if both have the same version, report it with mycomesh log -v of both",
    ),
    Code(
        "circuits.full",
        "more members need a connection through other nodes than this node has",
        "they keep what it keeps, and no direct link leads to them; each has its turn of a minute, so writes arrive later",
        "give this node direct links with some of them (--peer ADDRESS, an open port), or let another node keep the same areas",
    ),
    Code(
        "conn.closed",
        "a connection has ended",
        "either side closed it, or the network lost it; reported only with --verbose",
    ),
    Code(
        "conn.crowded",
        "connections of unauthenticated peers were closed",
        "more unknown callers at once than a node accepts; members are not affected",
        "find out what scans the network",
    ),
    Code(
        "handshake.failed",
        "a handshake failed",
        "the peer does not know the mesh's secret, belongs to another mesh, or its messages were damaged; it learned nothing",
    ),
    Code(
        "peer.refused",
        "a caller that knows the mesh's secret was refused",
        "its certificate is expired, revoked, not valid yet, or of another mesh",
        "check the clocks of both nodes, then let it join again by a code",
    ),
    Code(
        "peer.unresolved",
        "a --peer has no address yet",
        "its name does not resolve; this node looks it up again every 30 seconds",
        "check the name, or give an IP address",
    ),
    Code(
        "nats.connected",
        "this node meets others at a NATS server",
        "a --peer at nats:// was reached; nodes that have no other way to each other link over it, sealed from end to end",
        "nothing",
    ),
    Code(
        "nats.unreachable",
        "no links over a NATS server",
        "a --peer at nats:// is away, or refuses the login or the certificate; this node tries again every 30 seconds",
        "start the server, or correct the file that peer_credentials names; other links are not affected",
    ),
    Code(
        "discovery.unavailable",
        "multicast does not work here",
        "no interface carries it, or a firewall blocks UDP 5353, so this node cannot discover peers",
        "mycomesh up --peer HOST:PORT on one side is enough",
    ),
    Code("discovery.available", "multicast works again", "this node discovers peers by itself again"),
    Code(
        "clock.wrong",
        "this node's clock is far from the mesh's",
        "it differs from the median of the peers' clocks; peers refuse stamps more than a minute ahead",
        "set the clock: timedatectl set-ntp true, or date --set",
    ),
    Code("clock.right", "this node's clock agrees with the mesh again", "writes that peers had refused spread now"),
)

_MEMBERS = (
    Code(
        "enrolment.refused",
        "a join code, a ticket or a step of joining is not valid",
        "the code is mistyped, used up, expired or of another mesh, or the ticket is damaged; no identity was created",
        "get another code with mycomesh invite on the machine with the root key",
    ),
    Code(
        "enrolment.failed",
        "a machine with a code could not join through this node",
        "the invitation was used up meanwhile, the machine was revoked before, or the two versions differ too much",
        "mycomesh invite prints another code; a revoked machine needs another --home",
    ),
    Code("enrolment.granted", "a machine has joined the mesh", "it presented a valid code"),
    Code("join.waiting", "this node waits for a member to let it in", "its code is kept until a member answers"),
    Code("join.done", "this node is a member", "a member accepted its code"),
    Code(
        "join.refused",
        "a member could not let this node in",
        "the code is used up or expired, this node was revoked, or the member sent an invalid certificate",
        "mycomesh invite on the machine with the root key, then mycomesh join CODE here",
    ),
    Code(
        "join.unanswered",
        "a member does not accept this join code",
        "the code is used up or expired, or another node made the invitation",
        "get a new code with 'mycomesh invite', or wait until the node that made this one is on the network",
    ),
    Code(
        "identity.renewed",
        "this node's certificate was renewed",
        "this node met the root or an admin before the certificate expired",
    ),
    Code(
        "identity.expiring",
        "this node's certificate expires soon",
        "this node has met neither the root nor an admin for a long time",
        "connect it briefly with the node that holds the root key, or with an admin",
    ),
    Code(
        "identity.revoked",
        "this node was revoked",
        "an admin or the root removed it from the mesh for good; its file is unchanged",
        "mycomesh join with a new code or a new ticket; the home, its keys aside, and the file stay as they are",
    ),
    Code(
        "peer.version",
        "a member speaks no version of the protocol that this node speaks",
        "the two programs are too far apart, or 'protocol' in config.toml holds one of them back",
        "upgrade the node that the notice names; nothing is lost, both continue from where they were",
    ),
    Code(
        "identity.cloned",
        "another machine runs with this node's identity",
        "a home was copied, or a ticket was used on two machines; the two copies keep disconnecting each other",
        "on the copy: mycomesh join with another --home",
    ),
    Code(
        "member.revoked",
        "a member was removed for good",
        "an admin or the root revoked it; nodes cut its links and refuse its writes",
    ),
    Code(
        "revoke.failed",
        "no more members can be revoked",
        "the list of revoked members has reached its limit",
        "create another mesh and let the members join it",
    ),
    Code(
        "area.released",
        "this node has removed rows of an area that it does not keep",
        "it had written them or kept the area before, and enough members that keep the area have them",
        "",
    ),
    Code(
        "purge.ordered",
        "what a revoked member has written is dropped",
        "the holder of the root key ran 'mycomesh revoke NAME --drop-since T'; every node obeys, also later",
        "what was dropped is in mycomesh_conflicts as far as it had room; mycomesh restore writes it again",
    ),
    Code(
        "purge.done",
        "this node has dropped what a revoked member had written",
        "it has carried out the order; rows of that member that arrive later are left out",
        "what was dropped is in mycomesh_conflicts as far as it had room; mycomesh restore writes it again",
    ),
    Code(
        "retain.cut",
        "rows have gone with time",
        "they were older than their table keeps rows ('mycomesh retain' shows for how long); no node keeps them",
    ),
    Code(
        "retain.returned",
        "a wrong clock had removed rows of a table too early on this node",
        "this machine's clock was ahead, and no other clock contradicted it; nodes that still have the rows send them again",
        "set the clock, or start its time service; 'mycomesh doctor' shows what is wrong with it",
    ),
    Code(
        "mesh.epoch",
        "the mesh secret was rotated",
        "a member was revoked; members that were away receive the new secret when they return",
    ),
)

_CERTIFICATES = tuple(
    Code(f"certificate.{reason}", what, why, remedy)
    for reason, what, why, remedy in (
        (
            "malformed",
            "bytes are not a valid certificate",
            "they are damaged, or come from another version",
            "update the older side, or join again",
        ),
        (
            "wrong-mesh",
            "a certificate belongs to another mesh",
            "its holder is a member of that mesh",
            "to change the mesh, join this one by a code",
        ),
        (
            "bad-signature",
            "a certificate or decree is not signed by the issuer that it names",
            "it is forged or damaged",
            "its holder must join again by a code",
        ),
        (
            "expired",
            "a certificate has expired",
            "its holder met neither the root nor an admin in time to renew it",
            "its holder must join again by a code",
        ),
        (
            "not-yet-valid",
            "a certificate is not valid yet",
            "the clock of one of the two nodes is wrong",
            "set the clocks of both nodes",
        ),
        (
            "static-key",
            "a peer presented a certificate for another key",
            "the certificate was stolen, or key files were mixed up",
            "its holder must join again by a code",
        ),
        (
            "too-long",
            "a certificate or decree has too many bytes",
            "it contains too many grants",
            "use fewer or wider patterns with --write and --read",
        ),
        (
            "name",
            "a certificate's name cannot be used",
            "it is empty, too long, or contains unsupported characters",
            "choose another --node-name",
        ),
        (
            "rights",
            "a certificate's rights cannot be used",
            "its roles and grants do not fit together",
            "mycomesh help invite shows which rights can be given",
        ),
        (
            "times",
            "a certificate expires before it begins",
            "it was made on a machine with a wrong clock",
            "set that clock, then join again",
        ),
        (
            "issuer",
            "the signer of a decree had no right to sign it",
            "it is not an admin, or was not one at that time, or only the root may decide this",
            "decide it on the machine with the root key, where mycomesh init ran",
        ),
        (
            "renewal",
            "a renewal is not valid",
            "it is for another certificate, lasts too long, or only the root may give it",
            "its holder must join again by a code",
        ),
        (
            "revoked",
            "the holder of a certificate was revoked",
            "an admin or the root removed it for good",
            "join with another --home, by a new code",
        ),
        (
            "revoked-issuer",
            "a certificate was renewed by a revoked admin",
            "renewals by a revoked admin are not valid",
            "its holder must join again by a code",
        ),
    )
)

_RUN = (
    Code(
        "metrics.serving",
        "metrics are served for Prometheus",
        "the node was started with --metrics or config.toml sets it",
    ),
    Code(
        "node.isolated",
        "the node is cut off from all others",
        "'mycomesh isolate' was called to rehearse a split; it holds until 'mycomesh rejoin' or a restart of the node",
        "mycomesh rejoin",
    ),
    Code(
        "node.fault",
        "the node failed on one message or one task, and goes on",
        "an unexpected error; the node undid that work, and comparisons with peers repeat the work",
        "report it as a bug, with the line of the log and its details (mycomesh log --json)",
    ),
    Code("node.rejoining", "the node looks for the others again", "'mycomesh rejoin' ended an isolation"),
    Code(
        "node.serving",
        "the node serves its file",
        "the file is open, its writes are captured, and peers can find the node",
    ),
    Code(
        "node.stopping",
        "the node stops",
        "'mycomesh down', ^C, SIGTERM or a fault; a fault is reported in the next line",
    ),
    Code(
        "home.removed",
        "the node's keys were removed while it runs",
        "a person or a cleanup job removed the home or its contents; the node goes on with keys and decisions in memory only",
        "restore the directory from a backup, or stop the process that the notice names and join the mesh again",
    ),
    Code(
        "home.unwritable",
        "the node cannot write to its home",
        "the disk of the home is full or read-only, or the home was removed; the node goes on with its state in memory",
        "free some space, or correct the permissions of the directory that the notice names",
    ),
    Code(
        "control.reopened",
        "recreated the control socket",
        "it had been removed: the end of a login session removes its runtime directory, and cleanup jobs remove sockets",
    ),
    Code(
        "node.unclean",
        "the node stopped before it had finished its work",
        "the disk did not answer, or the file could not be written; no committed write is lost",
        "mycomesh up FILE.db continues from there",
    ),
)

_WEB = (
    Code("web.serving", "the web console is served", "--web or the section [web] of config.toml asks for it"),
    Code(
        "web.request",
        "the console cannot read a request",
        "a parameter, a header or the body is malformed, missing or too large; nothing was changed",
        "GET /api/openapi.json describes every request",
    ),
    Code("web.unknown", "the console has nothing at this address", "there is no such page, table, row or file"),
    Code(
        "web.token",
        "the console asks for its token",
        "away from this machine, and for everything that writes, a request needs it",
        "open the address that mycomesh web prints, or send the header Authorization: Bearer TOKEN",
    ),
    Code(
        "web.host",
        "the console was asked under a name that is not its own",
        "a page of another site may have pointed its name at this machine, so only known names are answered",
        "mycomesh web --name HOST, if the name is this machine's",
    ),
    Code(
        "web.origin",
        "a page of another site asked the console to do something",
        "a browser sends the page's origin with each such request, and only the console's own page may send them",
        "open the console's own page",
    ),
    Code(
        "web.read-only",
        "the console does not write",
        "it was started without --allow-writes",
        "mycomesh web --allow-writes",
    ),
    Code(
        "web.busy",
        "the console cannot do this now",
        "too many connections, streams or queries are open, or another program holds the write lock",
        "try again later; close pages that nobody looks at",
    ),
    Code(
        "web.sql",
        "a statement was refused by the console or by SQLite",
        "it has an error, writes where only reading is allowed, is more than one statement, or takes longer than 3 s",
        "try it with sqlite3; narrow it with a condition, or add an index",
    ),
)

CODES = {
    each.code: each
    for group in (_EXITS, _LOCAL, _DATABASE, _ROUNDS, _BATCHES, _LINKS, _MEMBERS, _CERTIFICATES, _RUN, _WEB)
    for each in group
}
