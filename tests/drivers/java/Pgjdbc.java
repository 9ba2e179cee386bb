import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

import org.postgresql.PGConnection;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

/** pgjdbc at its defaults: it prepares on the server from the fifth execution of a statement on (prepareThreshold=5). */
public final class Pgjdbc {
    private static final boolean DIRECT = System.getenv("DRIVERS_DIRECT") != null;
    private static final boolean SMOKE = System.getenv("SMOKE") != null;
    private static final int ROUNDS = SMOKE ? 30 : 300;

    private interface Body {
        void run() throws Exception;
    }

    private static int passed;
    private static int failed;

    private static void test(String name, Body body) {
        try {
            body.run();
            passed++;
        } catch (Throwable error) {
            failed++;
            System.out.println("not ok: " + name);
            error.printStackTrace(System.out);
        }
    }

    public static void main(String[] arguments) throws Exception {
        direct("DROP TABLE IF EXISTS jdbc_item, jdbc_account");
        direct("CREATE TABLE jdbc_item (id serial PRIMARY KEY, name text UNIQUE NOT NULL, qty int NOT NULL CHECK (qty >= 0))");
        direct("CREATE TABLE jdbc_account (id int PRIMARY KEY, balance bigint NOT NULL)");

        test("CRUD in a transaction, seen by others only after commit", Pgjdbc::crud);
        test("getGeneratedKeys returns the keys", Pgjdbc::generatedKeys);
        test("a statement goes on past prepareThreshold, on both servers", Pgjdbc::prepareThreshold);
        test("several prepared statements take turns in transactions", Pgjdbc::preparedInTransactions);
        test("errors keep their SQLSTATE and the connection, prepared or not", Pgjdbc::errors);
        test("a failed transaction refuses statements until rollback", Pgjdbc::failedTransaction);
        test("savepoints undo a part", Pgjdbc::savepoints);
        test("a batch counts its rows", () -> batch(""));
        test("a batch rewritten to multi-row inserts", () -> batch("?reWriteBatchedInserts=true"));
        test("a batch with an error in the middle", Pgjdbc::failingBatch);
        test("a batch of different statements", Pgjdbc::mixedBatch);
        test("setFetchSize reads through a cursor within a transaction", Pgjdbc::fetchSize);
        test("two cursors interleave with other statements", Pgjdbc::interleavedCursors);
        test("CopyManager copies in and out", Pgjdbc::copy);
        test("a COPY that fails or is cancelled leaves nothing", Pgjdbc::failingCopy);
        test("large objects", Pgjdbc::largeObjects);
        test("cancel ends the statement and only the statement", Pgjdbc::cancel);
        test("setQueryTimeout cancels", Pgjdbc::queryTimeout);
        test("a plan whose result type changed", Pgjdbc::changedPlan);
        test("types come back as they went", Pgjdbc::types);
        test("several results of one statement", Pgjdbc::severalResults);
        test("metadata of the database and of statements", Pgjdbc::metadata);
        test("warnings reach the statement", Pgjdbc::warnings);
        test("isolation levels and read only", Pgjdbc::isolation);
        test("simple and extendedForPrepared query modes", Pgjdbc::queryModes);
        test("settings of the connection", Pgjdbc::settings);
        test("threads move money between accounts, each transaction once", Pgjdbc::transfers);
        test("a killed server fails its client, and a new connection works", Pgjdbc::killed);
        test("connections come and go; a wrong password is refused", Pgjdbc::connections);

        direct("DROP TABLE jdbc_item, jdbc_account");
        System.out.printf("result %s %d %d%n", org.postgresql.util.DriverInfo.DRIVER_VERSION, passed, failed);
        System.exit(failed == 0 ? 0 : 1);
    }

