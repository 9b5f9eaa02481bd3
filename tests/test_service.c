/*
 * test_service.c - many jobs on one model: exactness, reuse of prefixes, states on disk, limits,
 * cancelling and failures.
 */
#include "serve_fixture.h"

#define MODEL "stories260K-moe8.gguf"
#define STORY "Once upon a time, there was a little girl named Lily. She loved to play outside"

static const struct fb_service_options four = {.parallel = 4, .queue_max = 16};
/* How much is reused when differences of rounding do not matter; test_reuse.c has the other. */
static const struct fb_service_options two_all = {.parallel = 2, .queue_max = 4, .reuse_all = true};

static struct forebay_model_options streamed(uint32_t parallel)
{
    struct forebay_model_options options = small_model(parallel);
    options.weights_mem_bytes = 3u << 20; /* of 5 MiB: experts are evicted and read again */
    return options;
}

/* --- Exactness ----------------------------------------------------------------------------- */

static void test_equals_run(void **state)
{
    (void)state;
    struct fixture f;
    char want[2048], got[2048];
    struct forebay_model_options options = streamed(4);
    run_alone(MODEL, &options, STORY, 60, want, sizeof want);
    fixture_start(&f, MODEL, &options, &four);
    struct forebay_prompt *prompt = text_prompt(f.model, STORY);
    struct fb_result result = collect(submit(&f, prompt, 60), got, sizeof got);
    assert_string_equal(got, want);
    assert_int_equal(result.end, FB_END_LENGTH);
    assert_int_equal(result.n_generated, 60);
    assert_int_equal(result.n_reused, 0);
    forebay_prompt_free(prompt);
    fixture_stop(&f);
}

static const char *const prompts[] = {"Once upon a time", "One day, a boy named Tim",
    "The little dog", "Lily and Ben went to the park", "There was a big", "She said", "A cat",
    "The sun was"};
#define N_PROMPTS 8

/* Jobs that share passes generate the same text as each alone. */
static void test_parallel_equals_alone(void **state)
{
    (void)state;
    struct fixture f;
    struct fb_job *jobs[N_PROMPTS];
    struct forebay_prompt *ps[N_PROMPTS];
    char want[N_PROMPTS][2048], got[2048];
    struct forebay_model_options options = streamed(4);
    for (int i = 0; i < N_PROMPTS; i++) {
        run_alone(MODEL, &options, prompts[i], 40, want[i], sizeof want[i]);
    }
    fixture_start(&f, MODEL, &options, &four);
    for (int i = 0; i < N_PROMPTS; i++) {
        ps[i] = text_prompt(f.model, prompts[i]);
        jobs[i] = submit(&f, ps[i], 40);
    }
    for (int i = 0; i < N_PROMPTS; i++) {
        collect(jobs[i], got, sizeof got);
        assert_string_equal(got, want[i]);
        forebay_prompt_free(ps[i]);
    }
    struct fb_service_stats stats;
    fb_service_stats(f.service, &stats);
    assert_true(stats.decode_rows > 2 * stats.decode_passes); /* they shared passes */
    fixture_stop(&f);
}

/* --- Prefixes ------------------------------------------------------------------------------ */

static void test_second_turn(void **state)
{
    (void)state;
    struct fixture f;
    char first[2048], second[2048], want[2048], turn[4096];
    struct forebay_model_options options = streamed(2);
    fixture_start(&f, MODEL, &options, &two_all);
    struct forebay_prompt *prompt = text_prompt(f.model, STORY);
    struct fb_result result = collect(submit(&f, prompt, 20), first, sizeof first);
    uint32_t before = result.n_prompt;
    forebay_prompt_free(prompt);

    snprintf(turn, sizeof turn, "%s%s Then a big", STORY, first);
    prompt = text_prompt(f.model, turn);
    result = collect(submit(&f, prompt, 20), second, sizeof second);
    assert_true(result.n_reused >= before + 15);
    assert_true(result.n_reused < result.n_prompt);
    forebay_prompt_free(prompt);

    /* A prompt that shares the beginning of the first: it is copied. */
    prompt = text_prompt(f.model, STORY " in the");
    result = collect(submit(&f, prompt, 5), first, sizeof first);
    assert_true(result.n_reused >= before);
    forebay_prompt_free(prompt);
    fixture_stop(&f);
    run_alone(MODEL, &options, turn, 20, want, sizeof want);
    assert_string_equal(second, want);
}

