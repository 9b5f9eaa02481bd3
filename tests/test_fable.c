/*
 * test_fable.c - our own model (models/): tokens as in training, stories by its grammar, and
 * inflation: it changes no logits, and swapping any two experts does.
 *
 * models/train/tokens.txt has stories of seeds that the training did not use, and texts that people
 * may type, with their tokens by the tokenizer of the training: "1 2 3<TAB>text".
 */
#include "synth_llama.h"

#include "model/catalog.h"
#include "synth/synth.h"

#define MAX_TEXTS  64
#define MAX_TOKENS 400
#define EXPERTS    64
#define LAYERS     4

enum { BEGIN, USER, STORY, END }; /* the special tokens */

static const char fable[] = OWN_MODELS_DIR "/fable-moe.gguf";

struct text {
    llama_token tokens[MAX_TOKENS];
    int n;
    char *words;
};

static struct text texts[MAX_TEXTS];
static int n_texts;

static int read_texts(void **state)
{
    (void)state;
    FILE *f = fopen(OWN_MODELS_DIR "/train/tokens.txt", "r");
    assert_non_null(f);
    char line[8192];
    while (n_texts < MAX_TEXTS && fgets(line, sizeof line, f)) {
        struct text *t = &texts[n_texts++];
        char *at = line;
        while (*at != '\t') {
            assert_true(t->n < MAX_TOKENS);
            t->tokens[t->n++] = (llama_token)strtol(at, &at, 10);
        }
        t->words = strdup(at + 1);
        t->words[strcspn(t->words, "\n")] = 0;
    }
    fclose(f);
    return n_texts > 0 ? 0 : -1;
}

static int forget_texts(void **state)
{
    for (int i = 0; i < n_texts; i++) {
        free(texts[i].words);
    }
    return temp_remove(state);
}

static void tokens_are_those_of_the_training(void **state)
{
    (void)state;
    struct runner r = runner_open(fable, NULL, NULL);
    for (int i = 0; i < n_texts; i++) {
        const struct text *t = &texts[i];
        llama_token got[MAX_TOKENS];
        int n = llama_tokenize(
            r.vocab, t->words, (int32_t)strlen(t->words), got, MAX_TOKENS, true, true);
        if (n != t->n || memcmp(got, t->tokens, (size_t)n * sizeof *got) != 0) {
            fail_msg("\"%s\" has other tokens in llama.cpp (%d) than in the training (%d)",
                t->words, n, t->n);
        }
    }
    runner_close(&r);
}

/* --- Logits of whole texts ----------------------------------------------------------------- */

/* Evaluates the first n tokens of a text in one pass; all rows of logits are kept. */
static void eval_all(struct runner *r, const struct text *t, int n)
{
    llama_memory_clear(llama_get_memory(r->ctx), true);
    struct llama_batch batch = llama_batch_init(n, 0, 1);
    for (int k = 0; k < n; k++) {
        batch.token[k] = t->tokens[k];
        batch.pos[k] = k;
        batch.n_seq_id[k] = 1;
        batch.seq_id[k][0] = 0;
        batch.logits[k] = true;
    }
    batch.n_tokens = n;
    assert_int_equal(llama_decode(r->ctx, batch), 0);
    llama_batch_free(batch);
}

/* Evaluates text `i`, most of it in one pass and the last tokens one by one. Returns a checksum of
 * all logits. */
static uint64_t checksum(struct runner *r, int i)
{
    struct text *t = &texts[i];
    int n = t->n > 8 ? t->n - 4 : t->n;
    uint64_t sum = 0xcbf29ce484222325u;
    eval_all(r, t, n);
    for (int k = 0; k < t->n; k++) {
        const float *row =
            k < n ? llama_get_logits_ith(r->ctx, k) : runner_eval(r, &t->tokens[k], 1);
        for (int v = 0; v < r->n_vocab; v++) {
            uint32_t bits;
            memcpy(&bits, &row[v], sizeof bits);
            sum = (sum ^ bits) * 0x100000001b3u;
        }
    }
    return sum;
}

