/*
 * synth.c - forebay synth: makes test models of any size (synth/synth.h).
 *
 * One function per kind; each parses its options, calls the library and reports the file written:
 *
 *      cmd_synth -> synth_random, synth_sparse -> make_shape -> parse, fb_synth_..., finish
 *                -> synth_replay, synth_inflate              -> parse, fb_synth_..., finish
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/progress.h"
#include "synth/synth.h"

/* Options of every kind. */
struct common {
    const char *path;
    uint32_t seed;
    bool quiet;
    struct progress_line line;
};

#define COMMON_OPTIONS(common, out)                                                                \
    {CMD_GROUP, .help = "Output"},                                                                 \
        {CMD_STRING, 'o', "output", "FILE", "model to write (required)",                           \
            .target = &(common).path},                                                             \
        {CMD_UINT32, 0, "seed", "N", "random seed of the weights (default 0)",                     \
            .target = &(common).seed},                                                             \
        {CMD_SIZE, 0, "split-max-size", "SIZE",                                                    \
            "split the model into files of at most this size: FILE-00001-of-000NN.gguf, ...",      \
            .target = &(out).split_max_bytes},                                                     \
    {                                                                                              \
        CMD_FLAG, 'q', "quiet", NULL, "print only errors", .target = &(common).quiet               \
    }

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    interrupted = 1;
    signal(sig, SIG_DFL); /* a second one ends the program at once */
}

/* A forebay_progress. Stops at a signal, so that the unfinished file is removed. */
static bool report_or_stop(const char *what, uint64_t done, uint64_t total, void *user)
{
    return progress_report(what, done, total, user) && !interrupted;
}

/* --- Shared steps ------------------------------------------------------------------------- */

/* Parses the options and checks those of every kind. Returns CMD_GO_ON or the exit code. */
static int parse(const struct cmd_spec *spec, int argc, char **argv, const char **positional,
    struct common *common, struct fb_synth_output *output)
{
    int rc = cmd_parse(spec, argc, argv, positional, NULL);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (!common->path) {
        return cmd_usage_error(spec, "missing option -o FILE");
    }
    progress_init(&common->line, common->quiet);
    output->seed = common->seed;
    output->progress = report_or_stop;
    output->progress_user = &common->line;
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
    signal(SIGHUP, on_interrupt);
    return CMD_GO_ON;
}

/* Reports the file written, or the error. Returns the exit code. */
static int finish(struct common *common, enum forebay_status status,
    const struct fb_synth_report *report, const struct forebay_error *err)
{
    progress_end(&common->line);
    if (status != FOREBAY_OK) {
        cmd_fail(err);
        return interrupted ? CMD_INTERRUPTED : cmd_exit_code(status);
    }
    if (!common->quiet) {
        bool large = report->parameters >= 1000000000;
        fprintf(stderr, "%s: %s, %.4g %s parameters\n%s\n", report->path,
            FB_SIZE(report->file_bytes), (double)report->parameters / (large ? 1e9 : 1e6),
            large ? "B" : "M", report->shape);
    }
    return CMD_OK;
}