/* SV2: equal prompts that are submitted together are computed once. */
static void test_same_prompt_at_once(void **state)
{
    (void)state;
    struct fixture f;
    struct fb_job *jobs[4];
    char got[4][2048];
    struct forebay_model_options options = streamed(4);
    fixture_start(&f, MODEL, &options, &four);
    struct forebay_prompt *prompt = text_prompt(f.model, STORY " and " STORY);
    size_t n;
    forebay_prompt_tokens(prompt, &n);
    for (int i = 0; i < 4; i++) {
        jobs[i] = submit(&f, prompt, 10);
    }
    for (int i = 0; i < 4; i++) {
        collect(jobs[i], got[i], sizeof got[i]);
        assert_string_equal(got[i], got[0]);
    }
    struct fb_service_stats stats;
    fb_service_stats(f.service, &stats);
    assert_int_equal(stats.prompt_tokens_computed, n + 3);
    assert_int_equal(stats.prompt_tokens_reused, 3 * (n - 1));
    forebay_prompt_free(prompt);
    fixture_stop(&f);
}

/* More conversations than the KV cache has room for: idle ones are evicted. */
static void test_eviction(void **state)
{
    (void)state;
    struct fixture f;
    char got[4096];
    struct forebay_model_options options = streamed(2);
    options.ctx = 128;
    fixture_start(&f, MODEL, &options, &(struct fb_service_options){.parallel = 2, .queue_max = 4});
    for (int i = 0; i < 12; i++) {
        char text[256];
        snprintf(text, sizeof text, "Story number %d. %s", i * 7919, STORY);
        struct forebay_prompt *prompt = text_prompt(f.model, text);
        struct fb_result result = collect(submit(&f, prompt, -1), got, sizeof got);
        assert_true(result.end == FB_END_LENGTH || result.end == FB_END_STOP);
        assert_true(result.n_prompt + result.n_generated <= 129);
        forebay_prompt_free(prompt);
    }
    fixture_stop(&f);
}

/* --- Disk ---------------------------------------------------------------------------------- */

static char kv_dir[PATH_MAX];

static int files_in(const char *dir, char *last, size_t cap)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int n = 0;
    while (d && (e = readdir(d))) {
        if (e->d_name[0] != '.') {
            n++;
            snprintf(last, cap, "%s/%s", dir, e->d_name);
        }
    }
    if (d) {
        closedir(d);
    }
    return n;
}

static struct fb_result say(struct fixture *f, const char *text, int n, char *got, size_t cap)
{
    struct forebay_prompt *prompt = text_prompt(f->model, text);
    struct fb_result result = collect(submit(f, prompt, n), got, cap);
    forebay_prompt_free(prompt);
    return result;
}

static struct fb_result one_turn(const char *text, const struct forebay_model_options *options,
    uint64_t kv_max_bytes, char *got, size_t cap)
{
    struct fixture f;
    const struct fb_service_options with_disk = {.parallel = 2,
        .queue_max = 4,
        .reuse_all = true,
        .kv_dir = kv_dir,
        .kv_max_bytes = kv_max_bytes};
    fixture_start(&f, MODEL, options, &with_disk);
    struct fb_result result = say(&f, text, 30, got, cap);
    fixture_stop(&f);
    return result;
}

static void test_after_restart(void **state)
{
    (void)state;
    char first[2048], second[2048], want[2048], turn[4096], file[2 * PATH_MAX];
    struct forebay_model_options options = streamed(2);
    snprintf(kv_dir, sizeof kv_dir, "/tmp/forebay-kv-%d", (int)getpid());
    struct fb_result result = one_turn(STORY, &options, 1 << 30, first, sizeof first);
    assert_int_equal(result.n_reused, 0);
    assert_int_equal(files_in(kv_dir, file, sizeof file), 1);

    snprintf(turn, sizeof turn, "%s%s Then a big", STORY, first);
    uint32_t first_tokens = result.n_prompt;
    result = one_turn(turn, &options, 1 << 30, second, sizeof second);
    assert_true(result.n_reused >= first_tokens + 25);
    assert_int_equal(
        files_in(kv_dir, file, sizeof file), 1); /* it continues the first, and replaces it */
    run_alone(MODEL, &options, turn, 30, want, sizeof want);
    assert_string_equal(second, want);

    /* One byte is wrong: the state is deleted and the answer is the same. */
    FILE *f = fopen(file, "r+b");
    assert_non_null(f);
    fseek(f, 5000, SEEK_SET);
    int byte = fgetc(f);
    fseek(f, 5000, SEEK_SET);
    fputc(byte ^ 1, f);
    fclose(f);
    result = one_turn(turn, &options, 1 << 30, second, sizeof second);
    assert_int_equal(result.n_reused, 0);
    assert_string_equal(second, want);

    /* A file that is cut short, and one with a valid name but other content. */
    files_in(kv_dir, file, sizeof file);
    assert_int_equal(truncate(file, 3000), 0);
    char rubbish[PATH_MAX + 32];
    snprintf(rubbish, sizeof rubbish, "%s/0123456789abcdef.kv", kv_dir);
    f = fopen(rubbish, "wb");
    fputs("rubbish", f);
    fclose(f);
    result = one_turn(turn, &options, 1 << 30, second, sizeof second);
    assert_int_equal(result.n_reused, 0);
    assert_int_equal(access(rubbish, F_OK), -1);

    /* Other settings cannot use the state. */
    options.repack = false;
    result = one_turn(turn, &options, 1 << 30, second, sizeof second);
    assert_int_equal(result.n_reused, 0);

    /* The bound is too small: nothing is stored. */
    options.repack = true;
    one_turn(turn, &options, 1000, second, sizeof second);
    assert_int_equal(files_in(kv_dir, file, sizeof file), 0);
    rmdir(kv_dir);
}

