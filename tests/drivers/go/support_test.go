// Package drivers has what Go applications do with PostgreSQL, by lib/pq and by pgx at their defaults.
package drivers

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/jackc/pgx/v4"
)

var (
	direct = os.Getenv("DRIVERS_DIRECT") != ""
	rounds = map[bool]int{false: 300, true: 30}[os.Getenv("SMOKE") != ""]
	ctx    = context.Background()
)

// directRows is the first column of a query as text, asked of PostgreSQL itself.
func directRows(t *testing.T, query string) []string {
	t.Helper()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%s lock_timeout=10000", os.Getenv("DIRECT_HOST"), os.Getenv("DIRECT_PORT")))
	check(t, err)
	defer conn.Close(ctx)
	results, err := conn.PgConn().Exec(ctx, query).ReadAll()
	check(t, err)
	values := []string{}
	for _, row := range results[len(results)-1].Rows {
		values = append(values, string(row[0]))
	}
	return values
}

// running waits until PostgreSQL runs a query with this marker in it, and says in which process.
func running(t *testing.T, marker string) string {
	t.Helper()
	for {
		pids := directRows(t, "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%"+marker+"%'")
		if len(pids) > 0 {
			return pids[0]
		}
	}
}

// awayFrom does work while another client holds the server with this process id, so that it happens on the pool's other.
func awayFrom(t *testing.T, pid int, work func()) {
	t.Helper()
	if direct {
		work()
		return
	}
	var holders [2]pgx.Tx
	for i := range holders {
		conn, err := pgx.Connect(ctx, "")
		check(t, err)
		defer conn.Close(ctx)
		holders[i], err = conn.Begin(ctx)
		check(t, err)
		var held int
		check(t, holders[i].QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&held))
		if held == pid {
			if i == 1 {
				check(t, holders[0].Rollback(ctx))
			}
			work()
			return
		}
	}
	t.Fatalf("no server of the pool has process id %d", pid)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, expected, actual interface{}) {
	t.Helper()
	if !reflect.DeepEqual(expected, actual) {
		t.Fatalf("expected %v, got %v", expected, actual)
	}
}
