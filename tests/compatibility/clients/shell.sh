# Run SQL lines from standard input through the sqlite3 shell, one process for each transaction: sh shell.sh FILE
ok=0 refused=0 error= group= started=$(date +%s%N)
while IFS= read -r sql; do
  case "$group$sql" in BEGIN*COMMIT) sql="$group$sql" group= ;; BEGIN*) group="$group$sql;"; continue ;; esac
  if why=$(sqlite3 "$1" "$sql" 2>&1 >/dev/null); then ok=$((ok + 1)); else refused=$((refused + 1)) error=${error:-$why}; fi
done
ms=$((($(date +%s%N) - started) / 1000000))
printf '{"ok": %s, "refused": %s, "s": %s.%03d, "error": "%s", "version": "%s"}\n' "$ok" "$refused" $((ms / 1000)) $((ms % 1000)) \
  "$(echo "$error" | head -n 1 | tr '"' "'")" "$(sqlite3 --version | cut -d ' ' -f 1)"