/* A conversation is continued whose state is on disk. To make room for it in the cache, another one
 * is stored, and the bound of the disk then evicts the state that was found. */
static void test_state_evicted_while_loading(void **state)
{
    (void)state;
    static const char *const short_ones[] = {"A cat", "The sun", "She said"};
    char long_one[1024], first[2048], got[4096], want[2048], turn[4096], file[2 * PATH_MAX];
    struct forebay_model_options options = streamed(2);
    struct fb_service_options with_disk = {.parallel = 2,
        .queue_max = 4,
        .reuse_all = true,
        .kv_dir = kv_dir,
        .kv_max_bytes = 1 << 30};
    struct fixture f;
    struct stat stat_of;
    snprintf(kv_dir, sizeof kv_dir, "/tmp/forebay-kv-%d", (int)getpid());
    snprintf(long_one, sizeof long_one, "One day, a boy named Tim saw a dog. %s %s", STORY, STORY);
    one_turn(long_one, &options, 1 << 30, got, sizeof got);
    assert_int_equal(files_in(kv_dir, file, sizeof file), 1);
    assert_int_equal(stat(file, &stat_of), 0);
    unlink(file);
    one_turn("Lily and Ben went to the park", &options, 1 << 30, got, sizeof got);
    one_turn("Once upon a time", &options, 1 << 30, first, sizeof first);
    assert_int_equal(files_in(kv_dir, file, sizeof file), 2);

    snprintf(turn, sizeof turn, "Once upon a time%s Then a big", first);
    run_alone(MODEL, &options, turn, 30, want, sizeof want);
    with_disk.kv_max_bytes = (uint64_t)stat_of.st_size;
    fixture_start(&f, MODEL, &options, &with_disk);
    say(&f, long_one, 30, got, sizeof got);
    for (int i = 0; i < 3; i++) { /* leave no sequence empty */
        say(&f, short_ones[i], 2, got, sizeof got);
    }
    struct fb_result result = say(&f, turn, 30, got, sizeof got);
    assert_string_equal(got, want);
    assert_in_range(result.n_reused, 0, 1); /* the state is gone; all prompts share BOS */
    fixture_stop(&f);
    while (files_in(kv_dir, file, sizeof file) > 0) {
        unlink(file);
    }
    rmdir(kv_dir);
}

/* --- Limits, cancelling, failures ---------------------------------------------------------- */

static void test_refusals(void **state)
{
    (void)state;
    struct fixture f;
    struct forebay_model_options options = streamed(1);
    struct fb_job *jobs[8], *more;
    struct forebay_error err = {0};
    int accepted = 0;
    char got[4096];
    fixture_start(&f, MODEL, &options, &(struct fb_service_options){.parallel = 1, .queue_max = 2});
    struct forebay_prompt *prompt = text_prompt(f.model, STORY);
    struct fb_job_options job = {.prompt = prompt, .n_predict = -1, .n_top = -1};
    forebay_sampling_init(&job.sampling);
    job.sampling.ignore_eos = true;
    while (
        accepted < 8 && fb_service_submit(f.service, &job, &jobs[accepted], &err) == FB_ACCEPTED) {
        accepted++;
    }
    assert_in_range(accepted, 2, 3); /* one may be active already */
    job.sampling.repeat_penalty = -1;
    for (int i = 0; i < accepted; i++) {
        fb_job_release(jobs[i]); /* cancelled */
    }
    while (!fb_service_is_empty(f.service)) {
        usleep(1000);
    }
    assert_int_equal(fb_service_submit(f.service, &job, &more, &err), FB_INVALID);
    assert_int_equal(err.status, FOREBAY_E_USAGE);

    char text[4096] = "";
    for (int i = 0; i < 40; i++) {
        strcat(text, STORY);
    }
    struct forebay_prompt *large = text_prompt(f.model, text);
    job.prompt = large;
    assert_int_equal(fb_service_submit(f.service, &job, &more, &err), FB_INVALID);
    forebay_prompt_free(large);

    collect(submit(&f, prompt, 3), got, sizeof got); /* the service goes on */
    fb_service_drain(f.service);
    job.prompt = prompt;
    assert_int_equal(fb_service_submit(f.service, &job, &more, &err), FB_DRAINING);
    forebay_prompt_free(prompt);
    fixture_stop(&f);
}

