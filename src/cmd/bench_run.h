/* bench_run.h - one run of a benchmark, in its own process. */
#ifndef FB_CMD_BENCH_RUN_H
#define FB_CMD_BENCH_RUN_H

#include "cmd/generate.h"
#include "forebay.h"

enum bench_program { BENCH_FOREBAY, BENCH_LLAMA, BENCH_PROGRAMS };

struct bench_options {
    struct generate_options generate; /* n_predict: number of tokens to measure */
    uint32_t prompt_tokens;           /* 0: the length of the prompt given */
    uint32_t warmup;                  /* tokens generated before those that are measured */
    uint32_t rounds;
    float seconds; /* time limit for the warm-up, and again for the measured tokens */
    const char *versus;
    bool json;
    bool llama_repacks; /* set after the first Forebay run: the model fits */
};

#define BENCH_IDS 256

/* The result of a run. Plain data: the child process sends it through a pipe. */
struct bench_run {
    struct forebay_error err; /* unless its status is OK, the rest is undefined */
    struct forebay_placement placement;
    struct forebay_stats prompt;     /* after the prompt */
    struct forebay_stats start, end; /* before and after the measured tokens */
    uint32_t n_measured;
    uint32_t n_ids;
    int32_t ids[BENCH_IDS]; /* the first tokens generated, warm-up included */
};

/* Runs the program once in a child process, and waits for it. */
enum forebay_status bench_run(const struct bench_options *options, enum bench_program program,
    struct bench_run *run, struct forebay_error *err);

#endif
