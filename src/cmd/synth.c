/* synth.c - `forebay synth`: test models of any size. One function per kind, all options here. */
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "synth/synth.h"

/* What every kind takes besides its own options. */
struct common {
    const char *path;
    uint32_t seed;
    bool quiet;
    struct progress_line line;
};

#define COMMON_OPTIONS(common, out)                                                                \
    {CMD_GROUP, .help = "Output"},                                                                 \
        {CMD_STRING, 'o', "output", "FILE", "the model to write (required)",                       \
            .target = &(common).path},                                                             \
        {CMD_UINT32, 0, "seed", "N", "another seed gives other weights (default 0)",               \
            .target = &(common).seed},                                                             \
        {CMD_SIZE, 0, "split-max-size", "SIZE",                                                    \
            "write a split set, FILE-00001-of-000NN.gguf and so on, of files this large",          \
            .target = &(out).split_max_bytes},                                                     \
    {                                                                                              \
        CMD_FLAG, 'q', "quiet", NULL, "nothing on stderr but errors", .target = &(common).quiet    \
    }

/* --- Shared steps ------------------------------------------------------------------------- */

/* Parses, and checks what every kind needs. CMD_GO_ON, or the exit code. */
static int parse(const struct cmd_spec *spec, int argc, char **argv, const char **positional,
    struct common *common, struct fb_synth_output *output)
{
    int rc = cmd_parse(spec, argc, argv, positional, NULL);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (!common->path) {
        return cmd_usage_error(spec, "-o FILE is missing");
    }
    progress_init(&common->line, common->quiet);
    output->seed = common->seed;
    output->progress = progress_report;
    output->progress_user = &common->line;
    return CMD_GO_ON;
}

/* Says what was made, and turns the status into the exit code. */
static int finish(struct common *common, enum forebay_status status,
    const struct fb_synth_report *report, const struct forebay_error *err)
{
    progress_end(&common->line);
    if (status) {
        return cmd_fail(err);
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
    const struct cmd_option options[] = {{CMD_GROUP, .help = "Shape (what is left out is chosen)"},
        {CMD_STRING, 'a', "arch", "NAME",
            "architecture, listed below (default llama; qwen3moe when sparse)", .target = &s.arch},
        {CMD_STRING, 0, "type", "TYPE",
            "quantisation: F16, Q8_0, Q4_K, IQ4_XS, MXFP4, ... or a mix: Q4_K_M, MXFP4_MOE",
            .target = &s.type},
        {CMD_SIZE, 0, "size", "SIZE", "add layers, then tune the FFN, until the file is this large",
            .target = &s.size_bytes},
        {CMD_CALL, 0, "params", "N", "the same for the number of parameters: 7B, 1T",
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
        {CMD_FLAG, 0, "fused-experts", NULL, "gate and up of an expert in one tensor",
            .target = &s.fused_experts},
        {CMD_INT, 0, "vocab", "N", "tokens: 259 for bytes and the like, the rest are words w0, w1",
            .target = &s.vocab, .min = 1, .max = 1 << 22},
        {CMD_INT, 0, "ctx", "N", "trained context", .target = &s.ctx, .min = 1, .max = 1 << 24},
        COMMON_OPTIONS(common, s.output), {0}};
    char archs[1024];
    const struct cmd_spec spec = {
        name, "-o FILE [options]", summary, options, 0, 0, arch_list(archs, sizeof archs)};
    int rc = parse(&spec, argc, argv, NULL, &common, &s.output);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (s.size_bytes && s.parameters) {
        return cmd_usage_error(&spec, "give one of --size and --params");
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
        "Makes a model of any size that takes almost no space on disk: small tensors are random, "
        "the large ones are holes that read as zeros.",
        fb_synth_sparse, argc, argv);
}

/* --- replay ------------------------------------------------------------------------------- */

static int synth_replay(int argc, char **argv)
{
    struct fb_synth_replay r;
    struct common common = {0};
    fb_synth_replay_init(&r);
    const struct cmd_option options[] = {{CMD_GROUP, .help = "Model"},
        {CMD_SIZE, 0, "expert-bytes", "SIZE", "gate, up and down of one expert (default 1M)",
            .target = &r.expert_bytes},
        {CMD_STRING, 0, "type", "TYPE", "quantisation of experts and attention (default Q4_K)",
            .target = &r.type},
        {CMD_INT, 0, "embd", "N", "width, at least the number of tokens (default 2048)",
            .target = &r.embd, .min = 1, .max = 65536},
        {CMD_INT, 0, "ff", "N", "width of one expert, instead of --expert-bytes", .target = &r.ff,
            .min = 1, .max = 1 << 20},
        {CMD_INT, 0, "heads", "N", "attention heads", .target = &r.heads, .min = 1, .max = 512},
        {CMD_INT, 0, "layers", "N", "only the first N layers of the trace", .target = &r.layers,
            .min = 1, .max = 512},
        {CMD_INT, 0, "tokens", "N", "only the first N decode tokens of the trace",
            .target = &r.tokens, .min = 1, .max = 65536},
        COMMON_OPTIONS(common, r.output), {0}};
    const struct cmd_spec spec = {"synth replay", "TRACE -o FILE [options]",
        "Makes a model that repeats a routing trace: after the prompt 'w0 ' it decodes 'w1 ', "
        "'w2 ', ... greedily, and each token uses the experts that the trace says.",
        options, 1, 1,
        "A trace has one JSON object per line: first {\"n_layer\", \"n_expert\", \"top_k\"}, then "
        "per token {\"phase\": \"decode\", \"layers\": [[experts of layer 0], ...]}. After its "
        "last token it starts again."};
    const char *trace;
    int rc = parse(&spec, argc, argv, &trace, &common, &r.output);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (r.ff && r.expert_bytes) {
        return cmd_usage_error(&spec, "give one of --ff and --expert-bytes");
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
            "experts per layer; of a mixture of experts, a multiple of its own number",
            .target = &i.experts, .min = 1, .max = 1024},
        {CMD_INT, 0, "used", "N", "experts per token (default 2; a dense source only)",
            .target = &i.experts_used, .min = 1, .max = 1024},
        {CMD_INT, 0, "ff", "N", "neurons of one expert: the source's, the rest zeros",
            .target = &i.ff, .min = 1, .max = 1 << 20},
        {CMD_SIZE, 0, "size", "SIZE", "the same until the file is about this large",
            .target = &i.size_bytes},
        {CMD_STRING, 0, "type", "TYPE", "quantisation of the experts (default: the source's)",
            .target = &i.type},
        COMMON_OPTIONS(common, i.output), {0}};
    const struct cmd_spec spec = {"synth inflate", "MODEL -o FILE [options]",
        "Makes a larger mixture of experts of a small model without changing its text: of a dense "
        "model each expert is the whole FFN, of a mixture one of its experts, with the neurons in "
        "another order and zeros between them.",
        options, 1, 1,
        "Dense sources: llama, qwen3 and granite. The logits differ from the source's by rounding "
        "at most; a --type of fewer bits than the source's changes them, and the text, a little."};
    const char *source;
    int rc = parse(&spec, argc, argv, &source, &common, &i.output);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (i.ff && i.size_bytes) {
        return cmd_usage_error(&spec, "give one of --ff and --size");
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
        {"replay", synth_replay, "a routing trace as a model"},
        {"sparse", synth_sparse, "any size, almost nothing on disk"},
        {"inflate", synth_inflate, "a small model as a large mixture of experts"},
        {0},
    };
    return cmd_dispatch(
        "forebay synth", "Makes test models of any size as GGUF files.", kinds, argc, argv);
}
