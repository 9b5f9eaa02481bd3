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

struct fb_request {
    const char *body;
    size_t n;
    enum fb_api api;
    int status; /* 0: not answered */
};

static struct fb_server server;

/* --- In place of http.c --------------------------------------------------------------------- */

struct fb_server *fb_request_server(const struct fb_request *r)
{
    (void)r;
    return &server;
}

const char *fb_request_body(const struct fb_request *r, size_t *n)
{
    *n = r->n;
    return r->body;
}

const char *fb_request_rest(const struct fb_request *r)
{
    (void)r;
    return "";
}

const char *fb_request_client(const struct fb_request *r)
{
    (void)r;
    return "a client";
}

bool fb_request_left(const struct fb_request *r)
{
    (void)r;
    return false;
}

enum fb_api fb_request_api(const struct fb_request *r)
{
    return r->api;
}

void fb_answer_bytes(struct fb_request *r, int status, const char *type, char *bytes, size_t n)
{
    (void)type;
    (void)n;
    FB_ASSERT(r->status == 0);
    r->status = status;
    free(bytes);
}

void fb_answer_stream(struct fb_request *r, const char *type, struct fb_exchange *exchange)
{
    (void)exchange;
    FB_ASSERT(!"no job was accepted");
    fb_answer_text(r, 500, type, "");
}

/* --- In place of service.c ------------------------------------------------------------------ */

/* What is done with a request before it waits; then it is refused. */
enum fb_refusal fb_service_submit(struct fb_service *s, const struct fb_job_options *o,
    struct fb_job **out, struct forebay_error *err)
{
    struct forebay_sampler *sampler = NULL;
    struct forebay_text *text = NULL;
    (void)s;
    (void)out;
    enum forebay_status status =
        forebay_sampler_new(server.model, &o->sampling, o->prompt, &sampler, err);
    if (status == FOREBAY_OK) {
        status = forebay_text_new(server.model, o->prompt, o->stops, o->n_stops, &text, err);
    }
    forebay_text_free(text);
    forebay_sampler_free(sampler);
    return status == FOREBAY_OK ? FB_BUSY : FB_INVALID;
}

void fb_service_stats(struct fb_service *s, struct fb_service_stats *out)
{
    (void)s;
    *out = (struct fb_service_stats){0};
}

const struct forebay_model *fb_service_model(const struct fb_service *s)
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
    static struct forebay_model *model;
    static char path[4096];
    struct forebay_error err;
    struct forebay_model_options options;
    const char *shared = getenv("FOREBAY_SHARED");
    if (!shared) {
        skip("no shared models");
    }
    snprintf(path, sizeof path, "%s/models/stories260K.gguf", shared);
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    forebay_model_options_init(&options);
    options.threads = 1;
    options.ctx = 512;
    server.options.path = path;
    server.options.name = "m";
    if (forebay_model_load(path, &options, &model, &err) != FOREBAY_OK) {
        skip(err.message);
    }
    server.model = model;
    server.loopback = true;
    if (fb_model_card_make(&server, &err) != FOREBAY_OK ||
        forebay_chat_new(model, NULL, &server.chat, &err) != FOREBAY_OK) {
        skip(err.message);
    }
}

static const struct {
    const char *path;
    enum fb_api api;
    void (*handle)(struct fb_request *r);
} endpoints[] = {
    {"/v1/chat/completions", FB_API_OPENAI, fb_openai_chat},
    {"/v1/completions", FB_API_OPENAI, fb_openai_text},
    {"/v1/messages", FB_API_ANTHROPIC, fb_anthropic_messages},
    {"/v1/messages/count_tokens", FB_API_ANTHROPIC, fb_anthropic_count},
    {"/api/generate", FB_API_OLLAMA, fb_ollama_generate},
    {"/api/chat", FB_API_OLLAMA, fb_ollama_chat},
    {"/api/show", FB_API_OLLAMA, fb_ollama_show},
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
            struct fb_request r = {end + 1, size - n_path - 1, endpoints[i].api, 0};
            endpoints[i].handle(&r);
            FB_ASSERT(r.status == 200 || r.status == 400 || r.status == 404 || r.status == 429 ||
                      (r.status == 503 && r.api == FB_API_OLLAMA));
        }
    }
    return 0;
}
