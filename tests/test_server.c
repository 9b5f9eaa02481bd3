/*
 * test_server.c - the HTTP server over real sockets: answers, errors, limits, keys, clients that
 * leave or are slow.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <jansson.h>

#include "base/units.h"
#include "serve/server.h"
#include "serve_fixture.h"

#ifndef MSG_MORE
#define MSG_MORE 0
#endif

#define MODEL "stories260K-moe8.gguf"
#define NAME  "stories"

static struct fixture f;
static struct fb_server *server;

static void start_with(const char *api_key, bool client_templates)
{
    struct forebay_model_options model = small_model(2);
    struct fb_server_options options;
    struct forebay_error err;
    model.weights_mem_bytes = 3u << 20;
    fixture_start(&f, MODEL, &model, &(struct fb_service_options){.parallel = 2, .queue_max = 2});
    fb_server_options_init(&options);
    options.port = 0;
    options.name = NAME;
    options.path = shared_model(MODEL);
    options.api_key = api_key;
    options.client_templates = client_templates;
    options.body_max_bytes = 64 << 10;
    options.timeout_s = 2;
    options.connections_max = 16;
    if (fb_server_start(f.service, &options, &server, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

static void start(const char *api_key)
{
    start_with(api_key, false);
}

static void stop(void)
{
    fb_server_stop(server);
    fixture_stop(&f);
}

/* --- A client ------------------------------------------------------------------------------ */

/* Fails a test that would hang; much longer than a busy machine takes. */
#define PATIENCE_S 30

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval limit = {.tv_sec = PATIENCE_S};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(fb_server_port(server))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

struct answer {
    int status;
    char *all;
    const char *body;
};

static void send_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0) {
            return; /* the server has refused the rest */
        }
        bytes += sent;
        n -= (size_t)sent;
    }
}

/* recv() that is not interrupted: with a time limit, SA_RESTART does not apply. */
static ssize_t receive(int fd, void *buf, size_t max)
{
    ssize_t n;
    do {
        n = recv(fd, buf, max, 0);
    } while (n < 0 && errno == EINTR);
    return n;
}

static struct answer read_answer(int fd)
{
    struct answer a = {0};
    size_t n = 0, cap = 1 << 20;
    ssize_t got;
    a.all = malloc(cap);
    while (n < cap - 1 && (got = receive(fd, a.all + n, cap - 1 - n)) > 0) {
        n += (size_t)got;
    }
    a.all[n] = 0;
    close(fd);
    sscanf(a.all, "HTTP/1.1 %d", &a.status);
    char *body = strstr(a.all, "\r\n\r\n");
    a.body = body ? body + 4 : "";
    return a;
}

static struct answer ask_with(
    const char *method, const char *path, const char *headers, const char *body, size_t n)
{
    char head[1024];
    int fd = dial();
    snprintf(head, sizeof head,
        "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n",
        method, path, headers, n);
    send_all(fd, head, strlen(head));
    send_all(fd, body, n);
    return read_answer(fd);
}

static struct answer post(const char *path, const char *body)
{
    return ask_with("POST", path, "", body, strlen(body));
}

static json_t *json_of(const struct answer *a)
{
    json_t *value = json_loads(a->body, 0, NULL);
    if (!value) {
        fail_msg("no JSON: %s", a->all);
    }
    return value;
}

/* Checks the status and the shape of an error in the API of the path. Frees the answer. */
static void assert_error(struct answer a, const char *path, int status)
{
    json_t *value = json_of(&a), *error = json_object_get(value, "error");
    if (a.status != status) {
        fail_msg("%s: %d instead of %d: %s", path, a.status, status, a.body);
    }
    if (strncmp(path, "/api", 4) == 0) {
        assert_true(json_is_string(error));
    } else {
        assert_true(json_is_string(json_object_get(error, "message")));
        assert_true(json_is_string(json_object_get(error, "type")));
    }
    if (strncmp(path, "/v1/messages", 12) == 0) {
        assert_string_equal(json_string_value(json_object_get(value, "type")), "error");
    }
    json_decref(value);
    free(a.all);
}

/* --- Answers ------------------------------------------------------------------------------- */

