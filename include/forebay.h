/*
 * forebay.h - run language models bigger than memory, with exactly llama.cpp's tokens.
 *
 * The whole public interface. A program opens a model (what is in the file and how it is placed),
 * makes a session on it (one KV cache, one sequence), evaluates tokens and samples from the logits.
 * Prompts, chats and what is generated become text and back by the model's own conventions.
 *
 * Rules that hold for every function here:
 *   - A function that can fail returns a status and takes an optional `struct forebay_error *`
 *     (NULL is fine). On failure every output is untouched and nothing is left allocated.
 *   - Option structs are filled by their _init function first, then changed by the caller.
 *   - `_free` functions accept NULL.
 *   - Strings are UTF-8 and NUL-terminated unless a length is given. Sizes are in bytes.
 */
#ifndef FOREBAY_H
#define FOREBAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FOREBAY_VERSION_MAJOR 0
#define FOREBAY_VERSION_MINOR 1
#define FOREBAY_VERSION_PATCH 0

#if defined(FOREBAY_BUILD)
#define FOREBAY_API __attribute__((visibility("default")))
#else
#define FOREBAY_API
#endif

/* --- Errors ------------------------------------------------------------------------------- */

/* code, short name, what it means. Kept in one list so that code, name and text cannot drift. */
#define FOREBAY_STATUS_LIST(X)                                                                     \
    X(OK, 0, "ok")                                                                                 \
    X(E_USAGE, 1, "invalid argument")                                                              \
    X(E_IO, 2, "input/output error")                                                               \
    X(E_FORMAT, 3, "damaged or unsupported file")                                                  \
    X(E_NOFIT, 4, "does not fit")                                                                  \
    X(E_NOMEM, 5, "out of memory")                                                                 \
    X(E_UNSUPPORTED, 6, "not supported here")                                                      \
    X(E_LLAMA, 7, "llama.cpp refused")                                                             \
    X(E_CANCELLED, 8, "cancelled")

enum forebay_status {
#define FOREBAY_STATUS_ENUM(name, value, text) FOREBAY_##name = value,
    FOREBAY_STATUS_LIST(FOREBAY_STATUS_ENUM)
#undef FOREBAY_STATUS_ENUM
};

/* What went wrong and what to do about it. Plain data: copy it freely. */
struct forebay_error {
    enum forebay_status status;
    char message[512]; /* one line, no trailing newline; names the file or value at fault */
    char hint[256];    /* the remedy, or "" */
};

/* Name of a status as in FOREBAY_STATUS_LIST ("E_IO"), and its text. Thread-safe. */
FOREBAY_API const char *forebay_status_name(enum forebay_status status);
FOREBAY_API const char *forebay_status_text(enum forebay_status status);

FOREBAY_API const char *forebay_version(void); /* "0.1.0" */
/* Version of the llama.cpp library in use. Thread-safe. */
FOREBAY_API const char *forebay_llama_version(void);

/* A short name in a struct that may be copied. */
typedef char forebay_name[64];

/* --- Logging ------------------------------------------------------------------------------ */

enum forebay_log_level { FOREBAY_LOG_ERROR, FOREBAY_LOG_WARN, FOREBAY_LOG_INFO, FOREBAY_LOG_DEBUG };

/* Messages at `level` and below go to stderr, or to the sink when one is set. Process-wide; set it
 * before using anything else. Default: FOREBAY_LOG_WARN. */
FOREBAY_API void forebay_log_set_level(enum forebay_log_level level);
typedef void (*forebay_log_sink)(enum forebay_log_level level, const char *line, void *user);
FOREBAY_API void forebay_log_set_sink(forebay_log_sink sink, void *user);

/* --- What is in a file (no weights are read) ---------------------------------------------- */

/* One tensor of a model file. Pointers live as long as the forebay_file. */
struct forebay_tensor_info {
    const char *name;
    const char *type; /* quantisation as GGUF writes it: "Q4_K" */
    const char *role; /* "expert gate", "attention", ... */
    int n_dims;
    int64_t ne[4];
    uint64_t bytes;
    int layer;             /* -1: none */
    int n_expert;          /* 0: not stacked experts */
    uint64_t expert_bytes; /* expert e starts at offset + e * expert_bytes */
    const char *file;
    uint64_t offset;
};

