package drivers

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/lib/pq"
)

// openPq is a pool of lib/pq. It sends Parse and Describe, waits, and only then Bind and Execute.
func openPq(t *testing.T, options string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", "sslmode=disable "+options)
	check(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

// pqState is the SQLSTATE of an error.
func pqState(err error) string {
	var e *pq.Error
	if errors.As(err, &e) {
		return string(e.Code)
	}
	return fmt.Sprint(err)
}

func pqTable(t *testing.T) {
	directRows(t, "DROP TABLE IF EXISTS pq_item; CREATE TABLE pq_item (id serial PRIMARY KEY, name text UNIQUE NOT NULL, qty int NOT NULL)")
	t.Cleanup(func() { directRows(t, "DROP TABLE pq_item") })
}

func TestPqCrudInATransaction(t *testing.T) {
	pqTable(t)
	db := openPq(t, "")
	tx, err := db.Begin()
	check(t, err)
	var id int
	check(t, tx.QueryRow("INSERT INTO pq_item (name, qty) VALUES ($1, $2) RETURNING id", "bolt", 5).Scan(&id))
	result, err := tx.Exec("UPDATE pq_item SET qty = qty + $1 WHERE id = $2", 1, id)
	check(t, err)
	affected, _ := result.RowsAffected()
	equal(t, int64(1), affected)
	equal(t, []string{}, directRows(t, "SELECT name FROM pq_item"))
	check(t, tx.Commit())
	equal(t, []string{"6"}, directRows(t, "SELECT qty FROM pq_item"))

	tx, err = db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	check(t, err)
	_, err = tx.Exec("DELETE FROM pq_item")
	check(t, err)
	check(t, tx.Rollback())
	equal(t, []string{"bolt"}, directRows(t, "SELECT name FROM pq_item"))
}

func TestPqUnpreparedQueriesWithArguments(t *testing.T) {
	db := openPq(t, "")
	for i := 0; i < rounds; i++ {
		var sum int
		var up string
		check(t, db.QueryRow("SELECT $1::int + 1, upper($2)", i, fmt.Sprint("n", i)).Scan(&sum, &up))
		equal(t, fmt.Sprint(i+1, " N", i), fmt.Sprint(sum, " ", up))
	}
}

func TestPqPreparedStatementOnBothServers(t *testing.T) {
	db := openPq(t, "")
	db.SetMaxOpenConns(1)
	statement, err := db.Prepare("SELECT $1::int * 2, pg_backend_pid()")
	check(t, err)
	other, err := db.Prepare("SELECT $1::text || '!'")
	check(t, err)
	var twice, pid int
	pids := map[int]bool{}
	ask := func() {
		check(t, statement.QueryRow(21).Scan(&twice, &pid))
		equal(t, 42, twice)
		pids[pid] = true
		var text string
		check(t, other.QueryRow("hey").Scan(&text))
		equal(t, "hey!", text)
	}
	for i := 0; i < rounds; i++ {
		ask()
	}
	awayFrom(t, pid, ask)
	equal(t, true, direct || len(pids) >= 2)
	check(t, statement.Close())
	check(t, other.Close())
}

func TestPqErrorsAndFailedTransactions(t *testing.T) {
	pqTable(t)
	db := openPq(t, "")
	insert, err := db.Prepare("INSERT INTO pq_item (name, qty) VALUES ($1, $2)")
	check(t, err)
	_, err = insert.Exec("once", 1)
	check(t, err)
	for i := 0; i < 20; i++ {
		_, err = insert.Exec("once", 1)
		equal(t, "23505", pqState(err))
		equal(t, "22012", pqState(db.QueryRow("SELECT 1 / $1::int", 0).Scan(new(int))))
		_, err = db.Query("SELECT * FROM nowhere WHERE a = $1", 1)
		equal(t, "42P01", pqState(err))
	}
	tx, err := db.Begin()
	check(t, err)
	_, err = tx.Exec("SAVEPOINT s")
	check(t, err)
	_, err = tx.Exec("SELECT 1 / 0")
	equal(t, "22012", pqState(err))
	_, err = tx.Exec("SELECT $1::int", 1)
	equal(t, "25P02", pqState(err))
	_, err = tx.Exec("ROLLBACK TO s")
	check(t, err)
	_, err = tx.Exec("INSERT INTO pq_item (name, qty) VALUES ('after', 1)")
	check(t, err)
	check(t, tx.Commit())
	equal(t, []string{"after", "once"}, directRows(t, "SELECT name FROM pq_item ORDER BY name"))
}

func TestPqCopyIn(t *testing.T) {
	pqTable(t)
	db := openPq(t, "")
	for _, bad := range []bool{false, true} {
		tx, err := db.Begin()
		check(t, err)
		copying, err := tx.Prepare(pq.CopyIn("pq_item", "name", "qty"))
		check(t, err)
		for i := 0; i < 5000 && err == nil; i++ {
			_, err = copying.Exec(fmt.Sprintf("copied %t %d", bad, i), i)
		}
		if bad {
			if err == nil {
				_, err = copying.Exec("copied false 7", 1)
			}
			if err == nil {
				_, err = copying.Exec()
			}
			equal(t, "23505", pqState(err))
			copying.Close()
			check(t, tx.Rollback())
		} else {
			_, err = copying.Exec()
			check(t, err)
			check(t, copying.Close())
			check(t, tx.Commit())
		}
		equal(t, []string{"5000"}, directRows(t, "SELECT count(*) FROM pq_item"))
	}
}

func TestPqContextCancelsAQuery(t *testing.T) {
	db := openPq(t, "")
	for i := 0; i < 3; i++ {
		marker := fmt.Sprint("pq cancel ", i)
		cancellable, cancel := context.WithCancel(ctx)
		done := make(chan error)
		go func() {
			_, err := db.ExecContext(cancellable, "SELECT pg_sleep(60) /* "+marker+" */")
			done <- err
		}()
		running(t, marker)
		cancel()
		if err := <-done; err != context.Canceled && pqState(err) != "57014" {
			t.Fatal(err)
		}
		for len(directRows(t, "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(60) /* "+marker+"%'")) > 0 {
		}
		var one int
		check(t, db.QueryRow("SELECT $1::int", 1).Scan(&one))
	}
}

func TestPqKilledServerAndReconnect(t *testing.T) {
	db := openPq(t, "")
	done := make(chan error)
	go func() {
		// On a connection of its own: database/sql would try again by itself on another.
		conn, err := db.Conn(ctx)
		if err == nil {
			_, err = conn.ExecContext(ctx, "SELECT pg_sleep(60) /* pq kill */")
			conn.Close()
		}
		done <- err
	}()
	directRows(t, "SELECT pg_terminate_backend("+running(t, "pq kill")+")")
	if direct {
		// All that lib/pq says of an error with which PostgreSQL ends the connection. pgvalet keeps the connection.
		equal(t, driver.ErrBadConn, <-done)
	} else {
		equal(t, "57P01", pqState(<-done))
	}
	for i := 0; i < 10; i++ {
		var n int
		check(t, db.QueryRow("SELECT $1::int", i).Scan(&n))
		equal(t, i, n)
	}
}

func TestPqSeveralResultsAndTypes(t *testing.T) {
	db := openPq(t, "")
	rows, err := db.Query("SELECT 1; SELECT 2 UNION ALL SELECT 3 ORDER BY 1")
	check(t, err)
	values := []int{}
	for more := true; more; more = rows.NextResultSet() {
		for rows.Next() {
			var n int
			check(t, rows.Scan(&n))
			values = append(values, n)
		}
	}
	check(t, rows.Err())
	equal(t, []int{1, 2, 3}, values)

	var raw []byte
	var list []string
	var none sql.NullString
	var big int64
	check(t, db.QueryRow("SELECT $1::bytea, $2::text[], $3::text, $4::bigint", []byte{0, 255}, pq.Array([]string{"a,b", `c"d`}), nil, int64(1)<<62).
		Scan(&raw, pq.Array(&list), &none, &big))
	equal(t, "[0 255] [a,b c\"d] {%!s(bool=false)", fmt.Sprintf("%v %v {%%!s(bool=%v)", raw, list, none.Valid))
	equal(t, int64(1)<<62, big)
}

func TestPqSettingsOfTheConnection(t *testing.T) {
	db := openPq(t, "application_name=shop search_path=pg_catalog,public TimeZone=Asia/Tokyo")
	for i := 0; i < 20; i++ {
		var settings string
		check(t, db.QueryRow("SELECT concat_ws(' ', current_setting('application_name'), current_setting('search_path'), current_setting('TimeZone'))").Scan(&settings))
		equal(t, "shop pg_catalog,public Asia/Tokyo", settings)
	}
}

func TestPqManyGoroutines(t *testing.T) {
	pqTable(t)
	directRows(t, "INSERT INTO pq_item (name, qty) SELECT 'item ' || i, 0 FROM generate_series(0, 9) i")
	db := openPq(t, "")
	db.SetMaxOpenConns(10)
	var group sync.WaitGroup
	failures := make(chan error, 20)
	for worker := 0; worker < 20; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			for i := 0; i < rounds/5; i++ {
				tx, err := db.Begin()
				if err == nil {
					_, err = tx.Exec("UPDATE pq_item SET qty = qty + $1 WHERE name = $2", 1, fmt.Sprint("item ", worker%10))
				}
				if err == nil {
					err = tx.Commit()
				}
				if err != nil {
					failures <- err
					return
				}
			}
		}(worker)
	}
	group.Wait()
	close(failures)
	check(t, <-failures)
	equal(t, []string{fmt.Sprint(20 * (rounds / 5))}, directRows(t, "SELECT sum(qty) FROM pq_item"))
}
