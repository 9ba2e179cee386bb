// Drizzle ORM on node-postgres and on postgres.js, both at their defaults.
'use strict'

const assert = require('node:assert/strict')
const { after, before, describe, test } = require('node:test')

const { asc, eq, relations, sql } = require('drizzle-orm')
const { integer, pgTable, serial, text, timestamp, jsonb } = require('drizzle-orm/pg-core')
const { Pool } = require('pg')
const postgres = require('postgres')

const { direct, rounds } = require('./support')

const authors = pgTable('drizzle_author', {
  id: serial().primaryKey(),
  name: text().notNull().unique(),
})
const books = pgTable('drizzle_book', {
  id: serial().primaryKey(),
  title: text().notNull(),
  copies: integer().notNull().default(0),
  details: jsonb(),
  added: timestamp({ withTimezone: true }).notNull().defaultNow(),
  authorId: integer('author_id').notNull().references(() => authors.id),
})
const schema = {
  authors,
  books,
  authorsRelations: relations(authors, ({ many }) => ({ books: many(books) })),
  booksRelations: relations(books, ({ one }) => ({ author: one(authors, { fields: [books.authorId], references: [authors.id] }) })),
}

/** How to connect with either driver, and how to disconnect. */
const drivers = {
  'node-postgres': () => {
    const pool = new Pool()
    return [require('drizzle-orm/node-postgres').drizzle(pool, { schema }), () => pool.end()]
  },
  'postgres.js': () => {
    const client = postgres()
    return [require('drizzle-orm/postgres-js').drizzle(client, { schema }), () => client.end()]
  },
}

/** PostgreSQL's code for an error; Drizzle wraps what the driver threw. */
const withCode = (code) => (error) => (error.cause ?? error).code === code

for (const [name, connect] of Object.entries(drivers)) {
  describe(name, () => {
    let db, close

    before(async () => {
      await direct('DROP TABLE IF EXISTS drizzle_book, drizzle_author')
      await direct('CREATE TABLE drizzle_author (id serial PRIMARY KEY, name text NOT NULL UNIQUE)')
      await direct(`CREATE TABLE drizzle_book (id serial PRIMARY KEY, title text NOT NULL, copies int NOT NULL DEFAULT 0, details jsonb,
        added timestamptz NOT NULL DEFAULT now(), author_id int NOT NULL REFERENCES drizzle_author)`)
      ;[db, close] = connect()
    })

    after(async () => {
      await close()
      await direct('DROP TABLE drizzle_book, drizzle_author')
    })

    test('insert, update, delete with RETURNING', async () => {
      const [ann] = await db.insert(authors).values({ name: 'Ann' }).returning()
      const added = await db.insert(books).values([
        { title: 'One', authorId: ann.id, details: { pages: [1, 2] } },
        { title: 'Two', authorId: ann.id },
      ]).returning({ id: books.id, title: books.title })
      assert.deepEqual(added.map((b) => b.title), ['One', 'Two'])
      await db.update(books).set({ copies: sql`${books.copies} + 3` }).where(eq(books.title, 'One'))
      await db.delete(books).where(eq(books.title, 'Two'))
      assert.deepEqual(await direct('SELECT title, copies, details FROM drizzle_book'), [{ title: 'One', copies: 3, details: { pages: [1, 2] } }])
    })

    test('an upsert', async () => {
      for (let i = 0; i < 3; i++) {
        const rows = await db.insert(authors).values({ name: 'Ann' }).onConflictDoUpdate({ target: authors.name, set: { name: 'Ann' } }).returning()
        assert.equal(rows[0].name, 'Ann')
      }
    })

    test('joins and relational queries', async () => {
      const joined = await db.select({ title: books.title, author: authors.name }).from(books).innerJoin(authors, eq(books.authorId, authors.id))
      assert.deepEqual([...joined], [{ title: 'One', author: 'Ann' }])
      const nested = await db.query.authors.findMany({ with: { books: { columns: { title: true, copies: true } } }, orderBy: asc(authors.name) })
      assert.deepEqual(nested.map(({ name, books }) => ({ name, books })), [{ name: 'Ann', books: [{ title: 'One', copies: 3 }] }])
      assert.ok((await db.query.books.findFirst()).added instanceof Date)
    })

    test('a transaction commits, an exception rolls it back, a nested one is a savepoint', async () => {
      await db.transaction(async (tx) => {
        await tx.insert(authors).values({ name: 'Bob' })
        await assert.rejects(
          tx.transaction(async (inner) => {
            await inner.insert(authors).values({ name: 'Nobody' })
            await inner.insert(authors).values({ name: 'Bob' })
          }),
          withCode('23505'),
        )
        await tx.transaction((inner) => inner.insert(authors).values({ name: 'Cid' }))
      }, { isolationLevel: 'repeatable read' })
      await assert.rejects(
        db.transaction(async (tx) => {
          await tx.insert(authors).values({ name: 'Dan' })
          tx.rollback()
        }),
      )
      assert.deepEqual(await direct('SELECT name FROM drizzle_author ORDER BY name'), [{ name: 'Ann' }, { name: 'Bob' }, { name: 'Cid' }])
    })

    test('a prepared query in a loop', async () => {
      const byName = db.select().from(authors).where(eq(authors.name, sql.placeholder('name'))).prepare('author_by_name')
      for (let i = 0; i < rounds; i++) {
        const name = ['Ann', 'Bob', 'Cid', 'nobody'][i % 4]
        assert.deepEqual((await byName.execute({ name })).map((a) => a.name), name === 'nobody' ? [] : [name])
      }
    })

    test('concurrent transactions each count once', async () => {
      await Promise.all(Array.from({ length: rounds / 3 }, () =>
        db.transaction(async (tx) => {
          const [{ copies }] = await tx.select({ copies: books.copies }).from(books).where(eq(books.title, 'One')).for('update')
          await tx.update(books).set({ copies: copies + 1 }).where(eq(books.title, 'One'))
        }),
      ))
      assert.deepEqual(await direct("SELECT copies FROM drizzle_book WHERE title = 'One'"), [{ copies: 3 + rounds / 3 }])
    })

    test('errors carry the SQLSTATE', async () => {
      await assert.rejects(db.insert(books).values({ title: 'x', authorId: -1 }), withCode('23503'))
      await assert.rejects(db.execute(sql`SELECT 1 / ${0}::int`), withCode('22012'))
      assert.equal(await db.$count(authors), 3)
    })
  })
}
