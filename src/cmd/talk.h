/* talk.h - a conversation with a model: its messages, and a session that holds their tokens. */
#ifndef FB_CMD_TALK_H
#define FB_CMD_TALK_H

#include <signal.h>

#include "forebay.h"

struct talk_options {
    struct forebay_sampling sampling;
    uint32_t batch;                    /* prompt tokens per pass; *stop is checked in between */
    uint32_t max_tokens;               /* limit for an answer; 0: none but the context */
    bool no_think;                     /* ask models that can think first to answer at once */
    const volatile sig_atomic_t *stop; /* not 0: ends the answer after the current pass */
    forebay_progress progress;         /* called while a prompt is evaluated; may be NULL */
    void *progress_user;
};

enum talk_end {
    TALK_ENDED,   /* by the model */
    TALK_STOPPED, /* by *stop */
    TALK_LIMIT,   /* max_tokens reached */
    TALK_FULL,    /* context full */
};

/* Figures of the last answer. */
struct talk_turn {
    enum talk_end end;
    uint32_t reused_tokens;   /* prompt tokens that were in the session already */
    uint32_t computed_tokens; /* prompt tokens that were evaluated */
    uint32_t generated_tokens;
    double tok_per_s; /* of generating */
    double hit_rate;  /* of expert requests, prompt included; negative: there were none */
};

/* Receives a piece of an answer: content or reasoning, in whole UTF-8 characters. Returns false if
 * it cannot be shown; the answer then fails. */
typedef bool (*talk_sink)(enum forebay_delta_kind kind, const char *text, size_t n, void *user);

struct talk;

/* The model must have no other session, and must be freed after the conversation. E_UNSUPPORTED
 * without a tokenizer. */
enum forebay_status talk_new(struct forebay_model *model, const struct talk_options *options,
    struct talk **out, struct forebay_error *err);
void talk_free(struct talk *talk);
struct forebay_session *talk_session(struct talk *talk);

/* Adds `text` as a message of the user, generates the answer, and passes it to `sink`. The answer
 * joins the conversation, even if it was stopped. If it fails or is stopped before its first token,
 * the conversation is unchanged. E_USAGE if the text is not UTF-8, or if the conversation does not
 * fit into the context. */
enum forebay_status talk_say(struct talk *talk, const char *text, size_t n, talk_sink sink,
    void *user, struct talk_turn *turn, struct forebay_error *err);

/* Replaces the system message; an empty text removes it. E_USAGE if the text is not UTF-8. */
enum forebay_status talk_set_system(struct talk *talk, const char *text, struct forebay_error *err);
const char *talk_system(const struct talk *talk); /* NULL: none */
/* Removes all messages but the system message. */
void talk_clear(struct talk *talk);
size_t talk_n_messages(const struct talk *talk);

/* Conversations are saved as JSON: {"messages": [{"role": ..., "content": ...}]}. A file that
 * cannot be loaded leaves the conversation unchanged. */
enum forebay_status talk_save(const struct talk *talk, const char *path, struct forebay_error *err);
enum forebay_status talk_load(struct talk *talk, const char *path, struct forebay_error *err);

#endif
