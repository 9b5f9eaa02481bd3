/*
 * fuzz_requests.c - a libFuzzer target: any bytes as the body of a request, through all code that
 * reads it: JSON, fields, messages, tools, schemas, grammars, templates, tokenizer, sampler. Only
 * HTTP and computing are left out: this file has its own versions of the functions of http.c and
 * service.c.
 *
 *      input: PATH '\n' BODY
 *
 * Every request must be answered exactly once, and a client's mistake never by 500.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "serve/routes.h"
#include "serve/served.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct forebay_model *model;
static struct fb_served served;
static int answer_status; /* of the current request; 0: not answered */

/* --- In place of http.c -------------------------------------------------------------------- */

bool fb_request_left(const struct fb_request *r)
{
    (void)r;
    return false;
}

void fb_request_settle(struct fb_request *r, uint64_t bytes)
{
    (void)bytes;
    fb_buffer_release(&r->body);
}

bool fb_request_reserve(struct fb_request *r, uint64_t bytes)
{
    (void)r;
    (void)bytes;
    return true;
}

void fb_request_answer(struct fb_request *r, int status, const char *type, char *bytes, size_t n)
{
    (void)r;
    (void)type;
    (void)n;
    FB_ASSERT(answer_status == 0);
    answer_status = status;
    free(bytes);
}

void fb_request_stream(struct fb_request *r, const char *type, const struct fb_body_source *source)
{
    (void)r;
    (void)type;
    (void)source;
    FB_ASSERT(!"no job was accepted");
}

/* --- In place of service.c ----------------------------------------------------------------- */

/* Does what is done with a job before it waits, then refuses it. */
enum fb_refusal fb_service_submit(struct fb_service *s, const struct fb_job_options *o,
    struct fb_job **out, struct forebay_error *err)
{
    struct forebay_sampler *sampler = NULL;
    struct forebay_text *text = NULL;
    (void)s;
    (void)out;
    enum forebay_status status = forebay_sampler_new(model, &o->sampling, o->prompt, &sampler, err);
    if (status == FOREBAY_OK) {
        status = forebay_text_new(model, o->prompt, o->stops, o->n_stops, &text, err);
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
    return model;
}

/* --- The target ---------------------------------------------------------------------------- */

static void start(void)
{
    static const char path[] = OWN_MODELS_DIR "/fable-moe.gguf";
    struct forebay_error err;
    struct forebay_model_options options;
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    forebay_model_options_init(&options);
    options.threads = 1;
    options.ctx = 512;
    if (forebay_model_load(path, &options, &model, &err) != FOREBAY_OK ||
        fb_served_init(&served, NULL, "m", path, NULL, &err) != FOREBAY_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
}

static void handle(const char *path, const char *body, size_t n)
{
    struct fb_route_match match;
    fb_route_find("POST", path, &match);
    if (!match.route) {
        return;
    }
    struct fb_request r = {.served = &served, .api = match.api, .client = "a client"};
    fb_buffer_init(&r.body);
    fb_buffer_add(&r.body, body, n);
    answer_status = 0;
    match.route->handle(&r);
    fb_buffer_release(&r.body);
    FB_ASSERT(answer_status == 200 || answer_status == 400 || answer_status == 404 ||
              answer_status == 429 || answer_status == 501 ||
              (answer_status == 503 && r.api == FB_API_OLLAMA));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[256];
    if (!model) {
        start();
    }
    const char *text = (const char *)data, *end = size ? memchr(text, '\n', size) : NULL;
    if (end && (size_t)(end - text) < sizeof path) {
        size_t n_path = (size_t)(end - text);
        memcpy(path, text, n_path);
        path[n_path] = 0;
        handle(path, end + 1, size - n_path - 1);
    }
    return 0;
}
