/* serve_fixture.h - a service on a small real model, for tests. */
#ifndef TESTS_SERVE_FIXTURE_H
#define TESTS_SERVE_FIXTURE_H

#include <time.h>

#include "model_files.h"
#include "serve/service.h"
#include "forebay.h"

struct fixture {
    struct forebay_model *model;
    struct fb_service *service;
};

/* Path of a model in the tree, among the shared ones, or anywhere ("/..."); NULL if it is missing.
 * Valid until the next call. */
static inline const char *shared_model(const char *name)
{
    static char path[PATH_MAX];
    const char *shared = getenv("FOREBAY_SHARED");
    snprintf(path, sizeof path, "%s%s%s", name[0] == '/' ? "" : OWN_MODELS_DIR,
        name[0] == '/' ? "" : "/", name);
    if (access(path, R_OK) == 0) {
        return path;
    }
    snprintf(path, sizeof path, "%s/models/%s", shared ? shared : "/nowhere", name);
    return access(path, R_OK) == 0 ? path : NULL;
}

/* Loads the model and starts the service; skips the test if the model is missing. */
static inline void fixture_start(struct fixture *f, const char *name,
    const struct forebay_model_options *model, const struct fb_service_options *service)
{
    struct forebay_error err;
    const char *path = shared_model(name);
    *f = (struct fixture){0};
    if (!path) {
        skip();
    }
    if (forebay_model_load(path, model, &f->model, &err) != FOREBAY_OK ||
        fb_service_new(f->model, service, &f->service, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

static inline void fixture_stop(struct fixture *f)
{
    fb_service_free(f->service);
    forebay_model_free(f->model);
}

static inline struct forebay_model_options small_model(uint32_t parallel)
{
    struct forebay_model_options options;
    forebay_model_options_init(&options);
    options.threads = 1;
    options.ctx = 256;
    options.batch = 64;
    options.n_seq = parallel;
    options.n_kept = parallel;
    options.device = "none";
    return options;
}

static inline struct forebay_prompt *text_prompt(
    const struct forebay_model *model, const char *text)
{
    struct forebay_prompt *prompt;
    assert_int_equal(
        forebay_prompt_from_text(model, text, strlen(text), &prompt, NULL), FOREBAY_OK);
    return prompt;
}

static inline struct fb_job *submit(
    struct fixture *f, const struct forebay_prompt *prompt, int64_t n_predict)
{
    struct fb_job_options options = {.prompt = prompt, .n_predict = n_predict, .n_top = -1};
    struct fb_job *job;
    struct forebay_error err;
    forebay_sampling_init(&options.sampling);
    assert_int_equal(fb_service_submit(f->service, &options, &job, &err), FB_ACCEPTED);
    return job;
}

/* Reads a whole reply and releases the job. */
static inline struct fb_result collect(struct fb_job *job, char *text, size_t cap)
{
    struct fb_piece piece;
    size_t used = 0;
    enum fb_job_state state;
    while ((state = fb_job_next(job, 60000, &piece)) == FB_JOB_PIECE) {
        assert_true(used + piece.length < cap);
        memcpy(text + used, piece.text, piece.length);
        used += piece.length;
    }
    text[used] = 0;
    assert_int_equal(state, FB_JOB_ENDED);
    struct fb_result result = *fb_job_result(job);
    fb_job_release(job);
    return result;
}

/* Generates like `forebay run`: greedily, in a session of its own. */
static inline void run_alone(const char *name, const struct forebay_model_options *options,
    const char *prompt_text, int n_predict, char *text, size_t cap)
{
    struct forebay_model_options alone = *options;
    struct forebay_model *model;
    struct forebay_session *session;
    size_t n, used = 0;
    int32_t tokens[512];
    if (!shared_model(name)) {
        skip();
    }
    alone.n_seq = 1;
    alone.n_kept = 0;
    assert_int_equal(forebay_model_load(shared_model(name), &alone, &model, NULL), FOREBAY_OK);
    assert_int_equal(forebay_session_new(model, &session, NULL), FOREBAY_OK);
    assert_int_equal(
        forebay_tokenize(model, prompt_text, strlen(prompt_text), true, tokens, 512, &n, NULL),
        FOREBAY_OK);
    assert_int_equal(forebay_eval(session, tokens, n, false, NULL), FOREBAY_OK);
    for (int i = 0; i < n_predict; i++) {
        int32_t token = forebay_sample(session);
        if (forebay_model_is_eog(model, token)) {
            break;
        }
        used += forebay_token_bytes(model, token, text + used, cap - used - 1);
        assert_int_equal(forebay_eval(session, &token, 1, false, NULL), FOREBAY_OK);
    }
    text[used] = 0;
    forebay_session_free(session);
    forebay_model_free(model);
}

#endif
