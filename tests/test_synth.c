/* test_synth.c - random and sparse models: they are valid if llama.cpp loads and decodes them. */
#include <signal.h>
#include <sys/resource.h>

#include "synth_llama.h"

#include "model/catalog.h"
#include "synth/dims.h"
#include "synth/synth.h"

/* A small model of the architecture. */
static struct fb_synth_shape tiny(const char *arch, const char *type)
{
    struct fb_synth_shape s;
    fb_synth_shape_init(&s);
    s.arch = arch;
    s.type = type;
    s.embd = 256;
    s.experts = fb_synth_arch_has_experts(arch) ? 4 : 0;
    return s;
}

static const char *make(const struct fb_synth_shape *shape, const char *name)
{
    const char *path = temp_path(name);
    struct forebay_error err;
    if (fb_synth_random(shape, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s %s: %s", shape->arch, shape->type ? shape->type : "", err.message);
    }
    return path;
}

/* --- Complete models ------------------------------------------------------------------------- */

static void assert_sensible(const char *what, const float *logits, int n)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        if (!isfinite(logits[i])) {
            fail_msg("%s: logit %d is %f", what, i, (double)logits[i]);
        }
        sum += logits[i];
        squares += (double)logits[i] * logits[i];
    }
    double spread = sqrt(squares / n - sum / n * sum / n);
    if (spread < 0.02 || spread > 30) {
        fail_msg("%s: logits spread over %g", what, spread);
    }
}

static void try_model(const struct fb_synth_shape *shape, const char *what)
{
    const char *path = make(shape, "tiny.gguf");
    int n;
    float *logits = fixed_logits(path, &n);
    assert_sensible(what, logits, n);
    free(logits);
}

static void every_architecture_decodes(void **state)
{
    (void)state;
    for (int i = 0; fb_synth_arch_name(i); i++) {
        struct fb_synth_shape s = tiny(fb_synth_arch_name(i), NULL);
        try_model(&s, s.arch);
    }
}

static void every_type_decodes(void **state)
{
    (void)state;
    for (int i = 0; fb_synth_type_name(i); i++) {
        struct fb_synth_shape dense = tiny("llama", fb_synth_type_name(i));
        struct fb_synth_shape mixture = tiny("mixtral", fb_synth_type_name(i));
        try_model(&dense, dense.type);
        try_model(&mixture, mixture.type);
    }
}

static void fused_experts_decode(void **state)
{
    (void)state;
    struct fb_synth_shape s = tiny("deepseek2", "Q4_K");
    s.fused_experts = true;
    try_model(&s, "fused experts");
    struct fb_catalog *c;
    assert_int_equal(fb_catalog_open(temp_path("tiny.gguf"), false, &c, NULL), FOREBAY_OK);
    int fused = fb_catalog_find(c, "blk.1.ffn_gate_up_exps.weight");
    assert_true(fused >= 0);
    assert_int_equal(c->tensors[fused].role, FB_ROLE_EXPERT_GATE_UP);
    assert_int_equal(c->tensors[fused].n_expert, 4);
    fb_catalog_free(c);
}

static void the_seed_decides(void **state)
{
    (void)state;
    struct fb_synth_shape s = tiny("qwen3moe", "Q4_K_M");
    make(&s, "a.gguf");
    make(&s, "b.gguf");
    assert_true(same_files(temp_path("a.gguf"), temp_path("b.gguf")));
    s.output.seed = 1;
    make(&s, "b.gguf");
    assert_false(same_files(temp_path("a.gguf"), temp_path("b.gguf")));
}

