"""Replicas without a node, for tests of checkers."""

from tests.sync.conftest import pair, peers, trio  # noqa: F401