static void test_answers(void **state)
{
    (void)state;
    char want[2048];
    struct forebay_model_options options = small_model(1);
    options.weights_mem_bytes = 3u << 20;
    run_alone(MODEL, &options, "Once upon a time", 12, want, sizeof want);
    start(NULL);
    struct answer a = post(
        "/v1/completions", "{\"prompt\":\"Once upon a time\",\"max_tokens\":12,\"temperature\":0}");
    json_t *value = json_of(&a);
    const char *text, *reason;
    assert_int_equal(
        json_unpack(value, "{s:[{s:s,s:s}]}", "choices", "text", &text, "finish_reason", &reason),
        0);
    assert_string_equal(text, want);
    assert_string_equal(reason, "length");
    json_decref(value);
    free(a.all);

    a = post("/api/generate", "{\"model\":\"" NAME ":latest\",\"prompt\":\"Once upon a time\","
                              "\"raw\":true,\"stream\":false,\"options\":{\"num_predict\":12,"
                              "\"temperature\":0}}");
    value = json_of(&a);
    assert_int_equal(json_unpack(value, "{s:s,s:s}", "response", &text, "done_reason", &reason), 0);
    assert_string_equal(text, want);
    assert_string_equal(reason, "length");
    json_decref(value);
    free(a.all);

    a = post("/v1/chat/completions",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":4,\"stream\":true}");
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.all, "text/event-stream"));
    assert_non_null(strstr(a.body, "\"finish_reason\":\"length\""));
    assert_non_null(strstr(a.body, "data: [DONE]"));
    free(a.all);

    static const char *const gets[] = {
        "/", "/health", "/metrics", "/v1/models", "/api/tags", "/api/ps", "/api/version"};
    for (size_t i = 0; i < sizeof gets / sizeof *gets; i++) {
        a = ask_with("GET", gets[i], "", "", 0);
        assert_int_equal(a.status, 200);
        free(a.all);
    }
    stop();
}

/* --- Errors -------------------------------------------------------------------------------- */

#define CHAT   "/v1/chat/completions"
#define USER   "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"
#define OLLAMA "\"model\":\"" NAME "\""

static const struct {
    const char *path, *body;
    int status;
} mistakes[] = {
    {CHAT, "", 400},
    {CHAT, "{", 400},
    {CHAT, "[]", 400},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\\u0000\"}]}", 400},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}", 400},
    {CHAT, "{}", 400},
    {CHAT, "{\"messages\":[]}", 400},
    {CHAT, "{\"messages\":\"Hi\"}", 400},
    {CHAT, "{\"messages\":[1]}", 400},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 400},
    {CHAT, "{" USER ",\"max_tokens\":0}", 400},
    {CHAT, "{" USER ",\"max_tokens\":-1}", 400},
    {CHAT, "{" USER ",\"max_tokens\":1e300}", 400},
    {CHAT, "{" USER ",\"max_tokens\":\"5\"}", 400},
    {CHAT, "{" USER ",\"temperature\":-1}", 400},
    {CHAT, "{" USER ",\"temperature\":1e30}", 400},
    {CHAT, "{" USER ",\"top_p\":2}", 400},
    {CHAT, "{" USER ",\"n\":1000}", 400},
    {CHAT, "{" USER ",\"stop\":[1]}", 400},
    {CHAT, "{" USER ",\"stop\":{}}", 400},
    {CHAT, "{" USER ",\"stream\":\"yes\"}", 400},
    {CHAT, "{" USER ",\"seed\":\"x\"}", 400},
    {CHAT, "{" USER ",\"logit_bias\":{\"x\":1}}", 400},
    {CHAT, "{" USER ",\"logit_bias\":{\"99999\":1}}", 400},
    {CHAT, "{" USER ",\"logit_bias\":{\"5\":1000}}", 400},
    {CHAT, "{" USER ",\"top_logprobs\":3}", 400},
    {CHAT, "{" USER ",\"logprobs\":true,\"top_logprobs\":99}", 400},
    {CHAT, "{" USER ",\"tools\":{}}", 400},
    {CHAT, "{" USER ",\"tool_choice\":\"required\"}", 400},
    {CHAT, "{" USER ",\"response_format\":{\"type\":\"nonsense\"}}", 400},
    {CHAT, "{" USER ",\"grammar\":\"root ::= (\"}", 400},
    {CHAT, "{" USER ",\"stream_options\":{\"include_usage\":1}}", 400},
    {"/v1/completions", "{\"prompt\":3}", 400},
    {"/v1/completions", "{\"prompt\":\"\"}", 200},
    {"/v1/completions", "{\"prompt\":[1,99999]}", 400},
    {"/v1/completions", "{\"prompt\":[-1]}", 400},
    {"/v1/completions", "{\"prompt\":\"x\",\"echo\":true}", 400},
    {"/v1/embeddings", "{\"input\":\"x\"}", 400},
    {"/v1/nothing", "{}", 404},
    {"/v1/models", "{}", 405},
    {"/nothing", "{}", 404},
    {"/api/chat", "{}", 400},
    {"/api/chat", "{\"model\":\"other\"}", 404},
    {"/api/chat", "{" OLLAMA ",\"messages\":[1]}", 400},
    {"/api/chat",
        "{" OLLAMA ",\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"images\":[\"a\"]}]}",
        400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"options\":[]}", 400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"options\":{\"num_predict\":-3}}", 400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"options\":{\"num_ctx\":\"x\"}}", 400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"format\":\"xml\"}", 400},
    {"/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"keep_alive\":[]}", 400},
    {"/api/show", "{" OLLAMA "}", 200},
    {"/api/show", "{\"model\":\"other\"}", 404},
    {"/api/embed", "{" OLLAMA "}", 400},
    {"/api/pull", "{" OLLAMA "}", 400},
    {"/v1/messages", "{}", 400},
    {"/v1/messages", "{" USER "}", 400},
    {"/v1/messages", "{\"max_tokens\":5,\"messages\":[{\"role\":\"system\",\"content\":\"x\"}]}",
        400},
    {"/v1/messages",
        "{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":"
        "\"image\"}]}]}",
        400},
    {"/v1/messages/count_tokens", "{" USER "}", 200},
};

