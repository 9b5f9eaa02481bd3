/* test_tokenizer.c - our tokenizer against llama.cpp's, and texts that llama.cpp's cannot stand. */
#include "model_files.h"
#include "base/units.h"
#include "engine/guard.h"
#include "engine/tokenizer.h"
#include "random.h"

#define CTX 1000000

static struct llama_model *load_vocab(const char *path)
{
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    return llama_model_load_from_file(path, params);
}

static const struct llama_vocab *vocab_of(const struct llama_model *m)
{
    return m ? llama_model_get_vocab(m) : NULL;
}

/* Our own model with another pre-tokenizer. */
static struct llama_model *load_with(const char *pre)
{
    const char *path = temp_path("pre.gguf");
    copy_model_with(OWN_MODELS_DIR "/fable-moe.gguf", path, "tokenizer.ggml.pre", pre);
    struct llama_model *m = load_vocab(path);
    assert_non_null(m);
    return m;
}

static char *repeated(const char *what, size_t n)
{
    size_t length = strlen(what);
    char *text = malloc(n * length + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++) {
        memcpy(text + i * length, what, length);
    }
    text[n * length] = 0;
    return text;
}

/* Tokens that llama.cpp makes of the text, into `tokens`. */
static int stock(
    const struct llama_vocab *v, const char *text, bool special, int32_t *tokens, size_t cap)
{
    return llama_tokenize(v, text, (int32_t)strlen(text), tokens, (int32_t)cap, special, special);
}

/* --- The same tokens ------------------------------------------------------------------------ */

enum { TEXT_MAX = 400, TOKENS_MAX = 4000 };

/* A text of names of special tokens, parts of such names, white space, and words. */
static void make_text(const struct llama_vocab *v, char *text)
{
    static const char *const words[] = {" ", "\n", "  ", "a", "the ", "12", "!", "<", "|", ">",
        "\xc3\xa9", "\xe4\xb8\xad", "Once upon", "\t", "\xe2\x96\x81", "</", "s>"};
    int n_tokens = llama_vocab_n_tokens(v);
    size_t length = 0;
    text[0] = 0;
    for (int n = 1 + random_below(12); n > 0; n--) {
        const char *word = words[random_below(sizeof words / sizeof words[0])];
        if (random_below(2) == 0) {
            int id = random_below(n_tokens);
            for (int k = 0; k < n_tokens; k++, id = (id + 1) % n_tokens) {
                if (llama_vocab_get_attr(v, id) &
                    (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN |
                        LLAMA_TOKEN_ATTR_USER_DEFINED)) {
                    word = llama_vocab_get_text(v, id);
                    break;
                }
            }
        }
        size_t left = strlen(word);
        if (random_below(8) == 0 && left > 1) {
            left--; /* a name cut off */
        }
        if (length + left < TEXT_MAX) {
            memcpy(text + length, word, left);
            length += left;
            text[length] = 0;
        }
    }
}

static void compare(const char *path, const struct llama_vocab *v, const struct fb_tokenizer *t,
    const char *text, bool special)
{
    int32_t want[TOKENS_MAX], got[TOKENS_MAX];
    size_t n;
    int n_want = stock(v, text, special, want, TOKENS_MAX);
    assert_true(n_want >= 0);
    assert_int_equal(
        fb_tokenizer_count(t, text, strlen(text), special, got, TOKENS_MAX, &n, NULL), FOREBAY_OK);
    if (n != (size_t)n_want || memcmp(got, want, n * sizeof *got) != 0) {
        fail_msg("%s: \"%s\" has %zu tokens, in llama.cpp %d", path, text, n, n_want);
    }
}

static void tokens_are_those_of_llama_cpp(void **state)
{
    (void)state;
    struct model_list list;
    find_models(&list);
    int compared = 0;
    for (int i = 0; i < list.n; i++) {
        struct llama_model *m = load_vocab(list.path[i]);
        const struct llama_vocab *v = vocab_of(m);
        struct fb_tokenizer *t = v ? fb_tokenizer_new(v, CTX) : NULL;
        char text[TEXT_MAX + 1] = "";
        for (int k = 0; t && k < 300; k++) {
            compare(list.path[i], v, t, text, k % 3 != 0);
            make_text(v, text);
            compared++;
        }
        fb_tokenizer_free(t);
        llama_model_free(m);
    }
    assert_true(compared >= 100);
    free_models(&list);
}

/* --- Long runs ------------------------------------------------------------------------------ */

/* The tokens of a run; -1 when it is refused. */
static long count_run(const struct fb_tokenizer *t, const char *unit, size_t n)
{
    struct forebay_error err;
    char *text = repeated(unit, n);
    size_t got;
    enum forebay_status status =
        fb_tokenizer_count(t, text, strlen(text), false, NULL, 0, &got, &err);
    if (status != FOREBAY_OK) {
        assert_int_equal(status, FOREBAY_E_USAGE);
        assert_non_null(strstr(err.message, "without a break"));
    }
    free(text);
    return status == FOREBAY_OK ? (long)got : -1;
}

