/* session.h - the inside of a session: what was evaluated, and figures of the run. */
#ifndef FB_ENGINE_SESSION_H
#define FB_ENGINE_SESSION_H

#include "engine/model.h"
#include "engine/recorder.h"

struct forebay_session {
    struct forebay_model *model;
    struct forebay_sampler *sampler; /* of forebay_sample; NULL until it is needed */
    uint32_t *past; /* tokens evaluated, by sequence; a session of one uses the first */
    size_t n_rows;  /* rows of logits of the last eval */
    bool all_rows;
    bool broken;                  /* a failure left state that cannot be taken back */
    struct fb_recorder *recorder; /* of a routing trace; NULL: none */

    /* Figures: time and bytes by kind of pass. */
    uint64_t prompt_tokens, decode_tokens, generated_tokens;
    uint64_t prompt_ns, prompt_compute_ns, decode_ns, start_ns, first_token_ns;
    uint64_t decode_read_bytes;
    /* Of these, passes of a single row. */
    uint64_t alone_tokens, alone_compute_ns, alone_expert_bytes, alone_lookahead_bytes;
    uint64_t alone_past, alone_read_bytes;
};

/* Evaluates a batch. *code: what llama_decode returned, 0 when it did not. */
enum forebay_status fb_session_decode(struct forebay_session *session, struct llama_batch batch,
    int *code, struct forebay_error *err);

/* What is read from one moment of a session to another. */
struct fb_moment {
    uint64_t ns, read_bytes, waited_ns, expert_bytes, lookahead_bytes;
};
struct fb_moment fb_session_moment(const struct forebay_session *session);
/* A pass of n rows that began at `start` is over. `past`: tokens before the first one. */
void fb_session_account(
    struct forebay_session *session, size_t n, uint32_t past, bool prompt, struct fb_moment start);

/* What llama.cpp calls a row of the last evaluation. */
int32_t fb_session_row(const struct forebay_session *session, size_t row);

/* A token was chosen: for the figures. */
void fb_session_sampled(struct forebay_session *session);

#endif