struct forebay_file_info {
    const char *path;
    const char *name;
    const char *arch;
    int n_files;
    int n_tensors;
    int n_layer;
    int n_expert;
    int n_expert_used;
    uint64_t parameters;
    uint64_t file_bytes;
    uint64_t tensor_bytes;
    uint64_t bytes_per_token; /* weights one token touches when nothing is shared */
};

/* A parsed GGUF (all splits). Immutable; safe to read from any thread. */
struct forebay_file;
FOREBAY_API enum forebay_status forebay_file_open(
    const char *path, struct forebay_file **out, struct forebay_error *err);
FOREBAY_API void forebay_file_free(struct forebay_file *file);
FOREBAY_API void forebay_file_describe(
    const struct forebay_file *file, struct forebay_file_info *out);
/* index 0 .. n_tensors-1, in file order */
FOREBAY_API void forebay_file_tensor(
    const struct forebay_file *file, int index, struct forebay_tensor_info *out);
/* Asks the system to forget what it has cached of the model's files, so that what comes next reads
 * them from the disk. Pages that are in use, or not written back yet, stay. */
FOREBAY_API void forebay_file_forget(const struct forebay_file *file);

/* --- Models ------------------------------------------------------------------------------- */

/* Called while loading: `what` is a phase ("reading resident weights"), done..total in bytes.
 * Return false to stop (the load fails with E_CANCELLED). */
typedef bool (*forebay_progress)(const char *what, uint64_t done, uint64_t total, void *user);

struct forebay_model_options {
    uint64_t mem_bytes;         /* what the whole process may hold; 0: a safe default */
    uint64_t weights_mem_bytes; /* only the memory for weights; 0: what mem_bytes leaves */
    uint32_t ctx;               /* tokens of KV cache planned for; 0: min(trained, 4096) */
    uint32_t batch;  /* prompt tokens per pass; 0: 512, up to 2048 when experts are streamed */
    uint32_t n_seq;  /* sequences that grow at once, each of up to ctx tokens; 0: 1 */
    uint32_t n_kept; /* and more of them that share the same room */
    bool all_logits; /* those of every token may be asked for, which takes memory */
    int threads;     /* 0: physical cores */
    bool repack;     /* llama.cpp's CPU-specific weight layout (its default) */
    bool plain;      /* plain llama.cpp, nothing streamed: the reference */
    bool mmap;       /* with plain: weights stay in llama.cpp's mapping of the file */
    const char *io_method;  /* "auto", "uring", "threads", "sync" */
    uint32_t lookahead;     /* layers ahead for which experts are foreseen; 0: none, most: 4 */
    float lookahead_recall; /* share of what is foreseen that is left right, for experiments; 1 */
    const char *device;     /* that takes layers: "auto", "none", or as ggml names it */
    uint64_t device_mem_bytes; /* of its memory; 0: what is free, less a reserve */
    uint64_t disk_bytes_per_s; /* what the disk does, without latency; 0: measured for a moment */
    const char *sidecar;       /* "auto": the one that forebay_optimize made; "none"; or a path */
    forebay_progress progress; /* may be NULL */
    void *progress_user;
};

/* A loaded model. One per process at a time, plain ones included; use it from one thread. */
struct forebay_model;

FOREBAY_API void forebay_model_options_init(struct forebay_model_options *options);

/* Loads. Errors: as forebay_file_open; E_USAGE for an unknown device, naming those there are;
 * E_NOFIT with the smallest budget that works; E_LLAMA with llama.cpp's own words. */
FOREBAY_API enum forebay_status forebay_model_load(const char *path,
    const struct forebay_model_options *options, struct forebay_model **out,
    struct forebay_error *err);
FOREBAY_API void forebay_model_free(struct forebay_model *model);

