-- Queries, their forms of output, and errors.
SELECT * FROM cli_item ORDER BY id LIMIT 3;
\x on
SELECT * FROM cli_item ORDER BY id LIMIT 1;
\x off
SELECT 1 AS a \; SELECT 2 AS b \; SELECT 3 AS c;
SELECT id, name, price FROM cli_item ORDER BY id LIMIT 2 \gdesc
SELECT 'SELECT ' || i FROM generate_series(1, 3) i \gexec
SELECT 42 AS answer, 'x' AS letter \gset
\echo :answer :letter
SELECT price > 10 AS dear, id % 2 AS odd, count(*) FROM cli_item GROUP BY 1, 2 ORDER BY 1, 2 \crosstabview dear odd count
SELECT 1 / 0;
SELECT * FROM nowhere;
SELEC 1;
\errverbose
\set VERBOSITY sqlstate
SELECT 1 / 0;
\set VERBOSITY default
DO $$ BEGIN RAISE NOTICE 'careful'; RAISE WARNING 'very'; END $$;
\if :ROW_COUNT
\endif
SELECT 'after';
\echo :LAST_ERROR_SQLSTATE :SQLSTATE
\timing off
COPY (VALUES (1, 'one'), (2, NULL)) TO STDOUT;
COPY (VALUES (1, 'one'), (2, NULL)) TO STDOUT (FORMAT csv, HEADER);
\encoding
SELECT current_user, current_database();
\encoding LATIN1
SELECT length(chr(233));
\encoding UTF8
SET TimeZone = 'Asia/Tokyo';
SELECT added FROM cli_item WHERE id = 1;
SET DateStyle = 'German';
SELECT added FROM cli_item WHERE id = 1;
RESET DateStyle;
RESET TimeZone;
SELECT added FROM cli_item WHERE id = 1;
