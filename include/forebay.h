/*
 * forebay.h - run language models bigger than memory, with exactly llama.cpp's tokens.
 *
 * The whole public interface. A program loads a model, makes a session on it (a KV cache with one
 * or more sequences), evaluates tokens, and chooses the next ones by the logits:
 *
 *      forebay_model_load --> forebay_session_new --> forebay_eval --> forebay_sample --+
 *                                                          ^                            |
 *                                                          +---------- its token -------+
 *
 * Prompts, samplers and generated text are objects of their own, so that a program can serve many
 * sequences at once (forebay_decode); they follow the conventions that the model's file gives.
 *
 * Rules that hold for every function here:
 *   - A function that can fail returns a status and takes an optional `struct forebay_error *`
 *     (NULL is fine). On failure every output is untouched and nothing is left allocated.
 *   - Option structs are filled by their _init function first, then changed by the caller. Strings
 *     in them need to be valid only during the call that they are given to.
 *   - `_free` functions accept NULL.
 *   - Indices and counts must be in the stated range; some functions abort otherwise.
 *   - Strings are UTF-8 and NUL-terminated unless a length is given. Sizes are in bytes.
 *   - Objects are not thread-safe unless it is said: one thread at a time may use one.
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

/* --- Errors -------------------------------------------------------------------------------- */

/* X(short name, code, text). One list, so that they cannot drift apart. */
#define FOREBAY_STATUS_LIST(X)                                                                     \
    X(OK, 0, "ok")                                                                                 \
    X(E_USAGE, 1, "invalid argument")                                                              \
    X(E_IO, 2, "input/output error")                                                               \
    X(E_FORMAT, 3, "damaged or unsupported file")                                                  \
    X(E_NOFIT, 4, "does not fit")                                                                  \
    X(E_NOMEM, 5, "out of memory")                                                                 \
    X(E_UNSUPPORTED, 6, "not supported here")                                                      \
    X(E_LLAMA, 7, "llama.cpp refused")                                                             \
    X(E_CANCELLED, 8, "cancelled")                                                                 \
    X(E_CONTEXT, 9, "more text than fits into the context")

enum forebay_status {
#define FOREBAY_STATUS_ENUM(name, value, text) FOREBAY_##name = value,
    FOREBAY_STATUS_LIST(FOREBAY_STATUS_ENUM)
#undef FOREBAY_STATUS_ENUM
};

/* A failure and its remedy. Plain data: copy it freely. */
struct forebay_error {
    enum forebay_status status;
    char message[512]; /* one line, no trailing newline; names the file or value at fault */
    char hint[256];    /* the remedy as a sentence, or "" */
};

/* Name of a status as in FOREBAY_STATUS_LIST ("E_IO"), and its text. Thread-safe. */
FOREBAY_API const char *forebay_status_name(enum forebay_status status);
FOREBAY_API const char *forebay_status_text(enum forebay_status status);

/* Version of this library, "0.1.0", and of the llama.cpp library in use. Thread-safe. */
FOREBAY_API const char *forebay_version(void);
FOREBAY_API const char *forebay_llama_version(void);

/* A short name within a struct, so that the struct can be copied. */
typedef char forebay_name[64];

/* --- Logging ------------------------------------------------------------------------------- */

enum forebay_log_level { FOREBAY_LOG_ERROR, FOREBAY_LOG_WARN, FOREBAY_LOG_INFO, FOREBAY_LOG_DEBUG };

/* Messages up to `level` go to stderr, or to the sink if one is set (one line each, without a
 * newline, from any thread). Process-wide and not thread-safe: set both before using anything else.
 * Default: FOREBAY_LOG_WARN, no sink. */
FOREBAY_API void forebay_log_set_level(enum forebay_log_level level);
typedef void (*forebay_log_sink)(enum forebay_log_level level, const char *line, void *user);
FOREBAY_API void forebay_log_set_sink(forebay_log_sink sink, void *user);

/* --- Model files (no weights are read) ----------------------------------------------------- */

/* One tensor of a model file. Pointers live as long as the forebay_file. */
struct forebay_tensor_info {
    const char *name;
    const char *type; /* quantisation as GGUF writes it: "Q4_K" */
    const char *role; /* "expert gate", "attention", ... */
    int n_dims;
    int64_t ne[4];
    uint64_t bytes;
    int layer;             /* -1: of no layer */
    int n_expert;          /* 0: not stacked experts */
    uint64_t expert_bytes; /* expert e starts at offset + e * expert_bytes */
    const char *file;      /* path of the split that contains it */
    uint64_t offset;       /* of its data in this file */
};

/* Pointers live as long as the forebay_file. */
struct forebay_file_info {
    const char *path;
    const char *name; /* as the file says, or "" */
    const char *arch; /* llama.cpp's name of the architecture */
    int n_files;      /* splits */
    int n_tensors;
    int n_layer;
    int n_expert;
    int n_expert_used;
    uint64_t parameters;
    uint64_t file_bytes;
    uint64_t tensor_bytes;
    uint64_t bytes_per_token; /* weights that one token computes with */
};

