"""Members, admins and authorities of one mesh, as certificates."""

from __future__ import annotations

import random

import pytest

from mycomesh.mesh import primitives
from mycomesh.mesh.errors import CertificateError
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.identity import Identity, make_identity
from tests.mesh.pipes import LIFETIME_S, WALL_MS, mesh_of

NOW_S = WALL_MS // 1_000
DAY_S = 86_400
SERIAL = bytes(range(16))
(FOUNDER, BRAVO, CHARLIE, *_), ROOT = mesh_of(5)
PUBLIC = FOUNDER.root_public


def member(name, *, roles=("member",), root=ROOT, lifetime_s=LIFETIME_S, at_s=NOW_S, **more) -> Identity:
    return make_identity(
        root,
        mesh_name="test",
        node_name=name,
        secret=FOUNDER.secret,
        roles=roles,
        entropy=random.Random(name).randbytes,
        not_before_s=at_s,
        lifetime_s=lifetime_s,
        **more,
    )


ADMIN = member("admin", roles=("member", "admin"), lifetime_s=365 * DAY_S)


def authority(identity: Identity, root_seed=None) -> Authority:
    made = Authority.of(identity.certificate, PUBLIC, identity.node_seed, root_seed)
    assert made is not None
    return made


def pretended(identity: Identity, certificate: bytes = b"") -> Authority:
    """Return a liar's authority: its own key under any certificate, or under the root's name."""
    secret = primitives.signing_pair(identity.node_seed)[1]
    return Authority(PUBLIC, certificate, 2**62, secret)


ADMIN_AUTHORITY = authority(ADMIN)


def refused(reason: str):
    class Refused:
        def __enter__(self):
            self.raises = pytest.raises(CertificateError)
            self.caught = self.raises.__enter__()

        def __exit__(self, *error):
            self.raises.__exit__(*error)
            assert self.caught.value.reason == reason
            assert "\n" not in str(self.caught.value)
            return True

    return Refused()
