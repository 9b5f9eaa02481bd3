/*
 * exact.h - the promise as a test: logits bit-identical to llama.cpp's, whatever Forebay is set to.
 *
 * Two kinds of settings describe a run. llama.cpp's own logits depend on the *shape*: batch,
 * threads, layout of the weights, rows wanted. They must not depend on Forebay's settings: budget
 * and I/O method. For each shape plain llama.cpp evaluates a prompt and continues it; then Forebay
 * does the same with several settings, and every row of logits must have the same bits.
 *
 * A model is tested in a process of its own, plain llama.cpp first: it then computes in a process
 * where Forebay's device is not registered, and a crash costs one model.
 */
#ifndef TESTS_EXACT_H
#define TESTS_EXACT_H

#include <fcntl.h>
#include <sys/wait.h>

#include "model_files.h"
#include "forebay.h"

#define COUNT(list) ((int)(sizeof(list) / sizeof(list)[0]))

struct shape {
    uint32_t batch;
    int threads;
    size_t prompt, generated; /* tokens */
    bool repack;
    bool last_row; /* only the prompt's last row, as in `run`; else all, as in `verify` */
};

/* The first is for every model: large passes, which need more experts at once than there are slots.
 * Of the next four (weights as stored, small passes, single tokens) a model gets one. The last is
 * for every model, but short and with one budget: on a busy machine two threads wait for each
 * other. */
static const struct shape shapes[] = {
    {.batch = 37, .threads = 1, .prompt = 53, .generated = 6, .repack = true},
    {.batch = 37, .threads = 1, .prompt = 53, .generated = 6, .repack = false},
    {.batch = 7, .threads = 1, .prompt = 18, .generated = 6, .repack = true, .last_row = true},
    {.batch = 7, .threads = 1, .prompt = 18, .generated = 6, .repack = false},
    {.batch = 1, .threads = 1, .prompt = 10, .generated = 6, .repack = true},
    {.batch = 64, .threads = 2, .prompt = 53, .generated = 1, .repack = true, .last_row = true},
};

/* Percent of the weights; 0: the smallest budget that works. */
static const int budgets[] = {100, 50, 25, 0};

/* Used in turn, run after run. Five and four have no common factor: every budget gets them all. */
static const char *const methods[] = {
    "uring", "threads", "sync", "fault:threads,short=3,eintr=7", "fault:uring,eagain=4,reorder=9"};

/* Rows of logits, in the order in which they were computed. */
struct rows {
    float *values;
    size_t n, n_vocab;
};

static inline void rows_free(struct rows *rows)
{
    free(rows->values);
    *rows = (struct rows){0};
}

static inline void rows_add(struct rows *rows, const float *row)
{
    size_t bytes = rows->n_vocab * sizeof *row;
    rows->values = realloc(rows->values, (rows->n + 1) * bytes);
    memcpy(rows->values + rows->n++ * rows->n_vocab, row, bytes);
}

static inline struct forebay_model_options shape_options(const struct shape *shape)
{
    struct forebay_model_options options;
    forebay_model_options_init(&options);
    options.ctx = 512;
    options.batch = shape->batch;
    options.all_logits = !shape->last_row;
    options.threads = shape->threads;
    options.repack = shape->repack;
    return options;
}

/* --- One run ------------------------------------------------------------------------------ */

/* Evaluates a prompt that is the same for all, and continues it with sampled tokens. */
static inline enum forebay_status evaluate_session(struct forebay_session *session,
    const struct shape *shape, struct rows *rows, struct forebay_error *err)
{
    int32_t tokens[512];
    for (size_t i = 0; i < shape->prompt; i++) {
        tokens[i] = (int32_t)(1 + (37 * i + i * i) % (rows->n_vocab - 1));
    }
    enum forebay_status status = FOREBAY_OK;
    size_t pass = shape->last_row ? shape->prompt : shape->batch;
    for (size_t done = 0; done < shape->prompt && status == FOREBAY_OK; done += pass) {
        size_t n = shape->prompt - done < pass ? shape->prompt - done : pass;
        status = forebay_eval(session, tokens + done, n, !shape->last_row, err);
        for (size_t i = 0; status == FOREBAY_OK && i < (shape->last_row ? 1 : n); i++) {
            rows_add(rows, forebay_logits(session, i));
        }
    }
    for (size_t i = 0; status == FOREBAY_OK && i < shape->generated; i++) {
        int32_t token = forebay_sample(session);
        status = forebay_eval(session, &token, 1, false, err);
        if (status == FOREBAY_OK) {
            rows_add(rows, forebay_logits(session, 0));
        }
    }
    return status;
}

