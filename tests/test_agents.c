/*
 * test_agents.c - the first requests of coding agents, each of which must be answered: a file of
 * tests/agents has the method and the path in its first line, and the body below. And a prompt as
 * long as agents send it, with the default context.
 */
#include "serve/server.h"
#include "serve_fixture.h"
#include "synth/synth.h"

#include "http_client.h"

#define NAME         "agents"
#define LONG_TOKENS  22000
#define TRAINED_FOR  32768
#define REQUESTS_DIR TESTS_DIR "/agents"

static struct fixture f;
static struct fb_server *server;
static char *chat_template;

static void make_model(const char *path)
{
    struct fb_synth_shape shape;
    struct forebay_error err;
    fb_synth_shape_init(&shape);
    shape.arch = "llama";
    shape.type = "F16";
    shape.layers = 1;
    shape.embd = 32;
    shape.heads = 1;
    shape.ff = 32;
    shape.vocab = 300;
    shape.ctx = TRAINED_FOR;
    if (fb_synth_random(&shape, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

static int start(void **state)
{
    (void)state;
    struct forebay_model_options model;
    struct fb_server_options options;
    struct forebay_error err;
    size_t n;
    const char *path = temp_path(NAME ".gguf");
    make_model(path);
    forebay_model_options_init(&model);
    model.threads = 1;
    model.n_seq = 1;
    model.n_kept = 1;
    model.device = "none";
    fixture_start(&f, path, &model, &(struct fb_service_options){.parallel = 1, .queue_max = 4});
    assert_int_equal(forebay_model_ctx(f.model), TRAINED_FOR);
    chat_template = read_whole(TESTS_DIR "/clients/tools.jinja", &n);
    chat_template[n] = 0;
    fb_server_options_init(&options);
    options.port = 0;
    options.name = NAME;
    options.path = path;
    options.chat_template = chat_template;
    if (fb_server_open(&options, &server, &err) != FOREBAY_OK ||
        fb_server_serve(server, f.service, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return 0;
}

static int stop(void **state)
{
    fb_server_stop(server);
    fixture_stop(&f);
    free(chat_template);
    return temp_remove(state);
}

/* Sends a request; `what`: method and path. Returns the socket. */
static int begin(const char *what, const char *body, size_t n)
{
    char head[1024];
    int fd = dial_port(fb_server_port(server));
    snprintf(head, sizeof head,
        "%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nanthropic-version: 2023-06-01\r\n"
        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
        what, n);
    send_all(fd, head, strlen(head));
    send_all(fd, body, n);
    return fd;
}

static struct answer ask(const char *what, const char *body, size_t n)
{
    return read_answer(begin(what, body, n));
}

/* Also a stream must not have failed. Frees the answer. */
static void assert_good(const char *name, struct answer a)
{
    if (a.status != 200 || strstr(a.body, "\"error\"")) {
        fail_msg("%s: %d: %s", name, a.status, a.body);
    }
    free(a.all);
}

static void requests_are_answered(void **state)
{
    (void)state;
    int n_files = 0;
    struct dirent *e;
    DIR *d = opendir(REQUESTS_DIR);
    assert_non_null(d);
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.') {
            continue;
        }
        char path[PATH_MAX];
        size_t n;
        snprintf(path, sizeof path, "%s/%s", REQUESTS_DIR, e->d_name);
        char *text = read_whole(path, &n), *line = memchr(text, '\n', n);
        assert_non_null(line);
        *line = 0;
        assert_good(e->d_name, ask(text, line + 1, n - (size_t)(line + 1 - text)));
        free(text);
        n_files++;
    }
    closedir(d);
    assert_true(n_files >= 20);
}

/* A prompt of which each "w0 " is a token or more. */
static void long_prompts_are_answered(void **state)
{
    (void)state;
    static const struct {
        const char *what, *tail, *count;
    } asks[] = {
        {"POST /v1/chat/completions", "\"max_tokens\":2", "\"prompt_tokens\":"},
        {"POST /api/chat", "\"stream\":false,\"options\":{\"num_predict\":2}",
            "\"prompt_eval_count\":"},
        {"POST /v1/messages", "\"max_tokens\":2", "\"cache_read_input_tokens\":"},
        {"POST /v1/messages/count_tokens", "\"max_tokens\":2", "\"input_tokens\":"},
    };
    char *body = malloc(LONG_TOKENS * 3 + 1024);
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        size_t n = (size_t)sprintf(body,
            "{\"model\":\"" NAME "\",%s,\"messages\":[{\"role\":\"user\",\"content\":\"",
            asks[i].tail);
        for (int k = 0; k < LONG_TOKENS; k++) {
            n += (size_t)sprintf(body + n, "w0 ");
        }
        n += (size_t)sprintf(body + n, "\"}]}");
        struct answer a = ask(asks[i].what, body, n);
        char *count = strstr(a.body, asks[i].count);
        if (!count || atoi(count + strlen(asks[i].count)) < LONG_TOKENS) {
            fail_msg("%s: %s", asks[i].what, a.body);
        }
        assert_good(asks[i].what, a);
    }
    free(body);
}

/* Sends more messages than can be rendered within a second, and waits until that has begun. */
static int begin_many_messages(void)
{
    enum { N = 20000 };
    static const char message[] = "{\"role\":\"user\",\"content\":\"w0\"},";
    char *body = malloc(N * sizeof message + 100);
    size_t n = (size_t)sprintf(body, "{\"messages\":[");
    for (int i = 0; i < N; i++) {
        n += (size_t)sprintf(body + n, "%s", message);
    }
    n += (size_t)sprintf(body + n - 1, "]}") - 1;
    int fd = begin("POST /v1/chat/completions", body, n);
    free(body);
    usleep(300000);
    return fd;
}

static void assert_refused(int fd, int status, const char *has)
{
    struct answer a = read_answer(fd);
    if (a.status != status || !strstr(a.body, has)) {
        fail_msg("%d: %s", a.status, a.body);
    }
    free(a.all);
}

/* Rendering is cancelled; the answer of these 20,000 messages would be that they do not fit. Ends
 * the server. */
static void rendering_ends_with_its_client(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* not there (work_limit.h) */
#endif
    int fd = begin_many_messages();
    shutdown(fd, SHUT_WR);
    assert_refused(fd, 400, "closed its half of the connection");
    fd = begin_many_messages();
    fb_server_cancel(server);
    assert_refused(fd, 503, "shutting down");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_answered),
        cmocka_unit_test(long_prompts_are_answered),
        cmocka_unit_test(rendering_ends_with_its_client),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