/* A parsed GGUF (all splits). Immutable; any thread may read it. E_IO, or E_FORMAT for a damaged or
 * incomplete file. */
struct forebay_file;
FOREBAY_API enum forebay_status forebay_file_open(
    const char *path, struct forebay_file **out, struct forebay_error *err);
FOREBAY_API void forebay_file_free(struct forebay_file *file);
FOREBAY_API void forebay_file_describe(
    const struct forebay_file *file, struct forebay_file_info *out);
/* `index`: 0 .. n_tensors - 1, in file order. */
FOREBAY_API void forebay_file_tensor(
    const struct forebay_file *file, int index, struct forebay_tensor_info *out);
/* Asks the system to drop the model's files from the page cache, so that the next reads come from
 * the disk. Pages that are in use, or not written back yet, stay. */
FOREBAY_API void forebay_file_forget(const struct forebay_file *file);

/* --- Models -------------------------------------------------------------------------------- */

/* Called during long operations, from the thread that started them. `what` names the phase
 * ("reading experts"). `done` of `total` is its progress, in a unit of the phase: bytes, steps,
 * tokens or millionths. Return false to stop; the operation then fails with E_CANCELLED. */
typedef bool (*forebay_progress)(const char *what, uint64_t done, uint64_t total, void *user);

/* The most devices of a model; as many as llama.cpp divides a model among. */
#define FOREBAY_DEVICES 16

struct forebay_model_options {
    uint64_t mem_bytes;         /* budget of the whole process; 0: a safe default */
    uint64_t weights_mem_bytes; /* budget of the weights alone; 0: what mem_bytes leaves */
    uint64_t caller_bytes;      /* of mem_bytes, that the caller itself will use */
    uint32_t ctx;   /* tokens of each sequence; 0: as many as trained for, if an eighth of mem_bytes
                     * is enough for them, but up to 4096 in any case (plain: at most 4096) */
    uint32_t batch; /* tokens per pass, at most ctx; 0: 512; 32 to 2048 when weights are streamed */
    uint32_t n_seq; /* sequences that grow at the same time, each up to ctx tokens; 0: 1 */
    uint32_t n_kept;        /* further sequences, which share the room of the others; 256 in all */
    bool all_logits;        /* logits of every token may be asked for, which takes memory */
    int threads;            /* 0: physical cores */
    bool repack;            /* use llama.cpp's CPU-specific weight layouts (its default) */
    bool plain;             /* plain llama.cpp, nothing streamed: the reference */
    bool mmap;              /* with plain: weights stay in llama.cpp's mapping of the file */
    const char *io_method;  /* "auto", "uring", "threads", "sync" */
    uint32_t lookahead;     /* layers ahead for which experts are prefetched; 0: none, at most 4 */
    float lookahead_recall; /* for experiments: fraction of lookahead guesses left correct */
    const char *device;     /* that layers are offloaded to: "auto", "none" or ggml's name of it, or
                             * several, separated by commas, filled in this order */
    uint64_t device_mem_bytes[FOREBAY_DEVICES]; /* of each device, that may be used; 0: free memory
                                                 * less a reserve */
    int n_device_mem;           /* of these; 0: none; 1: the same for all; else one per device */
    const char *device_experts; /* where not all fit on devices: "layers": they hold and compute
                                 * those of whole layers; "slots": one computes all others, from
                                 * slots that hold those used most; "slots:N": the same, but the
                                 * last N layers are whole; "auto": what should be fastest; for
                                 * experiments, "copies" and "copies:N": as slots, but in its own
                                 * memory even where that is the machine's */
    uint64_t disk_bytes_per_s;  /* speed of the disk for estimates; 0: measured for a moment */
    const char *sidecar;        /* "auto": the one that forebay_optimize made; "none"; or a path */
    forebay_progress progress;  /* may be NULL */
    void *progress_user;
};

/* A loaded model. One per process at a time, plain ones included, and not next to a plan. Loaded
 * and freed by one thread, to which its session belongs; functions that take a const model may be
 * called from any thread. */
struct forebay_model;

FOREBAY_API void forebay_model_options_init(struct forebay_model_options *options);

/* Loads a model; blocks until it is in memory as planned. Errors: those of forebay_file_open;
 * E_USAGE for options out of range, for an unknown device (the hint lists the devices), and while
 * another model or plan exists; E_NOFIT with the smallest budget that works; E_UNSUPPORTED for
 * models that do not generate text; E_LLAMA with llama.cpp's message; E_CANCELLED. */
FOREBAY_API enum forebay_status forebay_model_load(const char *path,
    const struct forebay_model_options *options, struct forebay_model **out,
    struct forebay_error *err);
