/* test_synth_inflate.c - an inflated model generates the same text as its source. */
#include "synth_llama.h"

#include "model/catalog.h"
#include "synth/synth.h"

#define TEXT_TOKENS 200

static const char *inflate(const struct fb_synth_inflate *options, const char *source)
{
    const char *path = temp_path("inflated.gguf");
    struct forebay_error err;
    if (fb_synth_inflate(options, source, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s: %s", source, err.message);
    }
    return path;
}

static struct fb_synth_inflate options_of(int experts, int used, int ff)
{
    struct fb_synth_inflate o;
    fb_synth_inflate_init(&o);
    o.experts = experts;
    o.experts_used = used;
    o.ff = ff;
    return o;
}

/* --- Text --------------------------------------------------------------------------------- */

static void generate(const char *path, llama_token out[TEXT_TOKENS])
{
    static const char prompt[] = "Once upon a time";
    struct runner r = runner_open(path, NULL, NULL);
    llama_token tokens[32];
    int n = llama_tokenize(r.vocab, prompt, sizeof prompt - 1, tokens, 32, true, true);
    assert_true(n > 0);
    const float *logits = runner_eval(&r, tokens, n);
    for (int i = 0; i < TEXT_TOKENS; i++) {
        out[i] = largest(logits, r.n_vocab);
        logits = runner_eval(&r, &out[i], 1);
    }
    runner_close(&r);
}

static void assert_same_text(const char *source, struct fb_synth_inflate o)
{
    llama_token want[TEXT_TOKENS], got[TEXT_TOKENS];
    generate(source, want);
    generate(inflate(&o, source), got);
    assert_memory_equal(want, got, sizeof want);
}

static void a_real_model_keeps_its_text(void **state)
{
    (void)state;
    const char *source = shared_file("models/stories260K.gguf");
    assert_same_text(source, options_of(8, 2, 0));
    assert_same_text(source, options_of(5, 3, 400));
    struct fb_synth_inflate f16 = options_of(3, 1, 256);
    f16.type = "F16";
    assert_same_text(source, f16);
}

static void a_real_mixture_keeps_its_text(void **state)
{
    (void)state;
    assert_same_text(shared_file("models/stories260K-moe8.gguf"), options_of(24, 0, 0));
    assert_same_text(shared_file("models/stories260K-moe4-slice.gguf"), options_of(8, 8, 60));
    assert_same_text(
        shared_file("models/split/stories260K-moe8-00001-of-00003.gguf"), options_of(16, 0, 200));
}

/* --- Synthetic sources: the logits differ by rounding only
 * ---------------------------------------- */

static const char *make(const char *arch, const char *type)
{
    struct fb_synth_shape s;
    fb_synth_shape_init(&s);
    s.arch = arch;
    s.type = type;
    s.embd = 256;
    s.ff = 512;
    s.experts = fb_synth_arch_has_experts(arch) ? 4 : 0;
    const char *path = temp_path("source.gguf");
    assert_int_equal(fb_synth_random(&s, path, NULL, NULL), FOREBAY_OK);
    return path;
}

static void assert_same_logits(const char *arch, const char *type, struct fb_synth_inflate o)
{
    const char *source = make(arch, type);
    int n, m;
    float *want = fixed_logits(source, &n);
    float *got = fixed_logits(inflate(&o, source), &m);
    assert_int_equal(n, m);
    for (int i = 0; i < n; i++) {
        if (!(fabsf(want[i] - got[i]) < 2e-3f)) {
            fail_msg("%s %s: logit %d is %g instead of %g", arch, type, i, (double)got[i],
                (double)want[i]);
        }
    }
    free(want);
    free(got);
}

static void dense_sources_become_mixtures(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "qwen3", "granite"};
    static const char *const types[] = {"F32", "Q4_K", "Q4_0", "Q4_K_M"};
    for (int a = 0; a < 3; a++) {
        for (int t = 0; t < 4; t++) {
            assert_same_logits(archs[a], types[t], options_of(4, 2, 0));
            assert_same_logits(archs[a], types[t], options_of(3, 3, 1024));
        }
    }
}

static void mixtures_become_larger(void **state)
{
    (void)state;
    static const char *const archs[] = {
        "mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt-oss", "granitemoe", "dbrx", "phimoe"};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        assert_same_logits(archs[a], "Q4_K", options_of(8, 0, 0));
        assert_same_logits(archs[a], "Q4_K", options_of(12, 0, 768));
    }
}

/* A mixture with any kind of router can be widened. */
static void other_mixtures_become_wider(void **state)
{
    (void)state;
    static const char *const archs[] = {"minimax-m2", "qwen3next", "smallthinker", "jamba"};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        assert_same_logits(archs[a], "Q4_K", options_of(0, 0, 1024));
    }
}

