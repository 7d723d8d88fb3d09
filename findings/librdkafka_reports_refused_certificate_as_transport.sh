#!/usr/bin/env bash
# confluent-kafka 2.16.1 (librdkafka 2.16): a server whose certificate the client does not trust refuses each try for the same
# reason, but some tries are reported as an error of TLS (_SSL, -181, "SSL handshake failed: ...") and others as one of transport
# (_TRANSPORT, -195, without these words, "... (after N ms in state SSL_HANDSHAKE)").
#
# Expected by a user: the code tells a wrong certificate, which somebody has to mend, from a server that is away, which is tried again.
# Seen: both codes within the first tries of one client (4 and 1 in one run, 1 and 1 in another); all name "certificate verify failed".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check confluent-kafka==2.16.1
for name in server other; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout $name.key -out $name.pem 2>/dev/null
done
cat > tries.py <<'PY'
import collections, socket, ssl, threading, time
from confluent_kafka import Producer

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem", "server.key")
listener = socket.create_server(("localhost", 0))

def serve():
    while True:
        peer, _ = listener.accept()
        try:
            context.wrap_socket(peer, server_side=True).close()
        except OSError:
            peer.close()

threading.Thread(target=serve, daemon=True).start()
codes, others = collections.Counter(), []

def on_error(error):
    if error.name() == "_ALL_BROKERS_DOWN":
        return
    codes[error.name()] += 1
    if "certificate verify failed" not in error.str():
        others.append(error.str())

producer = Producer({
    "bootstrap.servers": f"localhost:{listener.getsockname()[1]}", "security.protocol": "ssl", "ssl.ca.location": "other.pem",
    "reconnect.backoff.ms": 1, "reconnect.backoff.max.ms": 5, "log_level": 0, "error_cb": on_error,
})
end = time.monotonic() + 90
while time.monotonic() < end and len(codes) < 2:
    producer.poll(0.2)
print(dict(codes), others[:1])
raise SystemExit(0 if set(codes) == {"_SSL", "_TRANSPORT"} and not others else 1)
PY
venv/bin/python tries.py || { echo "this has changed"; exit 1; }
