/*
 * test_reuse.c - what is computed with a reused prefix equals what is computed from the beginning,
 * for every kind of memory that llama.cpp has: attention, sliding windows, chunks, recurrent
 * layers.
 *
 *      fresh      a session of its own, as in `forebay run`
 *      reused     a service: at once, after the KV cache has wrapped, from disk
 *
 * With exact reuse (SV6) tokens and logarithms of probabilities are equal bit by bit; with all they
 * are equal up to rounding. The models are made here; those in shared/models/archs are tried, too,
 * where they exist.
 */
#include <math.h>

#include "serve_fixture.h"
#include "synth/synth.h"

enum { CTX = 256, PIECE = 32, LONG = 150, SHARED = 130, SHOWN = 6, GENERATED = 40 };

/* Rounding moves a logarithm by 0.003 at most in these models; cells that are missing by more than
 * 0.02 (measured). */
#define ROUNDING 0.008f

struct made {
    char path[PATH_MAX];
    const char *arch; /* NULL: a file that exists */
};

struct answer {
    int32_t tokens[GENERATED];
    float logprobs[GENERATED];
    uint32_t n, reused;
};

static char kv_dir[64];

/* --- Prompts ------------------------------------------------------------------------------- */

static uint32_t seed;

static int32_t next_token(void)
{
    seed = seed * 1103515245u + 12345u;
    return 4 + (int32_t)(seed >> 16) % 110;
}

static void random_tokens(int32_t *tokens, int n)
{
    for (int i = 0; i < n; i++) {
        tokens[i] = next_token();
    }
}

/* --- Fresh --------------------------------------------------------------------------------- */

static struct forebay_model_options options_for(uint32_t parallel)
{
    struct forebay_model_options options = small_model(parallel);
    options.ctx = CTX;
    options.batch = PIECE;
    options.disk_bytes_per_s = 1000000000; /* not measured */
    return options;
}

static void fail_with(const char *what, const struct forebay_error *err)
{
    fail_msg("%s: %s", what, err->message);
}

static void fresh(const char *path, const int32_t *tokens, size_t n, struct answer *out)
{
    struct forebay_model_options options = options_for(1);
    struct forebay_model *model;
    struct forebay_session *session;
    struct forebay_error err;
    options.n_kept = 0;
    if (forebay_model_load(path, &options, &model, &err) != FOREBAY_OK ||
        forebay_session_new(model, &session, &err) != FOREBAY_OK ||
        forebay_eval(session, tokens, n, false, &err) != FOREBAY_OK) {
        fail_with(path, &err);
    }
    struct forebay_sampling greedy;
    forebay_sampling_init(&greedy);
    greedy.ignore_eos = true;
    assert_int_equal(forebay_sampling_set(session, &greedy, &err), FOREBAY_OK);
    *out = (struct answer){0};
    while (out->n < SHOWN) {
        int32_t token = forebay_sample(session);
        out->tokens[out->n] = token;
        forebay_logprobs(session, 0, token, &out->logprobs[out->n], NULL, 0);
        out->n++;
        assert_int_equal(forebay_eval(session, &token, 1, false, &err), FOREBAY_OK);
    }
    forebay_session_free(session);
    forebay_model_free(model);
}

/* --- Reused -------------------------------------------------------------------------------- */

static void start(struct fixture *f, const char *path, uint32_t parallel, bool all, bool disk)
{
    struct forebay_model_options options = options_for(parallel);
    struct fb_service_options service = {.parallel = (int)parallel,
        .queue_max = 8,
        .reuse_all = all,
        .kv_dir = disk ? kv_dir : NULL,
        .kv_max_bytes = 1 << 30};
    struct forebay_error err;
    *f = (struct fixture){0};
    if (forebay_model_load(path, &options, &f->model, &err) != FOREBAY_OK ||
        fb_service_new(f->model, &service, &f->service, &err) != FOREBAY_OK) {
        fail_with(path, &err);
    }
}

static struct fb_job *send(
    const struct fixture *f, const int32_t *tokens, size_t n, int64_t n_predict)
{
    struct forebay_prompt *prompt;
    struct forebay_error err;
    struct fb_job *job;
    assert_int_equal(forebay_prompt_from_tokens(f->model, tokens, n, &prompt, &err), FOREBAY_OK);
    struct fb_job_options o = {.prompt = prompt, .n_predict = n_predict, .n_top = 0};
    forebay_sampling_init(&o.sampling);
    o.sampling.ignore_eos = true;
    assert_int_equal(fb_service_submit(f->service, &o, &job, &err), FB_ACCEPTED);
    forebay_prompt_free(prompt);
    return job;
}

