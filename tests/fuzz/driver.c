/*
 * driver.c - runs a fuzz target without a fuzzer: every file of a corpus, then mutations of them,
 * the same in each run. With clang, link with -fsanitize=fuzzer instead of this file.
 *
 *      PROGRAM CORPUS [ROUNDS [SEED]]
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t *bytes;
    size_t n;
};

enum { INPUTS_MAX = 256, GROWTH = 4096 };

static uint64_t chance;

static size_t below(size_t n)
{
    return n ? (size_t)(fb_random_next(&chance) % n) : 0;
}

/* --- The corpus ---------------------------------------------------------------------------- */

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static struct input read_file(const char *dir, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    struct input input = {malloc(1 << 20), 0};
    if (!f || !input.bytes) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    input.n = fread(input.bytes, 1, 1 << 20, f);
    fclose(f);
    return input;
}

static int read_corpus(const char *dir, struct input *inputs)
{
    struct dirent **entries;
    int n_entries = scandir(dir, &entries, NULL, by_name), n = 0;
    for (int i = 0; i < n_entries; i++) {
        if (entries[i]->d_name[0] != '.' && n < INPUTS_MAX) {
            inputs[n++] = read_file(dir, entries[i]->d_name);
        }
        free(entries[i]);
    }
    if (n_entries >= 0) {
        free(entries);
    }
    return n;
}

/* --- Mutations ----------------------------------------------------------------------------- */

/* Replaces `n_old` bytes at `at` by `n_new` others. There must be room for them. */
static void replace(struct input *in, size_t at, size_t n_old, const void *bytes, size_t n_new)
{
    memmove(in->bytes + at + n_new, in->bytes + at + n_old, in->n - at - n_old);
    memcpy(in->bytes + at, bytes, n_new);
    in->n += n_new - n_old;
}

/* Words that are hard for readers of JSON, numbers and text. */
static const char *const words[] = {"null", "true", "-1", "0", "1e999", "-0", "1e-9",
    "9223372036854775808", "0.5", "\"\"", "[]", "{}", "[[[[", "{\"a\":", "\\u0000", "\\ud800",
    "\\ufdd0", "\\uFdD1", "\"", "\\", ",", ":", "\xff", "\xc3\x28", "\xed\xa0\x80", "\xf0\x9f\x98",
    "</s>", "<s>", "<|im_end|>", "{{", "{%", "%}", "%s%n", "../", "(((((", "a{1,999999999}",
    "\"$ref\":\"#\"", "\"pattern\":\"^(a+)+$\"", "\"minLength\":99999999"};

static void mutate(struct input *in, const struct input *other)
{
    size_t at = below(in->n + 1), rest = in->n - at;
    const char *word = words[below(sizeof words / sizeof words[0])];
    switch (below(7)) {
    case 0: /* flip a bit */
        if (rest) {
            in->bytes[at] ^= (uint8_t)(1u << below(8));
        }
        break;
    case 1: /* change a byte */
        if (rest) {
            in->bytes[at] = (uint8_t)below(256);
        }
        break;
    case 2: /* remove a piece */
        replace(in, at, below(rest + 1), "", 0);
        break;
    case 3: /* insert a word, or replace a piece by it */
        replace(in, at, below(rest < 8 ? rest + 1 : 8), word, strlen(word));
        break;
    case 4: { /* insert a piece of another input */
        size_t from = below(other->n + 1), n = below(other->n - from + 1);
        replace(in, at, 0, other->bytes + from, n < GROWTH ? n : GROWTH);
        break;
    }
    case 5: /* remove the end */
        in->n = at;
        break;
    default: { /* repeat a piece */
        uint8_t copy[GROWTH];
        size_t n = below((rest < GROWTH ? rest : GROWTH) + 1);
        memcpy(copy, in->bytes + at, n);
        replace(in, at, 0, copy, n);
    }
    }
}

/* Tries an input changed in one to four places, in memory of exactly its size. */
static void try_mutation(const struct input *inputs, int n)
{
    enum { TIMES = 4 };
    const struct input *from = &inputs[below((size_t)n)];
    struct input in = {malloc(from->n + TIMES * GROWTH), from->n};
    memcpy(in.bytes, from->bytes, from->n);
    for (size_t i = 1 + below(TIMES); i > 0; i--) {
        mutate(&in, &inputs[below((size_t)n)]);
    }
    uint8_t *exact = malloc(in.n ? in.n : 1);
    memcpy(exact, in.bytes, in.n);
    LLVMFuzzerTestOneInput(exact, in.n);
    free(exact);
    free(in.bytes);
}

int main(int argc, char **argv)
{
    static struct input inputs[INPUTS_MAX];
    long rounds = argc > 2 ? strtol(argv[2], NULL, 10) : 1000;
    chance = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    int n = argc > 1 ? read_corpus(argv[1], inputs) : 0;
    if (n == 0) {
        fprintf(stderr, "usage: %s CORPUS [ROUNDS [SEED]]\n", argv[0]);
        return 2;
    }
    printf("1..2\n");
    for (int i = 0; i < n; i++) {
        LLVMFuzzerTestOneInput(inputs[i].bytes, inputs[i].n);
    }
    printf("ok 1 - the corpus, %d inputs\n", n);
    fflush(stdout);
    for (long i = 0; i < rounds; i++) {
        try_mutation(inputs, n);
    }
    printf("ok 2 - %ld mutations of it\n", rounds);
    for (int i = 0; i < n; i++) {
        free(inputs[i].bytes);
    }
    return 0;
}
