#include "serve/answer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "serve/served.h"

void fb_answer_json(struct fb_request *r, int status, json_t *value)
{
    struct fb_buffer out = FB_BUFFER_INIT;
    size_t n;
    fb_buffer_json(&out, value);
    char *bytes = fb_buffer_detach(&out, &n);
    fb_request_answer(r, status, "application/json; charset=utf-8", bytes, n);
}

void fb_answer_text(struct fb_request *r, int status, const char *type, const char *text)
{
    fb_request_answer(r, status, type, fb_xstrdup(text), strlen(text));
}

/* --- Errors -------------------------------------------------------------------------------- */

static const char *openai_type(int status)
{
    return status == 401   ? "authentication_error"
           : status == 403 ? "permission_error"
           : status == 404 ? "not_found_error"
           : status == 429 ? "rate_limit_error"
           : status < 500  ? "invalid_request_error"
                           : "server_error";
}

static const char *anthropic_type(int status)
{
    return status == 413   ? "request_too_large"
           : status == 503 ? "overloaded_error"
           : status < 500  ? openai_type(status)
                           : "api_error";
}

json_t *fb_error_json(enum fb_api api, int status, const char *code, const char *message)
{
    json_t *text = fb_json_text(message, strlen(message));
    switch (api) {
    case FB_API_OLLAMA:
        return json_pack("{s:o}", "error", text);
    case FB_API_ANTHROPIC:
        return json_pack("{s:s,s:{s:s,s:o}}", "type", "error", "error", "type",
            anthropic_type(status), "message", text);
    default:
        return json_pack("{s:{s:o,s:s,s:n,s:s?}}", "error", "message", text, "type",
            openai_type(status), "param", "code", code);
    }
}

void fb_answer_error(struct fb_request *r, int status, const char *format, ...)
{
    char message[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(message, sizeof message, format, ap);
    va_end(ap);
    fb_answer_coded(r, status, status == 401 ? "invalid_api_key" : NULL, message);
}

void fb_answer_coded(struct fb_request *r, int status, const char *code, const char *message)
{
    fb_answer_json(r, status, fb_error_json(r->api, status, code, message));
}

void fb_answer_fields(struct fb_request *r, const struct fb_fields *f)
{
    fb_answer_coded(r, f->status ? f->status : 400, f->code, f->message);
}

void fb_answer_no_model(struct fb_request *r, const char *name)
{
    char message[1024];
    snprintf(message, sizeof message, "model '%s' not found; this server has '%s'", name,
        r->served->card.name);
    fb_answer_coded(r, 404, "model_not_found", message);
}
