// Run SQL lines from standard input through mattn/go-sqlite3 with its defaults: client FILE
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"time"

	"github.com/mattn/go-sqlite3"
)

func main() {
	pool, err := sql.Open("sqlite3", os.Args[1])
	if err != nil {
		panic(err)
	}
	db, err := pool.Conn(context.Background()) // one connection: BEGIN and COMMIT are lines of their own
	if err != nil {
		panic(err)
	}
	ok, refused, first, started := 0, 0, "", time.Now()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if _, why := db.ExecContext(context.Background(), lines.Text()); why != nil {
			refused++
			if first == "" {
				first = why.Error()
			}
		} else {
			ok++
		}
	}
	version, _, _ := sqlite3.Version()
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"ok": ok, "refused": refused, "s": time.Since(started).Seconds(), "error": first, "version": "SQLite " + version})
}
