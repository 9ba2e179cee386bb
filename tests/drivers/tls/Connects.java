import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;

import org.postgresql.util.DriverInfo;

/** Connects to each URL of standard input, and says on a line how that went: a value that was asked for, or the errors. */
public final class Connects {
    public static void main(String[] arguments) throws Exception {
        System.out.println(DriverInfo.DRIVER_VERSION);
        BufferedReader urls = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String url = urls.readLine(); url != null; url = urls.readLine()) {
            System.out.println(connect(url).replace('\n', ' '));
        }
    }

    private static String connect(String url) {
        try (Connection connection = DriverManager.getConnection(url);
                PreparedStatement statement = connection.prepareStatement("SELECT ? + 2")) {
            statement.setInt(1, 40);
            try (ResultSet result = statement.executeQuery()) {
                result.next();
                return "value " + result.getInt(1);
            }
        } catch (SQLException error) {
            StringBuilder told = new StringBuilder("error");
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                told.append(' ').append(cause.getMessage());
            }
            return told.toString();
        }
    }
}
