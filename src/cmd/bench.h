/*
 * bench.h - what the files of `forebay bench` share.
 *
 *      bench.c         options, rounds
 *      bench_run.c     one run, in a process of its own (one model per process)
 *      bench_report.c  figures of the runs, the table, the JSON
 */
#ifndef FB_CMD_BENCH_H
#define FB_CMD_BENCH_H

#include "cmd/generate.h"

enum bench_program { BENCH_FOREBAY, BENCH_LLAMA, BENCH_PROGRAMS };

struct bench_options {
    struct generate_options generate; /* n_predict: tokens that are measured */
    uint32_t prompt_tokens;           /* 0: as long as the prompt is */
    uint32_t warmup;                  /* tokens generated before, that do not count */
    uint32_t rounds;
    float seconds; /* after which generating ends, warming up and measuring each */
    const char *versus;
    bool json;
    bool llama_repacks; /* set when it is known whether the model fits */
};

#define BENCH_IDS 256

/* What a run found out. Plain data: it comes through a pipe. */
struct bench_run {
    struct forebay_error err; /* status OK, or why there is nothing else in here */
    struct forebay_placement placement;
    struct forebay_stats prompt, start, end; /* after the prompt; around the tokens that count */
    uint32_t n_measured;
    uint32_t n_ids;
    int32_t ids[BENCH_IDS]; /* the first tokens generated, those that do not count included */
};

/* Runs the program once, in a child process that has the model to itself. */
enum forebay_status bench_run(const struct bench_options *options, enum bench_program program,
    struct bench_run *run, struct forebay_error *err);

/* Figures of one run. All are doubles, so that they can be gone through as an array. */
#define BENCH_BOTH(X)                                                                              \
    X(load_s)                                                                                      \
    X(first_token_s) /* from the start of loading */                                               \
    X(prompt_tok_per_s)                                                                            \
    X(decode_tok_per_s)                                                                            \
    X(peak_rss_bytes)
#define BENCH_OWN(X)                                                                               \
    X(hit_rate)                                                                                    \
    X(disk_utilisation)                                                                            \
    X(roofline_ratio)                                                                              \
    X(disk_bytes_per_s)                                                                            \
    X(estimated_tok_per_s)                                                                         \
    X(written_bytes)                                                                               \
    X(token_read_bytes) /* of one token generated, like all that begin with token_ */              \
    X(token_prefetch_bytes)                                                                        \
    X(token_prefetch_used_bytes)                                                                   \
    X(token_s)                                                                                     \
    X(token_demand_stall_s)                                                                        \
    X(token_prefetch_stall_s)                                                                      \
    X(token_unpack_s)                                                                              \
    X(token_scheduler_s)                                                                           \
    X(token_compute_s)                                                                             \
    X(prompt_read_bytes) /* of the whole prompt */                                                 \
    X(prompt_stall_s)                                                                              \
    X(prompt_unpack_s)                                                                             \
    X(prompt_scheduler_s)                                                                          \
    X(prompt_compute_s)

struct bench_figures {
#define BENCH_FIELD(name) double name;
    BENCH_BOTH(BENCH_FIELD) BENCH_OWN(BENCH_FIELD)
#undef BENCH_FIELD
};

/* All runs, [program][round]; those of llama.cpp NULL when it was not asked for. */
struct bench_result {
    struct forebay_file_info file;
    struct bench_run *runs[BENCH_PROGRAMS];
};

struct bench_figures bench_figures_of(const struct bench_run *run, uint64_t bytes_per_token);
void bench_print_table(const struct bench_options *options, const struct bench_result *result);
void bench_print_json(const struct bench_options *options, const struct bench_result *result);

#endif
