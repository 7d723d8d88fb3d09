"""Bases of three nodes each: no node reaches one of another base, and the first of each is a gateway."""

import shutil

from tests.free_ports import free_port
from tests.integration.machines import eventually

SECRET = "only-members-may-read-this"
HIDDEN = (SECRET, "alpha", "fleet", "base1", "CREATE TABLE")  # longer than chance brings about


def joined_members(machine, joined, folder, names):
    """The node of the fixture `joined`, and others that have joined its mesh by ticket; none runs."""
    shutil.copytree(joined / "alpha", folder / "alpha")
    made = [machine(name) for name in ("alpha", *names)]
    for other in made[1:]:
        ticket = folder / f"{other.name}.ticket"
        made[0].done("ticket", other.name, "-o", str(ticket))
        other.done("join", str(ticket))
    return made


def three_sharing(machine, joined, folder):
    """Three members, and a directory that all of them reach."""
    share = folder / "share"
    share.mkdir()
    return joined_members(machine, joined, folder, ("bravo", "charlie")), share


def three_bases(machine, joined, folder, urls, size=3, credentials=""):
    """Start three bases; return their nodes. `urls` are the mailboxes of the gateways."""
    made = joined_members(machine, joined, folder, [f"n{number}" for number in range(1, 3 * size)])
    bases = [made[at : at + size] for at in range(0, 3 * size, size)]
    for number, ((gateway, *others), url) in enumerate(zip(bases, urls, strict=True)):
        gateway.starts = ("--port", str(free_port()), "--mailbox", url)
        lines = ["[base]", f'name = "base{number}"', 'mailbox = "dir:/elsewhere"']
        if credentials:
            lines.append(f'credentials = "{credentials}"')
        (gateway.home.config / "config.toml").write_text("\n".join(lines) + "\n")
        gateway.up(*gateway.starts)
        for other in others:
            other.up("--port", "0", "--peer", gateway.address)
    return bases


def digests(one):
    return {table["name"]: table["digest"] for table in one.status()["tables"]}


def all_equal(made):
    def seen():
        return [(each.name, digests(each), each.status()["mailboxes"]) for each in made]

    eventually(lambda: digests(made[0]) and all(digests(each) == digests(made[0]) for each in made), seen)


def write(one, oracle, number, more=""):
    """Insert or change a row that only this node writes, and note what everybody must have in the end."""
    key = f"{one.name}-{number % 7}"
    oracle[key] = f"{SECRET} {number}{more}"
    one.sql(f"INSERT INTO t VALUES('{key}', '{oracle[key]}') ON CONFLICT DO UPDATE SET v = excluded.v")


def settled(made, oracle):
    """Wait until every node has the oracle's rows, and `verify` finds all files equal."""
    lines = "".join(f"{key}|{value}\n" for key, value in sorted(oracle.items()))
    for one in made:
        one.shows("SELECT id, v FROM t ORDER BY id", lines)
    all_equal(made)
    for one in made[1:]:
        assert "equal" in made[0].done("verify", str(made[0].file), str(one.file))


def stored(share):
    return b"".join(path.read_bytes() for path in share.rglob("*") if path.is_file())
