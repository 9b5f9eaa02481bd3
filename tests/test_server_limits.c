/*
 * test_server_limits.c - the HTTP server against clients that take more than their share, that send
 * ambiguous requests, or that come before or after it serves.
 */
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <jansson.h>

#include "base/units.h"
#include "serve/server.h"
#include "serve_fixture.h"

#include "http_client.h"

#define MODEL "fable-moe.gguf"

static struct fixture f;
static struct fb_server *server;
static struct fb_server_options options;

static void set_options(void)
{
    fb_server_options_init(&options);
    options.port = 0;
    options.name = "fable";
    options.path = shared_model(MODEL);
    options.timeout_s = 20;
}

static void open_server(void)
{
    struct forebay_error err;
    if (fb_server_open(&options, &server, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

static void start(void)
{
    struct forebay_model_options model = small_model(1);
    struct forebay_error err;
    model.ctx = 8192; /* long answers take seconds */
    fixture_start(&f, MODEL, &model, &(struct fb_service_options){.parallel = 1, .queue_max = 8});
    open_server();
    assert_int_equal(fb_server_serve(server, f.service, &err), FOREBAY_OK);
}

static void stop(void)
{
    fb_server_stop(server);
    fixture_stop(&f);
}

static int dial(void)
{
    return dial_port(fb_server_port(server));
}

static struct answer ask(const char *text)
{
    int fd = dial();
    send_all(fd, text, strlen(text));
    return read_answer(fd);
}

/* The status of a GET with these headers. */
static int get(const char *path, const char *headers)
{
    char text[1024];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nConnection: close\r\n%s\r\n", path, headers);
    struct answer a = ask(text);
    free(a.all);
    return a.status;
}

#define HOST "Host: localhost\r\n"

static int post_on(int fd, const char *path, const char *body)
{
    char text[4096];
    snprintf(text, sizeof text,
        "POST %s HTTP/1.1\r\n" HOST "Connection: close\r\nContent-Length: %zu\r\n\r\n%s", path,
        strlen(body), body);
    send_all(fd, text, strlen(text));
    return fd;
}

static int complete(void)
{
    struct answer a =
        read_answer(post_on(dial(), "/v1/completions", "{\"prompt\":\"Once\",\"max_tokens\":2}"));
    free(a.all);
    return a.status;
}

#define LONG_STREAM                                                                                \
    "{\"prompt\":\"Once\",\"max_tokens\":100000,\"ignore_eos\":true,\"stream\":true}"

/* --- Before the model is loaded ------------------------------------------------------------ */

static void test_loading(void **state)
{
    (void)state;
    set_options();
    options.api_key = "secret";
    open_server();
    struct answer a = ask("GET /health HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    assert_int_equal(a.status, 503);
    assert_non_null(strstr(a.body, "\"loading\""));
    assert_non_null(strstr(a.all, "\r\nRetry-After:"));
    free(a.all);
    assert_int_equal(get("/v1/models", HOST), 401);
    assert_int_equal(get("/v1/models", HOST "x-api-key: secret\r\n"), 503);
    assert_int_equal(get("/nowhere", HOST "x-api-key: secret\r\n"), 404);
    a = ask("OPTIONS /v1/models HTTP/1.1\r\n" HOST "Origin: http://localhost\r\n"
            "Access-Control-Request-Method: GET\r\nConnection: close\r\n\r\n");
    assert_in_range(a.status, 200, 299);
    free(a.all);
    fb_server_stop(server);
}

static void test_one_port_one_server(void **state)
{
    (void)state;
    struct fb_server *second = NULL;
    struct forebay_error err;
    set_options();
    open_server();
    options.port = fb_server_port(server);
    static const char *const hosts[] = {"127.0.0.1", "0.0.0.0", "localhost", "::"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        options.host = hosts[i];
        assert_int_equal(fb_server_open(&options, &second, &err), FOREBAY_E_IO);
        assert_null(second);
    }
    fb_server_stop(server);
    options.host = "127.0.0.1"; /* free again at once */
    open_server();
    fb_server_stop(server);
}

/* --- Addresses ----------------------------------------------------------------------------- */

static bool reaches_v6(uint16_t port)
{
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    to.sin6_addr = in6addr_loopback;
    bool reached = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return reached;
}

static bool has_v6(void)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    at.sin6_addr = in6addr_loopback;
    bool has = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return has;
}

static void test_both_families(void **state)
{
    (void)state;
    static const struct {
        const char *host;
        bool v6, local;
    } hosts[] = {{"localhost", true, true}, {"::", true, false}, {"[::]", true, false},
        {"127.0.0.1", false, true}, {"0.0.0.0", false, false}};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        set_options();
        options.host = hosts[i].host;
        if (!has_v6() && strchr(hosts[i].host, ':')) {
            continue;
        }
        open_server();
        assert_int_equal(fb_server_is_local(server), hosts[i].local);
        assert_int_equal(get("/health", HOST), 503);
        assert_int_equal(reaches_v6(fb_server_port(server)), hosts[i].v6 && has_v6());
        fb_server_stop(server);
    }
}

static void test_unix_socket(void **state)
{
    (void)state;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct fb_server *second = NULL;
    struct forebay_error err;
    struct stat st;
    char dir[] = "/tmp/forebay-unix-XXXXXX", host[128];
    assert_non_null(mkdtemp(dir));
    snprintf(to.sun_path, sizeof to.sun_path, "%s/socket", dir);
    snprintf(host, sizeof host, "unix:%s", to.sun_path);
    set_options();
    options.host = host;
    for (int i = 0; i < 2; i++) { /* the second time, one is left over */
        open_server();
        assert_int_equal(fb_server_port(server), 0);
        assert_true(fb_server_is_local(server));
        assert_int_equal(fb_server_open(&options, &second, &err), FOREBAY_E_IO);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
        const char *text = "GET /health HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
        send_all(fd, text, strlen(text));
        struct answer a = read_answer(fd);
        assert_int_equal(a.status, 503);
        assert_non_null(strstr(a.body, "loading"));
        free(a.all);
        fb_server_stop(server);
        assert_int_equal(stat(to.sun_path, &st), -1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&to, sizeof to), 0);
        close(fd);
    }
    remove(to.sun_path);
    FILE *file = fopen(to.sun_path, "w"); /* not ours to remove */
    fclose(file);
    assert_int_equal(fb_server_open(&options, &second, &err), FOREBAY_E_IO);
    assert_int_equal(stat(to.sun_path, &st), 0);
    remove(to.sun_path);
    remove(dir);
    options.host = "unix:";
    assert_int_equal(fb_server_open(&options, &second, &err), FOREBAY_E_USAGE);
}

/* --- Pages of other sites ------------------------------------------------------------------ */

static void test_origins_on_a_network(void **state)
{
    (void)state;
    static const struct {
        const char *headers;
        int status;
    } requests[] = {
        {"Host: 192.168.1.5:8080\r\n", 200},
        {"Host: models.example.com\r\n", 200},
        {"Host: 192.168.1.5:8080\r\nOrigin: http://evil.example\r\n", 403},
        {"Host: 192.168.1.5:8080\r\nOrigin: http://6.6.6.6\r\n", 403},
        {"Host: 192.168.1.5:8080\r\nOrigin: null\r\n", 403},
        {"Host: evil.example:8080\r\nOrigin: http://evil.example:8080\r\n", 403},
        {"Host: 192.168.1.5:8080\r\nOrigin: http://192.168.1.5:3000\r\n", 200},
        {"Host: nas:8080\r\nOrigin: http://nas:3000\r\n", 200},
        {"Host: nas.local:8080\r\nOrigin: http://nas.local\r\n", 200},
        {"Host: nas.local:8080\r\nOrigin: http://other.local\r\n", 403},
        {"Host: [fd00::1]:8080\r\nOrigin: http://[fd00::1]:3000\r\n", 200},
        {"Host: 192.168.1.5:8080\r\nOrigin: http://localhost:3000\r\n", 200},
    };
    set_options();
    options.host = "0.0.0.0";
    start();
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        int status = get("/v1/models", requests[i].headers);
        if (status != requests[i].status) {
            fail_msg("%d: %s", status, requests[i].headers);
        }
    }
    stop();
}