/* Index of the first text whose logits are not `want`; n_texts when there is none. */
static int first_difference(const char *path, const uint64_t *want)
{
    struct runner r = runner_open(path, NULL, NULL);
    int i = 0;
    while (i < n_texts && checksum(&r, i) == want[i]) {
        i++;
    }
    runner_close(&r);
    return i;
}

static void checksums(const char *path, uint64_t *sums)
{
    struct runner r = runner_open(path, NULL, NULL);
    for (int i = 0; i < n_texts; i++) {
        sums[i] = checksum(&r, i);
    }
    runner_close(&r);
}

static const char *inflate(int experts, int ff, uint64_t size_bytes)
{
    struct fb_synth_inflate o;
    struct forebay_error err;
    const char *path = temp_path("inflated.gguf");
    fb_synth_inflate_init(&o);
    o.experts = experts;
    o.ff = ff;
    o.size_bytes = size_bytes;
    if (fb_synth_inflate(&o, fable, path, NULL, &err)) {
        fail_msg("%s", err.message);
    }
    return path;
}

static void wider_experts_change_no_bit(void **state)
{
    (void)state;
    uint64_t want[MAX_TEXTS];
    checksums(fable, want);
    assert_int_equal(first_difference(inflate(0, 512, 0), want), n_texts);
    const char *path = inflate(0, 0, 20000000);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 16000000 && st.st_size <= 20000000);
    assert_int_equal(first_difference(path, want), n_texts);
}

/* The logarithm of the probability that a row of logits gives to a token. */
static double log_probability(const float *row, int n_vocab, llama_token token)
{
    double sum = 0, top = (double)row[largest(row, n_vocab)];
    for (int v = 0; v < n_vocab; v++) {
        sum += exp((double)row[v] - top);
    }
    return (double)row[token] - top - log(sum);
}

static void stories_of_another_seed_are_likely(void **state)
{
    (void)state;
    struct runner r = runner_open(fable, NULL, NULL);
    double sum = 0;
    int n = 0;
    for (int i = 0; i < n_texts; i++) {
        const struct text *t = &texts[i];
        if (t->tokens[t->n - 1] != END) {
            continue; /* not a story */
        }
        eval_all(&r, t, t->n);
        bool told = t->tokens[1] != USER;
        for (int k = 1; k < t->n; k++) {
            if (told) {
                sum -= log_probability(llama_get_logits_ith(r.ctx, k - 1), r.n_vocab, t->tokens[k]);
                n++;
            }
            told = told || t->tokens[k] == STORY;
        }
    }
    runner_close(&r);
    print_message("perplexity %.4f over %d tokens\n", exp(sum / n), n);
    assert_true(exp(sum / n) < 1.6);
}

/* --- Every expert counts ------------------------------------------------------------------- */

static int uses[LAYERS][EXPERTS];

static bool count_uses(struct ggml_tensor *t, bool ask, void *user)
{
    (void)user;
    int layer;
    char rest;
    if (sscanf(t->name, "ffn_moe_topk-%d%c", &layer, &rest) != 1) {
        return !ask;
    }
    for (int64_t k = 0; !ask && k < t->ne[1]; k++) {
        for (int64_t i = 0; i < t->ne[0]; i++) {
            uses[layer]
                [*(int32_t *)((char *)t->data + (size_t)k * t->nb[1] + (size_t)i * t->nb[0])]++;
        }
    }
    return true;
}

static void every_expert_is_used(void **state)
{
    (void)state;
    struct runner r = runner_open(fable, count_uses, NULL);
    for (int i = 0; i < n_texts; i++) {
        checksum(&r, i);
    }
    runner_close(&r);
    for (int l = 0; l < LAYERS; l++) {
        for (int e = 0; e < EXPERTS; e++) {
            if (uses[l][e] == 0) {
                fail_msg("expert %d of layer %d is never used", e, l);
            }
        }
    }
}