static void copy_bytes(const char *path, uint64_t from, uint64_t to, size_t n)
{
    char *bytes = malloc(n);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseeko(f, (off_t)from, SEEK_SET), 0);
    assert_int_equal(fread(bytes, 1, n, f), n);
    assert_int_equal(fseeko(f, (off_t)to, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    free(bytes);
}

static void assert_other_logits(const char *path, const float *logits)
{
    int n;
    float *changed = fixed_logits(path, &n);
    assert_memory_not_equal(logits, changed, (size_t)n * sizeof *logits);
    free(changed);
}

static const char *const expert_names[] = {
    "blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight", "blk.1.ffn_down_exps.weight"};

/* With all experts in use, a damaged row in any of them changes the logits, and so does swapping
 * two experts, even consistently. */
static void each_expert_counts(void **state)
{
    (void)state;
    struct fb_synth_shape s = tiny("qwen3moe", "Q4_K");
    s.experts_used = s.experts;
    const char *path = make(&s, "tiny.gguf");
    int n;
    float *logits = fixed_logits(path, &n);
    struct fb_catalog *c;
    assert_int_equal(fb_catalog_open(path, false, &c, NULL), FOREBAY_OK);
    const struct fb_tensor *parts[3];
    for (int i = 0; i < 3; i++) {
        parts[i] = &c->tensors[fb_catalog_find(c, expert_names[i])];
        for (int expert = 0; expert < s.experts; expert++) {
            uint64_t at = parts[i]->offset + (uint64_t)expert * parts[i]->expert_bytes + 7 * 144;
            damage(path, at + 16, 128); /* the weights of row 7, a block of 144 bytes */
            assert_other_logits(path, logits);
            damage(path, at + 16, 128);
        }
    }
    for (int i = 0; i < 3; i++) {
        const struct fb_tensor *t = parts[i];
        copy_bytes(path, t->offset, t->offset + 2 * t->expert_bytes, (size_t)t->expert_bytes);
    }
    assert_other_logits(path, logits);
    fb_catalog_free(c);
    free(logits);
}

static void a_split_set_is_the_same_model(void **state)
{
    (void)state;
    struct fb_synth_shape s = tiny("olmoe", "Q4_K");
    make(&s, "whole.gguf");
    s.output.split_max_bytes = 300000;
    struct fb_synth_report report;
    assert_int_equal(fb_synth_random(&s, temp_path("set.gguf"), &report, NULL), FOREBAY_OK);
    assert_non_null(strstr(report.path, "set-00001-of-0000"));
    int n;
    float *whole = fixed_logits(temp_path("whole.gguf"), &n);
    float *split = fixed_logits(report.path, &n);
    assert_memory_equal(whole, split, (size_t)n * sizeof *whole);
    free(whole);
    free(split);
    struct fb_catalog *c;
    assert_int_equal(fb_catalog_open(report.path, false, &c, NULL), FOREBAY_OK);
    assert_true(c->n_files >= 3);
    assert_true(c->file_bytes == report.file_bytes);
    for (int i = 0; i < c->n_files; i++) { /* only a single tensor may exceed the limit */
        assert_true(c->files[i]->size < 300000 + 65536);
    }
    fb_catalog_free(c);
}

/* The tokenizer splits text at its words, and all other text into bytes. */
static void text_goes_in_and_out(void **state)
{
    (void)state;
    struct fb_synth_shape s = tiny("llama", "Q4_0");
    struct runner r = runner_open(make(&s, "tiny.gguf"), NULL, NULL);
    static const char text[] = "w7 w12 w1 ?\n";
    const llama_token want[] = {7, 12, 1, r.n_vocab - 259 + '?', r.n_vocab - 259 + '\n'};
    llama_token got[16];
    int n = llama_tokenize(r.vocab, text, sizeof text - 1, got, 16, true, true);
    assert_int_equal(n, 5);
    assert_memory_equal(got, want, sizeof want);
    char piece[16];
    assert_int_equal(llama_token_to_piece(r.vocab, 12, piece, sizeof piece, 0, true), 4);
    assert_memory_equal(piece, "w12 ", 4);
    assert_true(llama_vocab_is_eog(r.vocab, r.n_vocab - 1));
    assert_false(llama_vocab_is_eog(r.vocab, 2));
    runner_close(&r);
}

/* --- Sizes -------------------------------------------------------------------------------- */

static void assert_near(uint64_t got, uint64_t wish, const char *arch)
{
    if (got < wish / 4 * 3 || got > wish / 4 * 5) {
        fail_msg(
            "%s: %llu instead of %llu", arch, (unsigned long long)got, (unsigned long long)wish);
    }
}

static void sizes_are_met(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "mixtral", "qwen3moe", "gpt-oss", "deepseek2"};
    for (int i = 0; i < 5; i++) {
        for (uint64_t size = 20 << 20; size < (uint64_t)1 << 40; size *= 7) {
            struct fb_synth_shape s;
            struct fb_dims dims;
            struct fb_synth_model model;
            fb_synth_shape_init(&s);
            s.arch = archs[i];
            s.size_bytes = size;
            assert_int_equal(fb_dims_resolve(&s, &dims, NULL), FOREBAY_OK);
            fb_dims_build(&dims, &model);
            assert_near(fb_synth_model_bytes(&model), size, s.arch);
            fb_synth_model_release(&model);
        }
    }
}

