// node-postgres at its defaults: pools, named statements, cursors, COPY, its own pipeline mode.
'use strict'

const assert = require('node:assert/strict')
const { once } = require('node:events')
const { Readable } = require('node:stream')
const { pipeline } = require('node:stream/promises')
const { after, before, test } = require('node:test')

const { Client, Pool } = require('pg')
const copy = require('pg-copy-streams')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')

const { awayFrom, direct, isDirect, rounds, running } = require('./support')

/** Does `work` with a connected client of its own. */
async function withClient(options, work) {
  const client = new Client(options)
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

before(async () => {
  await direct('DROP TABLE IF EXISTS pg_item, pg_account')
  await direct('CREATE TABLE pg_item (id serial PRIMARY KEY, name text UNIQUE NOT NULL, qty int NOT NULL CHECK (qty >= 0))')
  await direct('CREATE TABLE pg_account (id int PRIMARY KEY, balance bigint NOT NULL)')
})

after(() => direct('DROP TABLE pg_item, pg_account'))

test('CRUD in a transaction, seen by PostgreSQL only after COMMIT', () =>
  withClient({}, async (client) => {
    await client.query('BEGIN')
    const inserted = await client.query("INSERT INTO pg_item (name, qty) VALUES ($1, $2), ('nut', 7) RETURNING id", ['bolt', 5])
    assert.equal(inserted.rowCount, 2)
    const updated = await client.query('UPDATE pg_item SET qty = qty + 1 WHERE id = $1', [inserted.rows[0].id])
    assert.equal(updated.rowCount, 1)
    assert.deepEqual(await direct('SELECT name FROM pg_item'), [])
    const committed = await client.query('COMMIT')
    assert.equal(committed.command, 'COMMIT')
    assert.deepEqual(await direct('SELECT name, qty FROM pg_item ORDER BY name'), [
      { name: 'bolt', qty: 6 },
      { name: 'nut', qty: 7 },
    ])
    assert.equal((await client.query('DELETE FROM pg_item WHERE name = $1', ['nut'])).rowCount, 1)
    assert.equal((await client.query('DELETE FROM pg_item WHERE name = $1', ['nut'])).rowCount, 0)
    assert.deepEqual(await direct('SELECT name FROM pg_item'), [{ name: 'bolt' }])
  }))

test('ROLLBACK and savepoints undo what they should', () =>
  withClient({}, async (client) => {
    await client.query('BEGIN')
    await client.query("INSERT INTO pg_item (name, qty) VALUES ('kept', 1)")
    await client.query('SAVEPOINT s')
    await client.query("INSERT INTO pg_item (name, qty) VALUES ('undone', 1)")
    await assert.rejects(client.query("INSERT INTO pg_item (name, qty) VALUES ('kept', 2)"), { code: '23505', table: 'pg_item' })
    await assert.rejects(client.query('SELECT 1'), { code: '25P02' })
    await client.query('ROLLBACK TO SAVEPOINT s')
    await client.query('COMMIT')
    await client.query('BEGIN')
    await client.query("INSERT INTO pg_item (name, qty) VALUES ('rolled back', 1)")
    await client.query('ROLLBACK')
    assert.deepEqual(await direct("SELECT name FROM pg_item WHERE name IN ('kept', 'undone', 'rolled back')"), [{ name: 'kept' }])
  }))

test('COMMIT of a failed transaction answers ROLLBACK', () =>
  withClient({}, async (client) => {
    await client.query('BEGIN')
    await assert.rejects(client.query('SELECT 1 / $1::int', [0]), { code: '22012' })
    assert.equal((await client.query('COMMIT')).command, 'ROLLBACK')
    assert.equal((await client.query('SELECT 1 AS one')).rows[0].one, 1)
  }))

test('named statements in loops on both servers of the pool', () =>
  withClient({}, async (client) => {
    const pids = new Set()
    let pid = 0
    for (let i = 0; i < rounds; i++) {
      const sum = await client.query({ name: 'sum', text: 'SELECT $1::int + $2::int AS sum, pg_backend_pid() AS pid', values: [i, 1] })
      assert.equal(sum.rows[0].sum, i + 1)
      const upper = await client.query({ name: 'upper', text: 'SELECT upper($1) AS up, $2::bytea AS raw', values: [`n${i}`, Buffer.from([0, i % 256])] })
      assert.deepEqual(upper.rows, [{ up: `N${i}`, raw: Buffer.from([0, i % 256]) }])
      pid = sum.rows[0].pid
      pids.add(pid)
    }
    const elsewhere = await awayFrom(pid, () => client.query({ name: 'sum', values: [40, 2] }))
    assert.equal(elsewhere.rows[0].sum, 42)
    pids.add(elsewhere.rows[0].pid)
    if (!isDirect) assert.ok(pids.size >= 2, 'the statement ran on both servers')
  }))

test('two clients use one name for different statements', () =>
  withClient({}, (one) =>
    withClient({}, async (other) => {
      for (let i = 0; i < 10; i++) {
        const [a, b] = await Promise.all([
          one.query({ name: 'mine', text: "SELECT 'one' AS who, $1::int AS n", values: [i] }),
          other.query({ name: 'mine', text: "SELECT 'other' AS who, $1::text AS n", values: [i] }),
        ])
        assert.deepEqual([a.rows[0], b.rows[0]], [
          { who: 'one', n: i },
          { who: 'other', n: String(i) },
        ])
      }
    }),
  ))

test('a named statement goes on after it failed', () =>
  withClient({}, async (client) => {
    const divide = (by) => client.query({ name: 'divide', text: 'SELECT 10 / $1::int AS q', values: [by] })
    assert.equal((await divide(5)).rows[0].q, 2)
    await assert.rejects(divide(0), { code: '22012' })
    await assert.rejects(divide('many'), { code: '22P02' })
    assert.equal((await divide(2)).rows[0].q, 5)
    await assert.rejects(client.query({ name: 'broken', text: 'SELECT nothing FROM nowhere' }), { code: '42P01' })
    assert.equal((await client.query({ name: 'broken', text: 'SELECT 1 AS repaired' })).rows[0].repaired, 1)
  }))

test('a pool of 20 clients moves money between accounts, each transaction once', async () => {
  await direct('INSERT INTO pg_account SELECT i, 1000 FROM generate_series(1, 10) i')
  const pool = new Pool({ max: 20 })
  try {
    await Promise.all(
      Array.from({ length: 20 }, async (_, worker) => {
        for (let i = 0; i < rounds / 10; i++) {
          const client = await pool.connect()
          const [from, to] = [worker % 10, (worker + i + 1) % 10].map((n) => n + 1).sort((a, b) => a - b)
          try {
            await client.query('BEGIN')
            await client.query({ name: 'take', text: 'UPDATE pg_account SET balance = balance - $1 WHERE id = $2', values: [1, from] })
            await client.query({ name: 'give', text: 'UPDATE pg_account SET balance = balance + $1 WHERE id = $2', values: [1, to] })
            await client.query('COMMIT')
          } finally {
            client.release()
          }
        }
      }),
    )
    const { rows } = await pool.query('SELECT sum(balance) AS total, count(*) AS n FROM pg_account')
    assert.deepEqual(rows, [{ total: '10000', n: '10' }])
  } finally {
    await pool.end()
  }
})

test('types come back as they went', () =>
  withClient({}, async (client) => {
    const when = new Date('2024-02-29T12:34:56.789Z')
    const { rows, fields } = await client.query(
      'SELECT $1::jsonb AS j, $2::bytea AS b, $3::text[] AS a, $4::timestamptz AS t, $5::bigint AS big, $6::text AS none, $7::numeric AS n, $8::bool AS yes',
      [{ k: [1, 'é'] }, Buffer.from([0, 255]), ['a,b', 'c"d', null], when, '9007199254740993', null, '1.10', true],
    )
    assert.deepEqual(rows, [
      { j: { k: [1, 'é'] }, b: Buffer.from([0, 255]), a: ['a,b', 'c"d', null], t: when, big: '9007199254740993', none: null, n: '1.10', yes: true },
    ])
    assert.deepEqual(fields.map((f) => f.dataTypeID), [3802, 17, 1009, 1184, 20, 25, 1700, 16])
  }))

test('several statements in one query give several results, up to the one that fails', () =>
  withClient({}, async (client) => {
    const results = await client.query('SELECT 1 AS a; SELECT 2 AS b UNION ALL SELECT 3 ORDER BY 1; SELECT WHERE false')
    assert.deepEqual(results.map((r) => r.rows), [[{ a: 1 }], [{ b: 2 }, { b: 3 }], []])
    await assert.rejects(client.query("INSERT INTO pg_item (name, qty) VALUES ('multi', 1); SELECT 1 / 0"), { code: '22012' })
    assert.deepEqual(await direct("SELECT 1 FROM pg_item WHERE name = 'multi'"), [], 'an implicit transaction is undone')
    assert.deepEqual((await client.query('')).rows, [], 'an empty query')
  }))

test('a cursor reads in portions, within a transaction and without one', () =>
  withClient({}, async (client) => {
    for (const begin of [true, false]) {
      if (begin) await client.query('BEGIN')
      const cursor = client.query(new Cursor('SELECT i FROM generate_series(1, $1::int) i', [25]))
      const sizes = []
      let total = 0
      for (let rows; (rows = await cursor.read(10)).length > 0; ) {
        sizes.push(rows.length)
        total += rows.reduce((sum, row) => sum + row.i, 0)
      }
      assert.deepEqual([sizes, total], [[10, 10, 5], 325])
      await cursor.close()
      if (begin) await client.query('COMMIT')
    }
  }))

test('a cursor closed before its end leaves the connection usable', () =>
  withClient({}, async (client) => {
    for (let i = 0; i < 5; i++) {
      const cursor = client.query(new Cursor('SELECT i FROM generate_series(1, 100000) i'))
      assert.equal((await cursor.read(3)).length, 3)
      await cursor.close()
      assert.equal((await client.query('SELECT 1 AS one')).rows[0].one, 1)
    }
    const failing = client.query(new Cursor('SELECT 10 / (5 - i) AS q FROM generate_series(1, 9) i'))
    assert.equal((await failing.read(3)).length, 3)
    await assert.rejects(failing.read(3), { code: '22012' })
    assert.equal((await client.query('SELECT 2 AS two')).rows[0].two, 2)
  }))

test('cursors of two clients at once keep to their own rows', () =>
  withClient({}, (one) =>
    withClient({}, async (other) => {
      const cursors = [[one, 1], [other, 1001]].map(([client, start]) =>
        client.query(new Cursor('SELECT i FROM generate_series($1::int, $1::int + 99) i', [start])))
      const seen = [[], []]
      for (let i = 0; i < 10; i++)
        for (const n of [0, 1]) seen[n].push(...(await cursors[n].read(10)).map((row) => row.i))
      for (const cursor of cursors) await cursor.close()
      assert.deepEqual(seen, [1, 1001].map((start) => Array.from({ length: 100 }, (_, i) => start + i)))
    }),
  ))

test('a stream of a query hands over every row', () =>
  withClient({}, async (client) => {
    let [count, last] = [0, 0]
    for await (const row of client.query(new QueryStream('SELECT i FROM generate_series(1, $1::int) i', [20000]))) {
      count++
      last = row.i
    }
    assert.deepEqual([count, last], [20000, 20000])
  }))

test('COPY in and out', () =>
  withClient({}, async (client) => {
    const lines = Array.from({ length: 10000 }, (_, i) => `copied ${i}\t${i}\n`)
    const into = client.query(copy.from('COPY pg_item (name, qty) FROM STDIN'))
    await pipeline(Readable.from(lines), into)
    assert.equal(into.rowCount, 10000)
    assert.deepEqual(await direct("SELECT count(*)::int AS n, sum(qty)::int AS sum FROM pg_item WHERE name LIKE 'copied %'"), [{ n: 10000, sum: 49995000 }])
    const out = client.query(copy.to("COPY (SELECT name, qty FROM pg_item WHERE name LIKE 'copied %' ORDER BY qty) TO STDOUT"))
    let text = ''
    for await (const chunk of out) text += chunk
    assert.equal(text, lines.join(''))
    assert.equal((await client.query("DELETE FROM pg_item WHERE name LIKE 'copied %'")).rowCount, 10000)
  }))

test('COPY that fails leaves nothing and a usable connection', () =>
  withClient({}, async (client) => {
    const bad = ['good\t1\n', 'bad\tnot a number\n', ...Array.from({ length: 5000 }, (_, i) => `late ${i}\t1\n`)]
    await assert.rejects(pipeline(Readable.from(bad), client.query(copy.from('COPY pg_item (name, qty) FROM STDIN'))), { code: '22P02' })
    assert.deepEqual(await direct("SELECT 1 FROM pg_item WHERE name = 'good'"), [])
    const abandoned = client.query(copy.from('COPY pg_item (name, qty) FROM STDIN'))
    abandoned.write('half\t1\n')
    abandoned.destroy(new Error('changed my mind'))
    await assert.rejects(once(abandoned, 'finish'), /changed my mind|57014|COPY/)
    assert.equal((await client.query('SELECT 1 AS one')).rows[0].one, 1)
    assert.deepEqual(await direct("SELECT 1 FROM pg_item WHERE name = 'half'"), [])
  }))

test('queries in pipeline mode keep their order, and an error fails only its own', () =>
  withClient({ pipeline: true }, async (client) => {
    const answers = await Promise.allSettled(
      Array.from({ length: rounds }, (_, i) =>
        i % 10 === 5
          ? client.query('SELECT 1 / ($1::int - $1::int)', [i])
          : client.query({ name: `stmt${i % 3}`, text: `SELECT $1::int AS i, ${i % 3} AS kind`, values: [i] }),
      ),
    )
    answers.forEach((answer, i) => {
      if (i % 10 === 5) assert.equal(answer.reason.code, '22012')
      else assert.deepEqual(answer.value.rows, [{ i, kind: i % 3 }])
    })
  }))

test('a cancel ends the query and only the query', () =>
  withClient({}, async (client) => {
    const marker = `cancel ${process.pid}`
    const query = new (require('pg').Query)(`SELECT pg_sleep(60) /* ${marker} */`)
    const cancelled = assert.rejects(
      new Promise((resolve, reject) => query.on('end', resolve).on('error', reject)),
      { code: '57014' },
    )
    client.query(query)
    await running(marker)
    new Client().cancel(client, query)
    await cancelled
    assert.equal((await client.query('SELECT 1 AS one')).rows[0].one, 1)
  }))

test('a killed server is an error of its client, and the pool goes on', async () => {
  const pool = new Pool({ max: 3 })
  pool.on('error', () => {})
  try {
    const marker = `kill ${process.pid}`
    const killed = assert.rejects(pool.query(`SELECT pg_sleep(60) /* ${marker} */`), { code: '57P01' })
    await direct('SELECT pg_terminate_backend($1)', [await running(marker)])
    await killed
    const answers = await Promise.all(Array.from({ length: 10 }, (_, i) => pool.query('SELECT $1::int AS i', [i])))
    assert.deepEqual(answers.map((a) => a.rows[0].i), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  } finally {
    await pool.end()
  }
})

test('clients come and go', async () => {
  for (let i = 0; i < rounds / 10; i++)
    assert.equal(await withClient({}, async (client) => (await client.query('SELECT $1::int AS i', [i])).rows[0].i), i)
  await assert.rejects(withClient({ password: 'wrong' }, () => {}), { code: '28P01' })
})

test('notices reach the client that caused them', () =>
  withClient({}, async (client) => {
    const notices = []
    client.on('notice', (notice) => notices.push([notice.severity, notice.message]))
    await client.query("DO $$ BEGIN RAISE NOTICE 'careful'; RAISE WARNING 'very'; END $$")
    assert.deepEqual(notices, [['NOTICE', 'careful'], ['WARNING', 'very']])
  }))

test('settings of the connection hold in every transaction', () =>
  withClient({ application_name: 'shop', options: '-c search_path=pg_catalog,public -c TimeZone=Asia/Tokyo' }, async (client) => {
    for (let i = 0; i < 20; i++) {
      const { rows } = await client.query("SELECT current_setting('application_name') AS app, current_setting('search_path') AS path, current_setting('TimeZone') AS zone")
      assert.deepEqual(rows, [{ app: 'shop', path: 'pg_catalog,public', zone: 'Asia/Tokyo' }])
    }
    await client.query("SET TIME ZONE 'America/New_York'")
    for (let i = 0; i < 20; i++)
      assert.equal((await client.query("SELECT '2024-01-01 00:00+00'::timestamptz::text AS t")).rows[0].t, '2023-12-31 19:00:00-05')
  }))

test('a client that listens hears others and itself', () =>
  withClient({}, async (client) => {
    const heard = []
    let wake = () => {}
    client.on('notification', ({ channel, payload, processId }) => {
      heard.push({ channel, payload, isOwn: processId === client.processID })
      wake()
    })
    const count = async (wanted) => {
      while (heard.length < wanted) await new Promise((resolve) => (wake = resolve))
    }
    await client.query('LISTEN node_news')
    for (let number = 0; number < 20; number++) await direct(`NOTIFY node_news, '${number}'`)
    await count(20)
    assert.deepEqual(heard, Array.from({ length: 20 }, (_, n) => ({ channel: 'node_news', payload: `${n}`, isOwn: false })))
    await client.query("BEGIN; NOTIFY node_news, 'never'; ROLLBACK")
    await client.query("NOTIFY node_news, 'own'")
    await count(21)
    assert.deepEqual(heard[20], { channel: 'node_news', payload: 'own', isOwn: true })
  }))
