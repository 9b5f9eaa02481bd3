/* talk.h - a conversation with a model: what was said, and a session that holds most of it. */
#ifndef FB_CMD_TALK_H
#define FB_CMD_TALK_H

#include <signal.h>

#include "forebay.h"

struct talk_options {
    struct forebay_sampling sampling;
    uint32_t batch;                    /* prompt tokens per pass: those of the model */
    uint32_t max_tokens;               /* of an answer; 0: what the context holds */
    bool no_think;                     /* asks models that can to answer at once */
    const volatile sig_atomic_t *stop; /* while it is not 0, an answer ends as soon as it can */
    forebay_progress progress;         /* while a prompt is computed; may be NULL */
    void *progress_user;
};

enum talk_end {
    TALK_ENDED,   /* by the model */
    TALK_STOPPED, /* by *stop */
    TALK_LIMIT,   /* max_tokens */
    TALK_FULL,    /* of the context */
};

/* What the last answer took. */
struct talk_turn {
    enum talk_end end;
    uint32_t kept_tokens;     /* of the prompt, that the session held already */
    uint32_t computed_tokens; /* of the prompt */
    uint32_t generated_tokens;
    double tok_per_s; /* while generating */
    double hit_rate;  /* of expert requests, prompt included; below 0: there were none */
};

/* A piece of an answer: content or reasoning, whole UTF-8. False: cannot be shown, end here. */
typedef bool (*talk_sink)(enum forebay_delta_kind kind, const char *text, size_t n, void *user);

struct talk;

/* On a model without another session; freed before it. E_UNSUPPORTED without a tokenizer. */
enum forebay_status talk_new(struct forebay_model *model, const struct talk_options *options,
    struct talk **out, struct forebay_error *err);
void talk_free(struct talk *talk);
struct forebay_session *talk_session(struct talk *talk);

/* Says `text` and gives the answer to `sink`. Both then belong to the conversation, also an answer
 * that was stopped; on failure, and when it was stopped before its first token, neither does.
 * E_USAGE for text that is not UTF-8, and when the context cannot hold the conversation. */
enum forebay_status talk_say(struct talk *talk, const char *text, size_t n, talk_sink sink,
    void *user, struct talk_turn *turn, struct forebay_error *err);

/* The system message, in place of the one there is; empty: none. E_USAGE: not UTF-8. */
enum forebay_status talk_set_system(struct talk *talk, const char *text, struct forebay_error *err);
const char *talk_system(const struct talk *talk); /* NULL: none */
/* Forgets all but the system message. */
void talk_clear(struct talk *talk);
size_t talk_n_messages(const struct talk *talk);

/* A file of JSON: {"messages": [{"role": ..., "content": ...}]}. What cannot be loaded changes
 * nothing. */
enum forebay_status talk_save(const struct talk *talk, const char *path, struct forebay_error *err);
enum forebay_status talk_load(struct talk *talk, const char *path, struct forebay_error *err);

#endif
