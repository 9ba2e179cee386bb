// Connects to each URL of standard input, and says on a line how that went: a value that was asked for, or the error.
const readline = require('node:readline')
const { Client } = require('pg')

// Before version 20 Node tries only the first address that a name has, and the tests' pgvalet listens on 127.0.0.1.
require('node:dns').setDefaultResultOrder('ipv4first')

async function connect(connectionString) {
  const client = new Client({ connectionString, connectionTimeoutMillis: 20000 })
  // What is lost after an error was told already.
  client.on('error', () => {})
  try {
    await client.connect()
    const { rows } = await client.query('SELECT $1::int + 2 AS value', [40])
    await client.end()
    return `value ${rows[0].value}`
  } catch (error) {
    // After some errors `end` has nobody left who would answer.
    client.connection.stream.destroy()
    return `error ${error.code} ${error.message}`
  }
}

async function main() {
  console.log(require('pg/package.json').version)
  for await (const url of readline.createInterface({ input: process.stdin })) {
    console.log((await connect(url)).replaceAll('\n', ' '))
  }
}

main()