static void test_mistakes(void **state)
{
    (void)state;
    start(NULL);
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        struct answer a = post(mistakes[i].path, mistakes[i].body);
        if (mistakes[i].status == 200) {
            assert_int_equal(a.status, 200);
            free(a.all);
        } else {
            assert_error(a, mistakes[i].path, mistakes[i].status);
        }
    }
    /* A prompt longer than the context, and a body longer than allowed. */
    char *large = malloc(200 << 10);
    size_t n = (size_t)sprintf(large, "{\"prompt\":\"");
    memset(large + n, 'x', 4000);
    memcpy(large + n + 4000, "\"}", 3);
    assert_error(post("/v1/completions", large), "/v1/completions", 400);
    memset(large + n, 'x', 150 << 10);
    memcpy(large + n + (150 << 10), "\"}", 3);
    assert_error(post("/v1/completions", large), "/v1/completions", 413);
    free(large);
    struct answer a = post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}");
    assert_int_equal(a.status, 200); /* the server goes on */
    free(a.all);
    stop();
}

/* A 405 names the methods of the path, and a HEAD is answered where a GET is. */
static void test_methods(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path, *allow;
        int status;
    } requests[] = {
        {"HEAD", "/v1/models", NULL, 200},
        {"DELETE", "/v1/models/" NAME, "\r\nAllow: GET, HEAD\r\n", 405},
        {"GET", CHAT, "\r\nAllow: POST\r\n", 405},
        {"POST", "/api/delete", "\r\nAllow: DELETE\r\n", 405},
        {"GET", "/nothing", NULL, 404},
    };
    start(NULL);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct answer a = ask_with(requests[i].method, requests[i].path, "", "", 0);
        assert_int_equal(a.status, requests[i].status);
        if (requests[i].allow) {
            assert_non_null(strstr(a.all, requests[i].allow));
        } else {
            assert_null(strstr(a.all, "\r\nAllow:"));
        }
        free(a.all);
    }
    stop();
}

