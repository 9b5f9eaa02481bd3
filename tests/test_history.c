/*
 * test_history.c - the history of a model: stack distances against a naive oracle; the file, its
 * damage, and the cases in which none is written.
 */
#include "weights_fixture.h"

#include <dirent.h>
#include <math.h>

#include "engine/history.h"

#define N_GROUPS 3
#define N_EXPERT 12
/* Runs with fewer tokens are not saved; counts of more tokens fade (history.c). */
#define TOKENS_MIN  8
#define TOKENS_FADE 4000

static char dir[256];

static int make_dir(void **state)
{
    make_contents(state);
    snprintf(dir, sizeof dir, "%s/forebay_history_XXXXXX", disk_dir());
    assert_non_null(mkdtemp(dir));
    return 0;
}

/* Finds the only file in the directory of models. False when there is none. */
static bool find_file(char *path, size_t cap)
{
    char models[300];
    snprintf(models, sizeof models, "%s/models", dir);
    DIR *d = opendir(models);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] != '.') {
            snprintf(path, cap, "%s/%s", models, e->d_name);
            n++;
        }
    }
    if (d) {
        closedir(d);
    }
    assert_true(n <= 1);
    return n == 1;
}

/* Each test starts with an empty cache directory. */
static int clear(void **state)
{
    (void)state;
    char path[600];
    if (find_file(path, sizeof path)) {
        remove(path);
    }
    setenv("FOREBAY_CACHE_DIR", dir, 1);
    random_state = 7;
    n_warnings = 0;
    return 0;
}

static int remove_dir(void **state)
{
    char models[300];
    clear(state);
    snprintf(models, sizeof models, "%s/models", dir);
    assert_int_equal(rmdir(models), 0);
    assert_int_equal(rmdir(dir), 0);
    return free_contents(state);
}

static void make_model(struct model *m, int n_expert)
{
    static const char *const names[N_GROUPS] = {"blk.0", "blk.1", "blk.2"};
    model_init(m, 0);
    m->catalog.n_expert_used = 2;
    for (int l = 0; l < N_GROUPS; l++) {
        m->tensors[add_weight(m, FB_ROLE_EXPERT_UP, l, n_expert, 64, false)].name = names[l];
    }
    claim_all(m);
}

/* `n` generated tokens, two experts each in every layer. */
static void generate(struct fb_history *h, int n)
{
    for (int t = 0; t < n; t++) {
        fb_history_count(h, true);
        for (int g = 0; g < N_GROUPS; g++) {
            int first = (int)rnd_below(N_EXPERT);
            int both[2] = {first, (first + 1 + (int)rnd_below(N_EXPERT - 1)) % N_EXPERT};
            fb_history_note(h, g, both, 2);
        }
    }
}

static double requests(const struct fb_reuse *seen)
{
    double sum = 0;
    for (int d = 0; d <= seen->n_expert; d++) {
        sum += seen->count[d];
    }
    return sum;
}

/* --- Stack distances ----------------------------------------------------------------------- */

/* The naive way: the number of different experts used since its last use, itself included;
 * N_EXPERT + 1 for a first use. */
static int naive_distance(const int *used, int now)
{
    bool between[N_EXPERT] = {0};
    int n = 0;
    for (int i = now - 1; i >= 0; i--) {
        n += !between[used[i]];
        between[used[i]] = true;
        if (used[i] == used[now]) {
            return n;
        }
    }
    return N_EXPERT + 1;
}

static void test_distances_equal_those_counted_naively(void **state)
{
    (void)state;
    enum { N = 600 };
    static int used[N];
    double want[N_EXPERT + 1] = {0};
    struct model m;
    make_model(&m, N_EXPERT);
    struct fb_history *h = fb_history_open(m.weights);
    for (int i = 0; i < N; i++) {
        /* Some experts more often than others; passes of both kinds. */
        used[i] = (int)rnd_below(1 + rnd_below(N_EXPERT));
        bool generating = i / 50 % 3 != 0;
        fb_history_count(h, generating);
        fb_history_note(h, 1, &used[i], 1);
        want[naive_distance(used, i) - 1] += generating;
    }
    const struct fb_reuse *seen = fb_history_reuse(h);
    assert_int_equal(seen[1].n_expert, N_EXPERT);
    assert_memory_equal(seen[1].count, want, sizeof want);
    assert_true(requests(&seen[0]) == 0 && requests(&seen[2]) == 0);
    fb_history_free(h);
    model_close(&m);
}

static void test_a_prompt_alone_is_not_counted(void **state)
{
    (void)state;
    static const int experts[] = {1, 2, 1};
    struct model m;
    make_model(&m, N_EXPERT);
    struct fb_history *h = fb_history_open(m.weights);
    assert_null(fb_history_reuse(h));
    fb_history_count(h, false);
    fb_history_note(h, 0, experts, 3);
    assert_null(fb_history_reuse(h));
    assert_true(fb_history_compute_s(h, 1, true) == 0);
    fb_history_free(h);
    fb_history_free(NULL);
    model_close(&m);
}