/* --- Ambiguous requests -------------------------------------------------------------------- */

#define P    "POST /v1/completions HTTP/1.1\r\n" HOST
#define NEXT "GET /metrics HTTP/1.1\r\n" HOST "\r\n"

static void test_framing(void **state)
{
    (void)state;
#define RAW(text) text, sizeof text - 1
    static const struct {
        const char *text;
        size_t n;
        int status;
    } requests[] = {
        {RAW(P "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" NEXT), 400},
        {RAW(P "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" NEXT), 400},
        {RAW(P "Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}" NEXT), 400},
        {RAW(P "Content-Length: 4\r\ncontent-length: 2\r\n\r\n{}" NEXT), 400},
        {RAW(P "Content-Length: 2, 4\r\n\r\n{}" NEXT), 400},
        {RAW(P "Content-Length: +2\r\n\r\n{}" NEXT), 400},
        {RAW(P "Content-Length : 2\r\n\r\n{}" NEXT), 400},
        {RAW(P "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" NEXT), 400},
        {RAW(P "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" NEXT),
            400},
        {RAW("POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" NEXT),
            400},
        {RAW(P "X: a\0b\r\nContent-Length: 2\r\n\r\n{}" NEXT), 400},
        {RAW(P "X: a\0\r\nContent-Length: 2\r\n\r\n{}" NEXT), 400},
        {RAW(P "X\0: a\r\nContent-Length: 2\r\n\r\n{}" NEXT), 400},
        {RAW(P "Content-Length: 2\r\nX: a\0b\r\n\r\n{}" NEXT), 400},
        {RAW(P "Content-Length: 2\0\r\n\r\n{}" NEXT), 400},
        {RAW(P "Content-Length: 2\r\n\0Transfer-Encoding: chunked\r\n\r\n" NEXT), 400},
        {RAW("GET /health HTTP/1.1\r\n\0X: a\r\n\r\n" NEXT), 400},
        {RAW("GET /health\0/x HTTP/1.1\r\n" HOST "\r\n" NEXT), 400},
        {RAW("GET /health?a\0b HTTP/1.1\r\n" HOST "\r\n" NEXT), 400},
        {RAW(P "X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}" NEXT), 400},
        {RAW(P "X: a\x01z\r\nContent-Length: 2\r\n\r\n{}" NEXT), 400},
        {RAW(P "X y: a\r\nContent-Length: 2\r\n\r\n{}" NEXT), 400},
        {RAW("GET /health HTTP/1.1\r\n" HOST "Host: other\r\n\r\n" NEXT), 400},
        /* Odd, but clear. */
        {RAW("GET /health HTTP/1.1\r\n" HOST "X:\r\nY:   a b \r\nConnection: close\r\n\r\n"), 200},
        {RAW("GET /health?a=b&c HTTP/1.1\r\nHost:localhost\r\nConnection: close\r\n\r\n"), 200},
        {RAW("GET /health HTTP/1.1\n"
             "Host: localhost\nConnection: close\n\n"),
            200},
        {RAW("GET /health HTTP/1.0\r\n\r\n"), 200},
        {RAW("POST /v1/completions HTTP/1.1\r\n" HOST "Connection: close\r\n"
             "Content-Length: 3\r\nContent-Length: 3\r\n\r\n[1]"),
            400},
    };
    set_options();
    start();
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        int fd = dial();
        send_all(fd, requests[i].text, requests[i].n);
        struct answer a = read_answer(fd); /* until the server closes the connection */
        if (a.status != requests[i].status || strstr(a.all, "forebay_requests_total")) {
            fail_msg("%zu: %d: %s", i, a.status, a.all);
        }
        free(a.all);
    }
    stop();
}