static struct answer receive(struct fb_job *job)
{
    struct answer a = {0};
    struct fb_piece piece;
    while (fb_job_next(job, 60000, &piece) == FB_JOB_PIECE) {
        if (piece.token >= 0 && a.n < GENERATED) {
            a.tokens[a.n] = piece.token;
            a.logprobs[a.n++] = piece.logprob;
        }
    }
    const struct fb_result *result = fb_job_result(job);
    if (result->end == FB_END_FAILED) {
        fail_with("job", &result->error);
    }
    a.reused = result->n_reused;
    fb_job_release(job);
    return a;
}

static struct answer ask(const struct fixture *f, const int32_t *tokens, size_t n, int64_t predict)
{
    struct answer a = receive(send(f, tokens, n, predict));
    while (!fb_service_is_empty(f->service)) { /* the next one is alone */
        usleep(100);
    }
    return a;
}

/* Equal bit by bit, or the first token's logarithm up to rounding. */
static void check(const char *what, const struct made *m, const struct answer *want,
    const struct answer *got, bool all)
{
    bool same = all ? fabsf(want->logprobs[0] - got->logprobs[0]) <= ROUNDING
                    : memcmp(want->tokens, got->tokens, sizeof(int32_t) * SHOWN) == 0 &&
                          memcmp(want->logprobs, got->logprobs, sizeof(float) * SHOWN) == 0;
    if (getenv("REUSE_SHOW")) {
        print_message("# %-10s %-40s %s reused %3u  %.7f - %.7f = %.7f\n", m->arch ? m->arch : "",
            what, all ? "all  " : "exact", got->reused, want->logprobs[0], got->logprobs[0],
            got->logprobs[0] - want->logprobs[0]);
    }
    if (!same) {
        fail_msg("%s, %s, %s: %u reused, logprob %.7f instead of %.7f", m->path, what,
            all ? "all" : "exact", got->reused, got->logprobs[0], want->logprobs[0]);
    }
}

/* Short requests and turns of another conversation, until the cells have all been used again. */
static void wrap(const struct fixture *f, const int32_t *begin)
{
    int32_t turn[CTX], other[30];
    uint32_t n = SHARED;
    memcpy(turn, begin, n * sizeof *turn);
    for (int i = 0; i < 9; i++) {
        random_tokens(other, 30);
        ask(f, other, 30, 2);
        struct answer a = ask(f, turn, n, 2);
        memcpy(turn + n, a.tokens, a.n * sizeof *turn);
        n += a.n;
        random_tokens(turn + n, 2);
        n += 2;
    }
}

static void remove_states(void)
{
    DIR *d = opendir(kv_dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", kv_dir, e->d_name);
        unlink(path);
    }
    if (d) {
        closedir(d);
    }
    rmdir(kv_dir);
}

/* Two prompts with a common beginning. */
struct pair {
    int32_t first[LONG], second[SHARED + 2];
    struct answer want_first, want;
};

static void make_pair(const struct made *m, struct pair *p)
{
    seed = 5;
    random_tokens(p->first, LONG);
    memcpy(p->second, p->first, SHARED * sizeof *p->second);
    random_tokens(p->second + SHARED, 2);
    fresh(m->path, p->first, LONG, &p->want_first);
    fresh(m->path, p->second, SHARED + 2, &p->want);
}

static void check_memory(const struct made *m, const struct pair *p, uint32_t parallel, bool all)
{
    struct answer got;
    struct fixture f;
    start(&f, m->path, parallel, all, false);
    got = ask(&f, p->first, LONG, GENERATED);
    check("nothing reused", m, &p->want_first, &got, all);
    assert_int_equal(got.reused, 0);
    got = ask(&f, p->second, SHARED + 2, SHOWN);
    check("at once", m, &p->want, &got, all);
    if (all) { /* what cannot be cut is not reused: the prompt does not continue all of it */
        assert_true(got.reused == SHARED || got.reused == 0);
    } else { /* that is kept where the last piece of the prompt began */
        assert_int_equal(got.reused, SHARED / PIECE * PIECE);
    }
    got = ask(&f, p->second, SHARED + 2, SHOWN);
    check("again", m, &p->want, &got, all);
    wrap(&f, p->first);
    got = ask(&f, p->second, SHARED + 2, SHOWN);
    check("after the cache has wrapped", m, &p->want, &got, all);
    got = ask(&f, p->first, LONG, SHOWN);
    check("the first again", m, &p->want_first, &got, all);
    fixture_stop(&f);
}

