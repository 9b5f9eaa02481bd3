/*
 * exchange.h - a request that generates: from its parameters to the answer.
 *
 *      fb_exchange_new --> set the fields of the request --> make the prompt --> fb_exchange_run
 *
 * A request has one prompt or, where the API allows it, many; each has `n` choices. Running submits
 * one job for each choice, a few at a time. Pieces of their text become deltas, which the dialect
 * of the API writes: with `stream` as they are generated, without it as one object when all choices
 * have ended. A dialect is a table of functions; its private data is in `state`.
 *
 * All calls for an exchange come from the thread of its connection.
 */
#ifndef FB_SERVE_EXCHANGE_H
#define FB_SERVE_EXCHANGE_H

#include "serve/fields.h"
#include "serve/http.h"
#include "serve/params.h"
#include "serve/served.h"

#define FB_CHOICES_MAX 16   /* for a prompt */
#define FB_PROMPTS_MAX 2048 /* of a request */

struct fb_exchange;

/* One of the replies to one of the prompts. */
struct fb_choice {
    struct fb_job *job;             /* NULL: not submitted */
    struct forebay_reply *reply;    /* NULL: the reply is plain text */
    const struct fb_result *result; /* NULL: not ended */
};

/* How an API writes answers. "Optional": may be NULL. Functions with `out` append to it. */
struct fb_dialect {
    const char *type; /* Content-Type of a stream */
    /* The stream begins. Optional. */
    void (*begin)(struct fb_exchange *x, struct fb_buffer *out);
    /* A token was generated, before its delta; only if n_top >= 0. Optional. */
    void (*token)(struct fb_exchange *x, int choice, const struct fb_piece *piece);
    /* New text, reasoning, or part of a tool call. Also called without a stream, to collect it. */
    void (*delta)(struct fb_exchange *x, int choice, const struct forebay_delta *delta,
        struct fb_buffer *out);
    /* A choice has ended; also called without a stream. */
    void (*finish)(struct fb_exchange *x, int choice, struct fb_buffer *out);
    /* All choices have ended, of a stream. Optional. */
    void (*end)(struct fb_exchange *x, struct fb_buffer *out);
    /* The stream ends with an error. */
    void (*fail)(struct fb_exchange *x, int status, const char *message, struct fb_buffer *out);
    /* Nothing was sent for ten seconds. Optional. */
    void (*keep_alive)(struct fb_buffer *out);
    /* The answer as one object: all choices have ended. New reference. */
    json_t *(*whole)(struct fb_exchange *x);
    /* Frees fb_exchange.state. Optional. */
    void (*free_state)(void *state);
};

struct fb_exchange {
    struct fb_request *request;
    struct fb_served *served;
    const struct fb_dialect *dialect;
    void *state;  /* of the dialect; freed by its free_state */
    char id[32];  /* hexadecimal digits; unique among recent ones */
    json_t *body; /* of the request */

    /* Set by the handler. Strings belong to `body`. */
    const char *model; /* as the request calls it */
    struct forebay_sampling sampling;
    const char *stops[FB_STOPS_MAX];
    size_t n_stops;
    struct forebay_bias *biases; /* owned; of `sampling` */
    char *grammar;               /* owned; NULL: none but the chat template's */
    int64_t n_predict;
    int n_top; /* as in struct fb_job_options */
    int n;     /* choices for each prompt */
    bool stream;

    /* Set by the functions below that make prompts. */
    struct forebay_prompt **prompts; /* [n_prompts] */
    int n_prompts;
    bool parse; /* replies are read as the chat template says */

    uint64_t started_ns, submitted_ns;
    struct fb_choice *choices; /* [n_choices]; those of the first prompt first */
    int n_choices;             /* n_prompts * n once it runs */

    /* For exchange.c. */
    struct forebay_error refusal; /* of a choice that could not be submitted */
    int n_submitted;              /* choices, of which ... */
    int n_ended;                  /* ... so many have ended */
    int turn;                     /* the choice that was last waited for */
    bool begun, over;             /* of a stream */
    uint64_t sent_ns;             /* when something was last sent */
    uint64_t presence_ns;         /* when the client's presence was last checked */
    int abandoned;                /* an HTTP status: nobody will read the answer; or 0 */
    const char *abandoned_why;
    uint64_t collected_bytes, reserved_bytes; /* of logprobs; for them, of the request's memory */
};

/* Parses the request's body and sets defaults. NULL if the body is not a JSON object: then the
 * request has been answered. */
struct fb_exchange *fb_exchange_new(struct fb_request *request, const struct fb_dialect *dialect);
void fb_exchange_free(struct fb_exchange *exchange);

/* --- Prompts: each adds one; if that fails, or `fields` is bad already, `fields` is bad ------ */

/* From a conversation in OpenAI's terms, which is tidied (chat_fields.h); `template` instead of the
 * model's, NULL: the model's. */
void fb_exchange_render(struct fb_exchange *exchange, struct fb_fields *fields,
    const struct forebay_chat *template, json_t *chat);
/* From text (a JSON string), in which names of control tokens become control tokens. */
void fb_exchange_raw(struct fb_exchange *exchange, struct fb_fields *fields, const json_t *text);
void fb_exchange_tokens(
    struct fb_exchange *exchange, struct fb_fields *fields, const int32_t *tokens, size_t n);

/* Reads the format of the reply from `object` (fb_params_format) for prompts that no template
 * makes, and sets x->grammar. */
void fb_exchange_format(struct fb_exchange *exchange, struct fb_fields *fields, json_t *object);

/* --- Answering ----------------------------------------------------------------------------- */

/* Answers the request, with an error if `fields` is bad, and frees the exchange, at once or after
 * the stream. Blocks: without a stream until the answer is complete. */
void fb_exchange_run(struct fb_exchange *exchange, const struct fb_fields *fields);

/* Counts for `usage`. A prompt, and what of it was reused, count once however many choices it has;
 * generated tokens are those of the choices that have ended. */
uint32_t fb_exchange_prompt_tokens(const struct fb_exchange *exchange);
uint32_t fb_exchange_reused_tokens(const struct fb_exchange *exchange);
uint32_t fb_exchange_generated_tokens(const struct fb_exchange *exchange);

#endif