/* Everything made from the model (session, prompts, samplers, ...) must have been freed before. */
FOREBAY_API void forebay_model_free(struct forebay_model *model);

/* Use of a device by a model. */
struct forebay_device_use {
    forebay_name name;   /* as ggml names it */
    int n_layers;        /* layers on it, and ... */
    int n_whole;         /* ... of these, layers with their experts, or FFNs */
    int n_slotted;       /* ... others, whose experts it computes from slots */
    int n_slots;         /* for one expert each, over all layers */
    bool slots_shared;   /* they are those of cache_bytes, in the machine's memory */
    uint64_t bytes;      /* weights, KV cache and compute buffers in its memory */
    uint64_t room_bytes; /* of its memory, that could have been used */
};

/* Where a model's weights are, and the memory for everything else. */
struct forebay_placement {
    uint64_t budget_bytes;   /* for the whole process */
    uint64_t weights_bytes;  /* all weights of the model */
    uint64_t resident_bytes; /* weights in memory for good, without those on a device */
    uint64_t cache_bytes;    /* expert slots */
    uint64_t lent_bytes;     /* of these, at most, while a batch is computed */
    uint64_t ring_bytes;     /* buffers for streamed weights */
    uint64_t streamed_bytes; /* dense weights read on every pass */
    uint64_t sidecar_bytes;  /* weights that are read from a sidecar */
    uint64_t fixed_bytes; /* of resident_bytes: weights that llama.cpp holds, e.g. the embedding */
    uint64_t context_bytes; /* fixed_bytes, KV cache, intermediate results, the process itself */
    uint64_t kv_bytes;      /* of these: KV cache and recurrent state */
    uint64_t compute_bytes; /* of these: intermediate results, without what is lent */
    uint64_t minimum_bytes; /* smallest budget for this model and these options; 0: plain */
    uint64_t minimum_weights_bytes; /* the same for weights_mem_bytes */
    int n_layers;                   /* of the model */
    int n_slots;                    /* expert slots over all layers */
    int n_experts;                  /* experts over all layers, without those on a device */
    bool fits;                      /* all weights are in memory once the model is loaded */
    uint32_t batch;                 /* tokens per pass, as given or chosen */
    uint32_t ctx;                   /* tokens of each sequence, as given or chosen */
    uint32_t ctx_trained;           /* as the file says */
    bool ctx_by_memory; /* no context was given: ctx follows from budget and ctx_trained */
    int n_devices; /* found, if the model uses any, else 0; in the order in which they are filled */
    struct forebay_device_use devices[FOREBAY_DEVICES];
};
FOREBAY_API void forebay_model_placement(
    const struct forebay_model *model, struct forebay_placement *out);

/* Estimated speed of a placement and its reasons. Seconds and bytes are those of one generated
 * token. forebay_model_speed has no estimate for a plain model or beside a device: its speeds are
 * 0. */
struct forebay_speed {
    double decode_tok_per_s, decode_low, decode_high; /* estimate and its range */
    double prompt_tok_per_s, prompt_low, prompt_high; /* for prompts of a full batch */
    double time_to_first_token_s;                     /* after loading, for such a prompt */
    double load_s;
    double hit_rate; /* of expert requests; 1 for dense models */
    double read_bytes, read_s, compute_s;
    double unpack_s;         /* copying and repacking of what was read */
    double disk_bytes_per_s; /* as given or measured; 0: nothing is read while generating */
    const char *limit; /* bottleneck: "the disk", "computing", "repacking"; NULL: no estimate */
    bool seen;         /* earlier runs of this model were taken into account */
    bool measured;     /* the processor was measured, which needs a cache directory */
};
FOREBAY_API void forebay_model_speed(const struct forebay_model *model, struct forebay_speed *out);

FOREBAY_API int forebay_model_n_vocab(const struct forebay_model *model);
FOREBAY_API uint32_t forebay_model_ctx_train(const struct forebay_model *model);
/* Maximum tokens per sequence and per pass, and sequences of a session (n_seq + n_kept). */
FOREBAY_API uint32_t forebay_model_ctx(const struct forebay_model *model);
FOREBAY_API uint32_t forebay_model_batch(const struct forebay_model *model);
FOREBAY_API uint32_t forebay_model_sequences(const struct forebay_model *model);
/* Whether the file has a tokenizer. Without one there are only token ids. */
FOREBAY_API bool forebay_model_has_text(const struct forebay_model *model);
/* Whether the token ends the generated text. */
FOREBAY_API bool forebay_model_is_eog(const struct forebay_model *model, int32_t token);

