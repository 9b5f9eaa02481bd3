/*
 * guard.h - calls into llama.cpp that may throw, as calls that return an error.
 *
 * llama.cpp throws C++ exceptions for bad models and failed graphs, and aborts on inputs it
 * considers impossible. Inside a guarded call both become a status; an abort outside of one, or on
 * another thread, stays an abort. Outputs are set only on success. Any thread may make guarded
 * calls, but they must not be nested.
 */
#ifndef FB_ENGINE_GUARD_H
#define FB_ENGINE_GUARD_H

#include <stdio.h>

#include "forebay.h"
#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sends llama.cpp's and ggml's messages to our log; the errors that they log also give the reason
 * of a guarded failure that names none. Call once, before anything else. */
void fb_guard_init(void);

/* For a process that may die: writes the message of an abort or of an exception that nobody catches
 * to `note` before the process ends. */
void fb_guard_note_death(char *note, size_t size);

/* Loads a model from `file`. */
enum forebay_status fb_guard_load(FILE *file, struct llama_model_params params,
    struct llama_model **out, struct forebay_error *err);
/* Loads a model by name; required when the file is to be mapped. */
enum forebay_status fb_guard_load_path(const char *path, struct llama_model_params params,
    struct llama_model **out, struct forebay_error *err);
enum forebay_status fb_guard_context(struct llama_model *model, struct llama_context_params params,
    struct llama_context **out, struct forebay_error *err);
/* E_LLAMA when llama_decode returns non-zero. *code is what it returned, unchanged if it threw. */
enum forebay_status fb_guard_decode(
    struct llama_context *ctx, struct llama_batch batch, int *code, struct forebay_error *err);

/* Memory that llama.cpp would allocate, by its own accounting. */
struct fb_needs {
    uint64_t weights_bytes; /* in the machine's memory, those that Forebay claims included */
    uint64_t kv_bytes;      /* in the machine's memory: KV cache and recurrent state */
    uint64_t compute_bytes; /* in the machine's memory: intermediate results of a pass */
    /* In the memory of each device, as the parameters number them: all of these, and ... */
    uint64_t bytes_on[FOREBAY_DEVICES];
    uint64_t kv_bytes_on[FOREBAY_DEVICES];      /* ... KV cache and recurrent state, and ... */
    uint64_t compute_bytes_on[FOREBAY_DEVICES]; /* ... buffers allocated by the first pass */
};
/* Loads the model and makes the context without allocating their memory. */
enum forebay_status fb_guard_measure(const char *path, struct llama_model_params model,
    struct llama_context_params context, struct fb_needs *out, struct forebay_error *err);

/* Restores a sequence of n tokens from a file that llama_state_seq_save_file wrote; whatever
 * follows in the file is not read. *bytes: how much was read; *again: how much the restored
 * sequence would write. */
enum forebay_status fb_guard_load_state(struct llama_context *ctx, const char *path, int seq,
    uint32_t n, uint64_t *bytes, uint64_t *again, struct forebay_error *err);

#ifdef __cplusplus
}

/* For C++. Other headers may include this one within extern "C". */
extern "C++" {
#include <functional>
#include <stdexcept>
#include <string>

/* A refusal by us inside a guarded call: the message and the status are passed on as they are. */
class fb_refusal : public std::runtime_error
{
  public:
    fb_refusal(enum forebay_status s, const std::string &message, const char *remedy = "")
        : std::runtime_error(message), status(s), hint(remedy)
    {
    }
    enum forebay_status status;
    const char *hint; /* a literal */
};

/* Runs `call`. False when it returns false, throws, or ggml aborts on this thread; `why` is the
 * reason. */
bool fb_guarded(const std::function<bool()> &call, std::string &why);

/* The same as a status: that of an fb_refusal, or `status` with the message "llama.cpp cannot WHAT:
 * WHY". */
enum forebay_status fb_guarded_status(enum forebay_status status, struct forebay_error *err,
    const char *hint, const char *what, const std::function<bool()> &call);
}
#endif

#endif