/* SV3: a job that is not read does not hold up others. */
static void test_unread(void **state)
{
    (void)state;
    struct fixture f;
    char got[4096];
    struct forebay_model_options options = streamed(2);
    fixture_start(&f, MODEL, &options, &(struct fb_service_options){.parallel = 2, .queue_max = 4});
    struct forebay_prompt *prompt = text_prompt(f.model, STORY);
    struct fb_job *unread = submit(&f, prompt, -1);
    for (int i = 0; i < 3; i++) {
        struct fb_result result = collect(submit(&f, prompt, 10), got, sizeof got);
        assert_int_equal(result.end, FB_END_LENGTH);
    }
    fb_job_release(unread);
    forebay_prompt_free(prompt);
    fixture_stop(&f);
}

static void test_logprobs_and_stops(void **state)
{
    (void)state;
    struct fixture f;
    struct forebay_model_options options = streamed(1);
    struct fb_job *job;
    struct fb_piece piece;
    char text[4096] = "";
    int n = 0;
    fixture_start(&f, MODEL, &options, &(struct fb_service_options){.parallel = 1, .queue_max = 2});
    struct forebay_prompt *prompt = text_prompt(f.model, "Once upon a time");
    const char *stops[] = {"named"};
    struct fb_job_options o = {
        .prompt = prompt, .n_predict = 50, .n_top = 3, .stops = stops, .n_stops = 1};
    forebay_sampling_init(&o.sampling);
    assert_int_equal(fb_service_submit(f.service, &o, &job, NULL), FB_ACCEPTED);
    while (fb_job_next(job, 60000, &piece) == FB_JOB_PIECE) {
        strncat(text, piece.text, piece.length);
        assert_int_equal(piece.n_top, 3);
        assert_int_equal(piece.top[0].token, piece.token); /* greedy */
        assert_true(piece.logprob == piece.top[0].logprob && piece.logprob <= 0);
        n++;
    }
    assert_string_equal(text, ", there was a little girl ");
    assert_int_equal(fb_job_result(job)->end, FB_END_STRING);
    assert_string_equal(fb_job_result(job)->stop, "named");
    assert_int_equal(fb_job_result(job)->n_generated, n);
    fb_job_release(job);
    forebay_prompt_free(prompt);
    fixture_stop(&f);
}

/* SV4: a failed read fails the jobs of its pass only. */
static void test_io_errors(void **state)
{
    (void)state;
    struct fixture f;
    char want[2048], got[2048];
    struct forebay_model_options options = streamed(2);
    run_alone(MODEL, &options, STORY, 30, want, sizeof want);
    options.io_method = "fault:threads,eio_every=1500";
    fixture_start(&f, MODEL, &options, &(struct fb_service_options){.parallel = 2, .queue_max = 8});
    struct forebay_prompt *prompt = text_prompt(f.model, STORY);
    int failed = 0, fine = 0;
    for (int i = 0; i < 200 && (failed == 0 || fine == 0); i++) {
        struct fb_result result = collect(submit(&f, prompt, 30), got, sizeof got);
        if (result.end == FB_END_FAILED) {
            assert_int_equal(result.error.status, FOREBAY_E_IO);
            assert_non_null(strstr(result.error.message, MODEL));
            failed++;
        } else {
            assert_string_equal(got, want);
            fine++;
        }
    }
    assert_true(failed > 0 && fine > 0);
    forebay_prompt_free(prompt);
    fixture_stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_run),
        cmocka_unit_test(test_parallel_equals_alone),
        cmocka_unit_test(test_second_turn),
        cmocka_unit_test(test_same_prompt_at_once),
        cmocka_unit_test(test_eviction),
        cmocka_unit_test(test_after_restart),
        cmocka_unit_test(test_state_evicted_while_loading),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_unread),
        cmocka_unit_test(test_logprobs_and_stops),
        cmocka_unit_test(test_io_errors),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
