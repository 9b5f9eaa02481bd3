/*
 * answer.h - complete answers, and errors in the shape of each API.
 *
 *      OpenAI     {"error": {"message", "type", "param", "code"}}
 *      Ollama     {"error": message}
 *      Anthropic  {"type": "error", "error": {"type", "message"}}
 *
 * Each function answers the request; see http.h.
 */
#ifndef FB_SERVE_ANSWER_H
#define FB_SERVE_ANSWER_H

#include <jansson.h>

#include "serve/fields.h"
#include "serve/http.h"

/* Releases the caller's reference to `value`. */
void fb_answer_json(struct fb_request *request, int status, json_t *value);
void fb_answer_text(struct fb_request *request, int status, const char *type, const char *text);

/* Errors; the message is cut to 1023 bytes. */
void fb_answer_error(struct fb_request *request, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* With a value for OpenAI's field "code", by which its clients tell errors apart; NULL: null. */
void fb_answer_coded(struct fb_request *request, int status, const char *code, const char *message);
/* With the first error of the fields. */
void fb_answer_fields(struct fb_request *request, const struct fb_fields *fields);
/* 404: the request names another model than the one that is served. */
void fb_answer_no_model(struct fb_request *request, const char *name);

/* The error object of an API. New reference. `status` is the HTTP status; `code` as above. */
json_t *fb_error_json(enum fb_api api, int status, const char *code, const char *message);

#endif
