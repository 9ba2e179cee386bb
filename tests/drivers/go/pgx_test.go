package drivers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

// connectPgx is a connection of pgx. It prepares every statement and keeps 512 of them.
func connectPgx(t *testing.T, options string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(ctx, options)
	check(t, err)
	t.Cleanup(func() { conn.Close(ctx) })
	return conn
}

// pgxState is the SQLSTATE of an error.
func pgxState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func pgxTable(t *testing.T) {
	directRows(t, "DROP TABLE IF EXISTS pgx_item; CREATE TABLE pgx_item (id serial PRIMARY KEY, name text UNIQUE NOT NULL, qty int NOT NULL)")
	t.Cleanup(func() { directRows(t, "DROP TABLE pgx_item") })
}

func TestPgxCrudInATransaction(t *testing.T) {
	pgxTable(t)
	conn := connectPgx(t, "")
	err := conn.BeginFunc(ctx, func(tx pgx.Tx) error {
		var id int
		check(t, tx.QueryRow(ctx, "INSERT INTO pgx_item (name, qty) VALUES ($1, $2) RETURNING id", "bolt", 5).Scan(&id))
		tag, err := tx.Exec(ctx, "UPDATE pgx_item SET qty = qty + 1 WHERE id = $1", id)
		check(t, err)
		equal(t, int64(1), tag.RowsAffected())
		equal(t, []string{}, directRows(t, "SELECT name FROM pgx_item"))
		// A nested transaction is a savepoint.
		equal(t, "23505", pgxState(tx.BeginFunc(ctx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, "INSERT INTO pgx_item (name, qty) VALUES ($1, $2)", "bolt", 1)
			return err
		})))
		return nil
	})
	check(t, err)
	equal(t, []string{"6"}, directRows(t, "SELECT qty FROM pgx_item"))
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	check(t, err)
	_, err = tx.Exec(ctx, "DELETE FROM pgx_item")
	check(t, err)
	check(t, tx.Rollback(ctx))
	equal(t, []string{"bolt"}, directRows(t, "SELECT name FROM pgx_item"))
}

func TestPgxCachedStatementsOnBothServers(t *testing.T) {
	conn := connectPgx(t, "")
	var next, pid int
	pids := map[int]bool{}
	ask := func(i int) {
		check(t, conn.QueryRow(ctx, "SELECT $1::int + 1, pg_backend_pid()", i).Scan(&next, &pid))
		equal(t, i+1, next)
		pids[pid] = true
		var up string
		check(t, conn.QueryRow(ctx, "SELECT upper($1)", fmt.Sprint("n", i)).Scan(&up))
		equal(t, fmt.Sprint("N", i), up)
	}
	for i := 0; i < rounds; i++ {
		ask(i)
	}
	awayFrom(t, pid, func() { ask(1) })
	equal(t, true, direct || len(pids) >= 2)
}

func TestPgxMoreStatementsThanAnybodyKeeps(t *testing.T) {
	conn := connectPgx(t, "")
	for round := 0; round < 2; round++ {
		// Above both the cache of pgx (512) and the statements that pgvalet keeps on one server.
		for i := 0; i < 2*rounds; i++ {
			var n int
			check(t, conn.QueryRow(ctx, fmt.Sprintf("SELECT %d + $1::int", i), 1).Scan(&n))
			equal(t, i+1, n)
		}
	}
}

func TestPgxErrors(t *testing.T) {
	pgxTable(t)
	conn := connectPgx(t, "")
	_, err := conn.Exec(ctx, "INSERT INTO pgx_item (name, qty) VALUES ('once', 1)")
	check(t, err)
	for i := 0; i < 20; i++ {
		_, err = conn.Exec(ctx, "INSERT INTO pgx_item (name, qty) VALUES ($1, 1)", "once")
		equal(t, "23505", pgxState(err))
		equal(t, "22012", pgxState(conn.QueryRow(ctx, "SELECT 1 / $1::int", 0).Scan(new(int))))
		_, err = conn.Exec(ctx, "SELECT * FROM nowhere WHERE a = $1", 1)
		equal(t, "42P01", pgxState(err))
		_, err = conn.Exec(ctx, "SELEC 1")
		equal(t, "42601", pgxState(err))
	}
	tx, err := conn.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, "SELECT 1 / 0")
	equal(t, "22012", pgxState(err))
	_, err = tx.Exec(ctx, "SELECT $1::int", 1)
	equal(t, "25P02", pgxState(err))
	equal(t, pgx.ErrTxCommitRollback, tx.Commit(ctx))
}