/* --- Too many connections ------------------------------------------------------------------ */

/* Connections without a request give way to new ones. */
static void test_idle_sockets(void **state)
{
    (void)state;
    enum { N = 100 };
    int fds[N];
    set_options();
    options.connections_max = 8;
    start();
    uint64_t begin = fb_now_ns();
    for (int i = 0; i < N; i++) {
        fds[i] = dial();
        if (i % 3) {
            send_all(fds[i], i % 3 == 1 ? "GET /he" : P "Content-Length: 99\r\n\r\n{\"pr", 7);
        }
        if (i % 10 == 9) {
            assert_int_equal(get("/health", HOST), 200);
        }
    }
    assert_int_equal(complete(), 200);
    assert_true(fb_now_ns() - begin < 10 * (uint64_t)1000000000);
    for (int i = 0; i < N; i++) {
        close(fds[i]);
    }
    stop();
}

/* Requests under way keep their places; others are told so, and /health works. */
static void test_surplus(void **state)
{
    (void)state;
    char some[16];
    int fds[2];
    set_options();
    options.connections_max = 2;
    start();
    for (int i = 0; i < 2; i++) {
        fds[i] = post_on(dial(), "/v1/completions", LONG_STREAM);
    }
    assert_true(receive(fds[0], some, sizeof some) > 0); /* computing */
    usleep(100000);                                      /* waiting */
    struct answer a = ask("GET /v1/models HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(a.status, 503);
    assert_non_null(strstr(a.body, "too many connections"));
    free(a.all);
    assert_int_equal(get("/health", HOST), 200);
    close(fds[0]);
    close(fds[1]);
    for (int i = 0; i < 1000 && complete() != 200; i++) {
        usleep(10000);
    }
    assert_int_equal(complete(), 200);
    stop();
}

static double cpu_s(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

/* A process of its own, with its own limit of descriptors: opens `n` connections, and then asks for
 * /health three times. Its exit code is the number of good answers. */
static void hoard(int n)
{
    int good = 0;
    for (int i = 0; i < n; i++) {
        dial();
    }
    for (int i = 0; i < 3; i++) {
        usleep(200000);
        good += get("/health", HOST) == 200;
    }
    _exit(good);
}

/* Without descriptors for more connections, the server neither spins nor locks everybody out. */
static void test_few_descriptors(void **state)
{
    (void)state;
    struct rlimit before, few;
    int status;
    set_options();
    start();
    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    int next = dup(0);
    close(next);
    few.rlim_cur = (rlim_t)next + 8;
    pid_t child = fork();
    if (child == 0) {
        hoard(40);
    }
    setrlimit(RLIMIT_NOFILE, &few);
    usleep(200000);
    double used = cpu_s();
    usleep(300000);
    assert_true(cpu_s() - used < 0.15);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3);
    setrlimit(RLIMIT_NOFILE, &before);
    stop();
}

/* --- Memory -------------------------------------------------------------------------------- */

/* Bodies that never end do not hold up others. */
static void test_unfinished_bodies(void **state)
{
    (void)state;
    enum { N = 24, BYTES = 300 << 10 };
    int fds[N];
    char *part = malloc(BYTES);
    set_options();
    options.requests_bytes = 1 << 20;
    start();
    memset(part, ' ', BYTES);
    for (int i = 0; i < N; i++) {
        fds[i] = dial();
        const char *head = i % 2 ? P "Content-Length: 600000\r\n\r\n"
                                 : P "Transfer-Encoding: chunked\r\n\r\n80000\r\n";
        send_all(fds[i], head, strlen(head));
        send_all(fds[i], part, BYTES);
    }
    uint64_t begin = fb_now_ns();
    assert_int_equal(complete(), 200);
    assert_int_equal(get("/health", HOST), 200);
    assert_true(fb_now_ns() - begin < 5 * (uint64_t)1000000000);
    for (int i = 0; i < N; i++) {
        close(fds[i]);
    }
    free(part);
    stop();
}

/* What would take too much memory to parse is refused before it is parsed. */
static void test_expansive_bodies(void **state)
{
    (void)state;
    static const struct {
        const char *path, *head, *piece, *tail;
    } bodies[] = {
        {"/v1/completions", "{\"prompt\":[", "[],", "[]]}"},
        {"/v1/completions", "{\"prompt\":[", "{},", "[]]}"},
        {"/v1/completions", "{\"x\":{\"a\":0", ",\"a\":0", "}}"},
        {"/v1/messages", "{\"messages\":[", "\"\",", "0]}"},
        {"/api/chat", "{\"messages\":[", "1,", "0]}"},
        {"/api/show", "{\"model\":[", "[[[],[]]],", "0]}"},
        {"/v1/messages/count_tokens", "{\"tools\":[", "{\"a\":{}},", "0]}"},
    };
    set_options();
    options.requests_bytes = 8 << 20;
    start();
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        size_t n_piece = strlen(bodies[i].piece), n = 0, cap = 1 << 20;
        char *body = malloc(cap + 256), head[256];
        n += (size_t)sprintf(body, "%s", bodies[i].head);
        while (n + n_piece < cap) {
            memcpy(body + n, bodies[i].piece, n_piece);
            n += n_piece;
        }
        n += (size_t)sprintf(body + n, "%s", bodies[i].tail);
        int fd = dial();
        snprintf(head, sizeof head,
            "POST %s HTTP/1.1\r\n" HOST "Connection: close\r\nContent-Length: %zu\r\n\r\n",
            bodies[i].path, n);
        send_all(fd, head, strlen(head));
        send_all(fd, body, n);
        struct answer a = read_answer(fd);
        assert_int_equal(a.status, 413);
        assert_non_null(strstr(a.body, "--mem"));
        free(a.all);
        free(body);
    }
    assert_int_equal(complete(), 200);
    stop();
}