/* What a device took of the model. */
struct forebay_device_use {
    forebay_name name;   /* as ggml names it, or "none" */
    int n_layers;        /* layers on it, and ... */
    int n_whole;         /* ... of these, those with their experts */
    uint64_t bytes;      /* weights, KV cache and compute buffers in its memory */
    uint64_t room_bytes; /* of its memory, that could have been used */
};

/* How the model was placed. */
struct forebay_placement {
    uint64_t budget_bytes;   /* for the whole process */
    uint64_t weights_bytes;  /* all weights of the model */
    uint64_t resident_bytes; /* weights held for good, those on a device not counted */
    uint64_t cache_bytes;    /* expert slots */
    uint64_t ring_bytes;     /* where streamed weights arrive, or pass through */
    uint64_t streamed_bytes; /* dense weights read on every pass */
    uint64_t sidecar_bytes;  /* weights that are read from a sidecar */
    uint64_t fixed_bytes;    /* of resident_bytes: what llama.cpp keeps, such as the embedding */
    uint64_t context_bytes;  /* fixed_bytes, KV cache, intermediate results, everything else */
    uint64_t kv_bytes;       /* of these: KV cache and recurrent state */
    uint64_t compute_bytes;  /* of these: intermediate results */
    uint64_t minimum_bytes;  /* smallest budget this model runs in, with these options */
    int n_layers;            /* of the model */
    int n_slots;             /* expert slots over all layers */
    int n_experts;           /* experts over all layers */
    bool fits;               /* all weights are in memory once it is loaded */
    uint32_t batch;          /* prompt tokens per pass, as given or chosen */
    struct forebay_device_use device;
};
FOREBAY_API void forebay_model_placement(
    const struct forebay_model *model, struct forebay_placement *out);

/* How fast a placement will be, and why. Seconds and bytes are those of one generated token. */
struct forebay_speed {
    double decode_tok_per_s, decode_low, decode_high; /* expected, and a range */
    double prompt_tok_per_s, prompt_low, prompt_high; /* for prompts of a full batch */
    double time_to_first_token_s;                     /* after loading, for such a prompt */
    double load_s;
    double hit_rate;                                /* of expert requests; 1 for dense models */
    double read_bytes, read_s, compute_s, unpack_s; /* arrive: copying, repacking what was read */
    double disk_bytes_per_s; /* as given or just measured; 0: the disk is not needed */
    const char *limit;       /* what limits it: "the disk", "computing", "repacking" */
    bool seen;               /* earlier runs of this model were taken into account */
    bool measured; /* the processor was measured: there is a cache directory to keep that in */
};
FOREBAY_API void forebay_model_speed(const struct forebay_model *model, struct forebay_speed *out);

FOREBAY_API int forebay_model_n_vocab(const struct forebay_model *model);
FOREBAY_API uint32_t forebay_model_ctx_train(const struct forebay_model *model);
FOREBAY_API uint32_t forebay_model_ctx(
    const struct forebay_model *model); /* tokens a session holds */
FOREBAY_API uint32_t forebay_model_batch(const struct forebay_model *model); /* tokens in a pass */
FOREBAY_API uint32_t forebay_model_sequences(
    const struct forebay_model *model); /* n_seq + n_kept */
/* True when the file has a tokenizer; without one only token ids can go in and out. */
FOREBAY_API bool forebay_model_has_text(const struct forebay_model *model);
FOREBAY_API bool forebay_model_is_eog(const struct forebay_model *model, int32_t token);

/* Text to tokens. Writes at most `cap`; *n is the number needed, so cap 0 asks for the size.
 * `special`: add BOS and the like and parse control tokens in the text. */
FOREBAY_API enum forebay_status forebay_tokenize(const struct forebay_model *model,
    const char *text, size_t length, bool special, int32_t *tokens, size_t cap, size_t *n,
    struct forebay_error *err);

/* Bytes of one token (not always whole UTF-8 characters). Returns the length, at most cap. */
FOREBAY_API size_t forebay_token_bytes(
    const struct forebay_model *model, int32_t token, char *buf, size_t cap);

/* --- Plans -------------------------------------------------------------------------------- */

