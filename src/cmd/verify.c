/*
 * verify.c - strata verify: the promise, made checkable.
 *
 * Plain llama.cpp goes first: it evaluates the prompt and generates, and every row of logits goes
 * to a temporary file. Then it is gone, the model is loaded through Strata, the same tokens are
 * evaluated in the same passes, and every row is compared with the file bit by bit. (One after the
 * other: together they would need the memory of both, and llama.cpp offers every weight to a
 * registered device.)
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cmd/generate.h"

/* What the reference did: the tokens it evaluated, and its logits, row after row. */
struct reference {
    int32_t *tokens;
    size_t n_prompt, n_generated;
    size_t n_vocab;
    strata_name device; /* that held layers, or "none" */
    FILE *rows;
};

/* What is done with each row: recorded, or compared. */
typedef enum strata_status (*row_fn)(
    struct reference *ref, size_t position, const float *row, struct strata_error *err);

static enum strata_status record_row(
    struct reference *ref, size_t position, const float *row, struct strata_error *err)
{
    (void)position;
    if (fwrite(row, sizeof *row, ref->n_vocab, ref->rows) != ref->n_vocab) {
        return st_fail_errno(err, STRATA_E_IO, errno,
            "Make room in the directory for temporary files, or set TMPDIR.",
            "cannot keep the reference logits");
    }
    return STRATA_OK;
}

static enum strata_status compare_row(
    struct reference *ref, size_t position, const float *row, struct strata_error *err)
{
    float *want = st_xmalloc(ref->n_vocab * sizeof *want);
    enum strata_status status = STRATA_OK;
    if (fread(want, sizeof *want, ref->n_vocab, ref->rows) != ref->n_vocab) {
        status = st_fail(err, STRATA_E_IO, "", "cannot read the reference logits back");
    } else if (memcmp(want, row, ref->n_vocab * sizeof *want) != 0) {
        size_t i = 0, differ = 0, first = ref->n_vocab;
        for (; i < ref->n_vocab; i++) {
            if (memcmp(&want[i], &row[i], sizeof *row) != 0) {
                first = differ++ ? first : i;
            }
        }
        printf("different: position %zu (%s), %zu of %zu logits, the first at token %zu: "
               "llama.cpp %.9g, Strata %.9g\n",
            position, position < ref->n_prompt ? "prompt" : "generated", differ, ref->n_vocab,
            first, (double)want[first], (double)row[first]);
        status = STRATA_E_LLAMA; /* err stays empty: the difference is the result */
    }
    free(want);
    return status;
}

/* Evaluates tokens in passes of at most `batch`, handing on every row. */
static enum strata_status eval_rows(struct strata_session *session, struct reference *ref,
    size_t first, size_t n, size_t batch, row_fn use, struct strata_error *err)
{
    enum strata_status status = STRATA_OK;
    for (size_t done = 0; done < n && status == STRATA_OK;) {
        size_t count = n - done < batch ? n - done : batch;
        status = strata_eval(session, ref->tokens + first + done, count, true, err);
        for (size_t i = 0; i < count && status == STRATA_OK; i++) {
            status = use(ref, first + done + i, strata_logits(session, i), err);
        }
        done += count;
    }
    return status;
}

/* Tokens in a pass: what Strata would choose, if nobody said. Both must do the same. */
static enum strata_status choose_batch(struct generate_options *o, struct strata_error *err)
{
    struct strata_plan *plan;
    enum strata_status status = strata_plan_new(o->model_path, &o->model, &plan, err);
    if (status == STRATA_OK) {
        struct strata_placement placement;
        strata_plan_placement(plan, &placement);
        o->model.batch = placement.batch;
        strata_plan_free(plan);
    }
    return status;
}

/* --- The two runs -------------------------------------------------------------------------- */

