import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderLatchListener;
import org.apache.curator.framework.recipes.leader.Participant;
import org.apache.curator.retry.RetryForever;

/**
 * A contender that knows nothing of coordkit: Apache Curator's LeaderLatch.
 *
 * <p>Arguments: servers, path, id, and in ms the timeouts of the session and of connecting. It says what happens, a line
 * for each: {@code created PATH}, {@code leader PATH}, {@code not-leader}, {@code closed}, and the states of its
 * connection: {@code connected}, {@code suspended}, {@code reconnected}, {@code lost}. It obeys lines: to {@code
 * participants} it answers with the ids of all, the leader's with a star; at {@code close}, or at the end of its input,
 * it leaves and ends.
 */
public final class Latch {
    private static final int RETRY_MS = 50;
    private static final int LOOK_MS = 10; // Curator tells nobody of the node that it has created

    private final CuratorFramework client;
    private final LeaderLatch latch;
    private String told;

    private Latch(String servers, String path, String id, int sessionMs, int connectMs) {
        client = CuratorFrameworkFactory.builder()
                .connectString(servers)
                .sessionTimeoutMs(sessionMs)
                .connectionTimeoutMs(connectMs)
                .retryPolicy(new RetryForever(RETRY_MS))
                .build();
        client.getConnectionStateListenable()
                .addListener((sender, state) -> say(state.name().toLowerCase().replace('_', '-')));
        latch = new LeaderLatch(client, path, id);
        latch.addListener(new LeaderLatchListener() {
            @Override
            public void isLeader() {
                tellPath();
                say("leader " + latch.getOurPath());
            }

            @Override
            public void notLeader() {
                say("not-leader");
            }
        });
    }

    public static void main(String[] arguments) throws Exception {
        new Latch(
                        arguments[0],
                        arguments[1],
                        arguments[2],
                        Integer.parseInt(arguments[3]),
                        Integer.parseInt(arguments[4]))
                .run();
    }

    private void run() throws Exception {
        client.start();
        latch.start();
        Thread looking = new Thread(this::look);
        looking.setDaemon(true);
        looking.start();
        obey();
        latch.close();
        client.close();
        say("closed");
    }

    private void look() {
        try {
            while (true) {
                tellPath();
                Thread.sleep(LOOK_MS);
            }
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }

    private synchronized void tellPath() {
        String path = latch.getOurPath();
        if (path != null && !path.equals(told)) {
            told = path;
            say("created " + path);
        }
    }

    private void obey() throws Exception {
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        String order = orders.readLine();
        while (order != null && !order.equals("close")) {
            if (order.equals("participants")) {
                StringBuilder answer = new StringBuilder("participants");
                for (Participant participant : latch.getParticipants()) {
                    answer.append(' ').append(participant.getId()).append(participant.isLeader() ? "*" : "");
                }
                say(answer.toString());
            }
            order = orders.readLine();
        }
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
