-- Transactions, savepoints, cursors, COPY within them, and psql's own rollback to a savepoint after each error.
BEGIN;
INSERT INTO cli_item (id, name) VALUES (50, 'in a transaction') RETURNING *;
SAVEPOINT s;
SELECT 1 / 0;
SELECT 'refused';
ROLLBACK TO s;
SELECT name FROM cli_item WHERE id = 50;
ROLLBACK;
SELECT name FROM cli_item WHERE id = 50;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SHOW transaction_isolation;
DELETE FROM cli_item;
COMMIT;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM cli_item WHERE id <= 20 ORDER BY id;
FETCH 3 FROM c;
MOVE FORWARD 5 IN c;
FETCH BACKWARD 2 FROM c;
CLOSE c;
COPY cli_copy FROM STDIN;
1	one
2	two
\.
SELECT * FROM cli_copy WHERE id < 3 ORDER BY id;
ROLLBACK;
BEGIN;
SELECT 'one';
COMMIT AND CHAIN;
SELECT 'two';
ROLLBACK AND CHAIN;
SELECT 'three';
COMMIT;
COMMIT;
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT 1 / 0;
SELECT 'goes on';
COMMIT;
\set ON_ERROR_ROLLBACK off
\set AUTOCOMMIT off
SELECT 'opens a transaction';
SELECT now() = statement_timestamp() AS first_statement;
ROLLBACK;
\set AUTOCOMMIT on
\set FETCH_COUNT 7
SELECT id FROM cli_item WHERE id <= 20 ORDER BY id;
SELECT 10 / (15 - id) FROM cli_item WHERE id <= 20 ORDER BY id;
SELECT 'after';