/* The order of neurons differs between experts, so that a wrong expert would be detected. */
static void experts_are_not_alike(void **state)
{
    (void)state;
    struct fb_synth_inflate o = options_of(4, 2, 1024);
    const char *path = inflate(&o, make("llama", "Q4_K"));
    struct fb_catalog *c;
    assert_int_equal(fb_catalog_open(path, false, &c, NULL), FOREBAY_OK);
    const struct fb_tensor *t = &c->tensors[fb_catalog_find(c, "blk.0.ffn_gate_exps.weight")];
    size_t size;
    char *bytes = read_whole(path, &size);
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < a; b++) {
            const char *x = bytes + t->offset + (uint64_t)a * t->expert_bytes;
            const char *y = bytes + t->offset + (uint64_t)b * t->expert_bytes;
            assert_memory_not_equal(x, y, (size_t)t->expert_bytes);
        }
    }
    free(bytes);
    fb_catalog_free(c);
}

/* --- Refusals ------------------------------------------------------------------ */

static void assert_refused(
    const char *source, struct fb_synth_inflate o, enum forebay_status want, const char *complaint)
{
    struct forebay_error err = {0};
    const char *out = temp_path("refused.gguf");
    assert_int_equal(fb_synth_inflate(&o, source, out, NULL, &err), want);
    if (!strstr(err.message, complaint)) {
        fail_msg("%s: %s", source, err.message);
    }
    assert_int_not_equal(access(out, F_OK), 0);
}

static void the_impossible_is_refused(void **state)
{
    (void)state;
    const char *source = make("llama", "Q4_K");
    assert_refused(source, options_of(0, 0, 0), FOREBAY_E_USAGE, "experts");
    assert_refused(source, options_of(4, 5, 0), FOREBAY_E_USAGE, "5 of 4");
    assert_refused(source, options_of(4, 2, 256), FOREBAY_E_USAGE, "--ff");
    assert_refused(source, options_of(4, 2, 600), FOREBAY_E_USAGE, "--ff");
    assert_refused(source, options_of(2000, 2, 0), FOREBAY_E_USAGE, "2000");
    source = make("qwen3moe", "Q4_K");
    assert_refused(source, options_of(6, 0, 0), FOREBAY_E_USAGE, "6 experts");
    assert_refused(source, options_of(8, 2, 0), FOREBAY_E_USAGE, "4 experts per token");
    source = make("gemma3", "Q4_K");
    assert_refused(source, options_of(4, 2, 0), FOREBAY_E_UNSUPPORTED, "gemma3");
    source = make("deepseek2", "Q4_K");
    assert_refused(source, options_of(8, 0, 0), FOREBAY_E_UNSUPPORTED, "deepseek2");
    assert_refused(source, options_of(4, 0, 1024), FOREBAY_E_UNSUPPORTED, "shared");
    assert_refused(temp_path("missing.gguf"), options_of(4, 2, 0), FOREBAY_E_IO, "missing.gguf");
}

/* A source whose tensors do not have the shapes given by its key-values. */
static void inconsistent_sources_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *complaint;
    } cases[] = {{"llama.expert_count", 8, "blk.0.ffn_gate_inp.weight"},
        {"llama.expert_count", 2, "blk.0.ffn_gate_inp.weight"},
        {"llama.expert_count", 0, "no gated FFN"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf_init_params params = {.no_alloc = false};
        struct gguf_context *g = gguf_init_from_file(make("mixtral", "Q4_K"), params);
        assert_non_null(g);
        gguf_set_val_u32(g, cases[i].key, cases[i].value);
        const char *path = temp_path("inconsistent.gguf");
        write_model(g, path);
        gguf_free(g);
        struct fb_synth_inflate o = options_of(16, 0, 0);
        struct forebay_error err = {0};
        assert_int_not_equal(
            fb_synth_inflate(&o, path, temp_path("refused.gguf"), NULL, &err), FOREBAY_OK);
        if (!strstr(err.message, cases[i].complaint)) {
            fail_msg("%s", err.message);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_real_model_keeps_its_text),
        cmocka_unit_test(a_real_mixture_keeps_its_text),
        cmocka_unit_test(dense_sources_become_mixtures),
        cmocka_unit_test(mixtures_become_larger),
        cmocka_unit_test(other_mixtures_become_wider),
        cmocka_unit_test(experts_are_not_alike),
        cmocka_unit_test(the_impossible_is_refused),
        cmocka_unit_test(inconsistent_sources_are_refused),
    };
    return cmocka_run_group_tests_name("synth inflate", tests, NULL, temp_remove);
}
