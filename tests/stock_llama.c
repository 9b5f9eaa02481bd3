/*
 * stock_llama.c - a program on plain llama.cpp, without any of Forebay's code.
 *
 *      stock_llama MODEL N_PREDICT N_THREADS REPACK(0|1) MMAP(0|1) [FIRST_TOKEN]
 *      stock_llama MODEL N_PREDICT N_THREADS REPACK(0|1) MMAP(0|1) -p TEXT [SECONDS]
 *
 * Decodes greedily from one token and prints the ids, a checksum of all logits, and the speed. With
 * -p it continues a text and prints the continuation token by token; the speed is printed to
 * stderr, even if the time is up before the end. The tests load the plug-in into it
 * (GGML_BACKEND_PATH); the benchmarks and the demo measure llama.cpp with it.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llama.h"

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Set by `-p TEXT SECONDS`; 0: none. */
static double deadline_s;

static bool time_is_up(void *user)
{
    (void)user;
    return deadline_s > 0 && now_s() > deadline_s;
}

static void only_errors(enum ggml_log_level level, const char *text, void *user)
{
    (void)user;
    if (level == GGML_LOG_LEVEL_ERROR && !time_is_up(NULL)) {
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
            start = now_s(); /* the first token includes page faults and other one-time costs */
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

/* Prints the continuation of a text until it ends, or the time is up. */
static int continue_text(
    struct llama_context *ctx, const struct llama_vocab *vocab, int n_predict, const char *text)
{
    llama_token tokens[256];
    int n = llama_tokenize(vocab, text, (int32_t)strlen(text), tokens, 256, true, true);
    int n_vocab = llama_vocab_n_tokens(vocab), done = 0;
    uint64_t checksum = 0;
    if (n <= 0 || llama_decode(ctx, llama_batch_get_one(tokens, n)) != 0) {
        fprintf(stderr, "evaluating the prompt failed\n");
        return 1;
    }
    double start = now_s(), end = start;
    while (done < n_predict) {
        llama_token token = best(llama_get_logits_ith(ctx, -1), n_vocab, &checksum);
        char piece[256];
        if (llama_vocab_is_eog(vocab, token)) {
            break;
        }
        printf("%.*s", llama_token_to_piece(vocab, token, piece, sizeof piece, 0, false), piece);
        fflush(stdout);
        if (llama_decode(ctx, llama_batch_get_one(&token, 1)) != 0) {
            break;
        }
        end = now_s();
        done++;
    }
    printf("\n");
    fprintf(stderr, "decode_tok_per_s %.3f\n", done ? done / (end - start) : 0.0);
    return 0;
}

int main(int argc, char **argv)
{
    bool has_text = argc > 7 && strcmp(argv[6], "-p") == 0;
    if (argc < 6) {
        fprintf(stderr, "usage: stock_llama MODEL N_PREDICT N_THREADS REPACK MMAP [FIRST_TOKEN]\n");
        return 2;
    }
    if (has_text && argc > 8) {
        deadline_s = now_s() + strtod(argv[8], NULL);
    }
    llama_log_set(only_errors, NULL);
    ggml_backend_load_all_from_path(FOREBAY_LLAMA_LIB_DIR);
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 0;
    mp.use_extra_bufts = strtol(argv[4], NULL, 10) != 0;
    mp.load_mode = strtol(argv[5], NULL, 10) ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
    struct llama_model *model = llama_model_load_from_file(argv[1], mp);
    if (!model) {
        return 1;
    }
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = has_text ? 1024 : 256;
    if (has_text) {
        cp.n_batch = cp.n_ubatch = 64; /* as Forebay in the demo: small buffers */
    }
    cp.abort_callback = time_is_up;
    cp.n_threads = cp.n_threads_batch = (int32_t)strtol(argv[3], NULL, 10);
    struct llama_context *ctx = llama_init_from_model(model, cp);
    if (!ctx) {
        return 1;
    }
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    int n_predict = (int)strtol(argv[2], NULL, 10);
    int32_t first = argc > 6 ? (int32_t)strtol(argv[6], NULL, 10) : 1;
    int rc = has_text ? continue_text(ctx, vocab, n_predict, argv[7])
                      : decode(ctx, llama_vocab_n_tokens(vocab), n_predict, first);
    llama_free(ctx);
    llama_model_free(model);
    return rc;
}
