/* http.h - a request as the API handlers see it, and how they answer. */
#ifndef FB_SERVE_HTTP_H
#define FB_SERVE_HTTP_H

#include <jansson.h>

#include "serve/buffer.h"
#include "serve/server.h"

struct fb_request;
struct fb_exchange;

/* Which API's way of saying what is wrong. */
enum fb_api { FB_API_OPENAI, FB_API_OLLAMA, FB_API_ANTHROPIC };

struct fb_model_card {
    char name[256];
    char arch[64];
    char quantization[32];
    char parameter_size[32]; /* "4.7B" */
    char digest[65];
    char modified[40]; /* RFC 3339 */
    uint64_t parameters, file_bytes;
};

struct fb_server {
    struct fb_server_options options;
    struct fb_service *service;
    const struct forebay_model *model;
    struct forebay_chat *chat; /* NULL: the model has no tokenizer */
    struct fb_model_card card;
    double started_s; /* seconds since the epoch */
    struct MHD_Daemon *daemon;
    struct fb_deadlines *deadlines;
    bool loopback; /* it listens on this machine only */
    _Atomic bool stopping;
};

struct fb_server *fb_request_server(const struct fb_request *request);
enum fb_api fb_request_api(const struct fb_request *request); /* that its path belongs to */
const char *fb_request_body(const struct fb_request *request, size_t *n);
const char *fb_request_rest(const struct fb_request *request);   /* what the route's * stands for */
const char *fb_request_client(const struct fb_request *request); /* its address */
bool fb_request_left(const struct fb_request *request); /* the client, as far as can be seen */

/* Each request is answered once, by one of these. The bytes are freed. */
void fb_answer_bytes(
    struct fb_request *request, int status, const char *type, char *bytes, size_t n);
void fb_answer_json(struct fb_request *request, int status, json_t *value);
void fb_answer_text(struct fb_request *request, int status, const char *type, const char *text);
void fb_answer_error(struct fb_request *request, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* With OpenAI's code for it, which its clients look at. */
void fb_answer_coded(struct fb_request *request, int status, const char *code, const char *message);
/* 404: the request is for another model than ours. */
void fb_answer_no_model(struct fb_request *request, const char *name);
/* Streams what `exchange` produces, and owns it from here on. */
void fb_answer_stream(struct fb_request *request, const char *type, struct fb_exchange *exchange);

/* The error object of an API. `status` is the HTTP status; `code` is OpenAI's, or NULL. */
json_t *fb_error_json(enum fb_api api, int status, const char *code, const char *message);

/* Handlers. */
void fb_openai_models(struct fb_request *request);
void fb_openai_model(struct fb_request *request);
void fb_openai_chat(struct fb_request *request);
void fb_openai_text(struct fb_request *request);
void fb_openai_embeddings(struct fb_request *request);
void fb_ollama_generate(struct fb_request *request);
void fb_ollama_chat(struct fb_request *request);
void fb_ollama_tags(struct fb_request *request);
void fb_ollama_show(struct fb_request *request);
void fb_ollama_ps(struct fb_request *request);
void fb_ollama_version(struct fb_request *request);
void fb_ollama_embed(struct fb_request *request);
void fb_ollama_unsupported(struct fb_request *request);
void fb_anthropic_messages(struct fb_request *request);
void fb_anthropic_count(struct fb_request *request);
void fb_answer_health(struct fb_request *request);
void fb_answer_metrics(struct fb_request *request);
void fb_answer_root(struct fb_request *request);

#endif