/* --- The file ------------------------------------------------------------------------------ */

static void test_the_next_run_knows_what_was_saved(void **state)
{
    (void)state;
    struct model m;
    make_model(&m, N_EXPERT);
    struct fb_history *h = fb_history_open(m.weights);
    generate(h, 100);
    fb_history_save(h, 4, true, (struct fb_computed){100, 50}, (struct fb_computed){512, 64});
    struct fb_history *next = fb_history_open(m.weights);
    const struct fb_reuse *was = fb_history_reuse(h), *is = fb_history_reuse(next);
    for (int g = 0; g < N_GROUPS; g++) {
        assert_int_equal(is[g].n_expert, N_EXPERT);
        assert_memory_equal(is[g].count, was[g].count, (N_EXPERT + 1) * sizeof(double));
        assert_true(requests(&is[g]) == 200);
    }
    assert_true(fb_history_compute_s(next, 4, true) == 0.5);
    assert_true(fb_history_compute_s(next, 4, false) == 0);
    assert_true(fb_history_prompt_s(next, 4, true) == 0.125);
    assert_true(fb_history_prompt_s(next, 4, false) == 0);
    assert_true(fb_history_compute_s(next, 2, true) == 0);
    /* Three quarters of the way to a faster run; a fifth of the way to a slower one, of at most as
     * much again: 0.5, 0.3125, 0.375. */
    generate(next, 20);
    fb_history_save(next, 4, true, (struct fb_computed){20, 20 * 0.25}, (struct fb_computed){0});
    assert_true(fabs(fb_history_compute_s(next, 4, true) - 0.3125) < 1e-6);
    assert_true(
        fb_history_prompt_s(next, 4, true) == 0.125); /* no prompt or a short one: unchanged */
    fb_history_save(next, 4, true, (struct fb_computed){20, 20 * 100.0}, (struct fb_computed){0});
    fb_history_save(next, 2, true, (struct fb_computed){20, 20}, (struct fb_computed){127, 1});
    fb_history_free(h);
    h = fb_history_open(m.weights);
    assert_true(fabs(fb_history_compute_s(h, 4, true) - 0.375) < 1e-6);
    assert_true(fabs(fb_history_compute_s(h, 2, true) - 1) < 1e-6);
    assert_true(fb_history_prompt_s(h, 2, true) == 0);
    assert_true(requests(&fb_history_reuse(h)[0]) == 240);
    assert_int_equal(n_warnings, 0);
    fb_history_free(next);
    fb_history_free(h);
    model_close(&m);
}

static void test_another_model_has_another_history(void **state)
{
    (void)state;
    struct model m, other;
    char path[600];
    make_model(&m, N_EXPERT);
    make_model(&other, N_EXPERT + 1);
    struct fb_history *h = fb_history_open(m.weights);
    generate(h, 100);
    fb_history_save(h, 1, true, (struct fb_computed){100, 1}, (struct fb_computed){0});
    fb_history_free(h);
    assert_true(find_file(path, sizeof path));
    h = fb_history_open(other.weights);
    assert_null(fb_history_reuse(h));
    assert_int_equal(n_warnings, 0);
    fb_history_free(h);
    model_close(&m);
    model_close(&other);
}

static void test_old_counts_fade(void **state)
{
    (void)state;
    struct model m;
    make_model(&m, N_EXPERT);
    struct fb_history *h = fb_history_open(m.weights);
    generate(h, TOKENS_FADE);
    fb_history_save(h, 1, true, (struct fb_computed){TOKENS_FADE, 1}, (struct fb_computed){0});
    assert_true(requests(&fb_history_reuse(h)[0]) == 2 * TOKENS_FADE); /* not yet */
    generate(h, TOKENS_FADE);
    double before = fb_history_reuse(h)[0].count[N_EXPERT - 1];
    fb_history_save(h, 1, true, (struct fb_computed){TOKENS_FADE, 1}, (struct fb_computed){0});
    for (int g = 0; g < N_GROUPS; g++) {
        assert_true(fabs(requests(&fb_history_reuse(h)[g]) - 2 * TOKENS_FADE) < 1e-6);
    }
    assert_true(fabs(fb_history_reuse(h)[0].count[N_EXPERT - 1] - before / 2) < 1e-6);
    fb_history_free(h);
    model_close(&m);
}

