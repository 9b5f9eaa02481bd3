/*
 * fuzz_requests.c - a libFuzzer target: any bytes as the body of a request, through all that reads it:
 * JSON, fields, messages, tools, schemas, grammars, templates, tokenizer, sampler. Only HTTP and the
 * computing are left out: http.c's and service.c's functions are here instead.
 *
 *      input: PATH '\n' BODY
 *
 * Every request must be answered once, and with its own kind of status: no 500 for a client's mistake.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "serve/exchange.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct st_request {
    const char *body;
    size_t n;
    enum st_api api;
    int status; /* 0: not answered */
};

static struct st_server server;

/* --- In place of http.c --------------------------------------------------------------------- */

struct st_server *st_request_server(const struct st_request *r)
{
    (void)r;
    return &server;
}

const char *st_request_body(const struct st_request *r, size_t *n)
{
    *n = r->n;
    return r->body;
}

const char *st_request_rest(const struct st_request *r)
{
    (void)r;
    return "";
}

const char *st_request_client(const struct st_request *r)
{
    (void)r;
    return "a client";
}

bool st_request_left(const struct st_request *r)
{
    (void)r;
    return false;
}

enum st_api st_request_api(const struct st_request *r)
{
    return r->api;
}

void st_answer_bytes(struct st_request *r, int status, const char *type, char *bytes, size_t n)
{
    (void)type;
    (void)n;
    ST_ASSERT(r->status == 0);
    r->status = status;
    free(bytes);
}

void st_answer_stream(struct st_request *r, const char *type, struct st_exchange *exchange)
{
    (void)exchange;
    ST_ASSERT(!"no job was accepted");
    st_answer_text(r, 500, type, "");
}

/* --- In place of service.c ------------------------------------------------------------------ */

/* What is done with a request before it waits; then it is refused. */
enum st_refusal st_service_submit(struct st_service *s, const struct st_job_options *o,
    struct st_job **out, struct strata_error *err)
{
    struct strata_sampler *sampler = NULL;
    struct strata_text *text = NULL;
    (void)s;
    (void)out;
    enum strata_status status =
        strata_sampler_new(server.model, &o->sampling, o->prompt, &sampler, err);
    if (status == STRATA_OK) {
        status = strata_text_new(server.model, o->prompt, o->stops, o->n_stops, &text, err);
    }
    strata_text_free(text);
    strata_sampler_free(sampler);
    return status == STRATA_OK ? ST_BUSY : ST_INVALID;
}

void st_service_stats(struct st_service *s, struct st_service_stats *out)
{
    (void)s;
    *out = (struct st_service_stats){0};
}

const struct strata_model *st_service_model(const struct st_service *s)
{
    (void)s;
    return server.model;
}

/* --- The target ------------------------------------------------------------------------------ */

static void skip(const char *why)
{
    printf("1..0 # SKIP %s\n", why);
    exit(0);
}

static void start(void)
{
    static struct strata_model *model;
    static char path[4096];
    struct strata_error err;
    struct strata_model_options options;
    const char *shared = getenv("STRATA_SHARED");
    if (!shared) {
        skip("no shared models");
    }
    snprintf(path, sizeof path, "%s/models/stories260K.gguf", shared);
    strata_log_set_level(STRATA_LOG_ERROR);
    strata_model_options_init(&options);
    options.threads = 1;
    options.ctx = 512;
    server.options.path = path;
    server.options.name = "m";
    if (strata_model_load(path, &options, &model, &err) != STRATA_OK) {
        skip(err.message);
    }
    server.model = model;
    server.loopback = true;
    if (st_model_card_make(&server, &err) != STRATA_OK ||
        strata_chat_new(model, NULL, &server.chat, &err) != STRATA_OK) {
        skip(err.message);
    }
}

static const struct {
    const char *path;
    enum st_api api;
    void (*handle)(struct st_request *r);
} endpoints[] = {
    {"/v1/chat/completions", ST_API_OPENAI, st_openai_chat},
    {"/v1/completions", ST_API_OPENAI, st_openai_text},
    {"/v1/messages", ST_API_ANTHROPIC, st_anthropic_messages},
    {"/v1/messages/count_tokens", ST_API_ANTHROPIC, st_anthropic_count},
    {"/api/generate", ST_API_OLLAMA, st_ollama_generate},
    {"/api/chat", ST_API_OLLAMA, st_ollama_chat},
    {"/api/show", ST_API_OLLAMA, st_ollama_show},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!server.model) {
        start();
    }
    const char *text = (const char *)data, *end = size ? memchr(text, '\n', size) : NULL;
    size_t n_path = end ? (size_t)(end - text) : 0;
    for (size_t i = 0; end && i < sizeof endpoints / sizeof *endpoints; i++) {
        if (strlen(endpoints[i].path) == n_path && memcmp(endpoints[i].path, text, n_path) == 0) {
            struct st_request r = {end + 1, size - n_path - 1, endpoints[i].api, 0};
            endpoints[i].handle(&r);
            ST_ASSERT(r.status == 200 || r.status == 400 || r.status == 404 || r.status == 429 ||
                      (r.status == 503 && r.api == ST_API_OLLAMA));
        }
    }
    return 0;
}