/* Given dimensions are used unchanged. */
static void given_numbers_are_kept(void **state)
{
    (void)state;
    struct fb_synth_shape s = tiny("qwen3moe", "Q8_0");
    s.layers = 3;
    s.heads = 8;
    s.kv_heads = 2;
    s.ff = 96;
    s.experts = 6;
    s.experts_used = 5;
    s.vocab = 300;
    s.ctx = 77;
    struct fb_dims d;
    assert_int_equal(fb_dims_resolve(&s, &d, NULL), FOREBAY_OK);
    assert_int_equal(d.layers, 3);
    assert_int_equal(d.embd, 256);
    assert_int_equal(d.heads, 8);
    assert_int_equal(d.kv_heads, 2);
    assert_int_equal(d.expert_ff, 96);
    assert_int_equal(d.experts, 6);
    assert_int_equal(d.used, 5);
    assert_int_equal(d.vocab, 300);
    assert_int_equal(d.ctx, 77);
    assert_int_equal(fb_dims_expert_bytes(&d), 3 * 256 * 96 / 32 * 34);
}

static void impossible_shapes_are_refused(void **state)
{
    (void)state;
    struct fb_synth_shape no_arch = tiny("llamma", NULL), no_type = tiny("llama", "Q4_X"),
                          heads = tiny("llama", NULL), kv_heads = tiny("llama", NULL),
                          used = tiny("mixtral", NULL), dense = tiny("gemma3", NULL),
                          shared = tiny("qwen3moe", NULL), fused = tiny("mixtral", NULL),
                          vocab = tiny("llama", NULL), steps = tiny("llama4", NULL),
                          both = tiny("llama", NULL);
    heads.heads = 7;
    kv_heads.kv_heads = 3;
    used.experts_used = 5;
    dense.experts = 4;
    shared.shared_experts = 1;
    fused.fused_experts = true;
    vocab.vocab = 259;
    steps.layers = 3;
    both.layers = 2;
    both.ff = 512;
    both.size_bytes = 1 << 20;
    const struct fb_synth_shape *all[] = {&no_arch, &no_type, &heads, &kv_heads, &used, &dense,
        &shared, &fused, &vocab, &steps, &both};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct forebay_error err = {0};
        const char *path = temp_path("refused.gguf");
        assert_int_equal(fb_synth_random(all[i], path, NULL, &err), FOREBAY_E_USAGE);
        assert_true(err.message[0] != 0);
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

/* --- Sparse ------------------------------------------------------------------------------- */

static void sparse_models_decode(void **state)
{
    (void)state;
    struct fb_synth_shape s = tiny("deepseek2", "Q4_K");
    s.experts = 64;
    s.ff = 2048;
    struct fb_synth_report report;
    const char *path = temp_path("sparse.gguf");
    assert_int_equal(fb_synth_sparse(&s, path, &report, NULL), FOREBAY_OK);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true((uint64_t)st.st_size == report.file_bytes && report.file_bytes > 50 << 20);
    assert_true((uint64_t)st.st_blocks * 512 < report.file_bytes / 8);
    int n;
    float *logits = fixed_logits(path, &n);
    assert_sensible("sparse", logits, n);
    free(logits);
}

static void a_trillion_parameters_are_a_small_file(void **state)
{
    (void)state;
    static const char *const archs[] = {"qwen3moe", "mixtral", "deepseek2"};
    for (int i = 0; i < 3; i++) {
        struct fb_synth_shape s;
        fb_synth_shape_init(&s);
        s.arch = archs[i];
        s.parameters = 1000000000000;
        const char *path = temp_path("trillion.gguf");
        assert_int_equal(fb_synth_sparse(&s, path, NULL, NULL), FOREBAY_OK);
        struct fb_catalog *c;
        assert_int_equal(fb_catalog_open(path, false, &c, NULL), FOREBAY_OK);
        assert_near(c->parameters, s.parameters, s.arch);
        fb_catalog_free(c);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_true(st.st_size > (off_t)400 << 30);
        assert_true((uint64_t)st.st_blocks * 512 < 64 << 20);
        assert_int_equal(remove(path), 0);
    }
}

/* --- Failures leave no file --------------------------------------------------------------- */

static int files_in_temp(void)
{
    int n = 0;
    DIR *d = opendir(temp_dir());
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        n += e->d_name[0] != '.';
    }
    closedir(d);
    return n;
}

