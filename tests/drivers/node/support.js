// What the suites share: the size of the run, a look at PostgreSQL behind pgvalet, and moves to another server.
'use strict'

const { Client } = require('pg')

const smoke = Boolean(process.env.SMOKE)
const isDirect = Boolean(process.env.DRIVERS_DIRECT)

/** How often loops turn. */
const rounds = smoke ? 30 : 300

/** A client of PostgreSQL itself, whatever the suite talks to. */
const directLogin = { host: process.env.DIRECT_HOST, port: Number(process.env.DIRECT_PORT) }

/** The rows of a query, asked of PostgreSQL itself. */
async function direct(text, values = []) {
  const client = new Client(directLogin)
  await client.connect()
  try {
    return (await client.query(text, values)).rows
  } finally {
    await client.end()
  }
}

/**
 * Does `work` while another client holds the server with this process id, so that it happens on the other server of the
 * pool. Straight against PostgreSQL there is nothing to move to.
 */
async function awayFrom(pid, work) {
  if (isDirect) return work()
  const holders = [new Client(), new Client()]
  for (const holder of holders) await holder.connect()
  try {
    for (const holder of holders) {
      await holder.query('BEGIN')
      if ((await holder.query('SELECT pg_backend_pid() AS pid')).rows[0].pid === pid) {
        for (const other of holders.filter((h) => h !== holder)) await other.query('ROLLBACK')
        return await work()
      }
    }
    throw new Error(`no server of the pool has process id ${pid}`)
  } finally {
    for (const holder of holders) await holder.end()
  }
}

/** Resolves once PostgreSQL runs a query with this comment in it; for cancels and kills that must not come too early. */
async function running(marker) {
  const client = new Client(directLogin)
  await client.connect()
  try {
    for (;;) {
      const { rows } = await client.query(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE $1 AND state = 'active' AND pid <> pg_backend_pid()",
        [`%${marker}%`],
      )
      if (rows.length > 0) return rows[0].pid
    }
  } finally {
    await client.end()
  }
}

module.exports = { awayFrom, direct, directLogin, isDirect, rounds, running, smoke }
