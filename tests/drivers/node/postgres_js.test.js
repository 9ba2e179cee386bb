// postgres.js at its defaults: it prepares every statement, pipelines, and describes a statement before it binds.
'use strict'

const assert = require('node:assert/strict')
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const { after, before, test } = require('node:test')

const postgres = require('postgres')

const { awayFrom, direct, isDirect, rounds, running } = require('./support')

/** Does `work` with a pool of its own. */
async function withSql(options, work) {
  const sql = postgres({ onnotice: () => {}, ...options })
  try {
    return await work(sql)
  } finally {
    await sql.end()
  }
}

before(async () => {
  await direct('DROP TABLE IF EXISTS pjs_item, pjs_account')
  await direct('CREATE TABLE pjs_item (id serial PRIMARY KEY, name text UNIQUE NOT NULL, qty int NOT NULL, details jsonb)')
  await direct('CREATE TABLE pjs_account (id int PRIMARY KEY, balance int NOT NULL)')
})

after(() => direct('DROP TABLE pjs_item, pjs_account'))

test('CRUD with helpers, seen by PostgreSQL', () =>
  withSql({}, async (sql) => {
    const items = [{ name: 'bolt', qty: 5, details: { size: 3 } }, { name: 'nut', qty: 7, details: null }]
    const inserted = await sql`INSERT INTO pjs_item ${sql(items)} RETURNING id, name`
    assert.deepEqual([inserted.count, inserted.map((r) => r.name)], [2, ['bolt', 'nut']])
    const updated = await sql`UPDATE pjs_item SET ${sql({ qty: 6 }, 'qty')} WHERE name = ${'bolt'}`
    assert.equal(updated.count, 1)
    assert.deepEqual([...(await sql`SELECT name, qty, details FROM pjs_item WHERE name IN ${sql(['bolt', 'nut'])} ORDER BY name`)], [
      { name: 'bolt', qty: 6, details: { size: 3 } },
      { name: 'nut', qty: 7, details: null },
    ])
    assert.equal((await sql`DELETE FROM pjs_item WHERE name = ${'nut'}`).count, 1)
    assert.deepEqual(await direct('SELECT name, qty FROM pjs_item'), [{ name: 'bolt', qty: 6 }])
  }))

test('a transaction commits, or is rolled back by an exception', () =>
  withSql({}, async (sql) => {
    const value = await sql.begin(async (sql) => {
      await sql`INSERT INTO pjs_item (name, qty) VALUES ('committed', 1)`
      assert.deepEqual(await direct("SELECT 1 FROM pjs_item WHERE name = 'committed'"), [])
      return 'done'
    })
    assert.equal(value, 'done')
    await assert.rejects(
      sql.begin(async (sql) => {
        await sql`INSERT INTO pjs_item (name, qty) VALUES ('gone', 1)`
        await sql`INSERT INTO pjs_item (name, qty) VALUES ('committed', 2)`
      }),
      { code: '23505' },
    )
    assert.deepEqual(await direct("SELECT name FROM pjs_item WHERE name IN ('committed', 'gone')"), [{ name: 'committed' }])
  }))

test('savepoints undo the part that failed', () =>
  withSql({}, async (sql) => {
    await sql.begin(async (sql) => {
      await sql`INSERT INTO pjs_item (name, qty) VALUES ('outer', 1)`
      await assert.rejects(
        sql.savepoint(async (sql) => {
          await sql`INSERT INTO pjs_item (name, qty) VALUES ('inner', 1)`
          await sql`SELECT 1 / ${0}::int`
        }),
        { code: '22012' },
      )
      await sql.savepoint((sql) => sql`INSERT INTO pjs_item (name, qty) VALUES ('second', 1)`)
    })
    assert.deepEqual(await direct("SELECT name FROM pjs_item WHERE name IN ('outer', 'inner', 'second') ORDER BY 1"), [{ name: 'outer' }, { name: 'second' }])
  }))

test('a pipelined transaction gives its results in order', () =>
  withSql({}, async (sql) => {
    const results = await sql.begin((sql) => Array.from({ length: 50 }, (_, i) => sql`SELECT ${i}::int AS i, txid_current()::text AS tx`))
    assert.deepEqual(results.map((r) => r[0].i), Array.from({ length: 50 }, (_, i) => i))
    assert.equal(new Set(results.map((r) => r[0].tx)).size, 1, 'one transaction')
  }))

test('prepared statements in loops on both servers of the pool', () =>
  withSql({ max: 1 }, async (sql) => {
    const pids = new Set()
    const ask = async (i) => {
      const [row] = await sql`SELECT ${i}::int + 1 AS next, pg_backend_pid() AS pid`
      assert.equal(row.next, i + 1)
      pids.add(row.pid)
      return row.pid
    }
    let pid
    for (let i = 0; i < rounds; i++) {
      pid = await ask(i)
      assert.equal((await sql`SELECT upper(${`n${i}`}) AS up`)[0].up, `N${i}`)
    }
    await awayFrom(pid, () => ask(1))
    if (!isDirect) assert.ok(pids.size >= 2, 'the statements ran on both servers')
  }))