static bool stop_in_the_middle(const char *what, uint64_t done, uint64_t total, void *user)
{
    (void)what, (void)user;
    return done < total / 2;
}

static void stopping_leaves_nothing(void **state)
{
    (void)state;
    int before = files_in_temp();
    struct fb_synth_shape s = tiny("mixtral", "Q8_0");
    s.output.progress = stop_in_the_middle;
    s.output.split_max_bytes = 500000;
    const char *path = temp_path("stopped.gguf");
    assert_int_equal(fb_synth_random(&s, path, NULL, NULL), FOREBAY_E_CANCELLED);
    assert_int_equal(files_in_temp(), before);
}

/* A limit on the size of files simulates a full disk. */
static void a_full_disk_leaves_nothing(void **state)
{
    (void)state;
    int before = files_in_temp();
    struct rlimit old, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    struct forebay_error err = {0};
    struct fb_synth_shape s = tiny("mixtral", "Q8_0");
    enum forebay_status status = fb_synth_random(&s, temp_path("full.gguf"), NULL, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(status, FOREBAY_E_IO);
    assert_non_null(strstr(err.message, "full.gguf"));
    assert_int_equal(files_in_temp(), before);
}

static void a_missing_directory_is_named(void **state)
{
    (void)state;
    struct forebay_error err = {0};
    struct fb_synth_shape s = tiny("llama", NULL);
    const char *path = temp_path("missing/model.gguf");
    assert_int_equal(fb_synth_random(&s, path, NULL, &err), FOREBAY_E_IO);
    assert_non_null(strstr(err.message, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_decodes),
        cmocka_unit_test(every_type_decodes),
        cmocka_unit_test(fused_experts_decode),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(each_expert_counts),
        cmocka_unit_test(a_split_set_is_the_same_model),
        cmocka_unit_test(text_goes_in_and_out),
        cmocka_unit_test(sizes_are_met),
        cmocka_unit_test(given_numbers_are_kept),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(sparse_models_decode),
        cmocka_unit_test(a_trillion_parameters_are_a_small_file),
        cmocka_unit_test(stopping_leaves_nothing),
        cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(a_missing_directory_is_named),
    };
    return cmocka_run_group_tests_name("synth", tests, NULL, temp_remove);
}