static enum strata_status reference_tokens(struct strata_model *model,
    struct strata_session *session, const struct generate_options *o, struct reference *ref,
    struct strata_error *err)
{
    int32_t *prompt;
    enum strata_status status = generate_input(o, model, &prompt, &ref->n_prompt, err);
    if (status != STRATA_OK) {
        return status;
    }
    ref->n_vocab = (size_t)strata_model_n_vocab(model);
    ref->tokens = st_xrealloc(prompt, (ref->n_prompt + o->n_predict) * sizeof *prompt);
    status = strata_sampling_set(session, &o->sampling, err);
    for (size_t i = 0; status == STRATA_OK && i < ref->n_prompt; i++) {
        strata_sample_accept(session, ref->tokens[i]);
    }
    if (status == STRATA_OK) {
        status = eval_rows(session, ref, 0, ref->n_prompt, o->model.batch, record_row, err);
    }
    while (status == STRATA_OK && ref->n_generated < o->n_predict) {
        int32_t token = strata_sample(session);
        if (strata_model_is_eog(model, token) && !o->ignore_eos) {
            break;
        }
        size_t at = ref->n_prompt + ref->n_generated++;
        ref->tokens[at] = token;
        status = eval_rows(session, ref, at, 1, 1, record_row, err);
    }
    return status;
}

static enum strata_status strata_rows(struct strata_model *model, struct strata_session *session,
    const struct generate_options *o, struct reference *ref, struct strata_error *err)
{
    rewind(ref->rows);
    (void)model;
    enum strata_status status =
        eval_rows(session, ref, 0, ref->n_prompt, o->model.batch, compare_row, err);
    for (size_t i = 0; i < ref->n_generated && status == STRATA_OK; i++) {
        status = eval_rows(session, ref, ref->n_prompt + i, 1, 1, compare_row, err);
    }
    return status;
}

static enum strata_status one_run(
    struct generate_options *o, bool plain, struct reference *ref, struct strata_error *err)
{
    struct progress_line line;
    struct strata_model *model = NULL;
    struct strata_session *session = NULL;
    if (!o->quiet) {
        fprintf(stderr, "%s\n", plain ? "llama.cpp:" : "Strata:");
    }
    progress_init(&line, o->quiet);
    o->model.plain = plain;
    o->model.progress = progress_report;
    o->model.progress_user = &line;
    enum strata_status status = strata_model_load(o->model_path, &o->model, &model, err);
    progress_end(&line);
    if (status == STRATA_OK) {
        status = strata_session_new(model, &session, err);
    }
    if (status == STRATA_OK) {
        status = (plain ? reference_tokens : strata_rows)(model, session, o, ref, err);
    }
    if (status == STRATA_OK && plain) { /* the same layers for both, also if memory gets free */
        struct strata_placement placement;
        strata_model_placement(model, &placement);
        o->model.device_mem_bytes = placement.device.room_bytes;
        memcpy(ref->device, placement.device.name, sizeof ref->device);
        o->model.device = ref->device;
    }
    if (status == STRATA_OK && !plain) {
        struct strata_stats stats;
        struct strata_placement placement;
        strata_stats_get(session, &stats);
        strata_model_placement(model, &placement);
        if (!o->quiet) {
            stats_print(&stats, &placement);
        }
        if (o->stats_path) {
            status = stats_write(o->stats_path, &stats, err);
        }
    }
    strata_session_free(session);
    strata_model_free(model);
    return status;
}

int cmd_verify(int argc, char **argv)
{
    struct generate_options o;
    int rc = generate_parse("verify",
        "Evaluates the same tokens with plain llama.cpp and with Strata, and compares every row of "
        "logits bit by bit. Exit code 0: identical; 1: not, or something failed; 3: plain "
        "llama.cpp does not fit.",
        argc, argv, &o);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    struct strata_error err = {0};
    struct reference ref = {.rows = tmpfile()};
    enum strata_status status = STRATA_OK;
    o.model.all_logits = true;
    if (!ref.rows) {
        status = st_fail_errno(&err, STRATA_E_IO, errno, "Set TMPDIR to a writable directory.",
            "cannot make a temporary file");
    }
    if (status == STRATA_OK && o.model.batch == 0) {
        status = choose_batch(&o, &err);
    }
    if (status == STRATA_OK) {
        status = one_run(&o, true, &ref, &err);
    }
    if (status == STRATA_OK) {
        status = one_run(&o, false, &ref, &err);
    }
    if (status == STRATA_OK) {
        printf("identical: %zu prompt + %zu generated positions\n", ref.n_prompt, ref.n_generated);
    }
    if (ref.rows) {
        fclose(ref.rows);
    }
    free(ref.tokens);
    generate_release(&o);
    if (status == STRATA_OK) {
        return CMD_OK;
    }
    return err.status == STRATA_OK ? CMD_FAILED : cmd_fail(&err);
}