    private static void crud() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO jdbc_item (name, qty) VALUES (?, ?)")) {
                insert.setString(1, "bolt");
                insert.setInt(2, 5);
                equal(1, insert.executeUpdate());
            }
            equal(List.of(), directRows("SELECT name FROM jdbc_item"));
            connection.commit();
            equal(List.of("bolt"), directRows("SELECT name FROM jdbc_item"));
            try (Statement statement = connection.createStatement()) {
                equal(1, statement.executeUpdate("UPDATE jdbc_item SET qty = qty + 1"));
                connection.rollback();
                equal(List.of("5"), directRows("SELECT qty FROM jdbc_item"));
                equal(1, statement.executeUpdate("DELETE FROM jdbc_item WHERE name = 'bolt'"));
                connection.commit();
            }
            equal(List.of(), directRows("SELECT name FROM jdbc_item"));
        }
    }

    private static void generatedKeys() throws Exception {
        try (Connection connection = connect();
                PreparedStatement insert = connection.prepareStatement(
                        "INSERT INTO jdbc_item (name, qty) SELECT ? || i, i FROM generate_series(1, 3) i", Statement.RETURN_GENERATED_KEYS)) {
            for (int round = 0; round < 10; round++) {
                insert.setString(1, "key " + round + " ");
                equal(3, insert.executeUpdate());
                List<String> names = new ArrayList<>();
                try (ResultSet keys = insert.getGeneratedKeys()) {
                    while (keys.next()) {
                        names.add(directRows("SELECT name FROM jdbc_item WHERE id = " + keys.getInt("id")).get(0));
                    }
                }
                equal(List.of("key " + round + " 1", "key " + round + " 2", "key " + round + " 3"), names);
            }
        }
    }

    private static void prepareThreshold() throws Exception {
        try (Connection connection = connect();
                PreparedStatement sum = connection.prepareStatement("SELECT ?::int + 1 AS next, pg_backend_pid() AS pid")) {
            Set<Integer> pids = new HashSet<>();
            Callable<Integer> ask = () -> {
                sum.setInt(1, 41);
                try (ResultSet rows = sum.executeQuery()) {
                    rows.next();
                    equal(42, rows.getInt("next"));
                    pids.add(rows.getInt("pid"));
                    return rows.getInt("pid");
                }
            };
            int pid = 0;
            for (int i = 0; i < ROUNDS; i++) {
                equal(i >= 4, sum.unwrap(PGStatement.class).isUseServerPrepare() || i >= 4);
                pid = ask.call();
            }
            equal(true, sum.unwrap(PGStatement.class).isUseServerPrepare());
            awayFrom(pid, ask);
            equal(true, DIRECT || pids.size() >= 2);
        }
    }

    private static void preparedInTransactions() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            for (int i = 0; i < ROUNDS; i++) {
                for (int kind = 0; kind < 4; kind++) {
                    try (PreparedStatement statement = connection.prepareStatement("SELECT " + kind + " AS kind, ?::text AS i")) {
                        statement.setString(1, "n" + i);
                        try (ResultSet row = statement.executeQuery()) {
                            row.next();
                            equal(kind + " n" + i, row.getInt(1) + " " + row.getString(2));
                        }
                    }
                }
                connection.commit();
            }
        }
    }

    private static void errors() throws Exception {
        try (Connection connection = connect();
                PreparedStatement insert = connection.prepareStatement("INSERT INTO jdbc_item (name, qty) VALUES (?, ?)");
                PreparedStatement divide = connection.prepareStatement("SELECT 10 / ?::int")) {
            for (int i = 0; i < 12; i++) {
                insert.setString(1, "once");
                insert.setInt(2, 1);
                if (i == 0) {
                    equal(1, insert.executeUpdate());
                } else {
                    equal("23505", sqlState(insert::executeUpdate));
                }
                insert.setString(1, "negative");
                insert.setInt(2, -1);
                equal("23514", sqlState(insert::executeUpdate));
                divide.setInt(1, 0);
                equal("22012", sqlState(divide::executeQuery));
                divide.setInt(1, 5);
                equal("2", string(divide));
            }
            try (Statement statement = connection.createStatement()) {
                equal("42P01", sqlState(() -> statement.executeQuery("SELECT * FROM nowhere")));
                equal("42601", sqlState(() -> statement.executeQuery("SELEC 1")));
            }
            equal(List.of("1"), directRows("SELECT count(*) FROM jdbc_item WHERE name = 'once'"));
        }
    }

    private static void failedTransaction() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            statement.executeUpdate("INSERT INTO jdbc_item (name, qty) VALUES ('lost', 1)");
            equal("22012", sqlState(() -> statement.executeQuery("SELECT 1 / 0")));
            equal("25P02", sqlState(() -> statement.executeQuery("SELECT 1")));
            connection.rollback();
            equal(List.of(), directRows("SELECT 1 FROM jdbc_item WHERE name = 'lost'"));
            equal("1", string(connection, "SELECT 1"));
            connection.commit();
        }
    }

    private static void savepoints() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            statement.executeUpdate("INSERT INTO jdbc_item (name, qty) VALUES ('outer', 1)");
            Savepoint savepoint = connection.setSavepoint("sp");
            equal("23505", sqlState(() -> statement.executeUpdate("INSERT INTO jdbc_item (name, qty) VALUES ('outer', 2)")));
            connection.rollback(savepoint);
            Savepoint unnamed = connection.setSavepoint();
            statement.executeUpdate("INSERT INTO jdbc_item (name, qty) VALUES ('inner', 1)");
            connection.releaseSavepoint(unnamed);
            connection.commit();
        }
        equal(List.of("inner", "outer"), directRows("SELECT name FROM jdbc_item WHERE name IN ('outer', 'inner') ORDER BY 1"));
    }

    private static void batch(String options) throws Exception {
        String prefix = options.isEmpty() ? "plain " : "rewritten ";
        try (Connection connection = connect(options)) {
            for (boolean autoCommit : new boolean[] {true, false}) {
                connection.setAutoCommit(autoCommit);
                try (PreparedStatement insert = connection.prepareStatement("INSERT INTO jdbc_item (name, qty) VALUES (?, ?)")) {
                    for (int part = 0; part < 3; part++) {
                        for (int i = 0; i < ROUNDS; i++) {
                            insert.setString(1, prefix + autoCommit + part + " " + i);
                            insert.setInt(2, i);
                            insert.addBatch();
                        }
                        int[] counts = insert.executeBatch();
                        equal(ROUNDS, counts.length);
                        equal(true, Arrays.stream(counts).allMatch(n -> n == 1 || n == Statement.SUCCESS_NO_INFO));
                    }
                }
                if (!autoCommit) {
                    connection.commit();
                }
            }
        }
        int rows = 6 * ROUNDS;
        equal(List.of(String.valueOf(rows)), directRows("SELECT count(*) FROM jdbc_item WHERE name LIKE '" + prefix + "%'"));
        direct("DELETE FROM jdbc_item WHERE name LIKE '" + prefix + "%'");
    }

    private static void failingBatch() throws Exception {
        try (Connection connection = connect();
                PreparedStatement insert = connection.prepareStatement("INSERT INTO jdbc_item (name, qty) VALUES (?, ?)")) {
            for (int round = 0; round < 8; round++) {
                for (int i = 0; i < 20; i++) {
                    insert.setString(1, "batch " + round + " " + i);
                    insert.setInt(2, i == 11 ? -1 : i);
                    insert.addBatch();
                }
                try {
                    insert.executeBatch();
                    throw new AssertionError("the batch passed");
                } catch (BatchUpdateException error) {
                    equal("23514", error.getSQLState());
                    equal(true, Arrays.stream(error.getUpdateCounts()).allMatch(n -> n == Statement.EXECUTE_FAILED));
                }
                equal(List.of(), directRows("SELECT 1 FROM jdbc_item WHERE name LIKE 'batch %'"));
            }
        }
    }

    private static void mixedBatch() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            statement.addBatch("INSERT INTO jdbc_item (name, qty) VALUES ('mixed', 1)");
            statement.addBatch("UPDATE jdbc_item SET qty = 2 WHERE name = 'mixed'");
            statement.addBatch("DELETE FROM jdbc_item WHERE name = 'not there'");
            equal("[1, 1, 0]", Arrays.toString(statement.executeBatch()));
            connection.commit();
        }
        equal(List.of("2"), directRows("SELECT qty FROM jdbc_item WHERE name = 'mixed'"));
    }

    private static void fetchSize() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            for (int round = 0; round < 8; round++) {
                try (PreparedStatement select = connection.prepareStatement("SELECT i FROM generate_series(1, ?) i")) {
                    select.setFetchSize(100);
                    select.setInt(1, 2550);
                    long total = 0;
                    try (ResultSet rows = select.executeQuery()) {
                        while (rows.next()) {
                            total += rows.getInt(1);
                        }
                    }
                    equal(2550L * 2551 / 2, total);
                }
                connection.commit();
            }
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(2);
                ResultSet rows = statement.executeQuery("SELECT 10 / (5 - i) FROM generate_series(1, 9) i");
                for (int i = 0; i < 4; i++) {
                    equal(true, rows.next());
                }
                equal("22012", sqlState(rows::next));
                connection.rollback();
                equal("1", string(connection, "SELECT 1"));
            }
        }
    }

    private static void interleavedCursors() throws Exception {
        try (Connection connection = connect(); Statement one = connection.createStatement(); Statement two = connection.createStatement()) {
            connection.setAutoCommit(false);
            one.setFetchSize(3);
            two.setFetchSize(4);
            ResultSet left = one.executeQuery("SELECT i FROM generate_series(1, 50) i");
            ResultSet right = two.executeQuery("SELECT i * 10 FROM generate_series(1, 50) i");
            for (int i = 1; i <= 50; i++) {
                left.next();
                right.next();
                equal(i * 10, right.getInt(1));
                equal(i, left.getInt(1));
                equal(String.valueOf(i), string(connection, "SELECT " + i));
            }
            equal(false, left.next());
            connection.commit();
        }
    }

    private static void copy() throws Exception {
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 5000; i++) {
            lines.append("copied ").append(i).append('\t').append(i).append('\n');
        }
        try (Connection connection = connect()) {
            CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
            equal(5000L, manager.copyIn("COPY jdbc_item (name, qty) FROM STDIN", new StringReader(lines.toString())));
            equal(List.of("5000"), directRows("SELECT count(*) FROM jdbc_item WHERE name LIKE 'copied %'"));
            StringWriter out = new StringWriter();
            equal(5000L, manager.copyOut("COPY (SELECT name, qty FROM jdbc_item WHERE name LIKE 'copied %' ORDER BY qty) TO STDOUT", out));
            equal(lines.toString(), out.toString());
            equal("1", string(connection, "SELECT 1"));
        }
        direct("DELETE FROM jdbc_item WHERE name LIKE 'copied %'");
    }

    private static void failingCopy() throws Exception {
        try (Connection connection = connect()) {
            CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder bad = new StringBuilder("good\t1\nbad\tnot a number\n");
            for (int i = 0; i < 5000; i++) {
                bad.append("late ").append(i).append("\t1\n");
            }
            equal("22P02", sqlState(() -> manager.copyIn("COPY jdbc_item (name, qty) FROM STDIN", new StringReader(bad.toString()))));
            CopyIn cancelled = manager.copyIn("COPY jdbc_item (name, qty) FROM STDIN");
            byte[] line = "half\t1\n".getBytes("UTF-8");
            cancelled.writeToCopy(line, 0, line.length);
            cancelled.cancelCopy();
            equal("1", string(connection, "SELECT 1"));
            equal(List.of(), directRows("SELECT 1 FROM jdbc_item WHERE name IN ('good', 'half')"));
        }
    }

    private static void largeObjects() throws Exception {
        byte[] content = new byte[200_000];
        for (int i = 0; i < content.length; i++) {
            content[i] = (byte) (i % 251);
        }
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
            long oid = manager.createLO();
            try (LargeObject object = manager.open(oid, LargeObjectManager.WRITE)) {
                object.write(content);
            }
            connection.commit();
            try (LargeObject object = manager.open(oid, LargeObjectManager.READ)) {
                equal(true, Arrays.equals(content, object.read(content.length)));
                object.seek(100_000);
                equal(true, Arrays.equals(Arrays.copyOfRange(content, 100_000, 100_010), object.read(10)));
            }
            manager.delete(oid);
            connection.commit();
        }
    }

    private static void cancel() throws Exception {
        ExecutorService pool = Executors.newSingleThreadExecutor();
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            for (int round = 0; round < (SMOKE ? 2 : 5); round++) {
                String marker = "jdbc cancel " + round;
                Future<String> state = pool.submit(() -> sqlState(() -> statement.executeQuery("SELECT pg_sleep(60) /* " + marker + " */")));
                running(marker);
                statement.cancel();
                equal("57014", state.get());
                equal("1", string(connection, "SELECT 1"));
            }
        } finally {
            pool.shutdownNow();
        }
    }

    private static void queryTimeout() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            equal("57014", sqlState(() -> statement.executeQuery("SELECT pg_sleep(60)")));
            statement.setQueryTimeout(0);
            try (ResultSet row = statement.executeQuery("SELECT 1")) {
                equal(true, row.next());
            }
        }
    }

    private static void changedPlan() throws Exception {
        direct("CREATE TABLE jdbc_changing (a int)");
        direct("INSERT INTO jdbc_changing VALUES (1)");
        try (Connection connection = connect(); PreparedStatement select = connection.prepareStatement("SELECT * FROM jdbc_changing")) {
            for (int i = 0; i < 10; i++) {
                equal("1", string(select));
            }
            direct("ALTER TABLE jdbc_changing ADD b text DEFAULT 'new'");
            // Outside a transaction pgjdbc prepares again by itself.
            for (int i = 0; i < 10; i++) {
                try (ResultSet row = select.executeQuery()) {
                    row.next();
                    equal(2, row.getMetaData().getColumnCount());
                    equal("new", row.getString(2));
                }
            }
        } finally {
            direct("DROP TABLE jdbc_changing");
        }
    }

    private static void types() throws Exception {
        Timestamp when = Timestamp.valueOf("2024-02-29 12:34:56.789012");
        try (Connection connection = connect();
                PreparedStatement select = connection.prepareStatement("SELECT ?::bytea, ?::numeric, ?::timestamp, ?::text[], ?::uuid, ?::bigint, ?::text, ?::jsonb, ?::float8")) {
            java.util.UUID uuid = java.util.UUID.fromString("00112233-4455-6677-8899-aabbccddeeff");
            // Text format at first, binary once the statement is prepared on the server.
            for (int i = 0; i < 12; i++) {
                select.setBytes(1, new byte[] {0, -1, 39});
                select.setBigDecimal(2, new BigDecimal("1.10"));
                select.setTimestamp(3, when);
                select.setArray(4, connection.createArrayOf("text", new String[] {"a,b", "c\"d", null}));
                select.setObject(5, uuid);
                select.setLong(6, Long.MAX_VALUE);
                select.setString(7, null);
                select.setString(8, "{\"k\": [1, \"é\"]}");
                select.setDouble(9, 0.1 + 0.2);
                try (ResultSet row = select.executeQuery()) {
                    row.next();
                    equal("[0, -1, 39]", Arrays.toString(row.getBytes(1)));
                    equal(new BigDecimal("1.10"), row.getBigDecimal(2));
                    equal(when, row.getTimestamp(3));
                    Array array = row.getArray(4);
                    equal("[a,b, c\"d, null]", Arrays.toString((Object[]) array.getArray()));
                    equal(uuid, row.getObject(5));
                    equal(Long.MAX_VALUE, row.getLong(6));
                    equal(null, row.getString(7));
                    equal("{\"k\": [1, \"é\"]}", row.getString(8));
                    equal(0.1 + 0.2, row.getDouble(9));
                }
            }
        }
    }

    private static void severalResults() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            equal(true, statement.execute("SELECT 1; UPDATE jdbc_item SET qty = qty WHERE false; SELECT 2 UNION ALL SELECT 3"));
            try (ResultSet first = statement.getResultSet()) {
                first.next();
                equal(1, first.getInt(1));
            }
            equal(false, statement.getMoreResults());
            equal(0, statement.getUpdateCount());
            equal(true, statement.getMoreResults());
            try (ResultSet last = statement.getResultSet()) {
                last.next();
                last.next();
                equal(3, last.getInt(1));
            }
            equal("22012", sqlState(() -> statement.execute("INSERT INTO jdbc_item (name, qty) VALUES ('multi', 1); SELECT 1 / 0")));
            equal(List.of(), directRows("SELECT 1 FROM jdbc_item WHERE name = 'multi'"));
        }
    }

    private static void metadata() throws Exception {
        try (Connection connection = connect()) {
            List<String> columns = new ArrayList<>();
            try (ResultSet rows = connection.getMetaData().getColumns(null, "public", "jdbc_item", null)) {
                while (rows.next()) {
                    columns.add(rows.getString("COLUMN_NAME") + " " + rows.getString("TYPE_NAME"));
                }
            }
            equal(List.of("id serial", "name text", "qty int4"), columns);
            try (PreparedStatement select = connection.prepareStatement("SELECT id, name FROM jdbc_item WHERE qty = ?")) {
                equal("int4", select.getParameterMetaData().getParameterTypeName(1));
                equal("name", select.getMetaData().getColumnName(2));
            }
            equal(true, connection.isValid(5));
        }
    }

    private static void warnings() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.execute("DO $$ BEGIN RAISE WARNING 'careful'; END $$");
            equal("careful", statement.getWarnings().getMessage());
        }
    }

    private static void isolation() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            connection.setReadOnly(true);
            equal("on", string(connection, "SHOW transaction_read_only"));
            try (Statement statement = connection.createStatement()) {
                equal("25006", sqlState(() -> statement.executeUpdate("DELETE FROM jdbc_item")));
            }
            connection.rollback();
            connection.setReadOnly(false);
            equal("off", string(connection, "SHOW transaction_read_only"));
            connection.commit();
        }
    }

    private static void queryModes() throws Exception {
        for (String mode : new String[] {"simple", "extendedForPrepared", "extendedCacheEverything"}) {
            try (Connection connection = connect("?preferQueryMode=" + mode)) {
                for (int i = 0; i < 20; i++) {
                    try (PreparedStatement select = connection.prepareStatement("SELECT ?::int * 2")) {
                        select.setInt(1, i);
                        equal(String.valueOf(2 * i), string(select));
                    }
                    equal("7", string(connection, "SELECT 7"));
                }
            }
        }
    }

    private static void settings() throws Exception {
        try (Connection connection = connect("?ApplicationName=shop&currentSchema=pg_catalog,public")) {
            for (int i = 0; i < 20; i++) {
                equal("shop", string(connection, "SHOW application_name"));
                equal("pg_catalog,public", string(connection, "SHOW search_path"));
                // The driver sends the time zone of its JVM, which the options do not change.
                equal(java.util.TimeZone.getDefault().getID(), string(connection, "SHOW TimeZone"));
            }
            connection.setClientInfo("ApplicationName", "warehouse");
            for (int i = 0; i < 20; i++) {
                equal("warehouse", string(connection, "SHOW application_name"));
                equal("pg_catalog", connection.getSchema());
            }
        }
    }

    private static void transfers() throws Exception {
        direct("INSERT INTO jdbc_account SELECT i, 1000 FROM generate_series(1, 10) i");
        ExecutorService pool = Executors.newFixedThreadPool(10);
        List<Future<?>> workers = new ArrayList<>();
        for (int worker = 0; worker < 10; worker++) {
            int start = worker;
            workers.add(pool.submit(() -> {
                try (Connection connection = connect();
                        PreparedStatement move = connection.prepareStatement("UPDATE jdbc_account SET balance = balance + ? WHERE id = ?")) {
                    connection.setAutoCommit(false);
                    for (int i = 0; i < ROUNDS / 3; i++) {
                        int one = (start + i) % 10 + 1;
                        int other = (start + 3 * i + 1) % 10 + 1;
                        int amount = one < other ? 1 : -1;
                        for (int id : new int[] {Math.min(one, other), Math.max(one, other)}) {
                            move.setInt(1, id == one ? amount : -amount);
                            move.setInt(2, id);
                            if (one != other) {
                                equal(1, move.executeUpdate());
                            }
                        }
                        connection.commit();
                    }
                }
                return null;
            }));
        }
        for (Future<?> worker : workers) {
            worker.get();
        }
        pool.shutdown();
        equal(List.of("10000"), directRows("SELECT sum(balance) FROM jdbc_account"));
    }

    private static void killed() throws Exception {
        ExecutorService pool = Executors.newSingleThreadExecutor();
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            Future<String> state = pool.submit(() -> sqlState(() -> statement.executeQuery("SELECT pg_sleep(60) /* jdbc kill */")));
            direct("SELECT pg_terminate_backend(" + running("jdbc kill") + ")");
            equal("57P01", state.get());
        } finally {
            pool.shutdownNow();
        }
        try (Connection connection = connect()) {
            equal("1", string(connection, "SELECT 1"));
        }
    }

    private static void connections() throws Exception {
        for (int i = 0; i < ROUNDS / 10; i++) {
            try (Connection connection = connect()) {
                equal(String.valueOf(i), string(connection, "SELECT " + i));
            }
        }
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", "wrong");
        equal("28P01", sqlState(() -> DriverManager.getConnection(url("PGHOST", "PGPORT"), properties)));
    }

    private static String url(String host, String port) {
        return "jdbc:postgresql://" + System.getenv(host) + ":" + System.getenv(port) + "/" + System.getenv("PGDATABASE");
    }

    private static Connection connect(String url) throws SQLException {
        if (!url.startsWith("jdbc:")) {
            return connect(url("PGHOST", "PGPORT") + url);
        }
        return DriverManager.getConnection(url, System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
    }

    private static Connection connect() throws SQLException {
        return connect("");
    }

    /** Has PostgreSQL itself do a statement. */
    private static void direct(String sql) throws SQLException {
        try (Connection connection = connect(url("DIRECT_HOST", "DIRECT_PORT")); Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    /** The first column of a query, asked of PostgreSQL itself. */
    private static List<String> directRows(String sql) throws SQLException {
        List<String> values = new ArrayList<>();
        try (Connection connection = connect(url("DIRECT_HOST", "DIRECT_PORT"));
                Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            while (rows.next()) {
                values.add(rows.getString(1));
            }
        }
        return values;
    }

    private static String string(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery(sql)) {
            row.next();
            return row.getString(1);
        }
    }

    private static String string(PreparedStatement statement) throws SQLException {
        try (ResultSet row = statement.executeQuery()) {
            row.next();
            return row.getString(1);
        }
    }

    /** Waits until PostgreSQL runs a query with this marker in it, and says in which process. */
    private static String running(String marker) throws SQLException {
        for (;;) {
            List<String> pids = directRows("SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%"
                    + marker + "%'");
            if (!pids.isEmpty()) {
                return pids.get(0);
            }
        }
    }

    /** Calls while another client holds the server with this process id, so that it happens on the pool's other server. */
    private static void awayFrom(int pid, Callable<?> work) throws Exception {
        if (DIRECT) {
            work.call();
            return;
        }
        try (Connection first = connect(); Connection second = connect()) {
            first.setAutoCommit(false);
            second.setAutoCommit(false);
            if (Integer.parseInt(string(first, "SELECT pg_backend_pid()")) != pid) {
                equal(pid, Integer.parseInt(string(second, "SELECT pg_backend_pid()")));
                first.rollback();
            }
            work.call();
        }
    }

    private static String sqlState(Callable<?> work) throws Exception {
        try {
            work.call();
        } catch (SQLException error) {
            return error.getSQLState();
        }
        throw new AssertionError("no error");
    }

    private static void equal(Object expected, Object actual) {
        if (!java.util.Objects.equals(expected, actual)) {
            throw new AssertionError("expected " + expected + ", got " + actual);
        }
    }
}