static void check_disk(const struct made *m, const struct pair *p, uint32_t parallel, bool all)
{
    int32_t other[LONG];
    struct answer got;
    struct fixture f;
    start(&f, m->path, parallel, all, true);
    ask(&f, p->first, LONG, 4);
    fixture_stop(&f); /* writes the states */
    start(&f, m->path, parallel, all, true);
    got = ask(&f, p->second, SHARED + 2, SHOWN);
    check("from disk", m, &p->want, &got, all);
    random_tokens(other, LONG); /* to disk, and back after another conversation */
    ask(&f, other, LONG, SHOWN);
    got = ask(&f, p->first, LONG, SHOWN);
    check("from disk, after another", m, &p->want_first, &got, all);
    fixture_stop(&f);
    remove_states();
}

/* Others come and go: their rows are in its passes, but its cells are its own. */
static void check_load(const struct made *m)
{
    int32_t prompts[4][LONG];
    struct answer want[4];
    struct fb_job *jobs[4];
    struct fixture f;
    seed = 7;
    random_tokens(prompts[0], LONG);
    for (int i = 0; i < 4; i++) {
        memcpy(prompts[i], prompts[0], SHARED * sizeof *prompts[0]);
        random_tokens(prompts[i] + SHARED, LONG - SHARED);
        fresh(m->path, prompts[i], LONG, &want[i]);
    }
    start(&f, m->path, 4, false, false);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) {
            jobs[i] = send(&f, prompts[i], LONG, 20);
        }
        for (int i = 0; i < 4; i++) {
            struct answer got = receive(jobs[i]);
            if (m->arch) {
                check("under load", m, &want[i], &got, true);
            }
        }
    }
    struct answer got = ask(&f, prompts[2], LONG, SHOWN);
    check("alone after load", m, &want[2], &got, false);
    fixture_stop(&f);
}

static void test_model(void **state)
{
    const struct made *m = *state;
    if (m->arch) {
        struct fb_synth_shape s;
        struct forebay_error err;
        fb_synth_shape_init(&s);
        s.arch = m->arch;
        s.type = "F32"; /* activations are not quantised: rounding stays small */
        s.layers = 4;
        s.embd = 128;
        s.heads = 4;
        s.ff = 128;
        s.vocab = 300;
        s.experts = fb_synth_arch_has_experts(m->arch) ? 4 : 0;
        s.experts_used = s.experts; /* rounding cannot exchange one for another */
        if (fb_synth_random(&s, m->path, NULL, &err) != FOREBAY_OK) {
            fail_with(m->arch, &err);
        }
    }
    struct pair pair;
    make_pair(m, &pair);
    for (uint32_t parallel = 1; parallel <= 4; parallel += 3) {
        check_memory(m, &pair, parallel, false);
        check_disk(m, &pair, parallel, false);
    }
    if (m->arch) {
        check_memory(m, &pair, 1, true);
        check_disk(m, &pair, 1, true);
    }
    check_load(m);
    if (m->arch) {
        remove(m->path);
    }
}

int main(void)
{
    static const char *const archs[] = {
        "qwen3moe", "gemma3", "gpt-oss", "llama4", "qwen3next", "jamba"};
    static struct made made[MAX_MODELS + 16];
    static struct CMUnitTest tests[MAX_MODELS + 16];
    char shared[PATH_MAX];
    struct model_list list = {0};
    size_t n = 0;
    forebay_log_set_level(getenv("REUSE_SHOW") ? FOREBAY_LOG_WARN : FOREBAY_LOG_ERROR);
    snprintf(kv_dir, sizeof kv_dir, "/tmp/forebay-reuse-%d", (int)getpid());
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        made[n].arch = archs[i];
        snprintf(made[n++].path, PATH_MAX, "/tmp/forebay-reuse-%d.gguf", (int)getpid());
    }
    if (getenv("FOREBAY_SHARED")) {
        snprintf(shared, sizeof shared, "%s/models/archs", getenv("FOREBAY_SHARED"));
        list_models_in(&list, shared);
    }
    for (int i = 0; i < list.n; i++) {
        snprintf(made[n++].path, PATH_MAX, "%s", list.path[i]);
    }
    for (size_t i = 0; i < n; i++) {
        const char *base = strrchr(made[i].path, '/');
        tests[i] = (struct CMUnitTest){.name = made[i].arch ? made[i].arch : base + 1,
            .test_func = test_model,
            .initial_state = &made[i]};
    }
    int failed = _cmocka_run_group_tests("reuse", tests, n, NULL, NULL);
    free_models(&list);
    return failed;
}
