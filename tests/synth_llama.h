/*
 * synth_llama.h - for tests of synth: a model in plain llama.cpp, one sequence, one thread.
 */
#ifndef TESTS_SYNTH_LLAMA_H
#define TESTS_SYNTH_LLAMA_H

#include <math.h>

#include "model_files.h"

#include "ggml-backend.h"
#include "llama.h"

struct runner {
    struct llama_model *model;
    struct llama_context *ctx;
    const struct llama_vocab *vocab;
    int n_vocab;
};

static inline void only_errors(enum ggml_log_level level, const char *text, void *user)
{
    (void)user;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

/* `observe` may be NULL: llama.cpp's callback for each node of the graph. The weights are used as
 * stored (not repacked), so that models of the same weights compute with the same kernels. */
static inline struct runner runner_open(
    const char *path, ggml_backend_sched_eval_callback observe, void *user)
{
    static bool loaded;
    if (!loaded) {
        llama_log_set(only_errors, NULL);
        ggml_backend_load_all_from_path(FOREBAY_LLAMA_LIB_DIR);
        loaded = true;
    }
    struct llama_model_params mp = llama_model_default_params();
    mp.use_extra_bufts = false;
    struct runner r = {.model = llama_model_load_from_file(path, mp)};
    if (!r.model) {
        fail_msg("llama.cpp does not load %s", path);
    }
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 768;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.cb_eval = observe;
    cp.cb_eval_user_data = user;
    r.ctx = llama_init_from_model(r.model, cp);
    assert_non_null(r.ctx);
    r.vocab = llama_model_get_vocab(r.model);
    r.n_vocab = llama_vocab_n_tokens(r.vocab);
    return r;
}

static inline void runner_close(struct runner *r)
{
    llama_free(r->ctx);
    llama_model_free(r->model);
}

/* Logits after the last of n tokens, which continue the sequence. Valid until the next call. */
static inline const float *runner_eval(struct runner *r, llama_token *tokens, int n)
{
    assert_int_equal(llama_decode(r->ctx, llama_batch_get_one(tokens, n)), 0);
    return llama_get_logits_ith(r->ctx, -1);
}

static inline llama_token largest(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

/* Logits (n_vocab of them) after a fixed prompt and one more token; the caller frees them. */
static inline float *fixed_logits(const char *path, int *n_vocab)
{
    struct runner r = runner_open(path, NULL, NULL);
    llama_token prompt[] = {3, 141, 59, 26, 53, 58, 97, 93, 23, 84};
    llama_token next = largest(runner_eval(&r, prompt, 10), r.n_vocab);
    const float *logits = runner_eval(&r, &next, 1);
    float *copy = malloc((size_t)r.n_vocab * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, logits, (size_t)r.n_vocab * sizeof *copy);
    *n_vocab = r.n_vocab;
    runner_close(&r);
    return copy;
}

/* Inverts bytes of a file. A single one may have no effect when activations are rounded to 8
 * bits. */
static inline void damage(const char *path, uint64_t at, size_t n)
{
    unsigned char bytes[256];
    assert_true(n <= sizeof bytes);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseeko(f, (off_t)at, SEEK_SET), 0);
    assert_int_equal(fread(bytes, 1, n, f), n);
    for (size_t i = 0; i < n; i++) {
        bytes[i] = (unsigned char)~bytes[i];
    }
    assert_int_equal(fseeko(f, (off_t)at, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

#endif
