"""Meshes in memory: members that have linked, and members that join by a code."""

from __future__ import annotations

from tests.mesh.pipes import Pipes, mesh_of


def meshed(count, *, seed=1, config=None, **more):
    """`count` members, all linked, and the world around them."""
    pipes = Pipes(seed, **more)
    nodes = [pipes.member(identity, config=config) for identity in mesh_of(count)[0]]
    for index, left in enumerate(nodes):
        for right in nodes[index + 1 :]:
            pipes.meet(left, right)
    pipes.run_until(lambda: all(len(node.links) == count - 1 for node in nodes))
    return pipes, nodes
