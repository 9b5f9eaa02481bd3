/* session.h - the inside of a session: what was evaluated, and figures of the run. */
#ifndef FB_ENGINE_SESSION_H
#define FB_ENGINE_SESSION_H

#include "engine/model.h"
#include "engine/recorder.h"

struct forebay_session {
    struct forebay_model *model;
    struct forebay_sampler *sampler; /* of forebay_sample; NULL until it is needed */
    uint32_t *past; /* tokens evaluated, by sequence; forebay_eval and _keep use the first one */
    size_t n_rows;  /* of logits that the last evaluation left */
    bool all_rows;  /* one row for each of its tokens; false: only the last one's */
    bool broken;    /* a failed evaluation left state that could not be removed */
    struct fb_recorder *recorder; /* of a routing trace; NULL: none */

    /* Totals by kind of evaluation. compute: time without waiting for reads and unpacking. */
    uint64_t prompt_tokens, decode_tokens, generated_tokens;
    uint64_t prompt_ns, prompt_compute_ns, decode_ns;
    uint64_t decode_read_bytes;
    uint64_t start_ns;       /* when the first evaluation began; 0: not yet */
    uint64_t first_token_ns; /* from then to the first token chosen */
    /* The same of decodes of a single token. past: sum of the tokens before each. */
    uint64_t alone_tokens, alone_compute_ns, alone_past;
    uint64_t alone_read_bytes, alone_expert_bytes, alone_lookahead_bytes;
};

/* Evaluates a batch. *code is what llama_decode returned, 0 when it did not return or was not
 * called. After a failure, model->broken says whether the model can still be used. */
enum forebay_status fb_session_decode(struct forebay_session *session, struct llama_batch batch,
    int *code, struct forebay_error *err);

/* Counters when an evaluation begins. */
struct fb_moment {
    uint64_t ns, read_bytes, waited_ns, expert_bytes, lookahead_bytes;
};

/* Call it before an evaluation. `prompt`: its tokens are a prompt's, not generated ones. */
struct fb_moment fb_session_begin(struct forebay_session *session, bool prompt);

/* Call it after an evaluation of n tokens has succeeded, to add it to the totals. `past`: tokens
 * before the first one. */
void fb_session_end(
    struct forebay_session *session, size_t n, uint32_t past, bool prompt, struct fb_moment begin);

/* llama.cpp's index of a row of logits of the last evaluation. */
int32_t fb_session_row(const struct forebay_session *session, size_t row);

/* Counts a token as generated. */
void fb_session_sampled(struct forebay_session *session);

#endif
