/*
 * synth.h - synthetic models of any size, for tests and benchmarks.
 *
 * Four kinds, all valid GGUF files that llama.cpp loads and decodes:
 *
 *   random    random weights in the shape of an architecture, in any quantisation
 *   sparse    the same, with almost all weights as holes: hardly any disk space
 *   replay    a model that repeats the routing of a trace (see replay_model.c)
 *   inflate   a large mixture of experts that generates the same text as a small real model
 *
 * The same options and seed give the same bytes. A file appears under its name only when it is
 * complete; on failure no file is left. Functions may be called from any thread.
 */
#ifndef FB_SYNTH_SYNTH_H
#define FB_SYNTH_SYNTH_H

#include "forebay.h"

/* Options of every kind. */
struct fb_synth_output {
    uint64_t seed;
    uint64_t split_max_bytes;  /* 0: one file; else PATH becomes PREFIX-00001-of-000NN.gguf, ... */
    const char *const *inputs; /* n_inputs files that are read and must not be replaced */
    int n_inputs;
    forebay_progress progress; /* may be NULL */
    void *progress_user;
};

/* The result. */
struct fb_synth_report {
    char path[4096];     /* the file to open: the first one of a split set */
    char shape[256];     /* a description in one line */
    uint64_t file_bytes; /* all files */
    uint64_t parameters;
    uint64_t expert_bytes; /* of one expert of the first layer that has any; 0: dense */
};

/* --- random and sparse -------------------------------------------------------------------- */

/* Numbers that are 0 (shared_experts: negative) are chosen automatically: to match `size_bytes` or
 * `parameters` if given, else small ones that suit the architecture and the numbers that are
 * set. */
struct fb_synth_shape {
    const char *arch; /* one of fb_synth_arch_name(); required */
    const char *type; /* one of fb_synth_type_name(), or a mix like "Q4_K_M"; NULL: the usual one */
    int layers;
    int embd;
    int heads;
    int kv_heads;
    int ff; /* neurons of one expert in a mixture of experts, else of the layer */
    int experts;
    int experts_used;
    int shared_experts;
    int vocab;
    int ctx;
    bool fused_experts;  /* gate and up in one tensor; only some architectures */
    uint64_t size_bytes; /* wanted size of the file: layers are added, then ff is adjusted */
    uint64_t parameters; /* the same as a number of parameters */
    struct fb_synth_output output;
};

void fb_synth_shape_init(struct fb_synth_shape *shape);

/* Errors: E_USAGE when no such model exists (with the number at fault), E_IO when the file cannot
 * be written, E_CANCELLED. `report` may be NULL. */
enum forebay_status fb_synth_random(const struct fb_synth_shape *shape, const char *path,
    struct fb_synth_report *report, struct forebay_error *err);

/* The same, but writes only the header and the small tensors. The large ones are holes in the file,
 * which read as zeros: logits are finite and carry no information. */
enum forebay_status fb_synth_sparse(const struct fb_synth_shape *shape, const char *path,
    struct fb_synth_report *report, struct forebay_error *err);

/* Names of all architectures and tensor types, for help texts and for tests of each. NULL when `i`
 * is past the end. */
const char *fb_synth_arch_name(int i);
const char *fb_synth_type_name(int i);
bool fb_synth_arch_has_experts(const char *arch);

/* --- replay ------------------------------------------------------------------------------- */

struct fb_synth_replay {
    const char *type;      /* of experts and attention; NULL: Q4_K */
    uint64_t expert_bytes; /* gate, up and down of one expert; sets ff. 0: 1 MiB */
    int embd;              /* 0: 2048, or the number of tokens if that is larger */
    int ff;                /* 0: from expert_bytes */
    int heads;             /* 0: derived from embd */
    int layers;            /* only the first of the trace; 0: all */
    int tokens;            /* only the first of the trace; 0: all */
    struct fb_synth_output output;
};

void fb_synth_replay_init(struct fb_synth_replay *replay);

/* Errors: E_IO when the trace cannot be read, E_FORMAT with the line number when it is malformed,
 * and those of fb_synth_random. */
enum forebay_status fb_synth_replay(const struct fb_synth_replay *replay, const char *trace,
    const char *path, struct fb_synth_report *report, struct forebay_error *err);

/* --- inflate ------------------------------------------------------------------------------ */

struct fb_synth_inflate {
    int experts;         /* required for a dense source; else a multiple of the source's number */
    int experts_used;    /* 0: 2 for a dense source; else the source's times the copies */
    int ff;              /* neurons of each expert, the extra ones zero; 0: as few as possible */
    uint64_t size_bytes; /* instead of ff: as many neurons as make a file of about this size */
    const char *type;    /* of the experts; NULL: as in the source */
    struct fb_synth_output output;
};

void fb_synth_inflate_init(struct fb_synth_inflate *inflate);

/* Errors: those of fb_catalog_open for the source, E_UNSUPPORTED when the source cannot be inflated
 * without changing its output, and those of fb_synth_random. */
enum forebay_status fb_synth_inflate(const struct fb_synth_inflate *inflate, const char *source,
    const char *path, struct fb_synth_report *report, struct forebay_error *err);

#endif