/* Requests with a piece repeated many times between head and tail. */
static const struct {
    const char *path, *head, *piece, *tail;
    int times, status;
} excesses[] = {
#define SCHEMA(schema)                                                                             \
    CHAT, "{" USER ",\"max_tokens\":4,\"response_format\":{\"type\":\"json_schema\","              \
          "\"json_schema\":{\"name\":\"x\",\"schema\":" schema
#define FORMAT(schema)                                                                             \
    "/api/generate", "{" OLLAMA ",\"prompt\":\"x\",\"stream\":false,"                              \
                     "\"options\":{\"num_predict\":4},\"format\":" schema
#define GRAMMAR "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":4,\"grammar\":\"root ::= "
#define CALL                                                                                       \
    CHAT, "{\"max_tokens\":4,\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_"       \
          "calls\":[{"                                                                             \
          "\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\""
#define CALL_END "\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"x\"}]}"
    {SCHEMA("{\"$ref\":\"#\""), "", "}}}}", 0, 400},
    {SCHEMA("{\"anyOf\":[{\"$ref\":\"#\"}]"), "", "}}}}", 0, 400},
    {SCHEMA("{\"type\":\"array\",\"minItems\":5,\"maxItems\":2,\"items\":{\"type\":\"string\"}"),
        "", "}}}}", 0, 400},
    {SCHEMA("{\"type\":\"array\",\"minItems\":100000,\"items\":{\"type\":\"string\"}"), "", "}}}}",
        0, 400},
    {SCHEMA("{\"enum\":[1"), ",1", "]}}}}", 500, 200},
    {SCHEMA("{\"enum\":[1"), ",1", "]}}}}", 10000, 400},
    {SCHEMA(""), "{\"anyOf\":[", "", 500, 400},
    {SCHEMA("{\"type\":\"string\",\"pattern\":\"^"), "x|", "x$\"}}}}", 10000, 400},
    {SCHEMA("{\"type\":\"string\",\"pattern\":\"^"), "(", "x$\"}}}}", 10000,
        200}, /* not a valid pattern: any text */
    {FORMAT("{\"$ref\":\"#\""), "", "}}", 0, 400},
    {FORMAT("{\"enum\":[1"), ",1", "]}}", 10000, 400},
    {FORMAT("{\"type\":\"array\",\"minItems\":5,\"maxItems\":2,\"items\":{\"type\":\"string\"}"),
        "", "}}", 0, 400},
    {GRAMMAR, "\\\"a\\\" | ", "\\\"b\\\"\"}", 1000, 200},
    {GRAMMAR, "\\\"a\\\" | ", "\\\"b\\\"\"}", 5000, 400},
    {GRAMMAR, "\\\"a\\\"? ", "\\\"b\\\"\"}", 50, 200},
    {GRAMMAR, "\\\"a\\\"? ", "\\\"b\\\"\"}", 200, 400},
    {GRAMMAR, "(", "\"}", 5000, 400},
    {GRAMMAR "\\\"a\\\"{5,2}", "", "\"}", 0, 400},
    {GRAMMAR "\\\"a\\\"{100000}", "", "\"}", 0, 400},
    {GRAMMAR "[z-a]", "", "\"}", 0, 400},
    {CALL, "[", CALL_END, 50000, 400},
    {CALL, "{\\\"a\\\":", CALL_END, 5000, 400},
    {CHAT, "{\"max_tokens\":4,\"messages\":[{\"role\":\"user\",\"content\":", "[", "}]}", 5000,
        400},
};

static void test_excesses(void **state)
{
    (void)state;
    start(NULL);
    for (size_t i = 0; i < sizeof excesses / sizeof *excesses; i++) {
        char body[64 << 10];
        size_t n = (size_t)snprintf(body, sizeof body, "%s", excesses[i].head);
        for (int k = 0; k < excesses[i].times; k++) {
            n += (size_t)snprintf(body + n, sizeof body - n, "%s", excesses[i].piece);
            assert_true(n < sizeof body);
        }
        snprintf(body + n, sizeof body - n, "%s", excesses[i].tail);
        uint64_t began = fb_now_ns();
        struct answer a = post(excesses[i].path, body);
        if (a.status != excesses[i].status || fb_now_ns() - began > 10 * (uint64_t)1000000000) {
            fail_msg("%zu, %s: %d: %s", i, excesses[i].head, a.status, a.body);
        }
        free(a.all);
    }
    stop();
}

/* A grammar of 40 rules, each of which begins with the next in two ways: 2^40 ways in all. */
static void test_doubling(void **state)
{
    (void)state;
    char body[4096];
    size_t n =
        (size_t)snprintf(body, sizeof body, "{\"prompt\":\"x\",\"grammar\":\"root ::= r0\\n");
    for (int i = 0; i < 40; i++) {
        n += (size_t)snprintf(body + n, sizeof body - n, "r%d ::= r%d | r%d\\n", i, i + 1, i + 1);
    }
    snprintf(body + n, sizeof body - n, "r40 ::= \\\"a\\\"\"}");
    start(NULL);
    assert_error(post("/v1/completions", body), "/v1/completions", 400);
    stop();
}