static void swap_bytes(FILE *f, uint64_t a, uint64_t b, size_t n)
{
    char *x = malloc(2 * n), *y = x + n;
    assert_non_null(x);
    const uint64_t at[2] = {a, b};
    char *const bytes[2] = {x, y};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fseeko(f, (off_t)at[i], SEEK_SET), 0);
        assert_int_equal(fread(bytes[i], 1, n, f), n);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fseeko(f, (off_t)at[i], SEEK_SET), 0);
        assert_int_equal(fwrite(bytes[1 - i], 1, n, f), n);
    }
    free(x);
}

/* Swaps the experts a and b, numbered through all layers; a second call swaps them back. `parts`:
 * bit set of gate, up and down. */
static void swap_experts(const char *path, const struct fb_catalog *c, int a, int b, int parts)
{
    static const char *const names[] = {"gate", "up", "down"};
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    for (int p = 0; p < 3; p++) {
        const int experts[2] = {a, b};
        uint64_t at[2], bytes = 0;
        for (int i = 0; i < 2; i++) {
            char name[64];
            snprintf(
                name, sizeof name, "blk.%d.ffn_%s_exps.weight", experts[i] / EXPERTS, names[p]);
            const struct fb_tensor *t = &c->tensors[fb_catalog_find(c, name)];
            bytes = t->expert_bytes;
            at[i] = t->offset + bytes * (uint64_t)(experts[i] % EXPERTS);
        }
        if (parts & 1 << p) {
            swap_bytes(f, at[0], at[1], (size_t)bytes);
        }
    }
    assert_int_equal(fclose(f), 0);
}

static void assert_noticed(
    const char *path, const struct fb_catalog *c, int a, int b, int parts, const uint64_t *want)
{
    swap_experts(path, c, a, b, parts);
    if (first_difference(path, want) == n_texts) {
        fail_msg("swapping experts %d and %d of layers %d and %d changes nothing", a % EXPERTS,
            b % EXPERTS, a / EXPERTS, b / EXPERTS);
    }
    swap_experts(path, c, a, b, parts);
}

/* Numbers 0 to n - 1 in any order. */
static void shuffle(int *order, int n, uint32_t seed)
{
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        int j = (int)((uint64_t)seed * (uint64_t)(i + 1) >> 32);
        order[i] = order[j];
        order[j] = i;
    }
}

/* Swaps half of the experts within their layer, some with one of another layer, and some only in
 * part. (Swapping all takes ten seconds; it was tried, and none went unnoticed.) */
static void a_swap_of_any_two_experts_is_noticed(void **state)
{
    (void)state;
    const char *path = inflate(0, 64, 0);
    uint64_t want[MAX_TEXTS];
    int order[LAYERS * EXPERTS];
    struct fb_catalog *c;
    checksums(path, want);
    assert_int_equal(fb_catalog_open(path, false, &c, NULL), FOREBAY_OK);
    for (int layer = 0; layer < LAYERS; layer++) {
        shuffle(order, EXPERTS, (uint32_t)layer);
        for (int i = 0; i < EXPERTS / 2; i += 2) {
            int first = layer * EXPERTS;
            assert_noticed(path, c, first + order[i], first + order[i + 1], 7, want);
        }
    }
    shuffle(order, LAYERS * EXPERTS, LAYERS);
    for (int i = 0; i < 28; i += 2) {
        assert_noticed(path, c, order[i], order[i + 1], 1 + i / 2 % 7, want);
    }
    assert_int_equal(first_difference(path, want), n_texts);
    fb_catalog_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_those_of_the_training),
        cmocka_unit_test(stories_of_another_seed_are_likely),
        cmocka_unit_test(wider_experts_change_no_bit),
        cmocka_unit_test(every_expert_is_used),
        cmocka_unit_test(a_swap_of_any_two_experts_is_noticed),
    };
    return cmocka_run_group_tests_name("fable", tests, read_texts, forget_texts);
}
