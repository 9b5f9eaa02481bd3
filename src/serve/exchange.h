/*
 * exchange.h - a request that generates: its jobs, and how an API writes what comes of them.
 *
 *      st_exchange_new --> fill in what is wanted --> st_exchange_run (answers the request)
 *                                                       |-- whole: waits for all, then one object
 *                                                       '-- stream: pieces as they come
 *
 * An API is a table of functions that append to a buffer. All calls for one exchange come from one
 * thread.
 */
#ifndef ST_SERVE_EXCHANGE_H
#define ST_SERVE_EXCHANGE_H

#include "serve/fields.h"
#include "serve/http.h"

#define ST_CHOICES_MAX 16
#define ST_STOPS_MAX   16

/* One of n replies to the same prompt. */
struct st_choice {
    struct st_job *job;
    struct strata_reply *reply;
    const struct st_result *result; /* NULL: not ended */
    json_t *logprobs;               /* of the API's making; NULL: none */
    struct st_buffer text;          /* for APIs without a chat's parts */
    size_t text_offset;             /* characters of text so far */
};

struct st_dialect {
    const char *type; /* Content-Type of a stream */
    /* The stream begins. May be NULL. */
    void (*begin)(struct st_exchange *x, struct st_buffer *out);
    /* A token was given out; only with logprobs. May be NULL. */
    void (*token)(struct st_exchange *x, int choice, const struct st_piece *piece);
    /* What a piece comes to. */
    void (*delta)(
        struct st_exchange *x, int choice, const struct strata_delta *delta, struct st_buffer *out);
    /* A choice has ended; then, all have. `end` may be NULL. */
    void (*finish)(struct st_exchange *x, int choice, struct st_buffer *out);
    void (*end)(struct st_exchange *x, struct st_buffer *out);
    void (*fail)(struct st_exchange *x, int status, const char *message, struct st_buffer *out);
    /* Nothing was new for a while. May be NULL. */
    void (*keep_alive)(struct st_buffer *out);
    /* All at once. */
    json_t *(*whole)(struct st_exchange *x);
};

struct st_exchange {
    struct st_request *request;
    struct st_server *server;
    const struct st_dialect *dialect;
    enum st_api api;

    json_t *body;
    struct strata_prompt *prompt;
    struct strata_chat *own_chat; /* a template of the request's; NULL: the server's */
    struct strata_sampling sampling;
    struct strata_bias *biases;
    const char *stops[ST_STOPS_MAX]; /* of the body */
    size_t n_stops;
    char *grammar;
    int64_t n_predict;
    int n_top;
    bool stream, include_usage, parse; /* parse: replies as the chat template has them */
    char id[48];
    const char *model; /* as the request calls it */
    int64_t created_s;
    uint64_t started_ns, load_ns;
    int block; /* for APIs that number parts of a reply */
    int block_kind;

    struct st_choice choices[ST_CHOICES_MAX];
    int n_choices;
    int turn;   /* which choice is looked at next */
    bool begun; /* of a stream */
    bool over;
    uint64_t said_ns;   /* when something was last sent */
    uint64_t looked_ns; /* when we last looked whether the client is still there */
};

/* For the request, whose body is parsed. NULL when it was not a JSON object: that has been answered. */
struct st_exchange *st_exchange_new(
    struct st_request *request, const struct st_dialect *dialect, enum st_api api);
void st_exchange_free(struct st_exchange *exchange);

/* Answers the request and takes the exchange. `fields`: if bad, that is the answer. */
void st_exchange_run(struct st_exchange *exchange, const struct st_fields *fields);

/* A reply of a server without a prompt set: sets it. False, and `fields` says why, when it cannot be. */
bool st_exchange_render(struct st_exchange *exchange, struct st_fields *fields, json_t *chat);
bool st_exchange_raw(struct st_exchange *exchange, struct st_fields *fields, const char *text);
bool st_exchange_tokens(
    struct st_exchange *exchange, struct st_fields *fields, const int32_t *tokens, size_t n);
/* As st_exchange_raw, and the reply follows what `chat` says of its format. */
bool st_exchange_raw_format(
    struct st_exchange *exchange, struct st_fields *fields, const char *text, json_t *chat);

/* Of a stream: appends what is new, waiting for it. False when that was all. */
bool st_exchange_advance(struct st_exchange *exchange, struct st_buffer *out);

/* A strata status as an HTTP one. */
int st_http_status(enum strata_status status);

/* Sampling by the names that most APIs share; `nested` options of Ollama's and llama.cpp's, too. */
void st_params_sampling(
    struct st_fields *fields, struct strata_sampling *sampling, double temp_max);
void st_params_stops(struct st_exchange *exchange, struct st_fields *fields, const char *name);

/* Sums over all choices. */
uint32_t st_exchange_prompt_tokens(const struct st_exchange *exchange);
uint32_t st_exchange_reused_tokens(const struct st_exchange *exchange);
uint32_t st_exchange_generated_tokens(const struct st_exchange *exchange);

/* Bytes of a token, as text. */
json_t *st_token_text(const struct st_exchange *exchange, int32_t token);
json_t *st_token_bytes(const struct st_exchange *exchange, int32_t token);

/* Whether a client means the served model by this name, to which Ollama's add ":latest". */
bool st_is_model(const struct st_server *server, const char *name);

/* Of the model, for clients. */
enum strata_status st_model_card_make(struct st_server *server, struct strata_error *err);

#endif