test('many queries at once are pipelined; an error fails only its own', () =>
  withSql({ max: 4 }, async (sql) => {
    const answers = await Promise.allSettled(
      Array.from({ length: 2 * rounds }, (_, i) => (i % 10 === 5 ? sql`SELECT 1 / (${i}::int - ${i}::int)` : sql`SELECT ${i}::int AS i`)),
    )
    answers.forEach((answer, i) => {
      if (i % 10 === 5) assert.equal(answer.reason.code, '22012')
      else assert.deepEqual([...answer.value], [{ i }])
    })
  }))

test('a pool of 10 connections moves money between accounts, each transaction once', () =>
  withSql({}, async (sql) => {
    await sql`INSERT INTO pjs_account SELECT i, 1000 FROM generate_series(1, 10) i`
    await Promise.all(
      Array.from({ length: rounds }, (_, i) => {
        const [from, to] = [i % 10, (i * 7 + 3) % 10].map((n) => n + 1).sort((a, b) => a - b)
        return sql.begin(async (sql) => {
          await sql`UPDATE pjs_account SET balance = balance - ${1} WHERE id = ${from}`
          await sql`UPDATE pjs_account SET balance = balance + ${1} WHERE id = ${to}`
        })
      }),
    )
    assert.deepEqual(await direct('SELECT sum(balance)::int AS total FROM pjs_account'), [{ total: 10000 }])
  }))

test('errors carry what PostgreSQL says, and the statement goes on', () =>
  withSql({ max: 1 }, async (sql) => {
    const insert = (name) => sql`INSERT INTO pjs_item (name, qty) VALUES (${name}, 1)`
    await insert('once')
    for (let i = 0; i < 3; i++)
      await assert.rejects(insert('once'), { code: '23505', constraint_name: 'pjs_item_name_key', table_name: 'pjs_item' })
    await insert('again')
    await assert.rejects(sql`SELECT nothing FROM nowhere`, { code: '42P01' })
    await assert.rejects(sql`SELECT ${'x'}::int`, { code: '22P02' })
    await assert.rejects(sql`SELEC 1`, { code: '42601', position: '1' })
    assert.equal((await sql`SELECT 1 AS one`)[0].one, 1)
  }))

test('a cached plan that became invalid is prepared again', () =>
  withSql({ max: 1 }, async (sql) => {
    await direct('CREATE TABLE pjs_changing (a int)')
    await direct('INSERT INTO pjs_changing VALUES (1)')
    try {
      const read = () => sql`SELECT * FROM pjs_changing`
      assert.deepEqual([...(await read())], [{ a: 1 }])
      await direct("ALTER TABLE pjs_changing ADD b text DEFAULT 'new'")
      assert.deepEqual([...(await read())], [{ a: 1, b: 'new' }])
    } finally {
      await direct('DROP TABLE pjs_changing')
    }
  }))

test('types come back as they went', () =>
  withSql({}, async (sql) => {
    const when = new Date('2024-02-29T12:34:56.789Z')
    const [row] = await sql`SELECT ${sql.json({ k: [1, 'é'] })}::jsonb AS j, ${Buffer.from([0, 255])}::bytea AS b,
      ${['a,b', 'c"d']}::text[] AS a, ${when}::timestamptz AS t, ${'9007199254740993'}::bigint AS big, ${null}::text AS none, ${true}::bool AS yes`
    assert.deepEqual(row, { j: { k: [1, 'é'] }, b: Buffer.from([0, 255]), a: ['a,b', 'c"d'], t: when, big: '9007199254740993', none: null, yes: true })
  }))

test('a cursor reads in portions and can stop early', () =>
  withSql({}, async (sql) => {
    const sizes = []
    await sql`SELECT i FROM generate_series(1, ${25}::int) i`.cursor(10, (rows) => sizes.push(rows.length))
    assert.deepEqual(sizes, [10, 10, 5])
    let seen = 0
    for await (const [row] of sql`SELECT i FROM generate_series(1, 100000) i`.cursor()) {
      assert.equal(row.i, ++seen)
      if (seen === 7) break
    }
    await sql`SELECT 10 / (5 - i) AS q FROM generate_series(1, 9) i`.cursor(2, () => {}).then(
      () => assert.fail('the fifth row divides by zero'),
      (error) => assert.equal(error.code, '22012'),
    )
    assert.equal((await sql`SELECT 1 AS one`)[0].one, 1)
  }))

test('rows one by one', () =>
  withSql({}, async (sql) => {
    let total = 0
    await sql`SELECT i FROM generate_series(1, 5000) i`.forEach((row) => (total += row.i))
    assert.equal(total, 12502500)
  }))

