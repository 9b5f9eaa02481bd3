/*
 * exchange.h - a request that generates: its jobs, and how an API writes what comes of them.
 *
 *      fb_exchange_new --> fill in what is wanted --> fb_exchange_run (answers the request)
 *                                                       |-- whole: waits for all, then one object
 *                                                       '-- stream: pieces as they come
 *
 * An API is a table of functions that append to a buffer. All calls for one exchange come from one
 * thread.
 */
#ifndef FB_SERVE_EXCHANGE_H
#define FB_SERVE_EXCHANGE_H

#include "serve/fields.h"
#include "serve/http.h"

#define FB_CHOICES_MAX 16
#define FB_STOPS_MAX   16

/* One of n replies to the same prompt. */
struct fb_choice {
    struct fb_job *job;
    struct forebay_reply *reply;
    const struct fb_result *result; /* NULL: not ended */
    json_t *logprobs;               /* of the API's making; NULL: none */
    struct fb_buffer text;          /* for APIs without a chat's parts */
    size_t text_offset;             /* characters of text so far */
};

struct fb_dialect {
    const char *type; /* Content-Type of a stream */
    /* The stream begins. May be NULL. */
    void (*begin)(struct fb_exchange *x, struct fb_buffer *out);
    /* A token was given out; only with logprobs. May be NULL. */
    void (*token)(struct fb_exchange *x, int choice, const struct fb_piece *piece);
    /* What a piece comes to. */
    void (*delta)(struct fb_exchange *x, int choice, const struct forebay_delta *delta,
        struct fb_buffer *out);
    /* A choice has ended; then, all have. `end` may be NULL. */
    void (*finish)(struct fb_exchange *x, int choice, struct fb_buffer *out);
    void (*end)(struct fb_exchange *x, struct fb_buffer *out);
    void (*fail)(struct fb_exchange *x, int status, const char *message, struct fb_buffer *out);
    /* Nothing was new for a while. May be NULL. */
    void (*keep_alive)(struct fb_buffer *out);
    /* All at once. */
    json_t *(*whole)(struct fb_exchange *x);
};

struct fb_exchange {
    struct fb_request *request;
    struct fb_server *server;
    const struct fb_dialect *dialect;
    enum fb_api api;

    json_t *body;
    struct forebay_prompt *prompt;
    struct forebay_chat *own_chat; /* a template of the request's; NULL: the server's */
    struct forebay_sampling sampling;
    struct forebay_bias *biases;
    const char *stops[FB_STOPS_MAX]; /* of the body */
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

    struct fb_choice choices[FB_CHOICES_MAX];
    int n_choices;
    int turn;   /* which choice is looked at next */
    bool begun; /* of a stream */
    bool over;
    uint64_t said_ns;   /* when something was last sent */
    uint64_t looked_ns; /* when we last looked whether the client is still there */
};

/* For the request, whose body is parsed. NULL when it was not a JSON object: that has been answered. */
struct fb_exchange *fb_exchange_new(
    struct fb_request *request, const struct fb_dialect *dialect, enum fb_api api);
void fb_exchange_free(struct fb_exchange *exchange);

/* Answers the request and takes the exchange. `fields`: if bad, that is the answer. */
void fb_exchange_run(struct fb_exchange *exchange, const struct fb_fields *fields);

/* A reply of a server without a prompt set: sets it. False, and `fields` says why, when it cannot be. */
bool fb_exchange_render(struct fb_exchange *exchange, struct fb_fields *fields, json_t *chat);
bool fb_exchange_raw(struct fb_exchange *exchange, struct fb_fields *fields, const char *text);
bool fb_exchange_tokens(
    struct fb_exchange *exchange, struct fb_fields *fields, const int32_t *tokens, size_t n);
/* As fb_exchange_raw, and the reply follows what `chat` says of its format. */
bool fb_exchange_raw_format(
    struct fb_exchange *exchange, struct fb_fields *fields, const char *text, json_t *chat);

/* Of a stream: appends what is new, waiting for it. False when that was all. */
bool fb_exchange_advance(struct fb_exchange *exchange, struct fb_buffer *out);

/* A forebay status as an HTTP one. */
int fb_http_status(enum forebay_status status);

/* Sampling by the names that most APIs share; `nested` options of Ollama's and llama.cpp's, too. */
void fb_params_sampling(
    struct fb_fields *fields, struct forebay_sampling *sampling, double temp_max);
void fb_params_stops(struct fb_exchange *exchange, struct fb_fields *fields, const char *name);

/* Sums over all choices. */
uint32_t fb_exchange_prompt_tokens(const struct fb_exchange *exchange);
uint32_t fb_exchange_reused_tokens(const struct fb_exchange *exchange);
uint32_t fb_exchange_generated_tokens(const struct fb_exchange *exchange);

/* Bytes of a token, as text. */
json_t *fb_token_text(const struct fb_exchange *exchange, int32_t token);
json_t *fb_token_bytes(const struct fb_exchange *exchange, int32_t token);

/* Whether a client means the served model by this name, to which Ollama's add ":latest". */
bool fb_is_model(const struct fb_server *server, const char *name);

/* Of the model, for clients. */
enum forebay_status fb_model_card_make(struct fb_server *server, struct forebay_error *err);

#endif