func TestPgxBatches(t *testing.T) {
	pgxTable(t)
	conn := connectPgx(t, "")
	for round := 0; round < 10; round++ {
		batch := &pgx.Batch{}
		for i := 0; i < rounds; i++ {
			batch.Queue("INSERT INTO pgx_item (name, qty) VALUES ($1, $2)", fmt.Sprint("batch ", round, " ", i), i)
			batch.Queue("SELECT $1::int * 2", i)
		}
		results := conn.SendBatch(ctx, batch)
		for i := 0; i < rounds; i++ {
			tag, err := results.Exec()
			check(t, err)
			equal(t, int64(1), tag.RowsAffected())
			var n int
			check(t, results.QueryRow().Scan(&n))
			equal(t, 2*i, n)
		}
		check(t, results.Close())
	}
	equal(t, []string{fmt.Sprint(10 * rounds)}, directRows(t, "SELECT count(*) FROM pgx_item"))

	// An error undoes the whole batch, and what follows it is not done.
	for round := 0; round < 5; round++ {
		batch := &pgx.Batch{}
		batch.Queue("INSERT INTO pgx_item (name, qty) VALUES ($1, 1)", "undone")
		batch.Queue("SELECT 1 / $1::int", 0)
		batch.Queue("INSERT INTO pgx_item (name, qty) VALUES ($1, 1)", "never")
		results := conn.SendBatch(ctx, batch)
		_, err := results.Exec()
		check(t, err)
		_, err = results.Exec()
		equal(t, "22012", pgxState(err))
		results.Close()
		var one int
		check(t, conn.QueryRow(ctx, "SELECT $1::int", 1).Scan(&one))
	}
	equal(t, []string{}, directRows(t, "SELECT name FROM pgx_item WHERE name IN ('undone', 'never')"))
}

func TestPgxCopy(t *testing.T) {
	pgxTable(t)
	conn := connectPgx(t, "")
	source := make([][]interface{}, 5000)
	for i := range source {
		source[i] = []interface{}{fmt.Sprint("copied ", i), i}
	}
	for round := 0; round < 2; round++ {
		count, err := conn.CopyFrom(ctx, pgx.Identifier{"pgx_item"}, []string{"name", "qty"}, pgx.CopyFromRows(source))
		if round == 0 {
			check(t, err)
			equal(t, int64(5000), count)
		} else {
			equal(t, "23505", pgxState(err))
		}
	}
	equal(t, []string{"5000"}, directRows(t, "SELECT count(*) FROM pgx_item"))
	var out bytes.Buffer
	tag, err := conn.PgConn().CopyTo(ctx, &out, "COPY (SELECT qty FROM pgx_item ORDER BY qty) TO STDOUT")
	check(t, err)
	equal(t, int64(5000), tag.RowsAffected())
	equal(t, true, strings.HasPrefix(out.String(), "0\n1\n2\n") && strings.HasSuffix(out.String(), "4999\n"))
	var one int
	check(t, conn.QueryRow(ctx, "SELECT $1::int", 1).Scan(&one))
}

func TestPgxContextCancelsAQuery(t *testing.T) {
	pool, err := pgxpool.Connect(ctx, "")
	check(t, err)
	defer pool.Close()
	for i := 0; i < 3; i++ {
		marker := fmt.Sprint("pgx cancel ", i)
		cancellable, cancel := context.WithCancel(ctx)
		done := make(chan error)
		go func() {
			_, err := pool.Exec(cancellable, "SELECT pg_sleep(60) /* "+marker+" */")
			done <- err
		}()
		running(t, marker)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		// pgx closes the connection and sends a cancel: the query does not go on.
		for len(directRows(t, "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(60) /* "+marker+"%'")) > 0 {
		}
		var one int
		check(t, pool.QueryRow(ctx, "SELECT $1::int", 1).Scan(&one))
	}
	// By hand, with the connection kept.
	conn := connectPgx(t, "")
	done := make(chan error)
	go func() {
		_, err := conn.Exec(ctx, "SELECT pg_sleep(60) /* pgx by hand */")
		done <- err
	}()
	running(t, "pgx by hand")
	check(t, conn.PgConn().CancelRequest(ctx))
	equal(t, "57014", pgxState(<-done))
	var one int
	check(t, conn.QueryRow(ctx, "SELECT $1::int", 1).Scan(&one))
}

