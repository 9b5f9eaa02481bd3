/*
 * bench.c - forebay bench: measures a model's speed, how much of the disk's speed is used, and the
 * same for plain llama.cpp.
 *
 *      bench.c         options, rounds
 *      bench_run.c     one run, in its own process
 *      bench_report.c  figures of the runs; table, JSON
 *
 * Before each run the model's files are dropped from the page cache, so that all runs start alike.
 * The two programs alternate, and the order changes from round to round, so that a machine that
 * becomes slower or faster affects both:
 *
 *      round 1: Forebay, llama.cpp    round 2: llama.cpp, Forebay    round 3: Forebay, llama.cpp
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cmd/bench_report.h"
#include "cmd/bench_run.h"
#include "cmd/cmd.h"
#include "cmd/generate.h"
#include "cmd/shared_options.h"

static int parse(struct bench_options *o, int argc, char **argv)
{
    struct generate_options *g = &o->generate;
    const struct cmd_option options[] = {GENERATE_INPUT_OPTIONS(g),
        {CMD_GROUP, .help = "Measurement"},
        {CMD_UINT32, 0, "prompt-tokens", "N",
            "cut or repeat the prompt to this length; default: the prompt given, or 256 tokens of "
            "a built-in text",
            .target = &o->prompt_tokens, .min = 1, .max = 1 << 24},
        {CMD_UINT32, 'n', "predict", "N", "number of tokens to measure (default 64)",
            .target = &g->n_predict, .min = 1, .max = 1e9},
        {CMD_UINT32, 0, "warmup", "N", "number of tokens to generate first, unmeasured (default 8)",
            .target = &o->warmup, .min = 0, .max = 1e9},
        {CMD_FLOAT, 0, "seconds", "S",
            "time limit of the warm-up, and of the measured tokens (default 60)",
            .target = &o->seconds, .min = 0, .max = 1e6},
        {CMD_UINT32, 0, "rounds", "N", "number of runs of each program (default 3)",
            .target = &o->rounds, .min = 1, .max = 1000},
        {CMD_STRING, 0, "vs", "PROGRAM",
            "llama.cpp: alternate with plain llama.cpp, which maps the file (mmap)",
            .target = &o->versus},
        {CMD_FLAG, 0, "json", NULL, "print all figures as JSON (docs/STATS.md)",
            .target = &o->json},
        CMD_MODEL_OPTIONS(&g->model), {CMD_GROUP, .help = "Output"},
        {CMD_FLAG, 'q', "quiet", NULL, "print no progress", .target = &g->quiet},
        {CMD_FLAG, 'v', "verbose", NULL, "print llama.cpp's messages, too", .target = &g->verbose},
        {0}};
    const struct cmd_spec spec = {"bench", "MODEL [PROMPT] [options]",
        "Measures a model: loading, prompt, generating, where the time of a token goes, and how "
        "much of the disk's speed is used. Each run is a separate process and starts with none of "
        "the model in the page cache.",
        options, 1, 2,
        "--mem limits Forebay only. To limit llama.cpp, too, run the command in a container with "
        "that limit, as bench/peer.sh does. If the model fits, llama.cpp repacks weights as by "
        "default; if not, it computes with them as stored. Without --ctx the context is as long as "
        "a run needs."};
    generate_options_init(g, 64);
    int rc = generate_parse_spec(&spec, argc, argv, g);
    if (rc == CMD_GO_ON && o->versus && strcmp(o->versus, "llama.cpp") != 0) {
        generate_release(g);
        return cmd_usage_error(&spec, "--vs: expected llama.cpp, not '%s'", o->versus);
    }
    return rc;
}

/* Chooses the prompt's length and the context where the command line does not. */
static void choose_defaults(struct bench_options *o)
{
    const struct generate_options *g = &o->generate;
    if (o->prompt_tokens == 0 && !g->prompt && !g->file && !g->tokens) {
        o->prompt_tokens = 256;
    }
    if (g->model.ctx == 0 && (o->prompt_tokens || g->tokens)) {
        uint64_t prompt = o->prompt_tokens ? o->prompt_tokens : g->n_tokens;
        o->generate.model.ctx = (uint32_t)(prompt + o->warmup + g->n_predict + 1);
    }
}

static void report_run(const struct bench_options *o, const struct forebay_file_info *file,
    enum bench_program program, uint32_t round, const struct bench_run *run)
{
    struct bench_figures f = bench_figures_of(run, file->bytes_per_token);
    if (!o->generate.quiet) {
        fprintf(stderr,
            "round %u of %u, %s: %.3f tokens/s (%u in %.1f s), prompt %.1f tokens/s, loaded in "
            "%.1f s\n",
            round + 1, o->rounds, program == BENCH_LLAMA ? "llama.cpp" : "Forebay",
            f.decode_tok_per_s, run->n_measured, f.token_s * run->n_measured, f.prompt_tok_per_s,
            f.load_s);
    }
}

static enum forebay_status run_rounds(struct bench_options *o, struct forebay_file *file,
    struct bench_result *r, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    for (uint32_t round = 0; round < o->rounds; round++) {
        for (int turn = 0; turn < BENCH_PROGRAMS && status == FOREBAY_OK; turn++) {
            int p = (turn + (int)round) % BENCH_PROGRAMS;
            if (r->runs[p]) {
                forebay_file_forget(file);
                status = bench_run(o, (enum bench_program)p, &r->runs[p][round], err);
            }
            if (r->runs[p] && status == FOREBAY_OK) {
                o->llama_repacks = r->runs[BENCH_FOREBAY][0].placement.fits;
                report_run(o, &r->file, (enum bench_program)p, round, &r->runs[p][round]);
            }
        }
    }
    return status;
}

int cmd_bench(int argc, char **argv)
{
    struct bench_options o = {.warmup = 8, .rounds = 3, .seconds = 60};
    int rc = parse(&o, argc, argv);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    choose_defaults(&o);
    struct forebay_error err;
    struct forebay_file *file = NULL;
    struct bench_result result = {0};
    enum forebay_status status = forebay_file_open(o.generate.model_path, &file, &err);
    if (status == FOREBAY_OK) {
        forebay_file_describe(file, &result.file);
        result.runs[BENCH_FOREBAY] = fb_xcalloc(o.rounds, sizeof *result.runs[0]);
        result.runs[BENCH_LLAMA] = o.versus ? fb_xcalloc(o.rounds, sizeof *result.runs[0]) : NULL;
        status = run_rounds(&o, file, &result, &err);
    }
    if (status == FOREBAY_OK) {
        (o.json ? bench_print_json : bench_print_table)(&o, &result);
    }
    free(result.runs[BENCH_FOREBAY]);
    free(result.runs[BENCH_LLAMA]);
    forebay_file_free(file);
    generate_release(&o.generate);
    return status == FOREBAY_OK ? CMD_OK : cmd_fail(&err);
}
