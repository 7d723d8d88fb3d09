"""Nodes that reach each other by a WireGuard tunnel alone: `--peer` over it, as docs/TASKS.md says."""

import os
import shutil
import subprocess

import pytest

from tests.integration.machines import Machine, eventually
from tests.integration.netns import Lab
from tests.tools.bridges.brokers import program

pytestmark = [pytest.mark.slow, pytest.mark.netns]
PORT = "51820"
# No TCP but through the tunnel.
FIREWALL = (
    "add table inet f; add chain inet f i { type filter hook input priority 0; };"
    " add rule inet f i iifname eth0 meta l4proto tcp drop"
)


def keys():
    private = subprocess.run(["wg", "genkey"], capture_output=True, check=True).stdout
    return private.decode().strip(), subprocess.run(
        ["wg", "pubkey"], input=private, capture_output=True, check=True
    ).stdout.decode().strip()


def tunnel(lab, name, number, key, peer, folder):
    """Bring up wg0 of one host, by the kernel's module or by wireguard-go."""
    if lab.run(name, "ip", "link", "add", "wg0", "type", "wireguard").returncode != 0:
        go = program("wireguard-go")
        device = f"wg0{number}"
        lab.popen(name, go, "-f", device, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The device is there before the socket by which it is set up.
        eventually(lambda: lab.run(name, "wg", "show", device).returncode == 0, "wireguard-go takes its settings")
    else:
        device = "wg0"
    config = folder / f"{name}.conf"
    other = 3 - number
    config.write_text(
        f"[Interface]\nPrivateKey = {key}\nListenPort = {PORT}\n"
        f"[Peer]\nPublicKey = {peer}\nAllowedIPs = 10.77.0.{other}/32\nEndpoint = 10.99.0.{other}:{PORT}\n"
    )
    for words in (
        ("wg", "setconf", device, str(config)),
        ("ip", "addr", "add", f"10.77.0.{number}/24", "dev", device),
        ("ip", "link", "set", device, "up"),
    ):
        done = lab.run(name, *words)
        assert done.returncode == 0, done.stderr


def linked(one):
    return [peer["address"] for peer in one.status().get("peers", ()) if peer["state"] == "linked"]


def test_nodes_link_through_a_wireguard_tunnel(joined, tmp_path):
    program("wg")
    if not os.path.exists("/sys/module/wireguard"):  # noqa: PTH110
        program("wireguard-go")
    with Lab() as lab:
        hosts = {name: lab.host(name) for name in ("alpha", "bravo")}
        pairs = [keys(), keys()]
        for number, name in enumerate(hosts, 1):
            tunnel(lab, name, number, pairs[number - 1][0], pairs[2 - number][1], tmp_path)
            shutil.copytree(joined / name, tmp_path / name)
            rule = lab.run(name, "nft", FIREWALL)
            assert rule.returncode == 0, rule.stderr
        alpha = Machine(tmp_path, "alpha", hosts["alpha"])
        bravo = Machine(tmp_path, "bravo", hosts["bravo"], ("--no-multicast", "--peer", "10.77.0.1:7447"))
        try:
            alpha.up("--port", "7447")
            bravo.up("--port", "7447")
            alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY); INSERT INTO drones VALUES('d1')")
            eventually(lambda: linked(bravo) == ["10.77.0.1:7447"], "they are linked through the tunnel")
            eventually(lambda: bravo.sql("SELECT id FROM drones") == "d1\n", "the row has come")
        finally:
            for each in (alpha, bravo):
                if each.process is not None:
                    each.run("down")
                    each.process.wait(60)