/* What loading a model with some options would come to, without loading it. One at a time, and not
 * next to a model. Errors: as forebay_model_load. */
struct forebay_plan;

FOREBAY_API enum forebay_status forebay_plan_new(const char *path,
    const struct forebay_model_options *options, struct forebay_plan **out,
    struct forebay_error *err);
FOREBAY_API void forebay_plan_free(struct forebay_plan *plan);
FOREBAY_API void forebay_plan_placement(
    const struct forebay_plan *plan, struct forebay_placement *out);

/* Predicts with so much more memory and a disk so many times as fast (0 and 1: as it is). */
FOREBAY_API void forebay_plan_speed(const struct forebay_plan *plan, uint64_t more_bytes,
    double disk_factor, struct forebay_speed *out);

struct forebay_plan_layer {
    int layer;               /* -1: what belongs to no layer */
    uint64_t kept_bytes;     /* dense weights in memory, llama.cpp's own included */
    uint64_t streamed_bytes; /* dense weights read for every token */
    uint64_t slot_bytes;     /* memory for experts */
    uint64_t expert_bytes;   /* all experts, in the same form */
    int n_slots, n_experts;
    double hit_rate; /* expected; 1 without experts */
};
/* Layers in order, then the rest; valid for the plan's life. */
FOREBAY_API const struct forebay_plan_layer *forebay_plan_layers(
    const struct forebay_plan *plan, int *n_layers);

/* The profile of this machine as JSON, to be freed with free(): what is known is taken from the
 * cache, what is missing measured, all of it with `again`. The file at `path`, if not NULL, says
 * which disk. */
FOREBAY_API enum forebay_status forebay_profile(const char *path, bool again,
    forebay_progress progress, void *progress_user, char **json, struct forebay_error *err);

/* --- Sidecars ------------------------------------------------------------------------------ */

/* A sidecar is a file with a model's weights in the form that this CPU computes with. Loading the model
 * then reads them from there. It is used as long as model, CPU and llama.cpp are those that it was made
 * for; it may be deleted at any time (docs/SIDECAR.md). */

struct forebay_optimize_options {
    const char *output;    /* NULL: beside the model, or else in the cache directory */
    bool repack;           /* as in forebay_model_options */
    int threads;           /* 0: physical cores */
    const char *io_method; /* how the model is read */
    forebay_progress progress;
    void *progress_user;
};
FOREBAY_API void forebay_optimize_options_init(struct forebay_optimize_options *options);

struct forebay_optimized {
    char path[4096];
    uint64_t bytes;        /* of the file */
    uint64_t resumed_from; /* bytes of weights that an earlier run had written */
    bool was_there;        /* it was complete, and all of it is right: nothing was done */
};

/* Writes the sidecar of a model, or goes on with it where another run stopped; one that is there is
 * checked, and written anew if any of it is not right. Not next to a loaded
 * model. E_NOFIT when the disk has no room; E_UNSUPPORTED when there is nothing to write; E_CANCELLED
 * leaves what was written for another call. */
FOREBAY_API enum forebay_status forebay_optimize(const char *path,
    const struct forebay_optimize_options *options, struct forebay_optimized *out,
    struct forebay_error *err);

/* Removes the model's sidecars (or the one at `output`), complete or not. *n of them were there. */
FOREBAY_API enum forebay_status forebay_optimize_remove(
    const char *path, const char *output, int *n, struct forebay_error *err);

/* --- Sessions ----------------------------------------------------------------------------- */

/* One sequence with its KV cache. Belongs to one thread; frees before its model. */
struct forebay_session;

FOREBAY_API enum forebay_status forebay_session_new(
    struct forebay_model *model, struct forebay_session **out, struct forebay_error *err);
FOREBAY_API void forebay_session_free(struct forebay_session *session);

/* Evaluates n tokens after those evaluated before, in passes of at most `batch` tokens.
 * Logits are kept for the last token, or for every token of the call when `all_logits`, which the
 * model must have been loaded for. E_IO when a read failed: nothing of the failed pass is kept, and
 * the session may go on. */
