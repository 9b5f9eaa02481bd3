/*
 * stock_llama.c - a program on plain llama.cpp that knows nothing of Strata.
 *
 *      stock_llama MODEL N_PREDICT N_THREADS REPACK(0|1) MMAP(0|1) [FIRST_TOKEN]
 *
 * Decodes greedily from one token and prints the ids, a checksum over all logits, and the speed.
 * The tests load the plug-in into it (GGML_BACKEND_PATH); the benchmarks measure llama.cpp with it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "llama.h"

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void only_errors(enum ggml_log_level level, const char *text, void *user)
{
    (void)user;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static int best(const float *logits, int n, uint64_t *checksum)
{
    const unsigned char *bytes = (const unsigned char *)logits;
    for (size_t i = 0; i < (size_t)n * sizeof *logits; i++) {
        *checksum = (*checksum ^ bytes[i]) * 0x100000001b3u; /* FNV-1a */
    }
    int top = 0;
    for (int i = 1; i < n; i++) {
        top = logits[i] > logits[top] ? i : top;
    }
    return top;
}

static int decode(struct llama_context *ctx, int n_vocab, int n_predict, int32_t token)
{
    uint64_t checksum = 0xcbf29ce484222325u;
    double start = 0;
    for (int i = 0; i <= n_predict; i++) {
        if (i == 1) {
            start = now_s(); /* the first token pays for what is touched first */
        }
        if (llama_decode(ctx, llama_batch_get_one(&token, 1)) != 0) {
            fprintf(stderr, "llama_decode failed\n");
            return 1;
        }
        token = best(llama_get_logits_ith(ctx, -1), n_vocab, &checksum);
        printf("%d%c", token, i < n_predict ? ' ' : '\n');
    }
    printf("logits %016llx\n", (unsigned long long)checksum);
    printf("decode_tok_per_s %.3f\n", n_predict / (now_s() - start));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: stock_llama MODEL N_PREDICT N_THREADS REPACK MMAP [FIRST_TOKEN]\n");
        return 2;
    }
    llama_log_set(only_errors, NULL);
    ggml_backend_load_all_from_path(STRATA_LLAMA_LIB_DIR);
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 0;
    mp.use_extra_bufts = strtol(argv[4], NULL, 10) != 0;
    mp.load_mode = strtol(argv[5], NULL, 10) ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
    struct llama_model *model = llama_model_load_from_file(argv[1], mp);
    if (!model) {
        return 1;
    }
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 256;
    cp.n_threads = cp.n_threads_batch = (int32_t)strtol(argv[3], NULL, 10);
    struct llama_context *ctx = llama_init_from_model(model, cp);
    if (!ctx) {
        return 1;
    }
    int32_t first = argc > 6 ? (int32_t)strtol(argv[6], NULL, 10) : 1;
    int rc = decode(ctx, llama_vocab_n_tokens(llama_model_get_vocab(model)),
        (int)strtol(argv[2], NULL, 10), first);
    llama_free(ctx);
    llama_model_free(model);
    return rc;
}
