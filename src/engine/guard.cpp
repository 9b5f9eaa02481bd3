/* guard.cpp - see guard.h. */
#include "engine/guard.h"

#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/fit.h"
#include "common/log.h"

extern "C" {
#include "base/error.h"
#include "base/log.h"
}

static thread_local bool guarded;
static thread_local std::string last_words;

/* Called by ggml before it aborts. In a guarded call, throws instead. */
static void on_abort(const char *message)
{
    if (guarded) {
        throw std::runtime_error(message);
    }
    fb_log(FOREBAY_LOG_ERROR, "%s", message);
}

/* llama.cpp often logs the reason of a failure, and then throws or returns NULL without one. */
static void on_log(enum ggml_log_level level, const char *text, void *)
{
    std::string line(text);
    while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) {
        line.pop_back();
    }
    if (line.empty() || line == ".") {
        return;
    }
    if (level == GGML_LOG_LEVEL_ERROR) {
        last_words = line;
    }
    fb_log(level == GGML_LOG_LEVEL_ERROR ? FOREBAY_LOG_INFO : FOREBAY_LOG_DEBUG, "llama.cpp: %s",
        line.c_str());
}

void fb_guard_init(void)
{
    llama_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
    common_log_set_verbosity_thold(-1); /* libllama-common logs to stderr, bypassing ours */
}

bool fb_guarded(const std::function<bool()> &call, std::string &why)
{
    bool ok = false;
    why.clear();
    last_words.clear();
    guarded = true;
    try {
        ok = call();
    } catch (const std::exception &e) {
        why = e.what();
    } catch (...) {
        why = "unknown exception";
    }
    guarded = false;
    if (!ok && why.empty()) {
        why = last_words.empty() ? "no reason given" : last_words;
    }
    return ok;
}

enum forebay_status fb_guarded_status(enum forebay_status status, struct forebay_error *err,
    const char *hint, const char *what, const std::function<bool()> &call)
{
    std::string why;
    if (fb_guarded(call, why)) {
        return FOREBAY_OK;
    }
    return fb_fail(err, status, hint, "llama.cpp cannot %s: %s", what, why.c_str());
}

static enum forebay_status guard(struct forebay_error *err, const char *hint, const char *what,
    const std::function<bool()> &call)
{
    return fb_guarded_status(FOREBAY_E_LLAMA, err, hint, what, call);
}

template <typename Load>
static enum forebay_status guard_load(
    struct llama_model **out, struct forebay_error *err, Load load_model)
{
    return guard(err,
        "Check that this llama.cpp version knows the model, and that the file is complete.",
        "load the model", [&] {
            struct llama_model *model = load_model();
            if (model) {
                *out = model;
            }
            return model != nullptr;
        });
}

enum forebay_status fb_guard_load(FILE *file, struct llama_model_params params,
    struct llama_model **out, struct forebay_error *err)
{
    return guard_load(out, err, [&] { return llama_model_load_from_file_ptr(file, params); });
}

enum forebay_status fb_guard_load_path(const char *path, struct llama_model_params params,
    struct llama_model **out, struct forebay_error *err)
{
    return guard_load(out, err, [&] { return llama_model_load_from_file(path, params); });
}

enum forebay_status fb_guard_context(struct llama_model *model, struct llama_context_params params,
    struct llama_context **out, struct forebay_error *err)
{
    return guard(err, "Try a smaller --ctx.", "make a context", [&] {
        struct llama_context *ctx = llama_init_from_model(model, params);
        if (ctx) {
            *out = ctx;
        }
        return ctx != nullptr;
    });
}

enum forebay_status fb_guard_measure(const char *path, struct llama_model_params model,
    struct llama_context_params context, struct fb_needs *out, struct forebay_error *err)
{
    enum forebay_status status = guard(err, "Try a smaller --ctx.", "measure the model", [&] {
        std::vector<ggml_backend_dev_t> devices;
        uint32_t n_layer, n_ctx, n_expert;
        auto memory = common_get_device_memory_data(
            path, &model, &context, devices, n_layer, n_ctx, n_expert, GGML_LOG_LEVEL_ERROR);
        const auto &host = memory.back();
        *out = {host.model, host.context, host.compute, 0, 0};
        for (size_t i = 0; i + 1 < memory.size(); i++) {
            out->device_bytes += memory[i].model + memory[i].context + memory[i].compute;
            out->device_compute_bytes += memory[i].compute;
        }
        return true;
    });
    llama_log_set(on_log, nullptr); /* common_get_device_memory_data replaced it */
    return status;
}

enum forebay_status fb_guard_decode(
    struct llama_context *ctx, struct llama_batch batch, int *code, struct forebay_error *err)
{
    return guard(err, "", "evaluate the tokens", [&] {
        *code = llama_decode(ctx, batch);
        return *code == 0;
    });
}

enum forebay_status fb_guard_load_state(struct llama_context *ctx, const char *path, int seq,
    uint32_t n, uint64_t *bytes, uint64_t *again, struct forebay_error *err)
{
    return guard(err, "", "restore a sequence", [&] {
        std::vector<llama_token> tokens(n);
        size_t got = 0;
        *bytes = llama_state_seq_load_file(ctx, path, seq, tokens.data(), n, &got);
        /* A file has magic, version, n and tokens where a buffer has magic and sequence. */
        *again = llama_state_seq_get_size(ctx, seq) + (1 + (uint64_t)n) * sizeof(uint32_t);
        return *bytes > 0 && got == n;
    });
}

enum forebay_status fb_guard_tokenize(const struct llama_vocab *vocab, const char *text,
    int32_t length, int32_t *tokens, int32_t cap, bool special, int32_t *n,
    struct forebay_error *err)
{
    return guard(err, "Give token ids with --tokens.", "tokenize the text", [&] {
        int32_t got = llama_tokenize(vocab, text, length, tokens, cap, special, special);
        *n = got < 0 ? -got : got;
        return got != INT32_MIN;
    });
}
