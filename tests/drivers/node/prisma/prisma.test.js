// Prisma with its driver adapter for node-postgres; its query compiler is WebAssembly within the npm package.
'use strict'

const assert = require('node:assert/strict')
const { after, before, test } = require('node:test')

const { PrismaPg } = require('@prisma/adapter-pg')
const { Prisma, PrismaClient } = require('@prisma/client')

const { direct, rounds } = require('../support')

let prisma

before(async () => {
  await direct('DROP TABLE IF EXISTS prisma_book, prisma_author')
  await direct('CREATE TABLE prisma_author (id serial PRIMARY KEY, name text NOT NULL UNIQUE)')
  await direct(`CREATE TABLE prisma_book (id serial PRIMARY KEY, title text NOT NULL, published timestamp(3) NOT NULL DEFAULT now(),
    price decimal(10, 2) NOT NULL, details jsonb, author_id int NOT NULL REFERENCES prisma_author ON DELETE CASCADE)`)
  prisma = new PrismaClient({ adapter: new PrismaPg({}) })
})

after(async () => {
  await prisma.$disconnect()
  await direct('DROP TABLE prisma_book, prisma_author')
})

test('nested create, find with relations, update, delete', async () => {
  const ann = await prisma.author.create({
    data: { name: 'Ann', books: { create: [{ title: 'One', price: '9.99', details: { pages: 3 } }, { title: 'Two', price: '5.00' }] } },
    include: { books: { orderBy: { title: 'asc' } } },
  })
  assert.deepEqual(ann.books.map((b) => [b.title, b.price.toFixed(2), b.details]), [['One', '9.99', { pages: 3 }], ['Two', '5.00', null]])
  await prisma.book.update({ where: { id: ann.books[0].id }, data: { price: { increment: 1 } } })
  await prisma.book.delete({ where: { id: ann.books[1].id } })
  const found = await prisma.author.findUnique({ where: { name: 'Ann' }, include: { books: true, _count: { select: { books: true } } } })
  assert.deepEqual([found.books.map((b) => b.title), found._count.books], [['One'], 1])
  assert.deepEqual(await direct('SELECT title, price FROM prisma_book'), [{ title: 'One', price: '10.99' }])
})

test('createMany, upsert, aggregate, groupBy', async () => {
  const { id: authorId } = await prisma.author.upsert({ where: { name: 'Ann' }, update: {}, create: { name: 'Ann' } })
  const made = await prisma.book.createMany({ data: Array.from({ length: 500 }, (_, i) => ({ title: `Many ${i}`, price: i, authorId })) })
  assert.equal(made.count, 500)
  const { _sum, _count } = await prisma.book.aggregate({ where: { title: { startsWith: 'Many' } }, _sum: { price: true }, _count: true })
  assert.deepEqual([Number(_sum.price), _count], [124750, 500])
  const groups = await prisma.book.groupBy({ by: ['authorId'], _count: true })
  assert.deepEqual(groups, [{ authorId, _count: 501 }])
  assert.equal((await prisma.book.deleteMany({ where: { title: { startsWith: 'Many' } } })).count, 500)
})

test('$transaction with a list and with a function; an exception rolls back', async () => {
  const [bob, count] = await prisma.$transaction([prisma.author.create({ data: { name: 'Bob' } }), prisma.author.count()])
  assert.deepEqual([bob.name, count], ['Bob', 2])
  await assert.rejects(
    prisma.$transaction(async (tx) => {
      await tx.author.create({ data: { name: 'Nobody' } })
      await tx.author.create({ data: { name: 'Bob' } })
    }),
    (error) => error instanceof Prisma.PrismaClientKnownRequestError && error.code === 'P2002',
  )
  await prisma.$transaction((tx) => tx.author.create({ data: { name: 'Cid' } }), { isolationLevel: 'Serializable' })
  assert.deepEqual(await direct('SELECT name FROM prisma_author ORDER BY name'), [{ name: 'Ann' }, { name: 'Bob' }, { name: 'Cid' }])
})

test('raw queries', async () => {
  assert.deepEqual(await prisma.$queryRaw`SELECT ${1}::int + ${2}::int AS sum, ${'x'}::text AS x`, [{ sum: 3, x: 'x' }])
  assert.equal(await prisma.$executeRaw`UPDATE prisma_author SET name = name WHERE name IN (${'Ann'}, ${'Bob'})`, 2)
  await assert.rejects(prisma.$queryRaw`SELECT 1 / ${0}::int`, (error) => /22012/.test(JSON.stringify(error) + error.message))
})

test('many queries at once', async () => {
  const names = ['Ann', 'Bob', 'Cid', 'nobody']
  const found = await Promise.all(Array.from({ length: rounds }, (_, i) => prisma.author.findUnique({ where: { name: names[i % 4] } })))
  found.forEach((author, i) => assert.equal(author?.name, i % 4 === 3 ? undefined : names[i % 4]))
})

test('concurrent transactions each count once', async () => {
  await Promise.all(
    Array.from({ length: 30 }, () =>
      prisma.$transaction(async (tx) => {
        await tx.$queryRaw`SELECT 1 FROM prisma_book WHERE title = 'One' FOR UPDATE`
        const { price } = await tx.book.findFirst({ where: { title: 'One' } })
        await tx.book.updateMany({ where: { title: 'One' }, data: { price: price.plus(1) } })
      }, { maxWait: 20000, timeout: 20000 }),
    ),
  )
  assert.deepEqual(await direct("SELECT price FROM prisma_book WHERE title = 'One'"), [{ price: '40.99' }])
})