FOREBAY_API enum forebay_status forebay_eval(struct forebay_session *session, const int32_t *tokens,
    size_t n, bool all_logits, struct forebay_error *err);

/* Row i (n_vocab floats) of the last forebay_eval: i = 0..n-1 with all_logits, else only i = 0.
 * Valid until the next call on the session. */
FOREBAY_API const float *forebay_logits(struct forebay_session *session, size_t i);

FOREBAY_API uint32_t forebay_session_n_past(const struct forebay_session *session);

/* Forgets all but the first n tokens evaluated. Returns how many are left: n, all if there are fewer,
 * or 0 for models whose state cannot be taken back in part (recurrent ones). */
FOREBAY_API uint32_t forebay_session_keep(struct forebay_session *session, uint32_t n);

/* An addition to the logit of a token. */
struct forebay_bias {
    int32_t token;
    float bias; /* -INFINITY: never */
};

/* As llama.cpp's samplers, in its order. "Off" is what forebay_sampling_init sets for all but top_k,
 * top_p and min_p, which matter only when temp is not 0. */
struct forebay_sampling {
    float temp;           /* 0: greedy */
    int top_k;            /* 0: off */
    float top_p;          /* 1: off */
    float min_p;          /* 0: off */
    float typical_p;      /* 1: off */
    float top_n_sigma;    /* -1: off */
    int min_keep;         /* candidates that these leave at least */
    float repeat_penalty; /* 1: off */
    int repeat_last_n;
    float frequency_penalty, presence_penalty; /* 0: off */
    float dry_multiplier, dry_base;            /* multiplier 0: off */
    int dry_allowed_length, dry_penalty_last_n;
    float xtc_probability, xtc_threshold; /* probability 0: off */
    float dynatemp_range, dynatemp_exponent;
    int mirostat; /* 0: off, 1, 2 */
    float mirostat_tau, mirostat_eta;
    uint32_t seed;
    bool ignore_eos;                   /* end-of-generation tokens are never chosen */
    const struct forebay_bias *biases; /* n_biases of them */
    size_t n_biases;
    const char *grammar; /* GBNF that the text must follow; NULL: none */
};
FOREBAY_API void forebay_sampling_init(struct forebay_sampling *sampling);
/* (Re)starts sampling for the session; the penalty history begins empty. */
FOREBAY_API enum forebay_status forebay_sampling_set(struct forebay_session *session,
    const struct forebay_sampling *sampling, struct forebay_error *err);
/* Picks the next token from the last row of logits and adds it to the history; -1 when there is none
 * (a grammar that leaves nothing). */
FOREBAY_API int32_t forebay_sample(struct forebay_session *session);
/* Adds a prompt token to the penalty history. */
FOREBAY_API void forebay_sample_accept(struct forebay_session *session, int32_t token);

/* --- Several sequences -------------------------------------------------------------------- */

/* A session on a model loaded for several has sequences 0 .. n_seq + n_kept - 1. They share the KV
 * cache of ctx x n_seq tokens; tokens that one was copied from another are held once. */

struct forebay_item {
    int32_t token;
    int seq;     /* the token is added at its end */
    bool logits; /* its row is wanted: forebay_logits(session, index of the item) */
};

/* Evaluates n items (at most `batch`) in one pass: each weight is read once for all of them. Unless
 * the model was loaded with `all_logits`, at most n_seq + n_kept rows can be wanted.
 * E_NOFIT when the KV cache is full: nothing has changed. After any other failure in the pass, the
 * sequences named in it are empty. */
FOREBAY_API enum forebay_status forebay_decode(struct forebay_session *session,
    const struct forebay_item *items, size_t n, struct forebay_error *err);

/* Cuts a sequence to its first n tokens. Returns how many are left: n, or 0 where the model's state
 * cannot be cut (forebay_seq_can_cut). */
FOREBAY_API uint32_t forebay_seq_keep(struct forebay_session *session, int seq, uint32_t n);
/* Makes `to` a copy of the first n tokens of `from`. Returns n, or 0 as above, unless all of `from`
 * is copied. */
FOREBAY_API uint32_t forebay_seq_copy(
    struct forebay_session *session, int from, int to, uint32_t n);
