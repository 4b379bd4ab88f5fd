import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Posts one transaction per body with the client's default settings, which ask for HTTP/2. */
public class JdkClient {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int number = 1; number < arguments.length; number++) {
            String body = arguments[number];
            HttpRequest.BodyPublisher published = number % 2 == 1
                ? HttpRequest.BodyPublishers.ofString(body)
                // Of unknown length: sent in chunks.
                : HttpRequest.BodyPublishers.fromPublisher(HttpRequest.BodyPublishers.ofString(body));
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "application/json")
                .POST(published)
                .build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body());
        }
    }
}