/* Tokens with a meaning of their own; -1: the vocabulary has none. */
enum forebay_token_kind {
    FOREBAY_TOKEN_BOS,
    FOREBAY_TOKEN_EOS,
    FOREBAY_TOKEN_FIM_PREFIX, /* of text to be filled in: what precedes it follows this token */
    FOREBAY_TOKEN_FIM_SUFFIX, /* what succeeds it follows */
    FOREBAY_TOKEN_FIM_MIDDLE, /* it follows itself */
    FOREBAY_TOKEN_FIM_FILE,   /* text of another file follows */
};
FOREBAY_API int32_t forebay_model_token(
    const struct forebay_model *model, enum forebay_token_kind kind);
/* Whether prompts begin with BOS, or end with EOS. */
FOREBAY_API bool forebay_model_adds_token(
    const struct forebay_model *model, enum forebay_token_kind kind);

/* Text to tokens. *n is the number of tokens; they are written only if it is at most `cap`, so cap
 * 0 asks for the size. `special`: add BOS and EOS as the model wants them, and make control tokens
 * of their names in the text. E_UNSUPPORTED without a tokenizer; E_CONTEXT for a text that is sure
 * not to fit into the context (a longer one may be counted, up to 4 times the context or 32768
 * tokens); E_USAGE for a run of more than 65536 characters without a break, where the model's
 * tokenizer recurses for each of them. */
FOREBAY_API enum forebay_status forebay_tokenize(const struct forebay_model *model,
    const char *text, size_t length, bool special, int32_t *tokens, size_t cap, size_t *n,
    struct forebay_error *err);

/* Bytes of one token, not terminated and not always whole UTF-8 characters. Returns their number; 0
 * for control tokens, and when `cap` is too small. */
FOREBAY_API size_t forebay_token_bytes(
    const struct forebay_model *model, int32_t token, char *buf, size_t cap);
/* The same, but control tokens have the bytes of their names. */
FOREBAY_API size_t forebay_token_name(
    const struct forebay_model *model, int32_t token, char *buf, size_t cap);

/* --- Plans --------------------------------------------------------------------------------- */

/* The placement and speed of a model with some options, without loading it. One per process, and
 * not next to a model. Immutable. Errors: as forebay_model_load. */
struct forebay_plan;

FOREBAY_API enum forebay_status forebay_plan_new(const char *path,
    const struct forebay_model_options *options, struct forebay_plan **out,
    struct forebay_error *err);
FOREBAY_API void forebay_plan_free(struct forebay_plan *plan);
FOREBAY_API void forebay_plan_placement(
    const struct forebay_plan *plan, struct forebay_placement *out);

/* Estimates the speed with more_bytes more memory and a disk disk_factor times as fast (0 and 1: as
 * planned). */
FOREBAY_API void forebay_plan_speed(const struct forebay_plan *plan, uint64_t more_bytes,
    double disk_factor, struct forebay_speed *out);

struct forebay_plan_layer {
    int layer;               /* -1: weights of no layer */
    uint64_t device_bytes;   /* weights on a device for good, experts included */
    uint64_t resident_bytes; /* resident dense weights, those that llama.cpp holds included */
    uint64_t streamed_bytes; /* dense weights read for every token */
    uint64_t slot_bytes;     /* memory for experts */
    uint64_t expert_bytes;   /* all experts, in the form that slots hold */
    int n_slots, n_experts;
    int n_device_slots; /* for experts, on a device */
    uint64_t device_slot_bytes;
    double hit_rate; /* estimated, of the slots in memory alone; 1 without experts */
};
/* The layers in order, then the weights of no layer. Valid for the plan's life. */
FOREBAY_API const struct forebay_plan_layer *forebay_plan_layers(
    const struct forebay_plan *plan, int *n_layers);

/* A level of storage: what it holds, and the experts that come from it. */
struct forebay_tier {
    forebay_name name;     /* of the device, "RAM" or "disk" */
    uint64_t dense_bytes;  /* weights that every token uses: held, or (disk) read for every token */
    uint64_t expert_bytes; /* experts held, or (disk) the rest of them, in slots or for good */
    uint64_t kv_bytes;
    int n_slots;     /* experts that there is memory for */
    double requests; /* estimated share of all requests for experts that it serves; 0 without any */
};
/* The devices in use, RAM, and the disk; at most FOREBAY_DEVICES + 2. Returns how many. */
FOREBAY_API int forebay_plan_tiers(const struct forebay_plan *plan, struct forebay_tier *tiers);

/* The profile of this machine as JSON, to be freed with free(). Known figures are read from the
 * cache directory and missing ones measured, with `again` all of them, which takes seconds. `path`:
 * a model on the disk to be included; NULL: none. */
FOREBAY_API enum forebay_status forebay_profile(const char *path, bool again,
    forebay_progress progress, void *progress_user, char **json, struct forebay_error *err);

/* --- Sidecars ------------------------------------------------------------------------------ */