/* A number like "7B", "1.5T" or "235000000000": powers of 1000. */
static const char *parse_count(const char *text, void *target)
{
    static const char letters[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    const char *letter = *end ? strchr(letters, *end == 'B' ? 'G' : *end) : NULL;
    if (letter) {
        value *= pow(1000, (double)(letter - letters) + 1);
        end++;
    }
    if (end == text || *end || !(value >= 1e4 && value <= 1e15)) {
        return "a number of parameters like 7B or 1T";
    }
    *(uint64_t *)target = (uint64_t)value;
    return NULL;
}

/* The names of all architectures, for the help. */
static const char *arch_list(char *buf, size_t cap)
{
    size_t used = (size_t)snprintf(buf, cap, "Architectures:");
    for (int i = 0; fb_synth_arch_name(i) && used < cap; i++) {
        used += (size_t)snprintf(buf + used, cap - used, " %s", fb_synth_arch_name(i));
    }
    return buf;
}

/* --- random and sparse -------------------------------------------------------------------- */

typedef enum forebay_status make_function(const struct fb_synth_shape *shape, const char *path,
    struct fb_synth_report *report, struct forebay_error *err);

static int make_shape(const char *name, const char *arch, const char *summary, make_function *make,
    int argc, char **argv)
{
    struct fb_synth_shape s;
    struct common common = {0};
    fb_synth_shape_init(&s);
    s.arch = arch;
    const struct cmd_option options[] = {{CMD_GROUP, .help = "Shape (values not given are chosen)"},
        {CMD_STRING, 'a', "arch", "NAME",
            "architecture, see below (default: llama; sparse: qwen3moe)", .target = &s.arch},
        {CMD_STRING, 0, "type", "TYPE",
            "quantisation: F16, Q8_0, Q4_K, IQ4_XS, MXFP4, ... or a mix: Q4_K_M, MXFP4_MOE",
            .target = &s.type},
        {CMD_SIZE, 0, "size", "SIZE", "file size: adds layers, then adjusts the FFN",
            .target = &s.size_bytes},
        {CMD_CALL, 0, "params", "N", "number of parameters, in the same way: 7B, 1T",
            .target = &s.parameters, .parse = parse_count},
        {CMD_INT, 0, "layers", "N", "number of layers", .target = &s.layers, .min = 1, .max = 512},
        {CMD_INT, 0, "embd", "N", "width of the model", .target = &s.embd, .min = 1, .max = 65536},
        {CMD_INT, 0, "heads", "N", "attention heads", .target = &s.heads, .min = 1, .max = 512},
        {CMD_INT, 0, "kv-heads", "N", "KV heads", .target = &s.kv_heads, .min = 1, .max = 512},
        {CMD_INT, 0, "ff", "N", "width of the FFN, or of one expert", .target = &s.ff, .min = 1,
            .max = 1 << 20},
        {CMD_INT, 0, "experts", "N", "experts per layer", .target = &s.experts, .min = 1,
            .max = 1024},
        {CMD_INT, 0, "experts-used", "N", "experts per token", .target = &s.experts_used, .min = 1,
            .max = 1024},
        {CMD_INT, 0, "shared-experts", "N", "experts that every token uses",
            .target = &s.shared_experts, .min = 0, .max = 16},
        {CMD_FLAG, 0, "fused-experts", NULL, "store gate and up of an expert in one tensor",
            .target = &s.fused_experts},
        {CMD_INT, 0, "vocab", "N",
            "number of tokens: 259 for bytes and control, the others are words w0, w1, ...",
            .target = &s.vocab, .min = 1, .max = 1 << 22},
        {CMD_INT, 0, "ctx", "N", "trained context length", .target = &s.ctx, .min = 1,
            .max = 1 << 24},
        COMMON_OPTIONS(common, s.output), {0}};
    char archs[1024];
    const struct cmd_spec spec = {
        name, "-o FILE [options]", summary, options, 0, 0, arch_list(archs, sizeof archs)};
    int rc = parse(&spec, argc, argv, NULL, &common, &s.output);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (s.size_bytes && s.parameters) {
        return cmd_usage_error(&spec, "--size and --params exclude each other");
    }
    struct fb_synth_report report;
    struct forebay_error err;
    enum forebay_status status = make(&s, common.path, &report, &err);
    return finish(&common, status, &report, &err);
}

static int synth_random(int argc, char **argv)
{
    return make_shape("synth random", "llama",
        "Makes a model of random weights that llama.cpp loads and decodes to finite logits.",
        fb_synth_random, argc, argv);
}

static int synth_sparse(int argc, char **argv)
{
    return make_shape("synth sparse", "qwen3moe",
        "Makes a model of any size that uses almost no space on disk: small tensors are random, "
        "large ones are holes that read as zeros.",
        fb_synth_sparse, argc, argv);
}

/* --- replay ------------------------------------------------------------------------------- */

static int synth_replay(int argc, char **argv)
{
    struct fb_synth_replay r;
    struct common common = {0};
    fb_synth_replay_init(&r);
    const struct cmd_option options[] = {{CMD_GROUP, .help = "Model"},
        {CMD_SIZE, 0, "expert-bytes", "SIZE", "size of one expert: gate, up and down (default 1M)",
            .target = &r.expert_bytes},
        {CMD_STRING, 0, "type", "TYPE", "quantisation of experts and attention (default Q4_K)",
            .target = &r.type},
        {CMD_INT, 0, "embd", "N",
            "width of the model, at least the number of tokens (default 2048)", .target = &r.embd,
            .min = 1, .max = 65536},
        {CMD_INT, 0, "ff", "N", "width of one expert, instead of --expert-bytes", .target = &r.ff,
            .min = 1, .max = 1 << 20},
        {CMD_INT, 0, "heads", "N", "attention heads", .target = &r.heads, .min = 1, .max = 512},
        {CMD_INT, 0, "layers", "N", "use only the first N layers of the trace", .target = &r.layers,
            .min = 1, .max = 512},
        {CMD_INT, 0, "tokens", "N", "use only the first N decode tokens of the trace",
            .target = &r.tokens, .min = 1, .max = 65536},
        COMMON_OPTIONS(common, r.output), {0}};
    const struct cmd_spec spec = {"synth replay", "TRACE -o FILE [options]",
        "Makes a model that repeats a routing trace: after the prompt 'w0 ' greedy decoding gives "
        "'w1 ', 'w2 ', ..., and each token uses the experts in the trace.",
        options, 1, 1,
        "A trace has one JSON object per line: first {\"n_layer\", \"n_expert\", \"top_k\"}, then "
        "per token {\"phase\": \"decode\", \"layers\": [[experts of layer 0], ...]}. After the "
        "last token the model starts again with the first."};
    const char *trace;
    int rc = parse(&spec, argc, argv, &trace, &common, &r.output);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (r.ff && r.expert_bytes) {
        return cmd_usage_error(&spec, "--ff and --expert-bytes exclude each other");
    }
    struct fb_synth_report report;
    struct forebay_error err;
    enum forebay_status status = fb_synth_replay(&r, trace, common.path, &report, &err);
    return finish(&common, status, &report, &err);
}

/* --- inflate ------------------------------------------------------------------------------ */

static int synth_inflate(int argc, char **argv)
{
    struct fb_synth_inflate i;
    struct common common = {0};
    fb_synth_inflate_init(&i);
    const struct cmd_option options[] = {{CMD_GROUP, .help = "Model"},
        {CMD_INT, 0, "experts", "N",
            "experts per layer; if the source has experts, a multiple of their number",
            .target = &i.experts, .min = 1, .max = 1024},
        {CMD_INT, 0, "used", "N", "experts per token (default 2; for dense sources only)",
            .target = &i.experts_used, .min = 1, .max = 1024},
        {CMD_INT, 0, "ff", "N", "neurons of one expert: those of the source, padded with zeros",
            .target = &i.ff, .min = 1, .max = 1 << 20},
        {CMD_SIZE, 0, "size", "SIZE", "approximate file size, reached by such padding",
            .target = &i.size_bytes},
        {CMD_STRING, 0, "type", "TYPE", "quantisation of the experts (default: the source's)",
            .target = &i.type},
        COMMON_OPTIONS(common, i.output), {0}};
    const struct cmd_spec spec = {"synth inflate", "MODEL -o FILE [options]",
        "Turns a small model into a larger mixture of experts that generates the same text. Each "
        "expert is a copy of the source's FFN, or of one of its experts, with its neurons in a "
        "different order and zeros between them.",
        options, 1, 1,
        "Dense sources: llama, qwen3 and granite. Logits differ from the source's at most by "
        "rounding; a --type with fewer bits than the source's changes logits and text slightly."};
    const char *source;
    int rc = parse(&spec, argc, argv, &source, &common, &i.output);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (i.ff && i.size_bytes) {
        return cmd_usage_error(&spec, "--ff and --size exclude each other");
    }
    struct fb_synth_report report;
    struct forebay_error err;
    enum forebay_status status = fb_synth_inflate(&i, source, common.path, &report, &err);
    return finish(&common, status, &report, &err);
}

int cmd_synth(int argc, char **argv)
{
    static const struct cmd_entry kinds[] = {
        {"random", synth_random, "random weights in the shape of an architecture"},
        {"replay", synth_replay, "a model that repeats a routing trace"},
        {"sparse", synth_sparse, "any size, almost no space on disk"},
        {"inflate", synth_inflate, "a large mixture of experts from a small model"},
        {0},
    };
    return cmd_dispatch(
        "forebay synth", "Makes test models of any size, as GGUF files.", kinds, argc, argv);
}