FOREBAY_API uint32_t forebay_seq_length(const struct forebay_session *session, int seq);
FOREBAY_API bool forebay_seq_can_cut(const struct forebay_session *session);

/* Writes the state of a sequence, of these n tokens, to a file in llama.cpp's format; puts it into
 * an empty sequence again. The file is trusted: check it before. E_IO, E_NOFIT (no room). */
FOREBAY_API enum forebay_status forebay_seq_save(struct forebay_session *session, int seq,
    const int32_t *tokens, uint32_t n, const char *path, struct forebay_error *err);
FOREBAY_API enum forebay_status forebay_seq_load(struct forebay_session *session, int seq,
    uint32_t n, const char *path, struct forebay_error *err);
/* The same number for states that may be exchanged: of the same files and settings. */
FOREBAY_API uint64_t forebay_state_fingerprint(const struct forebay_model *model);

/* --- Prompts and chat ---------------------------------------------------------------------- */

/* Everything here may be used from any thread, also while the model computes; one object by one
 * thread at a time, unless it says otherwise. What is made from a model is freed before it. */

/* Tokens to continue, and what is known of the continuation: its grammar, what ends it, how it is to
 * be read. Immutable. */
struct forebay_prompt;

/* A text as it is: with BOS and the like, and with control tokens where their names stand in it.
 * E_USAGE when nothing is left. */
FOREBAY_API enum forebay_status forebay_prompt_from_text(const struct forebay_model *model,
    const char *text, size_t length, struct forebay_prompt **out, struct forebay_error *err);
/* Tokens as they are; the text is empty. E_USAGE for what is not in the vocabulary. */
FOREBAY_API enum forebay_status forebay_prompt_from_tokens(const struct forebay_model *model,
    const int32_t *tokens, size_t n, struct forebay_prompt **out, struct forebay_error *err);
/* One more owner: it is gone when each has freed it. */
FOREBAY_API struct forebay_prompt *forebay_prompt_share(const struct forebay_prompt *prompt);
FOREBAY_API void forebay_prompt_free(struct forebay_prompt *prompt);
FOREBAY_API const char *forebay_prompt_text(const struct forebay_prompt *prompt, size_t *length);
FOREBAY_API const int32_t *forebay_prompt_tokens(const struct forebay_prompt *prompt, size_t *n);

/* A model's chat template, with llama.cpp's knowledge of it. Immutable. */
struct forebay_chat;

/* `text`: a template (Jinja) instead of the model's; NULL: the model's, or llama.cpp's default where
 * it has none. E_UNSUPPORTED without a tokenizer, E_USAGE for a template that cannot be parsed. */
FOREBAY_API enum forebay_status forebay_chat_new(const struct forebay_model *model,
    const char *text, struct forebay_chat **out, struct forebay_error *err);
FOREBAY_API void forebay_chat_free(struct forebay_chat *chat);
FOREBAY_API const char *forebay_chat_template(const struct forebay_chat *chat);
FOREBAY_API bool forebay_chat_is_default(
    const struct forebay_chat *chat); /* llama.cpp's, not its own */
FOREBAY_API bool forebay_chat_can_think(const struct forebay_chat *chat); /* and need not */
FOREBAY_API bool forebay_chat_has_tools(const struct forebay_chat *chat);

/* Renders a conversation: a JSON object in the terms of OpenAI's chat completions. Of it are used
 *      messages (required), tools, tool_choice, parallel_tool_calls, response_format,
 *      json_schema (a schema), grammar (GBNF), enable_thinking, reasoning_effort,
 *      chat_template_kwargs, add_generation_prompt, continue_final_message
 * and everything else is ignored. A name of a control token within a message is text, whoever wrote
 * it: only the template makes control tokens. E_USAGE, with llama.cpp's words, when it cannot. */
FOREBAY_API enum forebay_status forebay_chat_render(const struct forebay_chat *chat,
    const char *request, size_t length, struct forebay_prompt **out, struct forebay_error *err);