/* A sidecar is a file with a model's weights in the form that this CPU computes with, from which
 * loading and streaming then read. It is used as long as model, CPU and llama.cpp are those that it
 * was made for, and may be deleted at any time (docs/SIDECAR.md). */

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
    bool was_there;        /* it was complete and intact: nothing was done */
};

/* Writes the sidecar of a model, or continues where another call stopped. A complete one is
 * checked, and written again if any of it is damaged. Not next to a model or plan. E_NOFIT when
 * memory or the disk has no room; E_UNSUPPORTED when all weights are computed with as they are
 * stored; E_USAGE when `output` is a file of another kind; E_CANCELLED. After a failure, what was
 * written is kept for another call. */
FOREBAY_API enum forebay_status forebay_optimize(const char *path,
    const struct forebay_optimize_options *options, struct forebay_optimized *out,
    struct forebay_error *err);

/* Removes the model's sidecars beside it and in the cache directory (or the one at `output`),
 * complete or not. *n: files removed. E_USAGE when `output` is a file of another kind. */
FOREBAY_API enum forebay_status forebay_optimize_remove(
    const char *path, const char *output, int *n, struct forebay_error *err);

/* --- Sessions ------------------------------------------------------------------------------ */

/* A KV cache with the sequences in it. One per model at a time; belongs to the model's thread and
 * must be freed before the model. forebay_eval and forebay_session_* work on sequence 0, for
 * programs that have no other; forebay_decode and forebay_seq_* work on all. */
struct forebay_session;

FOREBAY_API enum forebay_status forebay_session_new(
    struct forebay_model *model, struct forebay_session **out, struct forebay_error *err);
FOREBAY_API void forebay_session_free(struct forebay_session *session);

/* Evaluates n tokens after those evaluated before, in passes of at most `batch` tokens; blocks
 * until they are done. Leaves the logits of the last token, or with `all_logits` those of every
 * token: then n is at most `batch`, and the model must have been loaded for it. E_USAGE: nothing
 * has changed. E_IO when a read failed: the tokens of earlier passes stay, those of the failed pass
 * are removed, and the session can go on, except where state cannot be cut (recurrent models): then
 * it must be emptied with forebay_session_keep. E_LLAMA: the model may have to be loaded again, as
 * the next call will say. */
FOREBAY_API enum forebay_status forebay_eval(struct forebay_session *session, const int32_t *tokens,
    size_t n, bool all_logits, struct forebay_error *err);

/* Logits (n_vocab floats) of row i of the last evaluation. After forebay_eval: i = 0 .. n - 1 with
 * all_logits, else only 0. After forebay_decode: the index of an item that asked for them. There
 * are none after a failed evaluation. Valid until the next call on the session. */
FOREBAY_API const float *forebay_logits(struct forebay_session *session, size_t i);

/* Tokens evaluated. */
FOREBAY_API uint32_t forebay_session_n_past(const struct forebay_session *session);

/* Forgets all but the first n tokens evaluated. Returns how many are left: n; all if there are
 * fewer; 0 where the model's state cannot be cut there (forebay_seq_shortest). Only for sessions of
 * one sequence. */
FOREBAY_API uint32_t forebay_session_keep(struct forebay_session *session, uint32_t n);

/* An addition to the logit of a token. */
struct forebay_bias {
    int32_t token;
    float bias; /* -INFINITY: never */
};

/* Parameters of llama.cpp's samplers, which are applied in its order. forebay_sampling_init sets
 * temp to 0, top_k to 40, top_p to 0.95, min_p to 0.05 (these three matter only when temp is not 0)
 * and turns everything else off. */
