/* bench_report.h - the figures of a benchmark: from the results of its runs to a table or JSON. */
#ifndef FB_CMD_BENCH_REPORT_H
#define FB_CMD_BENCH_REPORT_H

#include "cmd/bench_run.h"
#include "forebay.h"

/* Figures of one run. All are doubles, so that one function can read any of them by its offset.
 * docs/STATS.md defines them. BENCH_BOTH: of both programs; BENCH_OWN: of Forebay only. */
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
    X(other_cores)                                                                                 \
    X(token_read_bytes) /* token_*: per generated token */                                         \
    X(token_prefetch_bytes)                                                                        \
    X(token_prefetch_used_bytes)                                                                   \
    X(token_s)                                                                                     \
    X(token_demand_stall_s)                                                                        \
    X(token_prefetch_stall_s)                                                                      \
    X(token_unpack_s)                                                                              \
    X(token_scheduler_s)                                                                           \
    X(token_compute_s)                                                                             \
    X(prompt_read_bytes) /* prompt_*: for the whole prompt */                                      \
    X(prompt_stall_s)                                                                              \
    X(prompt_unpack_s)                                                                             \
    X(prompt_scheduler_s)                                                                          \
    X(prompt_compute_s)

struct bench_figures {
#define BENCH_FIELD(name) double name;
    BENCH_BOTH(BENCH_FIELD) BENCH_OWN(BENCH_FIELD)
#undef BENCH_FIELD
};

/* All runs, [program][round]. Without --vs those of llama.cpp are NULL. */
struct bench_result {
    struct forebay_file_info file;
    struct bench_run *runs[BENCH_PROGRAMS];
};

struct bench_figures bench_figures_of(const struct bench_run *run, uint64_t bytes_per_token);
void bench_print_table(const struct bench_options *options, const struct bench_result *result);
void bench_print_json(const struct bench_options *options, const struct bench_result *result);

#endif