/* A JSON schema as a grammar, to be freed with free(). E_USAGE. */
FOREBAY_API enum forebay_status forebay_schema_grammar(
    const char *schema, size_t length, char **grammar, struct forebay_error *err);

/* --- Generated text ------------------------------------------------------------------------- */

/* Generated tokens become text: valid UTF-8 in whole characters (what is none becomes U+FFFD), up to
 * the first stop string, of which nothing is given out. */
struct forebay_text;

/* `prompt` adds its own stop strings, and the control tokens that are meant to be seen. The strings
 * are copied, empty ones ignored. */
FOREBAY_API enum forebay_status forebay_text_new(const struct forebay_model *model,
    const struct forebay_prompt *prompt, const char *const *stops, size_t n_stops,
    struct forebay_text **out, struct forebay_error *err);
FOREBAY_API void forebay_text_free(struct forebay_text *text);
/* Adds a token. Returns what is certain now, *n bytes and a NUL, valid until the next call. Nothing
 * comes after a stop string. */
FOREBAY_API const char *forebay_text_add(struct forebay_text *text, int32_t token, size_t *n);
/* What was held back because it could have become a stop string, or a character. */
FOREBAY_API const char *forebay_text_end(struct forebay_text *text, size_t *n);
/* The stop string that was found, or NULL. */
FOREBAY_API const char *forebay_text_stop(const struct forebay_text *text);

enum forebay_delta_kind { FOREBAY_DELTA_CONTENT, FOREBAY_DELTA_REASONING, FOREBAY_DELTA_TOOL_CALL };

/* A piece of a reply. */
struct forebay_delta {
    enum forebay_delta_kind kind;
    const char *text; /* of a tool call: a piece of its arguments (JSON) */
    size_t length;
    int call;         /* which tool call: 0, 1, ... */
    const char *name; /* of the function, and the call's id: when it begins, else NULL */
    const char *id;
};

struct forebay_tool_call {
    const char *id, *name, *arguments;
};

struct forebay_message {
    const char *content;   /* "" if none */
    const char *reasoning; /* "" if none */
    const struct forebay_tool_call *calls;
    size_t n_calls;
};

/* Reads generated text as the prompt's template wants it: what is content, what is reasoning, what
 * are tool calls. Text that does not follow the format is content. */
struct forebay_reply;

FOREBAY_API enum forebay_status forebay_reply_new(
    const struct forebay_prompt *prompt, struct forebay_reply **out, struct forebay_error *err);
FOREBAY_API void forebay_reply_free(struct forebay_reply *reply);
/* Adds text; `last` when it is complete. *deltas: what is new, valid until the next call. */
FOREBAY_API enum forebay_status forebay_reply_add(struct forebay_reply *reply, const char *text,
    size_t n, bool last, const struct forebay_delta **deltas, size_t *n_deltas,
    struct forebay_error *err);
/* All of it so far. Valid until the next call. */
FOREBAY_API void forebay_reply_message(
    const struct forebay_reply *reply, struct forebay_message *out);

/* --- Samplers ------------------------------------------------------------------------------ */

/* Chooses tokens by logits, a history and a grammar: any number of them on one session. Made and
 * freed on any thread. */
struct forebay_sampler;

/* `prompt` may be NULL, or adds its grammar; one in `sampling` goes before. Its tokens are not added
 * to the history. E_USAGE for values that cannot be, and for a grammar that cannot be parsed. */
FOREBAY_API enum forebay_status forebay_sampler_new(const struct forebay_model *model,
    const struct forebay_sampling *sampling, const struct forebay_prompt *prompt,
    struct forebay_sampler **out, struct forebay_error *err);
FOREBAY_API void forebay_sampler_free(struct forebay_sampler *sampler);
/* Adds a prompt's token to the penalty history. */
FOREBAY_API void forebay_sampler_accept(struct forebay_sampler *sampler, int32_t token);
/* Picks a token by a row of the last evaluation (see forebay_logits) and adds it to the history.
 * E_USAGE when the grammar leaves none. */
FOREBAY_API enum forebay_status forebay_sampler_pick(struct forebay_sampler *sampler,
    struct forebay_session *session, size_t row, int32_t *token, struct forebay_error *err);

