/*
 * guard.h - calls into llama.cpp that may throw, as calls that return an error.
 *
 * llama.cpp throws C++ exceptions for bad models and failed graphs, and aborts on inputs it thinks
 * impossible. Inside a guarded call both become a status; an abort outside of one (or on another
 * thread) stays an abort. Outputs are set only on success.
 */
#ifndef FB_ENGINE_GUARD_H
#define FB_ENGINE_GUARD_H

#include <stdio.h>

#include "llama.h"
#include "forebay.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sends llama.cpp's and ggml's messages to our log (warnings and errors also become the text of
 * the next guarded failure). Call once, first. */
void fb_guard_init(void);

enum forebay_status fb_guard_load(FILE *file, struct llama_model_params params,
    struct llama_model **out, struct forebay_error *err);
/* The same by name, for loads that map the file. */
enum forebay_status fb_guard_load_path(const char *path, struct llama_model_params params,
    struct llama_model **out, struct forebay_error *err);
enum forebay_status fb_guard_context(struct llama_model *model, struct llama_context_params params,
    struct llama_context **out, struct forebay_error *err);
/* E_LLAMA when llama_decode returns non-zero; *code is what it returned. */
enum forebay_status fb_guard_decode(
    struct llama_context *ctx, struct llama_batch batch, int *code, struct forebay_error *err);
/* What llama.cpp will take, by its own accounting: nothing is allocated. */
struct fb_needs {
    uint64_t weights_bytes;        /* in the machine's memory, those that Forebay claims included */
    uint64_t kv_bytes;             /* KV cache and recurrent state */
    uint64_t compute_bytes;        /* intermediate results of a pass */
    uint64_t device_bytes;         /* all that is in the memory of a device, and ... */
    uint64_t device_compute_bytes; /* ... of these what is taken as late as the first pass */
};
enum forebay_status fb_guard_measure(const char *path, struct llama_model_params model,
    struct llama_context_params context, struct fb_needs *out, struct forebay_error *err);
enum forebay_status fb_guard_tokenize(const struct llama_vocab *vocab, const char *text,
    int32_t length, int32_t *tokens, int32_t cap, bool special, int32_t *n,
    struct forebay_error *err);

#ifdef __cplusplus
}
#endif

#endif
