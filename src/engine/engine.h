/* engine.h - what the files of this module share: the insides of a model and a session. */
#ifndef FB_ENGINE_ENGINE_H
#define FB_ENGINE_ENGINE_H

#include "backend/backend.h"
#include "base/units.h"
#include "engine/devices.h"
#include "engine/guard.h"
#include "engine/history.h"
#include "engine/recorder.h"
#include "llama.h"
#include "model/vgguf.h"
#include "plan/estimate.h"
#include "forebay.h"

/* What a process takes besides what is counted: thread stacks, the allocator's slack. */
#define SLACK_BYTES (64 * FB_MIB)

struct forebay_model {
    struct fb_catalog *catalog;
    struct fb_binding *binding; /* NULL when llama.cpp holds all weights itself */
    struct fb_plan *plan;
    struct llama_model *llama;
    struct llama_context *ctx;
    const struct llama_vocab *vocab;
    struct forebay_model_options options; /* with every default filled in */
    bool choose_batch;                    /* nobody gave one */
    struct forebay_placement placement;
    ggml_threadpool_t pool; /* of a plain model; a streamed one computes with the device's */
    struct fb_needs needs;
    struct fb_profile profile;
    struct fb_history *history;
    struct fb_curves *curves;
    struct fb_speed speed; /* estimated, before loading */
    struct fb_devices devices;
    struct fb_sidecar *sidecar;                          /* NULL: none, or none that may be used */
    double disk_bytes_per_s, disk_burst, disk_latency_s; /* burst: as a multiple */
    double disk_cpu_s;                                   /* of the processors' time, for a byte */
    double load_s;
    uint64_t load_read_bytes;
    struct fb_stream_stats loaded; /* figures of the stream when loading was done */
    bool in_session;
    bool broken;    /* llama.cpp left a pass by an exception: its state is unknown */
    bool cancelled; /* by the progress callback, while llama.cpp was loading */
};

/* Tokens that the KV cache has room for. */
static inline uint32_t fb_model_cells(const struct forebay_model *model)
{
    return model->options.ctx * model->options.n_seq;
}

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

/* An empty model with these options, freed with forebay_model_free. E_USAGE while there is another. */
enum forebay_status fb_model_new(const struct forebay_model_options *options,
    struct forebay_model **out, struct forebay_error *err);

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