struct forebay_logprob {
    int32_t token;
    float logprob;
};
/* Natural logarithms of probabilities by a row, before any sampling: that of `token` in *chosen, and
 * the `n` likeliest tokens in `top` (n <= n_vocab; may be 0), the likeliest first. */
FOREBAY_API void forebay_logprobs(struct forebay_session *session, size_t row, int32_t token,
    float *chosen, struct forebay_logprob *top, size_t n);

/* --- Routing traces ----------------------------------------------------------------------- */

/* From now on, writes to the file which experts each token of forebay_eval uses in each layer: one JSON
 * object per line (docs/SIM.md), for `forebay sim` and `forebay synth replay`. Also a process that is
 * killed leaves whole lines. E_UNSUPPORTED when there is nothing to see: a model without experts,
 * or whose experts are llama.cpp's. E_IO when the file cannot be made. */
FOREBAY_API enum forebay_status forebay_trace_start(
    struct forebay_session *session, const char *path, struct forebay_error *err);
/* Completes the file; E_IO when not all could be written. Freeing the session does the same without
 * a report. Fine when there is none. */
FOREBAY_API enum forebay_status forebay_trace_stop(
    struct forebay_session *session, struct forebay_error *err);

/* --- Numbers every run reports ------------------------------------------------------------ */

/* X(type, name). Durations in seconds, sizes in bytes. The JSON keys are the names; docs/STATS.md
 * says exactly what each one counts. */
#define FOREBAY_STATS_LIST(X)                                                                      \
    X(double, decode_tok_per_s)                                                                    \
    X(double, prompt_tok_per_s)                                                                    \
    X(double, time_to_first_token_s)                                                               \
    X(uint64_t, prompt_tokens)                                                                     \
    X(uint64_t, generated_tokens)                                                                  \
    X(uint64_t, read_bytes)                                                                        \
    X(uint64_t, decode_read_bytes)                                                                 \
    X(uint64_t, demand_bytes)                                                                      \
    X(uint64_t, prefetch_bytes)                                                                    \
    X(uint64_t, prefetch_used_bytes)                                                               \
    X(uint64_t, expert_requests)                                                                   \
    X(uint64_t, expert_hits)                                                                       \
    X(double, hit_rate)                                                                            \
    X(double, prompt_s)                                                                            \
    X(double, decode_s)                                                                            \
    X(double, stall_s)                                                                             \
    X(double, demand_stall_s)                                                                      \
    X(double, prefetch_stall_s)                                                                    \
    X(double, unpack_s)                                                                            \
    X(double, scheduler_s)                                                                         \
    X(double, compute_s)                                                                           \
    X(double, disk_bytes_per_s)                                                                    \
    X(double, disk_utilisation)                                                                    \
    X(double, roofline_ratio)                                                                      \
    X(double, estimated_tok_per_s)                                                                 \
    X(double, estimated_prompt_tok_per_s)                                                          \
    X(double, load_s)                                                                              \
    X(uint64_t, load_read_bytes)                                                                   \
    X(uint64_t, resident_bytes)                                                                    \
    X(forebay_name, device_name)                                                                   \
    X(uint64_t, device_layers)                                                                     \
    X(uint64_t, device_bytes)                                                                      \
    X(uint64_t, governor_shrinks)                                                                  \
    X(uint64_t, governor_grows)                                                                    \
    X(uint64_t, peak_rss_bytes)                                                                    \
    X(uint64_t, budget_bytes)                                                                      \
    X(uint64_t, written_bytes)

struct forebay_stats {
#define FOREBAY_STATS_FIELD(type, name) type name;
    FOREBAY_STATS_LIST(FOREBAY_STATS_FIELD)
#undef FOREBAY_STATS_FIELD
};

/* Figures since the model was loaded; docs/STATS.md says what counts as prompt and what as decode. */
FOREBAY_API void forebay_stats_get(
    const struct forebay_session *session, struct forebay_stats *out);

#ifdef __cplusplus
}
#endif

#endif