static void long_runs_are_tokenized(void **state)
{
    (void)state;
    static const char *const kinds[] = {"gpt-2", "gpt-4o", "llama4", "deepseek-llm",
        "deepseek-coder", "deepseek-v3", "tekken", "minimax-m2", "afmoe", "bailingmoe2",
        "hunyuan-dense", "seed-coder", "bloom", "viking", "superbpe", "falcon", "exaone-moe",
        "youtu", "tiny_aya", "jais-2", "gemma4"};
    static const char *const units[] = {
        "a", "A", "!", "$", "aA", "a1_", "a b ", "\xe4\xb8\xad", "a, b. ", " \n"};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        struct llama_model *m = load_with(kinds[k]);
        const struct llama_vocab *v = vocab_of(m);
        struct fb_tokenizer *t = fb_tokenizer_new(v, CTX);
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            int32_t tokens[TOKENS_MAX];
            char *text = repeated(units[u], 500);
            int want = stock(v, text, false, tokens, TOKENS_MAX);
            assert_int_equal(count_run(t, units[u], 500), want);
            free(text);
            assert_true(count_run(t, units[u], 60000 / strlen(units[u])) >= 0);
        }
        assert_true(count_run(t, "7", 4096) > 0);
        fb_tokenizer_free(t);
        llama_model_free(m);
    }
}

static void longer_runs_are_refused_where_they_recurse(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *unit;
        size_t n;
        bool refused;
    } cases[] = {{"gpt-2", "a", 200000, false}, {"gpt-4o", "a", 200000, true},
        {"gpt-4o", "a b ", 100000, false}, {"gpt-4o", "7", 200000, false},
        {"superbpe", "7", 5000, true}, {"superbpe", "a", 200000, false},
        {"bloom", "a1_", 70000, true}, {"bloom", "a1_ ", 70000, false},
        {"exaone-moe", "ab ", 70000, true}, {"exaone-moe", "ab\n", 70000, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct llama_model *m = load_with(cases[i].kind);
        struct fb_tokenizer *t = fb_tokenizer_new(vocab_of(m), CTX);
        bool refused = count_run(t, cases[i].unit, cases[i].n) < 0;
        if (refused != cases[i].refused) {
            fail_msg("%s, \"%s\" x %zu: %srefused", cases[i].kind, cases[i].unit, cases[i].n,
                refused ? "" : "not ");
        }
        fb_tokenizer_free(t);
        llama_model_free(m);
    }
}

/* --- Many special tokens, and too much text ------------------------------------------------- */

/* llama.cpp takes more than 100 s for these. */
static void special_tokens_take_linear_time(void **state)
{
    (void)state;
    struct llama_model *m = load_vocab(OWN_MODELS_DIR "/fable-moe.gguf");
    struct fb_tokenizer *t = fb_tokenizer_new(vocab_of(m), CTX);
    const char *name = llama_vocab_get_text(vocab_of(m), llama_vocab_eos(vocab_of(m)));
    char unit[100];
    snprintf(unit, sizeof unit, "%sx", name);
    char *text = repeated(unit, 100000);
    size_t n;
    uint64_t before = fb_now_ns();
    assert_int_equal(
        fb_tokenizer_count(t, text, strlen(text), true, NULL, 0, &n, NULL), FOREBAY_OK);
    assert_true(n >= 200000);
    assert_true(fb_now_ns() - before < 20 * (uint64_t)1000000000);
    free(text);
    fb_tokenizer_free(t);
    llama_model_free(m);
}

static void text_beyond_the_context_is_refused(void **state)
{
    (void)state;
    struct llama_model *m = load_vocab(OWN_MODELS_DIR "/fable-moe.gguf");
    struct fb_tokenizer *t = fb_tokenizer_new(vocab_of(m), 100);
    struct forebay_error err;
    char *text = repeated("word ", 1000000);
    size_t n = 0;
    assert_int_equal(
        fb_tokenizer_count(t, text, strlen(text), true, NULL, 0, &n, &err), FOREBAY_E_CONTEXT);
    assert_non_null(strstr(err.message, "fit into the context of 100"));
    assert_int_equal(fb_tokenizer_count(t, text, 1000, true, NULL, 0, &n, &err), FOREBAY_OK);
    assert_true(n > 100); /* counted */
    free(text);
    fb_tokenizer_free(t);
    llama_model_free(m);
}

/* A vocabulary of a few letters, without tokens for single bytes. */
static struct llama_model *load_letters(void)
{
    static const char *tokens[] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b"};
    static const float scores[6] = {0};
    static const int32_t types[] = {2, 3, 3, 1, 1, 1};
    const char *path = temp_path("letters.gguf");
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", "llama");
    gguf_set_val_str(g, "tokenizer.ggml.model", "llama");
    gguf_set_arr_str(g, "tokenizer.ggml.tokens", tokens, 6);
    gguf_set_arr_data(g, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores, 6);
    gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types, 6);
    write_model(g, path);
    gguf_free(g);
    struct llama_model *m = load_vocab(path);
    assert_non_null(m);
    return m;
}

static void text_without_tokens_is_refused(void **state)
{
    (void)state;
    struct llama_model *m = load_letters();
    struct fb_tokenizer *t = fb_tokenizer_new(vocab_of(m), CTX);
    struct forebay_error err;
    int32_t tokens[16];
    size_t n;
    assert_int_equal(fb_tokenizer_count(t, "ab", 2, true, tokens, 16, &n, &err), FOREBAY_OK);
    assert_int_equal(fb_tokenizer_count(t, "abc", 3, true, tokens, 16, &n, &err), FOREBAY_E_USAGE);
    assert_non_null(strstr(err.message, "the vocabulary has no token for a byte of the text"));
    assert_non_null(strstr(err.hint, "another model"));
    fb_tokenizer_free(t);
    llama_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_those_of_llama_cpp),
        cmocka_unit_test(long_runs_are_tokenized),
        cmocka_unit_test(longer_runs_are_refused_where_they_recurse),
        cmocka_unit_test(special_tokens_take_linear_time),
        cmocka_unit_test(text_beyond_the_context_is_refused),
        cmocka_unit_test(text_without_tokens_is_refused),
    };
    fb_guard_init();
    random_state = 1;
    return cmocka_run_group_tests(tests, NULL, temp_remove);
}