/* Bytes of the weights in a model file. */
static inline uint64_t weights_bytes_of(const char *path)
{
    struct forebay_file *file;
    struct forebay_file_info info;
    assert_int_equal(forebay_file_open(path, &file, NULL), FOREBAY_OK);
    forebay_file_describe(file, &info);
    forebay_file_free(file);
    return info.tensor_bytes;
}

/* Loads the model, runs it, frees it. `placement` may be NULL. */
static inline enum forebay_status evaluate(const char *path, const struct shape *shape,
    const struct forebay_model_options *options, struct rows *rows,
    struct forebay_placement *placement, struct forebay_error *err)
{
    struct forebay_model *model = NULL;
    struct forebay_session *session = NULL;
    *rows = (struct rows){0};
    enum forebay_status status = forebay_model_load(path, options, &model, err);
    if (status == FOREBAY_OK) {
        rows->n_vocab = (size_t)forebay_model_n_vocab(model);
        if (placement) {
            forebay_model_placement(model, placement);
        }
        status = forebay_session_new(model, &session, err);
    }
    if (status == FOREBAY_OK) {
        status = evaluate_session(session, shape, rows, err);
    }
    forebay_session_free(session);
    forebay_model_free(model);
    return status;
}

static inline bool same_rows(const struct rows *a, const struct rows *b)
{
    return a->n == b->n && a->n_vocab == b->n_vocab &&
           memcmp(a->values, b->values, a->n * a->n_vocab * sizeof *a->values) == 0;
}

/* --- All runs of a model ------------------------------------------------------------------ */

struct exact {
    const char *path;
    struct rows reference[COUNT(shapes)];
    uint64_t weights_bytes;    /* of the model */
    uint64_t minimum_bytes[2]; /* of memory for them, by layout; known after the run at 100 % */
    int failures;
};

