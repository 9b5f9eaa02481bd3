/* guard.cpp - see guard.h. */
#include "engine/guard.h"

#include <cstdio>
#include <cstdlib>
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
#include "os/memory.h"
}

static thread_local bool guarded;
static thread_local enum forebay_status refused; /* by an fb_refusal in the last call */
static thread_local const char *refusal_hint;
static thread_local std::string reason; /* by the errors that were logged; see on_log */
static thread_local bool reason_is_final;

static char *death_note; /* see fb_guard_note_death */
static size_t death_note_size;

static void note_death(const char *message)
{
    if (death_note) {
        snprintf(death_note, death_note_size, "%s", message);
    }
}

/* Called by ggml before it aborts. In a guarded call, throws instead. */
static void on_abort(const char *message)
{
    note_death(message);
    if (guarded) {
        throw std::runtime_error(message);
    }
    fb_log(FOREBAY_LOG_ERROR, "%s", message);
}

static void on_terminate()
{
    try {
        if (std::current_exception()) {
            std::rethrow_exception(std::current_exception());
        }
    } catch (const std::exception &e) {
        note_death(e.what());
    } catch (...) {
    }
    std::abort();
}

void fb_guard_note_death(char *note, size_t size)
{
    death_note = note;
    death_note_size = size;
    std::set_terminate(on_terminate);
}

/* llama.cpp often logs the reason of a failure, and then throws or returns NULL without one. Its
 * first error is the cause of later ones, unless a later one says that it is the reason:
 *
 *      llama_model_load: error loading model: unknown model architecture: 'x'
 *      llama_model_load_from_file_impl: failed to load model
 */
static void note_error(const std::string &line)
{
    for (const char *mark : {"error loading model: ", "failed to initialize the context: "}) {
        size_t at = line.rfind(mark);
        if (at != std::string::npos) {
            reason = line.substr(at + strlen(mark));
            reason_is_final = true;
            return;
        }
    }
    if (reason.empty() && !reason_is_final) {
        size_t name = line.find(": "); /* of the function that logs */
        bool named = name != std::string::npos && line.find(' ') > name;
        reason = named ? line.substr(name + 2) : line;
    }
}

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
        note_error(line);
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
    refused = FOREBAY_OK;
    reason.clear();
    reason_is_final = false;
    guarded = true;
    try {
        ok = call();
    } catch (const fb_refusal &e) {
        why = e.what();
        refused = e.status;
        refusal_hint = e.hint;
    } catch (const std::exception &e) {
        why = e.what();
    } catch (...) {
        why = "unknown exception";
    }
    guarded = false;
    bool vague = why.empty() || why.compare(0, 10, "failed to ") == 0;
    if (!ok && vague && !reason.empty()) {
        why = reason;
    }
    if (!ok && why.empty()) {
        why = "no reason given";
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
    if (refused != FOREBAY_OK) {
        return fb_fail(err, refused, refusal_hint, "%s", why.c_str());
    }
    return fb_fail(err, status, hint, "llama.cpp cannot %s: %s", what, why.c_str());
}

static enum forebay_status guard(struct forebay_error *err, const char *hint, const char *what,
    const std::function<bool()> &call)
{
    return fb_guarded_status(FOREBAY_E_LLAMA, err, hint, what, call);
}

/* As guard, for calls that load a model or make its context: the hint depends on the reason. */
static enum forebay_status guard_model(
    struct forebay_error *err, const char *what, const std::function<bool()> &call)
{
    std::string why;
    if (fb_guarded(call, why)) {
        return FOREBAY_OK;
    }
    if (why.find("allocate FOREBAY") != std::string::npos) { /* only address space */
        char hint[160];
        fb_vm_limit_text(hint, sizeof hint);
        return fb_fail(err, FOREBAY_E_NOMEM, hint,
            "cannot %s: the system refuses address space for its weights", what);
    }
    bool memory = why.find("alloc") != std::string::npos || why.find("memory") != std::string::npos;
    return fb_fail(err, FOREBAY_E_LLAMA,
        memory
            ? "Try a smaller --ctx."
            : "Check that this llama.cpp version knows the model, and that the file is complete.",
        "llama.cpp cannot %s: %s", what, why.c_str());
}

template <typename Load>
static enum forebay_status guard_load(
    struct llama_model **out, struct forebay_error *err, Load load_model)
{
    return guard_model(err, "load the model", [&] {
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
    return guard_model(err, "make a context", [&] {
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
    enum forebay_status status = guard_model(err, "load the model", [&] {
        std::vector<ggml_backend_dev_t> devices;
        uint32_t n_layer, n_ctx, n_expert;
        auto memory = common_get_device_memory_data(
            path, &model, &context, devices, n_layer, n_ctx, n_expert, GGML_LOG_LEVEL_ERROR);
        const auto &host = memory.back();
        *out = {host.model, host.context, host.compute, {}, {}, {}};
        for (size_t i = 0; i + 1 < memory.size() && i < FOREBAY_DEVICES; i++) {
            out->bytes_on[i] = memory[i].model + memory[i].context + memory[i].compute;
            out->kv_bytes_on[i] = memory[i].context;
            out->compute_bytes_on[i] = memory[i].compute;
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
    return fb_guarded_status(FOREBAY_E_LLAMA, err, "", "restore a sequence", [&] {
        std::vector<llama_token> tokens(n);
        size_t got = 0;
        *bytes = llama_state_seq_load_file(ctx, path, seq, tokens.data(), n, &got);
        /* A file has magic, version, n and tokens where a buffer has magic and sequence. */
        *again = llama_state_seq_get_size(ctx, seq) + (1 + (uint64_t)n) * sizeof(uint32_t);
        return *bytes > 0 && got == n;
    });
}