static void test_short_runs_and_runs_without_a_cache_directory_write_nothing(void **state)
{
    (void)state;
    struct model m;
    char path[600];
    make_model(&m, N_EXPERT);
    struct fb_history *h = fb_history_open(m.weights);
    generate(h, TOKENS_MIN - 1);
    fb_history_save(h, 1, true, (struct fb_computed){TOKENS_MIN - 1, 1}, (struct fb_computed){0});
    assert_false(find_file(path, sizeof path));
    setenv("FOREBAY_CACHE_DIR", "/dev/null/none", 1);
    struct fb_history *nowhere = fb_history_open(m.weights);
    generate(nowhere, 100);
    assert_non_null(fb_history_reuse(nowhere)); /* known to this run */
    fb_history_save(nowhere, 1, true, (struct fb_computed){100, 1}, (struct fb_computed){0});
    setenv("FOREBAY_CACHE_DIR", dir, 1);
    assert_false(find_file(path, sizeof path));
    fb_history_save(h, 1, true, (struct fb_computed){TOKENS_MIN, 1}, (struct fb_computed){0});
    assert_true(find_file(path, sizeof path)); /* so it would have been found */
    assert_int_equal(n_warnings, 0);
    fb_history_free(nowhere);
    fb_history_free(h);
    model_close(&m);
}

/* --- Damage -------------------------------------------------------------------------------- */

static void check_ignored(const struct model *m, const char *path, const char *text, size_t n)
{
    remove(path);
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
    n_warnings = 0;
    struct fb_history *h = fb_history_open(m->weights);
    if (n_warnings != 1 || !strstr(last_warning, path) || fb_history_reuse(h) ||
        fb_history_compute_s(h, 4, true) != 0) {
        fail_msg("taken, or no warning: %.*s", (int)n, text);
    }
    fb_history_free(h);
}

static void test_a_damaged_file_is_ignored_with_a_warning(void **state)
{
    (void)state;
    static const char *const damage[][2] = {
        {"{", "["},
        {"{", ""},
        {"\"format\":4", "\"format\":2"},
        {"\"lookahead\":", "\"lookahead\":-"},
        {"\"lookahead\":", "\"lookahead\":1"},
        {"\"tokens\":", "\"tokens\":-"},
        {"\"tokens\":", "\"tokens\":\"many\",\"x\":"},
        {"\"stack_distances\":[", "\"stack_distances\":7,\"x\":["},
        {"\"stack_distances\":[", "\"stack_distances\":[[1.0],"},
        {"\"stack_distances\":[[", "\"stack_distances\":[[1.0,"},
        {"\"stack_distances\":[[", "\"stack_distances\":[[-"},
        {"\"stack_distances\":[[", "\"stack_distances\":[[9999999999999999"},
        {"\"times\":[", "\"times\":{},\"x\":["},
        {"\"times\":[", "\"times\":[1,"},
        {"\"compute_s\":", "\"compute_s\":-"},
        {"\"prompt_s\":", "\"prompt_s\":-1,\"x\":"},
        {"\"compute_s\":", "\"compute_s\":\"1\",\"x\":"},
        {"\"compute_s\":", "\"compute_s\":1e9,\"x\":"},
    };
    struct model m;
    char path[600], good[4096] = {0}, text[5000];
    make_model(&m, N_EXPERT);
    struct fb_history *h = fb_history_open(m.weights);
    generate(h, 100);
    fb_history_save(h, 4, true, (struct fb_computed){100, 50}, (struct fb_computed){0});
    fb_history_free(h);
    assert_true(find_file(path, sizeof path));
    FILE *f = fopen(path, "rb");
    size_t n = fread(good, 1, sizeof good - 1, f);
    fclose(f);
    for (size_t keep = 0; keep < n; keep++) {
        check_ignored(&m, path, good, keep);
    }
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        const char *at = strstr(good, damage[i][0]);
        assert_non_null(at);
        int length = snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, damage[i][1],
            at + strlen(damage[i][0]));
        check_ignored(&m, path, text, (size_t)length);
    }
    /* The next run that is long enough repairs it. */
    h = fb_history_open(m.weights);
    generate(h, 100);
    fb_history_save(h, 4, true, (struct fb_computed){100, 50}, (struct fb_computed){0});
    fb_history_free(h);
    n_warnings = 0;
    h = fb_history_open(m.weights);
    assert_int_equal(n_warnings, 0);
    assert_true(requests(&fb_history_reuse(h)[0]) == 200);
    fb_history_free(h);
    model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_distances_equal_those_counted_naively, clear),
        cmocka_unit_test_setup(test_a_prompt_alone_is_not_counted, clear),
        cmocka_unit_test_setup(test_the_next_run_knows_what_was_saved, clear),
        cmocka_unit_test_setup(test_another_model_has_another_history, clear),
        cmocka_unit_test_setup(test_old_counts_fade, clear),
        cmocka_unit_test_setup(
            test_short_runs_and_runs_without_a_cache_directory_write_nothing, clear),
        cmocka_unit_test_setup(test_a_damaged_file_is_ignored_with_a_warning, clear),
    };
    return cmocka_run_group_tests_name("history", tests, make_dir, remove_dir);
}