/* Reports the failure of a run; the child's stderr is the test's log. */
static inline void complain(struct exact *x, const struct shape *shape,
    const struct forebay_model_options *options, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static inline void complain(struct exact *x, const struct shape *shape,
    const struct forebay_model_options *options, const char *format, ...)
{
    va_list ap;
    x->failures++;
    fprintf(stderr, "# %s: -b %u -t %d%s%s, --weights-mem %llu --io %s: ", x->path, shape->batch,
        shape->threads, shape->repack ? "" : " --no-repack", shape->last_row ? ", last row" : "",
        (unsigned long long)options->weights_mem_bytes,
        options->plain ? "(plain)" : options->io_method);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static inline void complain_difference(struct exact *x, const struct shape *shape,
    const struct forebay_model_options *options, const struct rows *want, const struct rows *got)
{
    size_t i = 0, n = want->n * want->n_vocab;
    while (i < n && got->n == want->n && memcmp(&want->values[i], &got->values[i], 4) == 0) {
        i++;
    }
    complain(x, shape, options, "row %zu of %zu (%zu wanted) differs at token %zu",
        i / want->n_vocab, got->n, want->n, i % want->n_vocab);
}

/* One run by Forebay, compared with the reference of its shape. */
static inline void compare_run(
    struct exact *x, int shape, const struct forebay_model_options *options, int percent)
{
    const struct rows *want = &x->reference[shape];
    struct forebay_placement placement = {0};
    struct forebay_error err = {0};
    struct rows got;
    if (evaluate(x->path, &shapes[shape], options, &got, &placement, &err) != FOREBAY_OK) {
        complain(x, &shapes[shape], options, "%s", err.message);
    } else if (!same_rows(want, &got)) {
        complain_difference(x, &shapes[shape], options, want, &got);
    } else if (percent == 0 && placement.streamed_bytes == 0 &&
               placement.n_slots == placement.n_experts) {
        complain(x, &shapes[shape], options, "nothing was streamed, so the run proves nothing");
    }
    x->minimum_bytes[options->repack] = placement.minimum_weights_bytes;
    rows_free(&got);
}

/* Below the minimum there must be an error with a message and a hint. */
static inline void check_too_little(struct exact *x)
{
    struct forebay_model_options options = shape_options(&shapes[0]);
    struct forebay_model *model = NULL;
    struct forebay_error err = {0};
    options.weights_mem_bytes = x->minimum_bytes[options.repack] - 1;
    enum forebay_status status = forebay_model_load(x->path, &options, &model, &err);
    if (status != FOREBAY_E_NOFIT || !err.message[0] || !err.hint[0]) {
        complain(x, &shapes[0], &options, "below the minimum: %s, \"%s\"",
            forebay_status_name(status), err.message);
    }
    forebay_model_free(model);
}

static inline uint64_t budget_bytes(const struct exact *x, int percent, bool repack)
{
    uint64_t bytes = x->weights_bytes * (uint64_t)percent / 100;
    return bytes > x->minimum_bytes[repack] ? bytes : x->minimum_bytes[repack];
}

/* A run of plain llama.cpp. False when it fails in the CPU's own layout, as with 3-d weights in
 * AMX's, which llama.cpp v0.5.0 cannot compute with: then there is no reference on this machine. */
static inline bool run_plain(struct exact *x, int shape, struct rows *rows)
{
    struct forebay_model_options options = shape_options(&shapes[shape]);
    struct forebay_placement placement;
    struct forebay_error err = {0};
    options.plain = true;
    enum forebay_status status =
        evaluate(x->path, &shapes[shape], &options, rows, &placement, &err);
    if (status == FOREBAY_E_LLAMA && options.repack) {
        return false;
    }
    if (status != FOREBAY_OK) {
        complain(x, &shapes[shape], &options, "%s", err.message);
    } else {
        x->weights_bytes = placement.weights_bytes;
    }
    return true;
}

/* The device that Forebay has registered by now must not affect plain llama.cpp. */
static inline void check_plain_again(struct exact *x)
{
    struct forebay_model_options options = shape_options(&shapes[0]);
    struct rows again;
    assert_true(run_plain(x, 0, &again));
    if (!same_rows(&x->reference[0], &again)) {
        options.plain = true;
        complain_difference(x, &shapes[0], &options, &x->reference[0], &again);
    }
    rows_free(&again);
}

/* Tests one model. Its `number` determines shapes and methods. */
enum exact_outcome { EXACT, NOT_EXACT, NO_REFERENCE };
static inline enum exact_outcome exact_model(const char *path, int number)
{
    const int chosen[] = {0, 1 + number % 4, COUNT(shapes) - 1};
    struct exact x = {.path = path};
    int method = number;
    for (int c = 0; c < COUNT(chosen); c++) {
        if (!run_plain(&x, chosen[c], &x.reference[chosen[c]])) {
            return NO_REFERENCE;
        }
    }
    for (int c = 0; c < COUNT(chosen) && x.failures == 0; c++) {
        const struct shape *shape = &shapes[chosen[c]];
        for (int i = 0; i < COUNT(budgets); i++) {
            struct forebay_model_options options = shape_options(shape);
            options.io_method = methods[method++ % COUNT(methods)];
            options.weights_mem_bytes = budget_bytes(&x, budgets[i], shape->repack);
            if (shape->threads == 1 || i == number % COUNT(budgets)) {
                compare_run(&x, chosen[c], &options, budgets[i]);
            }
        }
    }
    if (x.failures == 0) {
        check_too_little(&x);
        check_plain_again(&x);
    }
    for (int s = 0; s < COUNT(shapes); s++) {
        rows_free(&x.reference[s]);
    }
    return x.failures == 0 ? EXACT : NOT_EXACT;
}

/* The same in a process of its own. */
static inline void assert_exact(const char *path, int number)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        forebay_log_set_level(FOREBAY_LOG_ERROR);
        exit((int)exact_model(path, number));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_REFERENCE) {
        print_message("# %s: plain llama.cpp cannot run it with this CPU's layout\n", path);
        skip();
    }
    if (status != 0) {
        fail_msg("%s: not exact (wait status 0x%x)", path, (unsigned)status);
    }
}

#endif