/* Logprobs of a whole answer are memory, too; a stream does not collect them. */
static void test_many_logprobs(void **state)
{
    (void)state;
    static const char format[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":%d,"
        "\"ignore_eos\":true,\"logprobs\":true,\"top_logprobs\":20,\"stream\":%s}";
    static const struct {
        int tokens, status;
        const char *stream;
    } requests[] = {{5, 200, "false"}, {100, 503, "false"}, {100, 200, "true"}, {5, 200, "false"}};
    set_options();
    options.requests_bytes = 1 << 20;
    start();
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        char body[512];
        snprintf(body, sizeof body, format, requests[i].tokens, requests[i].stream);
        struct answer a = read_answer(post_on(dial(), "/v1/chat/completions", body));
        assert_int_equal(a.status, requests[i].status);
        assert_int_equal(strstr(a.body, "memory for so many logprobs") != NULL, a.status == 503);
        free(a.all);
    }
    stop();
}

/* --- The end ------------------------------------------------------------------------------- */

/* Answers that are cut off say so in their API's form; those that wait for their turn are
 * refused. */
static void test_cutting_off_answers(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body, *want;
    } streams[] = {
        {"/v1/completions", LONG_STREAM, "data: {\"error\":{"},
        {"/v1/chat/completions",
            "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":100000,"
            "\"ignore_eos\":true,\"stream\":true}",
            "data: {\"error\":{"},
        {"/api/generate",
            "{\"model\":\"fable\",\"prompt\":\"Once\",\"options\":{\"num_predict\":100000,"
            "\"ignore_eos\":true}}",
            "{\"error\":"},
        {"/v1/messages",
            "{\"max_tokens\":100000,\"stream\":true,\"ignore_eos\":true,"
            "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}",
            "event: error"},
    };
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        char some[8];
        set_options();
        start();
        int active = post_on(dial(), streams[i].path, streams[i].body);
        assert_true(receive(active, some, sizeof some) > 0);
        int queued = post_on(dial(), streams[i].path, streams[i].body);
        usleep(100000);
        fb_service_drain(f.service);
        fb_server_cancel(server);
        struct answer a = read_answer(active), b = read_answer(queued);
        if (!strstr(a.all, streams[i].want) || b.status != 503) {
            fail_msg("%s: %s\n%s", streams[i].path, a.all + strlen(a.all) / 2, b.all);
        }
        free(a.all);
        free(b.all);
        stop();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loading),
        cmocka_unit_test(test_one_port_one_server),
        cmocka_unit_test(test_both_families),
        cmocka_unit_test(test_unix_socket),
        cmocka_unit_test(test_origins_on_a_network),
        cmocka_unit_test(test_framing),
        cmocka_unit_test(test_idle_sockets),
        cmocka_unit_test(test_surplus),
        cmocka_unit_test(test_few_descriptors),
        cmocka_unit_test(test_unfinished_bodies),
        cmocka_unit_test(test_expansive_bodies),
        cmocka_unit_test(test_many_logprobs),
        cmocka_unit_test(test_cutting_off_answers),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