/* Sends a template; the answer must have this status and contain `has`. */
static void assert_templated(const char *template, int status, const char *has)
{
    char body[512];
    snprintf(body, sizeof body,
        "{" OLLAMA ",\"prompt\":\"Once\",\"template\":\"%s\",\"stream\":false,"
        "\"options\":{\"num_predict\":2}}",
        template);
    struct answer a = post("/api/generate", body);
    if (a.status != status || !strstr(a.body, has)) {
        fail_msg("%s: %d: %s", template, a.status, a.body);
    }
    free(a.all);
}

static void test_templates(void **state)
{
    (void)state;
    static const char endless[] =
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    start(NULL);
    assert_templated("", 200, "\"response\":");
    assert_templated(endless, 400, "--client-templates");
    assert_templated("{{ .Prompt }}", 400, "Jinja");
    stop();
    start_with(NULL, true);
    assert_templated("{% for m in messages %}{{ m.content }}{% endfor %}", 200,
        "\"prompt_eval_count\":2,"); /* BOS and "Once" alone */
    assert_templated("{% for %}", 400, "template");
    assert_templated("{{ .Prompt }}", 400, "Jinja");
    stop();
}

static void test_keys(void **state)
{
    (void)state;
    start("secret");
    static const char *const wrong[] = {"", "Authorization: Bearer secre\r\n",
        "Authorization: Bearer secrets\r\n", "Authorization: Bearer \r\n",
        "Authorization: Basic secret\r\n", "x-api-key: Secret\r\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_error(ask_with("GET", "/v1/models", wrong[i], "", 0), "/v1/models", 401);
        assert_error(ask_with("POST", "/nothing", wrong[i], "", 0), "/nothing", 401);
    }
    static const char *const right[] = {
        "Authorization: Bearer secret\r\n", "x-api-key: secret\r\n"};
    for (size_t i = 0; i < 2; i++) {
        struct answer a = ask_with("GET", "/v1/models", right[i], "", 0);
        assert_int_equal(a.status, 200);
        free(a.all);
    }
    struct answer a = ask_with("GET", "/health", "", "", 0);
    assert_int_equal(a.status, 200);
    free(a.all);
    stop();
}

/* Pages of other sites are refused, by Origin or by Host. */
static void test_foreign_pages(void **state)
{
    (void)state;
    start(NULL);
    assert_error(
        ask_with("GET", "/v1/models", "Origin: http://evil.example\r\n", "", 0), "/v1/models", 403);
    struct answer a = ask_with("GET", "/v1/models", "Origin: http://localhost:3000\r\n", "", 0);
    assert_int_equal(a.status, 200);
    free(a.all);
    static const char *const rebound[] = {"evil.example", "127.0.0.1.evil.example"};
    for (int i = 0; i < 2; i++) {
        char head[128];
        int fd = dial();
        snprintf(head, sizeof head,
            "GET /v1/models HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", rebound[i]);
        send_all(fd, head, strlen(head));
        assert_error(read_answer(fd), "/v1/models", 403);
    }
    stop();
}

/* --- Busy servers, leaving and slow clients ------------------------------------------------ */

#define LONG_STREAM                                                                                \
    "{\"prompt\":\"Once\",\"max_tokens\":240,\"ignore_eos\":true,\"stream\":true,\"temperature\":" \
    "0}"

static int begin_stream(void)
{
    char head[256];
    int fd = dial();
    snprintf(head, sizeof head,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        "Content-Length: %zu\r\n\r\n",
        strlen(LONG_STREAM));
    send_all(fd, head, strlen(head));
    send_all(fd, LONG_STREAM, strlen(LONG_STREAM));
    return fd;
}

static void wait_until_empty(void)
{
    for (int i = 0; i < 2000 && !fb_service_is_empty(f.service); i++) {
        usleep(5000);
    }
    assert_true(fb_service_is_empty(f.service));
}

static void test_leaving(void **state)
{
    (void)state;
    struct fb_service_stats stats;
    start(NULL);
    for (int i = 0; i < 6; i++) {
        int fd = begin_stream();
        char some[64];
        if (i % 2) {
            assert_true(receive(fd, some, sizeof some) > 0);
        }
        close(fd);
    }
    wait_until_empty();
    fb_service_stats(f.service, &stats);
    assert_int_equal(stats.failed, 0);
    struct answer a = post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}");
    assert_int_equal(a.status, 200);
    free(a.all);
    stop();
}

/* A client that closes only its sending half cannot be told from one that has left: its request is
 * cancelled, and a 400 says so, as it may still read. */