struct forebay_sampling {
    float temp;           /* 0: greedy */
    int top_k;            /* 0: off */
    float top_p;          /* 1: off */
    float min_p;          /* 0: off */
    float typical_p;      /* 1: off */
    float top_n_sigma;    /* -1: off */
    int min_keep;         /* candidates that the samplers above leave at least */
    float repeat_penalty; /* 1: off */
    int repeat_last_n;    /* length of the history that penalties look at */
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
/* Sets the sampler of forebay_sample, with an empty history. E_USAGE as forebay_sampler_new. */
FOREBAY_API enum forebay_status forebay_sampling_set(struct forebay_session *session,
    const struct forebay_sampling *sampling, struct forebay_error *err);
/* Chooses the next token by the last row of logits and adds it to the history; greedily if no
 * sampler was set. -1 when there are no logits, or when the grammar leaves no token. */
FOREBAY_API int32_t forebay_sample(struct forebay_session *session);
/* Adds a prompt token to the history of the sampler that was set. */
FOREBAY_API void forebay_sample_accept(struct forebay_session *session, int32_t token);

/* --- Several sequences --------------------------------------------------------------------- */

/* A session has sequences 0 .. n_seq + n_kept - 1, empty at first. They share a KV cache of ctx x
 * n_seq tokens. Copied tokens are held once. */

struct forebay_item {
    int32_t token;
    int seq;     /* sequence that the token is appended to */
    bool logits; /* compute them: forebay_logits(session, index of the item) */
};

/* Evaluates n items (at most `batch`) in one pass: each weight is read once for all of them. Unless
 * the model was loaded with `all_logits`, at most n_seq + n_kept items may ask for logits. E_USAGE,
 * and E_NOFIT when the KV cache is full: nothing has changed. After any other failure the sequences
 * of the items are empty. */
FOREBAY_API enum forebay_status forebay_decode(struct forebay_session *session,
    const struct forebay_item *items, size_t n, struct forebay_error *err);

/* Cuts a sequence to its first n tokens. Returns how many are left: n; all if there are fewer; 0
 * where n is less than forebay_seq_shortest. */
FOREBAY_API uint32_t forebay_seq_keep(struct forebay_session *session, int seq, uint32_t n);
/* Makes `to`, another sequence, a copy of the first n tokens of `from`; its own tokens are removed.
 * n is at most the length of `from`. Returns n, or 0 (`to` is empty) where n is less than
 * forebay_seq_shortest(from). */
FOREBAY_API uint32_t forebay_seq_copy(
    struct forebay_session *session, int from, int to, uint32_t n);
FOREBAY_API uint32_t forebay_seq_length(const struct forebay_session *session, int seq);
/* Smallest number of tokens, other than 0, to which the sequence can be cut now. It is 1 where
 * every token has an entry in the KV cache for as long as the sequence has; more for models with a
 * sliding window, as entries that no later token looks at are overwritten; the whole length where
 * the sequence cannot be cut. 0 for an empty sequence. */
FOREBAY_API uint32_t forebay_seq_shortest(const struct forebay_session *session, int seq);
/* False for recurrent and hybrid models, whose state is not one entry per token. */
FOREBAY_API bool forebay_seq_can_cut(const struct forebay_session *session);
/* Longest sequence that can still be cut after it was saved and loaded: 0 where none can be cut,
 * the window for models with a sliding window, as only its tokens are saved, otherwise
 * UINT32_MAX. */
FOREBAY_API uint32_t forebay_seq_cut_max(const struct forebay_session *session);

/* Write the state of a sequence to a file in llama.cpp's format, and restore it in place of the
 * sequence's tokens. `tokens`: the n tokens of the sequence, which are stored, too, and are
 * compared when it is restored. `bytes`: size of the state, which other data may follow in the
 * file. llama.cpp trusts the content of the file: verify it before loading. E_USAGE when n is not
 * the sequence's length, or more than the context; E_IO; E_FORMAT for a file that is no such state;
 * E_LLAMA when llama.cpp cannot restore it, perhaps for want of room. After a failed load the
 * sequence is empty. */
FOREBAY_API enum forebay_status forebay_seq_save(struct forebay_session *session, int seq,
    const int32_t *tokens, uint32_t n, const char *path, struct forebay_error *err);
FOREBAY_API enum forebay_status forebay_seq_load(struct forebay_session *session, int seq,
    const int32_t *tokens, uint32_t n, const char *path, uint64_t bytes, struct forebay_error *err);
/* A hash of the model's content (samples of it), settings, processor and llama.cpp version: a state
 * may be loaded only if it was saved under the same one. Reads the samples. E_IO. */
FOREBAY_API enum forebay_status forebay_state_fingerprint(
    const struct forebay_model *model, uint64_t *out, struct forebay_error *err);

/* --- Prompts and chat ---------------------------------------------------------------------- */

/* The functions of this section and the two below may be called from any thread, also while the
 * model computes; an object by one thread at a time unless it is immutable. The exception is
 * forebay_sampler_pick and forebay_logprobs, which use the session. Objects made from a model must
 * be freed before it. */

/* Tokens to continue and the rules for the continuation: its grammar, its stop strings, and how to
 * parse it. Immutable; counts its owners. */
struct forebay_prompt;

/* A text as it is, with BOS and EOS as the model wants them, and with control tokens for their
 * names in it. Errors: as forebay_tokenize; E_USAGE when there are no tokens. */
FOREBAY_API enum forebay_status forebay_prompt_from_text(const struct forebay_model *model,
    const char *text, size_t length, struct forebay_prompt **out, struct forebay_error *err);
/* Tokens as they are; the text is empty. E_USAGE without tokens, or for one that is not in the
 * vocabulary. */
FOREBAY_API enum forebay_status forebay_prompt_from_tokens(const struct forebay_model *model,
    const int32_t *tokens, size_t n, struct forebay_prompt **out, struct forebay_error *err);
/* Adds an owner and returns the same prompt, which is freed when each owner has freed it.
 * Thread-safe. */
FOREBAY_API struct forebay_prompt *forebay_prompt_share(const struct forebay_prompt *prompt);
FOREBAY_API void forebay_prompt_free(struct forebay_prompt *prompt);
/* Valid for the prompt's life. `length` may be NULL. */
FOREBAY_API const char *forebay_prompt_text(const struct forebay_prompt *prompt, size_t *length);
FOREBAY_API const int32_t *forebay_prompt_tokens(const struct forebay_prompt *prompt, size_t *n);

/* A chat template, as llama.cpp understands it. Immutable. */
struct forebay_chat;

/* `text`: a template (Jinja) instead of the model's; NULL: the model's, or llama.cpp's default
 * where it has none. E_UNSUPPORTED without a tokenizer, E_USAGE for a template that cannot be
 * parsed. */
FOREBAY_API enum forebay_status forebay_chat_new(const struct forebay_model *model,
    const char *text, struct forebay_chat **out, struct forebay_error *err);
FOREBAY_API void forebay_chat_free(struct forebay_chat *chat);
/* The template's text (valid for the chat's life); whether it is llama.cpp's default; whether
 * reasoning can be switched on and off; whether it supports tools. */
FOREBAY_API const char *forebay_chat_template(const struct forebay_chat *chat);
FOREBAY_API bool forebay_chat_is_default(const struct forebay_chat *chat);
FOREBAY_API bool forebay_chat_can_think(const struct forebay_chat *chat);
FOREBAY_API bool forebay_chat_has_tools(const struct forebay_chat *chat);

/* Renders a conversation, given as a JSON object with the fields of OpenAI's chat completions:
 *      messages (required), tools, tool_choice, parallel_tool_calls, response_format,
 *      json_schema (a schema), grammar (GBNF), enable_thinking, reasoning_effort,
 *      chat_template_kwargs, add_generation_prompt, continue_final_message
 * Others are ignored. A last message of the assistant is continued, unless add_generation_prompt is
 * true or continue_final_message is false: the reply is what follows it. The name of a control
 * token within a message is text, whatever the role: only the template makes control tokens.
 * E_USAGE with llama.cpp's message on failure. Many messages take seconds: `progress` (may be NULL)
 * is called often, on another thread while this one waits, and its numbers mean nothing. The
 * template itself cannot be stopped in a program that uses libforebay. */
FOREBAY_API enum forebay_status forebay_chat_render(const struct forebay_chat *chat,
    const char *request, size_t length, forebay_progress progress, void *progress_user,
    struct forebay_prompt **out, struct forebay_error *err);

/* Converts a JSON schema to a grammar (GBNF), to be freed with free(). E_USAGE. */
FOREBAY_API enum forebay_status forebay_schema_grammar(
    const char *schema, size_t length, char **grammar, struct forebay_error *err);

/* --- Generated text ------------------------------------------------------------------------ */

/* Turns generated tokens into text: valid UTF-8 in whole characters (invalid bytes become U+FFFD),
 * up to, but not including, the first stop string. */
struct forebay_text;

/* `prompt` adds its own stop strings, and the control tokens whose names are part of the text; it
 * may be NULL, and must outlive the object. `stops` are copied; empty ones are ignored.
 * E_UNSUPPORTED without a tokenizer. */
FOREBAY_API enum forebay_status forebay_text_new(const struct forebay_model *model,
    const struct forebay_prompt *prompt, const char *const *stops, size_t n_stops,
    struct forebay_text **out, struct forebay_error *err);
FOREBAY_API void forebay_text_free(struct forebay_text *text);
/* Adds a token. Returns the new text that is certain not to begin a stop string: *n bytes and a
 * NUL, valid until the next call. Always empty after a stop string. */
FOREBAY_API const char *forebay_text_add(struct forebay_text *text, int32_t token, size_t *n);
/* The rest of the text, which was held back because a stop string or a character could have
 * followed. Valid until the next call. */
FOREBAY_API const char *forebay_text_end(struct forebay_text *text, size_t *n);
/* The stop string that was found, valid for the object's life, or NULL. */
FOREBAY_API const char *forebay_text_stop(const struct forebay_text *text);

enum forebay_delta_kind { FOREBAY_DELTA_CONTENT, FOREBAY_DELTA_REASONING, FOREBAY_DELTA_TOOL_CALL };

/* A piece of a reply. */
struct forebay_delta {
    enum forebay_delta_kind kind;
    const char *text; /* for a tool call: a piece of its arguments (JSON) */
    size_t length;
    int call;         /* number of the tool call: 0, 1, ... */
    const char *name; /* of the function, in the first delta of a call; else NULL */
    const char *id;   /* of the call, likewise */
};

struct forebay_tool_call {
    const char *id, *name, *arguments;
};

/* Texts may contain a NUL: their lengths tell where they end. */
struct forebay_message {
    const char *content;   /* "" if none */
    const char *reasoning; /* "" if none */
    size_t content_length, reasoning_length;
    const struct forebay_tool_call *calls;
    size_t n_calls;
};

/* Divides generated text into content, reasoning and tool calls, by the format of the prompt's
 * template. Text that does not follow the format is content. The prompt must outlive it. */
struct forebay_reply;

FOREBAY_API enum forebay_status forebay_reply_new(
    const struct forebay_prompt *prompt, struct forebay_reply **out, struct forebay_error *err);
FOREBAY_API void forebay_reply_free(struct forebay_reply *reply);
/* Adds text; `last`: it is complete now. *deltas: the additions to the message, valid until the
 * next call. */
FOREBAY_API enum forebay_status forebay_reply_add(struct forebay_reply *reply, const char *text,
    size_t n, bool last, const struct forebay_delta **deltas, size_t *n_deltas,
    struct forebay_error *err);
/* The whole message so far. Valid until the next call. */
FOREBAY_API void forebay_reply_message(
    const struct forebay_reply *reply, struct forebay_message *out);

/* --- Samplers ------------------------------------------------------------------------------ */

/* Chooses tokens by logits, a history and a grammar. Any number of them may share a session. */
struct forebay_sampler;

/* `prompt` may be NULL. Its grammar is used unless `sampling` has one; its tokens are not added to
 * the history. Both are copied. E_USAGE for values out of range and for a grammar that cannot be
 * parsed. */
FOREBAY_API enum forebay_status forebay_sampler_new(const struct forebay_model *model,
    const struct forebay_sampling *sampling, const struct forebay_prompt *prompt,
    struct forebay_sampler **out, struct forebay_error *err);
FOREBAY_API void forebay_sampler_free(struct forebay_sampler *sampler);
/* Adds a prompt's token to the history. */
FOREBAY_API void forebay_sampler_accept(struct forebay_sampler *sampler, int32_t token);
/* Chooses a token by a row of the last evaluation (see forebay_logits) and adds it to the history.
 * On the session's thread. E_USAGE when the grammar leaves no token. */
FOREBAY_API enum forebay_status forebay_sampler_pick(struct forebay_sampler *sampler,
    struct forebay_session *session, size_t row, int32_t *token, struct forebay_error *err);

struct forebay_logprob {
    int32_t token;
    float logprob;
};
/* Natural logarithms of the probabilities that a row of logits gives, before any sampling: that of
 * `token` in *chosen, and the n (0 .. n_vocab) likeliest tokens in `top`, the likeliest first. On
 * the session's thread. */
FOREBAY_API void forebay_logprobs(struct forebay_session *session, size_t row, int32_t token,
    float *chosen, struct forebay_logprob *top, size_t n);

/* --- Routing traces ------------------------------------------------------------------------ */

/* From now on, writes to the file which experts each token of forebay_eval uses in each layer: one
 * JSON object per line (docs/SIM.md), for `forebay sim` and `forebay synth replay`. A killed
 * process leaves whole lines, too. E_USAGE when the session is already recording; E_UNSUPPORTED
 * when the model has no experts, or llama.cpp holds all of them; E_IO when the file cannot be
 * created. */
FOREBAY_API enum forebay_status forebay_trace_start(
    struct forebay_session *session, const char *path, struct forebay_error *err);
/* Completes the file. Reports the first failure since the start: E_IO, or E_UNSUPPORTED for routes
 * that a trace cannot hold. Freeing the session does the same without a report. OK when not
 * recording. */
FOREBAY_API enum forebay_status forebay_trace_stop(
    struct forebay_session *session, struct forebay_error *err);

/* --- Statistics of a run ------------------------------------------------------------------- */

/* X(type, name). Durations in seconds, sizes in bytes. The names are the keys in JSON;
 * docs/STATS.md defines each of them. */
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
    X(uint64_t, device_slots)                                                                      \
    X(forebay_name, device_slots_form)                                                             \
    X(uint64_t, device_requests)                                                                   \
    X(uint64_t, device_hits)                                                                       \
    X(uint64_t, device_copy_bytes)                                                                 \
    X(uint64_t, device_back_bytes)                                                                 \
    X(double, device_copy_s)                                                                       \
    X(uint64_t, governor_shrinks)                                                                  \
    X(uint64_t, governor_grows)                                                                    \
    X(double, other_cores)                                                                         \
    X(uint64_t, peak_rss_bytes)                                                                    \
    X(uint64_t, budget_bytes)                                                                      \
    X(uint64_t, written_bytes)

struct forebay_stats {
#define FOREBAY_STATS_FIELD(type, name) type name;
    FOREBAY_STATS_LIST(FOREBAY_STATS_FIELD)
#undef FOREBAY_STATS_FIELD
};

/* Statistics of the session: of its evaluations since it was made, of reads and experts since the
 * model was loaded. docs/STATS.md defines prompt and decode. */
FOREBAY_API void forebay_stats_get(
    const struct forebay_session *session, struct forebay_stats *out);

#ifdef __cplusplus
}
#endif

#endif
