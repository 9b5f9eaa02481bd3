/* serve_fixture.h - a service on a small real model, for tests. */
#ifndef TESTS_SERVE_FIXTURE_H
#define TESTS_SERVE_FIXTURE_H

#include <time.h>

#include "model_files.h"
#include "serve/service.h"
#include "strata.h"

struct fixture {
    struct strata_model *model;
    struct st_service *service;
};

/* NULL where the shared models are missing. */
static inline const char *shared_model(const char *name)
{
    static char path[PATH_MAX];
    const char *shared = getenv("STRATA_SHARED");
    snprintf(path, sizeof path, "%s/models/%s", shared ? shared : "/nowhere", name);
    return access(path, R_OK) == 0 ? path : NULL;
}

static inline void fixture_start(struct fixture *f, const char *name,
    const struct strata_model_options *model, const struct st_service_options *service)
{
    struct strata_error err;
    const char *path = shared_model(name);
    *f = (struct fixture){0};
    if (!path) {
        skip();
    }
    if (strata_model_load(path, model, &f->model, &err) != STRATA_OK ||
        st_service_new(f->model, service, &f->service, &err) != STRATA_OK) {
        fail_msg("%s", err.message);
    }
}

static inline void fixture_stop(struct fixture *f)
{
    st_service_free(f->service);
    strata_model_free(f->model);
}

static inline struct strata_model_options small_model(uint32_t parallel)
{
    struct strata_model_options options;
    strata_model_options_init(&options);
    options.threads = 1;
    options.ctx = 256;
    options.batch = 64;
    options.n_seq = parallel;
    options.n_kept = parallel;
    options.device = "none";
    return options;
}

static inline struct strata_prompt *text_prompt(const struct strata_model *model, const char *text)
{
    struct strata_prompt *prompt;
    assert_int_equal(strata_prompt_from_text(model, text, strlen(text), &prompt, NULL), STRATA_OK);
    return prompt;
}

static inline struct st_job *submit(
    struct fixture *f, const struct strata_prompt *prompt, int64_t n_predict)
{
    struct st_job_options options = {.prompt = prompt, .n_predict = n_predict, .n_top = -1};
    struct st_job *job;
    struct strata_error err;
    strata_sampling_init(&options.sampling);
    assert_int_equal(st_service_submit(f->service, &options, &job, &err), ST_ACCEPTED);
    return job;
}

/* Reads all of a reply. */
static inline struct st_result collect(struct st_job *job, char *text, size_t cap)
{
    struct st_piece piece;
    size_t used = 0;
    enum st_job_state state;
    while ((state = st_job_next(job, 60000, &piece)) == ST_JOB_PIECE) {
        assert_true(used + piece.length < cap);
        memcpy(text + used, piece.text, piece.length);
        used += piece.length;
    }
    text[used] = 0;
    assert_int_equal(state, ST_JOB_ENDED);
    struct st_result result = *st_job_result(job);
    st_job_release(job);
    return result;
}

/* What `strata run` would say: a session of its own, before there is a service. */
static inline void run_alone(const char *name, const struct strata_model_options *options,
    const char *prompt_text, int n_predict, char *text, size_t cap)
{
    struct strata_model_options alone = *options;
    struct strata_model *model;
    struct strata_session *session;
    size_t n, used = 0;
    int32_t tokens[512];
    if (!shared_model(name)) {
        skip();
    }
    alone.n_seq = 1;
    alone.n_kept = 0;
    assert_int_equal(strata_model_load(shared_model(name), &alone, &model, NULL), STRATA_OK);
    assert_int_equal(strata_session_new(model, &session, NULL), STRATA_OK);
    assert_int_equal(
        strata_tokenize(model, prompt_text, strlen(prompt_text), true, tokens, 512, &n, NULL),
        STRATA_OK);
    assert_int_equal(strata_eval(session, tokens, n, false, NULL), STRATA_OK);
    for (int i = 0; i < n_predict; i++) {
        int32_t token = strata_sample(session);
        if (strata_model_is_eog(model, token)) {
            break;
        }
        used += strata_token_bytes(model, token, text + used, cap - used - 1);
        assert_int_equal(strata_eval(session, &token, 1, false, NULL), STRATA_OK);
    }
    text[used] = 0;
    strata_session_free(session);
    strata_model_free(model);
}

#endif
