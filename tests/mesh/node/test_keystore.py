"""The keystore: an identity is made once and never guessed at; every other file fails with one line or not at all."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mycomesh.mesh.events import Address
from mycomesh.mesh.membership.enrolment import INVITATIONS_MAX, Candidate, JoinCode
from mycomesh.mesh.membership.identity import create_mesh, make_identity
from mycomesh.mesh.node.errors import KeystoreError
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.keystore import Keystore, PendingJoin

WALL_MS = 1_800_000_000_000


def entropy_of(seed):
    """A source of bytes that is the same on every run."""
    state = [0]

    def draw(count):
        state[0] += 1
        return hashlib.shake_128(f"{seed}/{state[0]}".encode()).digest(count)

    return draw


@pytest.fixture
def mesh():
    return create_mesh("fleet", "alpha", entropy=entropy_of("a"), wall_ms=WALL_MS)


@pytest.fixture
def store(tmp_path):
    home = Home.locate(tmp_path / "h", {})
    home.prepare()
    return Keystore(home)


@pytest.fixture
def founder(store, mesh):
    store.store_mesh(*mesh)
    return store


@pytest.fixture
def join():
    return PendingJoin(JoinCode(b"m" * 16, b"s" * 16), Candidate.fresh("bravo", entropy=entropy_of("b")))


def files(store):
    return sorted(entry.name for entry in store.home.state.iterdir())


def test_an_empty_home_holds_nothing(store):
    assert store.identity() is None
    assert store.pending_join() is None
    assert store.invitations() == ()
    assert store.addresses() == ()


def test_a_mesh_that_was_made_comes_back_whole(founder, mesh):
    identity, root_seed = mesh
    assert founder.identity() == identity
    assert founder.root_seed(identity) == root_seed
    assert files(founder) == ["identity", "root"]


def test_every_file_is_private(founder, join):
    founder.invite(expires_s=60, uses=1, wall_ms=WALL_MS, entropy=entropy_of("i"))
    founder.store_addresses((Address("10.0.0.1", 1),))
    assert {entry.stat().st_mode & 0o777 for entry in founder.home.state.iterdir()} == {0o600}


def test_an_identity_is_never_replaced(founder, mesh, join):
    other, other_root = create_mesh("other", "alpha", entropy=entropy_of("o"), wall_ms=WALL_MS)
    for attempt in (
        lambda: founder.store_mesh(other, other_root),
        lambda: founder.store_identity(other),
        lambda: founder.store_join(join),
    ):
        with pytest.raises(KeystoreError, match="already belongs to mesh 'fleet' as 'alpha'"):
            attempt()
    assert founder.identity() == mesh[0]
    assert founder.root_seed(mesh[0]) == mesh[1]


def test_another_join_of_the_same_mesh_replaces_an_identity(founder, tmp_path, mesh):
    home = Home.locate(tmp_path / "b", {})
    home.prepare()
    joiner = Keystore(home)
    first, root_seed = mesh
    made = [
        make_identity(
            root_seed,
            mesh_name="fleet",
            node_name=name,
            secret=first.secret,
            roles=("member",),
            entropy=entropy_of(name),
            not_before_s=WALL_MS // 1_000,
            lifetime_s=1_000,
        )
        for name in ("bravo", "charlie")
    ]
    for identity in made:
        joiner.store_identity(identity)
        assert joiner.identity() == identity
    with pytest.raises(KeystoreError, match="already belongs to mesh 'fleet' as 'alpha'"):
        founder.store_identity(made[0])  # the root key's home


@pytest.mark.parametrize("name", ["identity", "root"])
def test_a_truncated_key_is_one_line_and_stays_unchanged(founder, mesh, name):
    path = founder.home.state / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KeystoreError, match="damaged") as caught:
        founder.identity() if name == "identity" else founder.root_seed(mesh[0])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == whole[: len(whole) // 2]


def test_a_key_that_others_can_read_is_refused(founder):
    (founder.home.state / "identity").chmod(0o644)
    with pytest.raises(KeystoreError, match="chmod 600"):
        founder.identity()


def test_the_root_key_of_another_mesh_is_noticed(founder, mesh):
    _, other_root = create_mesh("other", "x", entropy=entropy_of("o"), wall_ms=WALL_MS)
    (founder.home.state / "root").write_text(other_root.hex())
    with pytest.raises(KeystoreError, match="root key of another mesh"):
        founder.root_seed(mesh[0])


def test_an_invitation_is_kept_and_its_code_opens_it(founder, mesh):
    code, invitation = founder.invite(expires_s=60, uses=2, wall_ms=WALL_MS, entropy=entropy_of("i"))
    assert founder.invitations() == (invitation,)
    assert code == JoinCode(mesh[0].mesh_id, invitation.secret)
    assert invitation.is_open(WALL_MS + 59_999)
    assert not invitation.is_open(WALL_MS + 60_000)
    assert invitation.uses_left == 2


def test_expired_invitations_make_room(founder):
    draw = entropy_of("i")
    for _ in range(INVITATIONS_MAX):
        founder.invite(expires_s=60, uses=1, wall_ms=WALL_MS, entropy=draw)
    with pytest.raises(KeystoreError, match="are open already"):
        founder.invite(expires_s=60, uses=1, wall_ms=WALL_MS, entropy=draw)
    founder.invite(expires_s=60, uses=1, wall_ms=WALL_MS + 60_000, entropy=draw)
    assert len(founder.invitations()) == 1


def test_without_a_mesh_nobody_is_invited(store):
    with pytest.raises(KeystoreError, match="run 'mycomesh init'"):
        store.invite(expires_s=60, uses=1, wall_ms=WALL_MS, entropy=entropy_of("i"))


def test_without_the_root_key_nobody_is_invited(store, mesh):
    store.store_identity(mesh[0])
    with pytest.raises(KeystoreError, match="where 'mycomesh init' ran"):
        store.invite(expires_s=60, uses=1, wall_ms=WALL_MS, entropy=entropy_of("i"))


def test_a_pending_join_keeps_its_keys_over_restarts(store, join):
    store.store_join(join)
    assert Keystore(store.home).pending_join() == join


def test_a_later_code_replaces_an_earlier_one(store, join):
    store.store_join(join)
    later = PendingJoin(JoinCode(b"n" * 16, b"t" * 16), join.candidate)
    store.store_join(later)
    assert store.pending_join() == later


def test_a_completed_join_forgets_its_code(store, join, mesh):
    store.store_join(join)
    store.complete_join(mesh[0])
    assert store.pending_join() is None
    assert files(store) == ["identity"]


def test_addresses_come_back_in_order_and_bounded(store):
    known = tuple(Address(f"10.0.0.{number}", 7000) for number in range(100))
    store.store_addresses(known)
    assert store.addresses() == known[-64:]


@pytest.mark.parametrize("text", [b"", b"{", b"[[1]]", b"{}", b'[["a"]]', b"\xff", b"[" * 100_000])
def test_damaged_addresses_are_only_hints_lost(store, text):
    path = store.home.state / "addresses"
    path.write_bytes(text)
    path.chmod(0o600)
    assert store.addresses() == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.binary(max_size=200), name=st.sampled_from(["identity", "invitations", "join"]))
def test_any_bytes_in_a_key_file_are_one_line(store, data, name):
    path = store.home.state / name
    path.write_bytes(data)
    path.chmod(0o600)
    read = {"identity": store.identity, "invitations": store.invitations, "join": store.pending_join}[name]
    line = ""
    try:
        value = read()
    except KeystoreError as error:
        line, value = str(error), None
    path.unlink()
    assert value in (None, ())
    assert len(line.splitlines()) == 1 or (name == "invitations" and json.loads(data) == [])