static void test_half_closing(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body;
    } requests[] = {
        {"/v1/completions", LONG_STREAM},
        {"/v1/completions", "{\"prompt\":\"Once\",\"max_tokens\":240,\"ignore_eos\":true}"},
        {"/api/generate", "{" OLLAMA ",\"prompt\":\"Once\"}"},
        {"/api/generate", "{" OLLAMA ",\"prompt\":\"Once\",\"stream\":false}"},
    };
    struct fb_service_stats stats;
    start(NULL);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        char request[512];
        int fd = dial(), n = snprintf(request, sizeof request,
                             "POST %s HTTP/1.0\r\nContent-Length: %zu\r\n\r\n%s", requests[i].path,
                             strlen(requests[i].body), requests[i].body);
        assert_int_equal(send(fd, request, (size_t)n, MSG_NOSIGNAL | MSG_MORE), n);
        shutdown(fd, SHUT_WR); /* arrives together with the request */
        struct answer a = read_answer(fd);
        assert_non_null(strstr(a.body, "closed its half of the connection"));
        assert_error(a, requests[i].path, 400);
    }
    wait_until_empty();
    fb_service_stats(f.service, &stats);
    assert_true(stats.cancelled > 0);
    stop();
}

static void test_busy(void **state)
{
    (void)state;
    int fds[12], refused = 0;
    start(NULL);
    for (int i = 0; i < 12; i++) {
        fds[i] = begin_stream();
    }
    for (int i = 0; i < 12; i++) {
        struct answer a = read_answer(fds[i]);
        assert_true(a.status == 200 || a.status == 429);
        if (a.status == 429) {
            assert_non_null(strstr(a.all, "Retry-After:"));
            refused++;
        } else {
            assert_non_null(strstr(a.body, "data: [DONE]"));
        }
        free(a.all);
    }
    assert_true(refused > 0);
    stop();
}

/* Clients that send nothing more are disconnected, and do not hold up others. */
static void test_slow(void **state)
{
    (void)state;
    start(NULL);
    int fds[4];
    for (int i = 0; i < 4; i++) {
        const char *part = i % 2 ? "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"
                                 : "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                                   "Content-Length: 1000\r\n\r\n{\"prompt\"";
        fds[i] = dial();
        send_all(fds[i], part, strlen(part));
    }
    struct answer a = post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}");
    assert_int_equal(a.status, 200);
    free(a.all);
    for (int i = 0; i < 4; i++) {
        char some[256];
        ssize_t n;
        while ((n = receive(fds[i], some, sizeof some)) > 0) {
        }
        assert_true(n == 0 || errno == ECONNRESET); /* closed by the server */
        close(fds[i]);
    }
    stop();
}

/* Trickling bytes do not extend the deadline: of headers, of a body, of a chunk's extension. */
static void test_dripping(void **state)
{
    (void)state;
    static const char *const beginnings[] = {"GET /health HTTP/1.1\r\nX-Filler: ",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5;",
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX-Filler: "};
    enum { N = sizeof beginnings / sizeof *beginnings };
    int fds[N], open = N;
    start(NULL);
    for (int i = 0; i < N; i++) {
        fds[i] = dial();
        send_all(fds[i], beginnings[i], strlen(beginnings[i]));
    }
    uint64_t end = fb_now_ns() + (uint64_t)PATIENCE_S * 1000000000u;
    while (open > 0 && fb_now_ns() < end) {
        usleep(200000); /* often enough for the timeout of silence never to expire */
        for (int i = 0; i < N; i++) {
            char some[4096];
            if (fds[i] < 0) {
                continue;
            }
            send(fds[i], "x", 1, MSG_NOSIGNAL);
            ssize_t n = recv(fds[i], some, sizeof some, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno == ECONNRESET)) {
                close(fds[i]);
                fds[i] = -1;
                open--;
            }
        }
    }
    assert_int_equal(open, 0);
    stop();
}

static void test_draining(void **state)
{
    (void)state;
    start(NULL);
    int fd = begin_stream();
    while (fb_service_is_empty(f.service)) {
        usleep(1000);
    }
    fb_service_drain(f.service);
    assert_error(
        post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}"), "/v1/completions", 503);
    struct answer a = read_answer(fd);
    assert_non_null(strstr(a.body, "data: [DONE]"));
    free(a.all);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_excesses),
        cmocka_unit_test(test_doubling),
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_foreign_pages),
        cmocka_unit_test(test_leaving),
        cmocka_unit_test(test_half_closing),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_slow),
        cmocka_unit_test(test_dripping),
        cmocka_unit_test(test_draining),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