func TestPgxKilledServerAndReconnect(t *testing.T) {
	pool, err := pgxpool.Connect(ctx, "")
	check(t, err)
	defer pool.Close()
	done := make(chan error)
	go func() {
		_, err := pool.Exec(ctx, "SELECT pg_sleep(60) /* pgx kill */")
		done <- err
	}()
	directRows(t, "SELECT pg_terminate_backend("+running(t, "pgx kill")+")")
	equal(t, "57P01", pgxState(<-done))
	for i := 0; i < 10; i++ {
		var n int
		check(t, pool.QueryRow(ctx, "SELECT $1::int", i).Scan(&n))
		equal(t, i, n)
	}
}

func TestPgxTypes(t *testing.T) {
	conn := connectPgx(t, "")
	when := time.Date(2024, 2, 29, 12, 34, 56, 789012000, time.UTC)
	for i := 0; i < 10; i++ {
		var raw []byte
		var list []string
		var none *string
		var big int64
		var at time.Time
		var details map[string]interface{}
		check(t, conn.QueryRow(ctx, "SELECT $1::bytea, $2::text[], $3::text, $4::bigint, $5::timestamptz, $6::jsonb",
			[]byte{0, 255}, []string{"a,b", `c"d`}, nil, int64(1)<<62, when, map[string]interface{}{"k": "é"}).Scan(&raw, &list, &none, &big, &at, &details))
		equal(t, []byte{0, 255}, raw)
		equal(t, []string{"a,b", `c"d`}, list)
		equal(t, true, none == nil && big == int64(1)<<62 && at.Equal(when))
		equal(t, map[string]interface{}{"k": "é"}, details)
	}
}

func TestPgxPreparedByNameAndSimpleProtocol(t *testing.T) {
	conn := connectPgx(t, "")
	description, err := conn.Prepare(ctx, "mine", "SELECT $1::int + 1 AS next")
	check(t, err)
	equal(t, []uint32{23}, description.ParamOIDs)
	for i := 0; i < rounds; i++ {
		var n int
		check(t, conn.QueryRow(ctx, "mine", i).Scan(&n))
		equal(t, i+1, n)
		check(t, conn.QueryRow(ctx, "SELECT $1::int", pgx.QuerySimpleProtocol(true), i).Scan(&n))
		equal(t, i, n)
	}
	check(t, conn.Deallocate(ctx, "mine"))
	again, err := conn.Prepare(ctx, "mine", "SELECT $1::text || '!'")
	check(t, err)
	equal(t, []uint32{25}, again.ParamOIDs)
	equal(t, "42P05", pgxState(func() error { _, err := conn.PgConn().Prepare(ctx, "mine", "SELECT 1", nil); return err }()))
}

func TestPgxSettingsOfTheConnection(t *testing.T) {
	conn := connectPgx(t, "application_name=shop search_path=pg_catalog,public TimeZone=Asia/Tokyo")
	for i := 0; i < 20; i++ {
		var settings string
		check(t, conn.QueryRow(ctx, "SELECT concat_ws(' ', current_setting('application_name'), current_setting('search_path'), current_setting('TimeZone'))").Scan(&settings))
		equal(t, "shop pg_catalog,public Asia/Tokyo", settings)
	}
	equal(t, "Asia/Tokyo", conn.PgConn().ParameterStatus("TimeZone"))
}

func TestPgxPoolOfManyGoroutines(t *testing.T) {
	pgxTable(t)
	directRows(t, "INSERT INTO pgx_item (name, qty) SELECT 'item ' || i, 0 FROM generate_series(0, 9) i")
	pool, err := pgxpool.Connect(ctx, "pool_max_conns=10")
	check(t, err)
	defer pool.Close()
	var group sync.WaitGroup
	failures := make(chan error, 20)
	for worker := 0; worker < 20; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			for i := 0; i < rounds/5; i++ {
				err := pool.BeginFunc(ctx, func(tx pgx.Tx) error {
					_, err := tx.Exec(ctx, "UPDATE pgx_item SET qty = qty + $1 WHERE name = $2", 1, fmt.Sprint("item ", worker%10))
					return err
				})
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
	equal(t, []string{fmt.Sprint(20 * (rounds / 5))}, directRows(t, "SELECT sum(qty) FROM pgx_item"))
}
