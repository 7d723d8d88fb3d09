#!/usr/bin/env bash
# nats-py 2.16.0: nats.connect() with allow_reconnect=False tries a server that refuses the connection again and again, with two
# seconds between, up to max_reconnect_attempts (60) times: about two minutes until it raises. With max_reconnect_attempts=1 it
# raises in an instant.
#
# Expected by a user: allow_reconnect=False ("Bail on first attempt if reconnecting is disallowed", says the client's source)
# raises at once, as it does for a server that accepts the connection and then refuses the password.
# Seen: no exception within 7 seconds, and 3 errors at the callback meanwhile.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nats-py==2.16.0 2>/dev/null
"$work/venv/bin/python" - <<'PY'
import asyncio, socket, sys, time
import nats

with socket.socket() as free:  # nobody listens on this port afterwards
    free.bind(("127.0.0.1", 0))
    url = f"nats://127.0.0.1:{free.getsockname()[1]}"

async def trial(**more):
    errors, started = [], time.monotonic()

    async def on_error(error):
        errors.append(error)

    try:
        await asyncio.wait_for(nats.connect(url, allow_reconnect=False, error_cb=on_error, **more), 7)
    except (TimeoutError, asyncio.TimeoutError) as error:
        # wait_for's own, since the client wraps refused connections in other classes
        return "no exception", time.monotonic() - started, len(errors)
    except Exception as error:
        return type(error).__name__, time.monotonic() - started, len(errors)

async def main():
    plain, bounded = await trial(), await trial(max_reconnect_attempts=1, reconnect_time_wait=0)
    print("allow_reconnect=False:", plain)
    print("and max_reconnect_attempts=1:", bounded)
    same = plain[0] == "no exception" and plain[2] >= 3 and bounded[0] == "NoServersError" and bounded[1] < 2
    sys.exit(0 if same else 1)

asyncio.run(main())
PY