test('COPY in and out', () =>
  withSql({}, async (sql) => {
    const lines = Array.from({ length: 5000 }, (_, i) => `copied ${i}\t${i}\n`)
    await pipeline(Readable.from(lines), await sql`COPY pjs_item (name, qty) FROM STDIN`.writable())
    assert.deepEqual(await direct("SELECT count(*)::int AS n, sum(qty)::int AS sum FROM pjs_item WHERE name LIKE 'copied %'"), [{ n: 5000, sum: 12497500 }])
    // Not more than a stream buffers: postgres.js 3.4 does not go on reading a COPY that it had to pause.
    let text = ''
    for await (const chunk of await sql`COPY (SELECT name, qty FROM pjs_item WHERE name LIKE 'copied %' ORDER BY qty LIMIT 500) TO STDOUT`.readable()) text += chunk
    assert.equal(text, lines.slice(0, 500).join(''))
    assert.equal((await sql`SELECT 1 AS one`)[0].one, 1)
  }))

test('a large object is written and read in transactions that the driver makes', () =>
  withSql({}, async (sql) => {
    const content = Buffer.from(Array.from({ length: 100000 }, (_, i) => i % 251))
    const [{ oid }] = await sql`SELECT lo_create(0) AS oid`
    const writer = await sql.largeObject(oid)
    await pipeline(Readable.from([content]), await writer.writable())
    await writer.close()
    const reader = await sql.largeObject(oid)
    await reader.seek(50000)
    assert.deepEqual(Buffer.from((await reader.read(10))[0].data), content.subarray(50000, 50010))
    await reader.close()
    assert.deepEqual(await direct('SELECT lo_get($1) = $2::bytea AS same, lo_unlink($1)', [oid, content]), [{ same: true, lo_unlink: 1 }])
  }))

test('unprepared, simple and multi-statement queries', () =>
  withSql({ max: 1 }, async (sql) => {
    assert.deepEqual([...(await sql.unsafe('SELECT $1::int AS i', [4]))], [{ i: 4 }])
    const results = await sql.unsafe('SELECT 1 AS a; SELECT 2 AS b')
    assert.deepEqual(results.map((r) => [...r]), [[{ a: 1 }], [{ b: 2 }]])
    assert.deepEqual([...(await sql`SELECT 1 AS x; SELECT 2 AS y`.simple())].map((r) => [...r]), [[{ x: 1 }], [{ y: 2 }]])
    const description = await sql`SELECT ${1}::int AS i, name FROM pjs_item`.describe()
    assert.deepEqual([description.types, description.columns.map((c) => [c.name, c.type])], [[23], [['i', 23], ['name', 25]]])
  }))

test('a reserved connection', () =>
  withSql({}, async (sql) => {
    const reserved = await sql.reserve()
    try {
      await reserved`BEGIN`
      await reserved`INSERT INTO pjs_item (name, qty) VALUES ('reserved', 1)`
      await reserved`ROLLBACK`
    } finally {
      reserved.release()
    }
    assert.deepEqual(await direct("SELECT 1 FROM pjs_item WHERE name = 'reserved'"), [])
  }))

test('a cancel ends the query and only the query', () =>
  withSql({ max: 1 }, async (sql) => {
    const marker = `cancel ${process.pid}`
    const query = sql.unsafe(`SELECT pg_sleep(60) /* ${marker} */`)
    const cancelled = assert.rejects(query.execute(), { code: '57014' })
    await running(marker)
    query.cancel()
    await cancelled
    assert.equal((await sql`SELECT 1 AS one`)[0].one, 1)
  }))

// PostgreSQL itself closes the connection, and postgres.js 3.4 may wait forever if a query comes before it has noticed.
test('a killed server is an error of its query, and the pool goes on', { skip: isDirect }, () =>
  withSql({ max: 2 }, async (sql) => {
    const marker = `kill ${process.pid}`
    const killed = assert.rejects(sql.unsafe(`SELECT pg_sleep(60) /* ${marker} */`).execute(), { code: '57P01' })
    await direct('SELECT pg_terminate_backend($1)', [await running(marker)])
    await killed
    for (let i = 0; i < 10; i++) assert.equal((await sql`SELECT ${i}::int AS i`)[0].i, i)
  }))

test('settings of the connection hold in every transaction', () =>
  withSql({ max: 1, connection: { application_name: 'shop', search_path: 'pg_catalog,public', TimeZone: 'Asia/Tokyo' } }, async (sql) => {
    for (let i = 0; i < 20; i++) {
      const [row] = await sql`SELECT current_setting('application_name') AS app, current_setting('search_path') AS path, current_setting('TimeZone') AS zone`
      assert.deepEqual(row, { app: 'shop', path: 'pg_catalog,public', zone: 'Asia/Tokyo' })
    }
  }))
