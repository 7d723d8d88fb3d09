#!/bin/sh
# Reads and follows a table of the node with curl: docs/examples/watch.sh http://127.0.0.1:7480 drones [CURSOR]
set -eu
base=$1 table=$2 cursor=${3:-}
ask() { curl --silent --show-error --fail-with-body ${TOKEN:+--header "Authorization: Bearer $TOKEN"} "$@"; }

# The rows as CSV, for a spreadsheet; as GeoJSON, for QGIS, with format=geojson.
ask "$base/api/tables/$table?format=csv&limit=3"

# One query; curl writes the statement into the address.
ask --get "$base/api/query" --data-urlencode "sql=SELECT count(*) AS n FROM $table"
echo

# What has changed since the cursor moved, one JSON object a line. It moves when the client says what is done; else all comes again.
if [ -n "$cursor" ]; then
  changes=$(ask "$base/api/changes?table=$table&cursor=$cursor&once=1")
  last=$(printf '%s\n' "$changes" | sed -n '$s/^{"id": \("[^"]*"\).*/\1/p')
  if [ -n "$last" ]; then
    printf '%s\n' "$changes"
    printf '{"id": %s}' "$last" | ask --json @- "$base/api/cursors/$cursor"
    echo
  fi
fi

# With the token, and a console that was started with --allow-writes, SQL that writes.
if [ -n "${SQL:-}" ]; then
  printf '{"sql": "%s"}' "$SQL" | ask --json @- "$base/api/execute"
  echo
fi

# Follow the changes: server-sent events, until ^C.
if [ -n "${FOLLOW:-}" ]; then
  exec curl --silent --no-buffer "$base/api/changes?table=$table"
fi
