/* http.h - a request as the API handlers see it, and how they answer. */
#ifndef ST_SERVE_HTTP_H
#define ST_SERVE_HTTP_H

#include <jansson.h>

#include "serve/buffer.h"
#include "serve/server.h"

struct st_request;
struct st_exchange;

/* Which API's way of saying what is wrong. */
enum st_api { ST_API_OPENAI, ST_API_OLLAMA, ST_API_ANTHROPIC };

struct st_model_card {
    char name[256];
    char arch[64];
    char quantization[32];
    char parameter_size[32]; /* "4.7B" */
    char digest[65];
    char modified[40]; /* RFC 3339 */
    uint64_t parameters, file_bytes;
};

struct st_server {
    struct st_server_options options;
    struct st_service *service;
    const struct strata_model *model;
    struct strata_chat *chat; /* NULL: the model has no tokenizer */
    struct st_model_card card;
    double started_s; /* seconds since the epoch */
    struct MHD_Daemon *daemon;
    struct st_deadlines *deadlines;
    bool loopback; /* it listens on this machine only */
    _Atomic bool stopping;
};

struct st_server *st_request_server(const struct st_request *request);
enum st_api st_request_api(const struct st_request *request); /* that its path belongs to */
const char *st_request_body(const struct st_request *request, size_t *n);
const char *st_request_rest(const struct st_request *request);   /* what the route's * stands for */
const char *st_request_client(const struct st_request *request); /* its address */
bool st_request_left(const struct st_request *request); /* the client, as far as can be seen */

/* Each request is answered once, by one of these. The bytes are freed. */
void st_answer_bytes(
    struct st_request *request, int status, const char *type, char *bytes, size_t n);
void st_answer_json(struct st_request *request, int status, json_t *value);
void st_answer_text(struct st_request *request, int status, const char *type, const char *text);
void st_answer_error(struct st_request *request, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* With OpenAI's code for it, which its clients look at. */
void st_answer_coded(struct st_request *request, int status, const char *code, const char *message);
/* 404: the request is for another model than ours. */
void st_answer_no_model(struct st_request *request, const char *name);
/* Streams what `exchange` produces, and owns it from here on. */
void st_answer_stream(struct st_request *request, const char *type, struct st_exchange *exchange);

/* The error object of an API. `status` is the HTTP status; `code` is OpenAI's, or NULL. */
json_t *st_error_json(enum st_api api, int status, const char *code, const char *message);

/* Handlers. */
void st_openai_models(struct st_request *request);
void st_openai_model(struct st_request *request);
void st_openai_chat(struct st_request *request);
void st_openai_text(struct st_request *request);
void st_openai_embeddings(struct st_request *request);
void st_ollama_generate(struct st_request *request);
void st_ollama_chat(struct st_request *request);
void st_ollama_tags(struct st_request *request);
void st_ollama_show(struct st_request *request);
void st_ollama_ps(struct st_request *request);
void st_ollama_version(struct st_request *request);
void st_ollama_embed(struct st_request *request);
void st_ollama_unsupported(struct st_request *request);
void st_anthropic_messages(struct st_request *request);
void st_anthropic_count(struct st_request *request);
void st_answer_health(struct st_request *request);
void st_answer_metrics(struct st_request *request);
void st_answer_root(struct st_request *request);

#endif
