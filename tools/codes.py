"""Every code of the product: errors, refusals, notices and exit codes, with what they mean and what to do.

Owns the catalogue that `mycomesh explain` tells. What always holds (tests/tools/test_explain.py): every code that the source
can give has an entry, and every entry is given somewhere. It must not know how codes are raised or shown.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CODES", "Code"]


@dataclass(frozen=True, slots=True)
class Code:
    """One code: what has happened, why it does, and what to do; `remedy` is "" where nothing needs to be done."""

    code: str
    what: str
    why: str
    remedy: str = ""


_EXITS = (
    Code("0", "exit code: done", "what was asked for is done, and where something was compared, it is equal"),
    Code("1", "exit code: failed", "the line on stderr says what and why", "read that line; its code is in brackets"),
    Code("2", "exit code: usage", "the command line is wrong; nothing was changed", "mycomesh help COMMAND"),
    Code(
        "3",
        "exit code: not converged, or timed out",
        "the time was over before enough nodes held the write, or before all were equal; nothing is wrong yet",
        "mycomesh status tells who is linked and how far each is; wait again",
    ),
    Code(
        "69", "exit code: no node runs", "EX_UNAVAILABLE of sysexits.h: there is nobody to ask", "mycomesh up FILE.db"
    ),
    Code("130", "exit code: interrupted", "^C ended the command; what a running node was asked to do goes on"),
)

_LOCAL = (
    Code("usage", "an argument is wrong", "the line says which and how; nothing was changed", "mycomesh help COMMAND"),
    Code(
        "config.wrong",
        "a setting is wrong",
        "on the command line or in config.toml a value has another type or lies out of its range",
        "mend the setting that the line names; mycomesh help up lists them",
    ),
    Code(
        "home.unusable",
        "the home of keys and state cannot be used",
        "a directory cannot be made, read or written, or the database's place is none",
        "check the path and its permissions, or choose another --home; mycomesh doctor looks too",
    ),
    Code(
        "keystore.unusable",
        "a key or state file is missing, damaged or open to other users",
        "this machine is in no mesh yet, or its files were changed by hand; they are never replaced silently",
        "mycomesh init makes a mesh, mycomesh join CODE joins one; chmod 600 the file that the line names",
    ),
    Code(
        "node.running",
        "another process serves this home or this database",
        "two nodes on one file would stamp its writes twice",
        "mycomesh down, then try again; another node on this machine gets its own --home",
    ),
    Code(
        "node.none", "no node runs for this home", "nobody was started, or with another --home", "mycomesh up FILE.db"
    ),
    Code(
        "node.refused",
        "the node, or the command, cannot do what was asked",
        "the line says why; nothing was changed",
        "what the line says; 'use the same version' means: restart the node after an update",
    ),
    Code(
        "port.unusable",
        "the TCP port cannot be opened",
        "another program has it, or it is reserved for root",
        "mycomesh up --port 0 takes any free one, or choose another number",
    ),
    Code(
        "process.failed",
        "a node of the demo or the benchmarks ended by itself",
        "its log, beside its home, says why",
        "read that log; mycomesh doctor",
    ),
    Code("demo.failed", "the demo cannot go on", "the line says why", "mycomesh demo --keep leaves files and logs"),
    Code(
        "scenario.wrong",
        "a simulation cannot be run as asked",
        "the scenario, a value in it or an option does not fit; nothing was run",
        "mycomesh simulate --list names the scenarios, docs/simulations.md their settings",
    ),
    Code(
        "sweep.stopped",
        "a sweep of simulations cannot go on",
        "a process or a worker that ran seeds ended, or the file of results cannot be written",
        "give the same command again with --results FILE: it goes on from there; fewer --jobs need less memory",
    ),
)

_DATABASE = (
    Code(
        "sql.refused",
        "SQLite refuses a program's statement",
        "what `node.execute` or `node.watch` of the Python API was given is wrong SQL, or breaks a constraint of its table",
        "mend the statement that the line ends with; SQLite's own words stand before it",
    ),
    Code(
        "sync", "the tables cannot be synced", "any error of the database side; the line says which", "read that line"
    ),
    Code(
        "database.unusable",
        "the file cannot serve",
        "it is no SQLite database, read-only, damaged, or the disk is full; nothing was changed",
        "what the line says; PRAGMA integrity_check tells about damage",
    ),
    Code(
        "database.busy",
        "another program holds the write lock",
        "a transaction of some program has been open for more than two seconds; nothing was changed",
        "end that transaction (COMMIT or ROLLBACK); the node tries again by itself",
    ),
    Code(
        "database.replaced",
        "the file is not what the node left while it served it",
        "sqlite3's .restore, or a program that uses SQLite's backup API, wrote another content into the file, or somebody dropped"
        " a table of the node's own; the node opens it again: its peers bring what it lacks, and what is new in it goes to them",
    ),
    Code(
        "database.mended",
        "tables of the node's own were made again",
        "somebody dropped or altered them; every row that they told of is compared with the change log, so that what no trigger"
        " captured is found. Records of conflicts that were in mycomesh_conflicts are gone",
    ),
    Code(
        "database.foreign",
        "the file belongs to another mesh or another version, or to none",
        "it carries the internal tables of another mesh or of a later format, or none where they are needed",
        "check the path; mycomesh forget FILE.db makes it an ordinary database, which any mesh can take",
    ),
    Code(
        "database.refused",
        "the node could not write to its file just then",
        "the disk is full, or a program held the lock; what came from peers comes again",
        "make room, end long transactions; the line says which",
    ),
    Code(
        "decision.refused",
        "a decision about a table, a row or a conflict cannot be carried out",
        "the line says why; nothing was changed",
        "what the line says",
    ),
    Code(
        "migration.refused",
        "a migration cannot be run",
        "the line says which statement SQLite refuses, or what no migration may do; nothing was changed",
        "repair the script; mycomesh migrate --dry-run FILE.sql tells what it would do",
    ),
    Code(
        "merge.conflict",
        "two nodes wrote the same cell without knowing of each other",
        "the later write stands on every node; the other is kept in mycomesh_conflicts",
        "mycomesh conflicts lists both sides, mycomesh why TABLE KEY tells about one row, mycomesh restore ID decides anew",
    ),
    Code(
        "merge.parked",
        "a row of a peer is refused by a constraint of the local table",
        "UNIQUE, CHECK or NOT NULL; the row is held, and goes in by itself once its reason is gone",
        "mycomesh parked tells the reason; change the rival row or the constraint",
    ),
    Code(
        "site.renewed",
        "the file went back in time and goes on under another site",
        "it was restored from a backup or copied; under its old site its new writes would be taken for known ones",
    ),
    Code(
        "site.set_back",
        "what this node stamped in the future is stamped again, under another site",
        "its clock was minutes ahead of the time on which two members agree: others refused what it wrote, and would have"
        " until that time came",
        "nothing to do for what was written; set the clock, or start the machine's time service, if 'clock.wrong' stands too",
    ),
    Code(
        "write.withheld",
        "what was written here stays here",
        "this node's certificate gives it no right to write the tables that the line names",
        "ask for a ticket or a code with --write PATTERN, and join again",
    ),
    Code(
        "capture.restored",
        "tables were made anew, or had lost the triggers that capture writes",
        "a program or a person rebuilt them, loaded a dump, or dropped the triggers; these are back, and what was written"
        " meanwhile is found by comparing each row with the change log",
    ),
    Code(
        "scrub.found",
        "rows were found that no trigger had captured",
        "a program wrote with triggers off, rebuilt a table, or put a file back; what the rows hold is captured now",
    ),
    Code(
        "scrub.done", "every row was compared with the change log", "somebody asked, or the background pass has ended"
    ),
    Code("tombstones.collected", "delete markers were taken out", "every member has passed them"),
)

_ROUNDS = (
    Code("round.progress", "rows are coming from a peer", "this node was away, or new, and catches up"),
    Code("round.done", "caught up with a peer", "everything that it held at the round's beginning is here"),
    Code(
        "round.refused",
        "changes of a peer were left out",
        "they are stamped more than a minute ahead of this clock, and would win over every later write; or the peer has a"
        " table of another definition, and has not learnt yet which one the mesh has",
        "set the clock of the node that the line names; its changes come by themselves then. Of a table see 'mycomesh status'",
    ),
    Code(
        "round.audited",
        "rows went that were deleted elsewhere long ago",
        "this node was away for longer than delete markers are kept; only its own writes, unseen by anyone, stay",
    ),
    Code(
        "repair.done",
        "damaged or lost entries were repaired from a peer",
        "a write bypassed the triggers, the file was edited or damaged; the Merkle comparison found it",
        "where it happens again: mycomesh doctor, PRAGMA integrity_check, and look at the disk",
    ),
)

_BATCHES = (
    Code(
        "batch.refused",
        "a live batch was refused as a whole",
        "its stamps are another node's, or lie more than a minute ahead of this clock; nothing of it counts as known",
        "set the clock of the sender; a forged site points to a broken or hostile member: mycomesh revoke NAME",
    ),
    Code(
        "batch.forbidden",
        "a member wrote tables that it may not write",
        "its certificate has no 'w' for them; they were not taken",
        "take its program's right, or give it a certificate with --write",
    ),
    Code(
        "batch.forged",
        "a batch is not signed by the node in whose name it came",
        "a member in between has changed or made it; it was dropped",
        "find the member that sent it (mycomesh log -v) and revoke it",
    ),
    Code("batch.revoked", "a batch of a revoked node was dropped", "its writes count no more"),
    Code(
        "protocol.malformed",
        "bytes are not what the protocol allows",
        "another version, a broken peer, an attack, or a damaged file of this node",
        "update the older side (mycomesh --version); for a file of this node restore it, or join again",
    ),
    Code(
        "limit.exceeded",
        "more was asked for than a limit allows",
        "limits keep a node small and its peers safe; nothing was sent or changed",
        "send less at once",
    ),
)

_LINKS = (
    Code(
        "mesh",
        "the mesh side refused something",
        "any error of links and members; the line says which",
        "read that line",
    ),
    Code("link.up", "a link with a member stands", "both have proved that they belong to the mesh"),
    Code("link.down", "a link with a member has ended", "the line says why; it is dialled again by itself"),
    Code(
        "link.dropped",
        "this node has cut a link",
        "the peer broke the protocol, or asked for too much; the line says how. Local data is as it was",
        "update the older side; where both are equal, report it with mycomesh log -v of both",
    ),
    Code("conn.closed", "a connection has ended", "the line says why; told with --verbose"),
    Code(
        "conn.crowded",
        "connections of strangers were closed",
        "more unknown callers at once than a node takes; members are not affected",
        "look for what scans the network",
    ),
    Code(
        "handshake.failed",
        "a handshake does not hold",
        "the caller is a stranger, of another mesh, or the line is broken; it was told nothing",
    ),
    Code(
        "peer.refused",
        "a caller that knows the mesh's secret was refused",
        "its certificate is expired, revoked, not valid yet, or of another mesh; the line says which",
        "renew it or let it join again; check both clocks",
    ),
    Code(
        "peer.unresolved",
        "a --peer has no address yet",
        "its name does not resolve; it is asked for again every 30 seconds",
        "check the name, or give an IP address",
    ),
    Code(
        "discovery.unavailable",
        "multicast does not work here",
        "no interface carries it, or a firewall blocks UDP 5353; peers are not found by themselves",
        "mycomesh up --peer HOST:PORT on one side is enough",
    ),
    Code("discovery.available", "multicast works again", "peers are found by themselves"),
    Code(
        "clock.wrong",
        "this node's clock is far from the mesh's",
        "the median of the peers' clocks says so; peers refuse stamps more than a minute ahead",
        "set the clock: timedatectl set-ntp true, or date --set",
    ),
    Code("clock.right", "this node's clock agrees with the mesh again", "what was held back spreads now"),
)

_MEMBERS = (
    Code(
        "enrolment.refused",
        "a join code, a ticket or a step of joining does not hold",
        "the code is mistyped, used up, expired or of another mesh; no identity was made",
        "mycomesh invite on a member prints another code",
    ),
    Code("enrolment.failed", "a machine with a code could not join here", "the line says why", "mycomesh invite again"),
    Code("enrolment.granted", "a machine has joined the mesh", "it showed a good code"),
    Code("join.waiting", "this node waits for a member to let it in", "its code is kept until then"),
    Code("join.done", "this node is a member", "a member took its code"),
    Code(
        "join.refused",
        "a member could not let this node in",
        "the line says why: the code is used up or expired, or the member has no root key",
        "mycomesh invite on a member that can, then mycomesh join CODE",
    ),
    Code(
        "join.unanswered",
        "a member does not accept this join code",
        "the code is used up or expired, or another node made the invitation",
        "get a new code with 'mycomesh invite', or wait until the node that made this one is on the network",
    ),
    Code("identity.renewed", "this node's certificate was renewed", "the root or an admin was met in time"),
    Code(
        "identity.expiring",
        "this node's certificate ends soon",
        "neither the root nor an admin was met for long",
        "bring the node with the root key, or an admin, into reach for a moment",
    ),
    Code(
        "identity.revoked",
        "this node was revoked",
        "an admin or the root made it a stranger, for good; its file stays as it is",
        "join with another --home, by a new code",
    ),
    Code(
        "peer.version",
        "a member speaks no version of the protocol that this node speaks",
        "the two programs are too far apart, or 'protocol' in config.toml holds one of them back",
        "upgrade the node that the line names; nothing is lost, both go on from where they were",
    ),
    Code(
        "identity.cloned",
        "another machine runs with this node's identity",
        "a home was copied, or a ticket was used on two machines; each takes the others' links from its twin",
        "on the copy: mycomesh join with another --home",
    ),
    Code("member.revoked", "a member was made a stranger", "its links are cut, its writes are refused"),
    Code(
        "revoke.failed",
        "no more members can be revoked",
        "the list of the revoked has a limit",
        "make another mesh, and let the members join it",
    ),
    Code("mesh.epoch", "the mesh has another secret", "a member was revoked; those away get it when they come"),
)

_CERTIFICATES = tuple(
    Code(f"certificate.{reason}", what, why, remedy)
    for reason, what, why, remedy in (
        (
            "malformed",
            "a certificate is not one",
            "damaged, or of another version",
            "update the older side; join again",
        ),
        ("wrong-mesh", "a certificate is of another mesh", "its holder belongs elsewhere", "join this mesh by a code"),
        ("bad-signature", "a certificate or decree is not signed by whom it names", "forged or damaged", "join again"),
        ("expired", "a certificate has ended", "nobody renewed it in time", "let it join again by a code"),
        ("not-yet-valid", "a certificate begins later", "one of both clocks is wrong", "set the clocks of both nodes"),
        ("static-key", "a certificate was shown by another key's holder", "stolen or mixed up", "join again by a code"),
        ("too-long", "a certificate or decree has too many bytes", "too many grants", "use fewer or wider patterns"),
        ("name", "a certificate's name cannot be used", "empty, too long, or with signs", "choose another --node-name"),
        (
            "rights",
            "a certificate's rights cannot be used",
            "roles and grants that do not fit",
            "see mycomesh help invite",
        ),
        ("times", "a certificate ends before it begins", "made on a machine with a wrong clock", "set that clock"),
        (
            "issuer",
            "a decree's signer may not decide this",
            "it is no admin, or was none then",
            "ask the root's holder",
        ),
        (
            "renewal",
            "a renewal does not hold",
            "of another certificate, too long, or not an admin's to give",
            "join again",
        ),
        ("revoked", "a certificate's holder was revoked", "it is a stranger for good", "join with another --home"),
        ("revoked-issuer", "it was renewed by an admin who was revoked", "that renewal counts no more", "join again"),
    )
)

_RUN = (
    Code("metrics.serving", "figures are served for Prometheus", "up was given --metrics, or config.toml says so"),
    Code(
        "node.isolated",
        "the node is cut off from every other",
        "'mycomesh isolate' was called, to rehearse a split; it holds until 'mycomesh rejoin', or until the node starts again",
        "mycomesh rejoin",
    ),
    Code("node.rejoining", "the node looks for the others again", "'mycomesh rejoin' ended what 'isolate' began"),
    Code("node.serving", "the node serves its file", "it is open, captured and announced"),
    Code("node.stopping", "the node stops", "it was told to, or something broke; the next line says what"),
    Code(
        "node.unclean",
        "the node stopped before all was done",
        "the disk hung, or the file refused; nothing committed is lost",
        "mycomesh up goes on from there",
    ),
)

CODES = {
    each.code: each
    for group in (_EXITS, _LOCAL, _DATABASE, _ROUNDS, _BATCHES, _LINKS, _MEMBERS, _CERTIFICATES, _RUN)
    for each in group
}
