// Run SQL lines from standard input through Xerial's JDBC driver with its defaults: java -cp sqlite-jdbc.jar Client.java FILE
import java.io.*;
import java.sql.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        int ok = 0, refused = 0;
        String error = "";
        try (Connection db = DriverManager.getConnection("jdbc:sqlite:" + arguments[0]); Statement statement = db.createStatement()) {
            String version = db.getMetaData().getDriverVersion();
            BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
            long started = System.nanoTime();
            for (String sql = lines.readLine(); sql != null; sql = lines.readLine()) {
                try {
                    statement.execute(sql);
                    ok++;
                } catch (SQLException why) {
                    refused++;
                    error = error.isEmpty() ? why.getMessage() : error;
                }
            }
            double taken = (System.nanoTime() - started) / 1e9;
            System.out.printf("{\"ok\": %d, \"refused\": %d, \"s\": %s, \"error\": \"%s\", \"version\": \"%s\"}%n", ok, refused, taken,
                error.replace('"', '\''), version);
        }
    }
}
