/*
 * verify.c - strata verify: the promise, made checkable.
 *
 * Plain llama.cpp goes first: it evaluates the prompt and generates, and every row of logits goes
 * to a temporary file. Then it is gone, the model is loaded through Strata, the same tokens are
 * evaluated in the same passes, and every row is compared with the file bit by bit. (One after the
 * other: together they would need the memory of both, and llama.cpp offers every weight to a
 * registered device.)
 *
 * With several sequences the passes are those of the server: two more sequences come with each
 *
 *      pass 0   prompts of 0 and 1
 *      pass 1   a token of 0, a token of 1, prompts of 2 and 3, or pieces of them
 *      pass 2   a token of 0, 1, 2 and 3, ...
 *
 * until the first have all their tokens, and end. What a pass holds follows from which tokens there
 * are, and how many of them are evaluated: so the second run repeats the first.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/generate.h"
#include "serve/service.h"

#define ARRIVALS 2 /* sequences that come with each pass */

/* A prompt and its continuation. */
struct sequence {
    int32_t *tokens;
    size_t n_prompt, n; /* tokens of the prompt; in all */
    size_t n_done;      /* evaluated in this run */
    struct strata_sampler *sampler;
};

/* What the reference did: the tokens it evaluated, and its logits, row after row. */
struct reference {
    struct sequence *seqs;
    uint32_t n_seqs;
    size_t n_passes, n_prompt_rows, n_generated_rows; /* of a run */
    size_t n_vocab;
    strata_name device; /* that held layers, or "none" */
    FILE *rows;
};

static enum strata_status record_row(
    struct reference *ref, const float *row, struct strata_error *err)
{
    if (fwrite(row, sizeof *row, ref->n_vocab, ref->rows) != ref->n_vocab) {
        return st_fail_errno(err, STRATA_E_IO, errno,
            "Make room in the directory for temporary files, or set TMPDIR.",
            "cannot keep the reference logits");
    }
    return STRATA_OK;
}

static void print_difference(
    const struct reference *ref, int seq, size_t position, const float *want, const float *row)
{
    size_t differ = 0, first = ref->n_vocab;
    for (size_t i = 0; i < ref->n_vocab; i++) {
        if (memcmp(&want[i], &row[i], sizeof *row) != 0) {
            first = differ++ ? first : i;
        }
    }
    printf("different: ");
    if (ref->n_seqs > 1) {
        printf("sequence %d, ", seq);
    }
    printf("position %zu (%s), %zu of %zu logits, the first at token %zu: "
           "llama.cpp %.9g, Strata %.9g\n",
        position, position < ref->seqs[seq].n_prompt ? "prompt" : "generated", differ, ref->n_vocab,
        first, (double)want[first], (double)row[first]);
}

static enum strata_status compare_row(
    struct reference *ref, int seq, size_t position, const float *row, struct strata_error *err)
{
    float *want = st_xmalloc(ref->n_vocab * sizeof *want);
    enum strata_status status = STRATA_OK;
    if (fread(want, sizeof *want, ref->n_vocab, ref->rows) != ref->n_vocab) {
        status = st_fail(err, STRATA_E_IO, "", "cannot read the reference logits back");
    } else if (memcmp(want, row, ref->n_vocab * sizeof *want) != 0) {
        print_difference(ref, seq, position, want, row);
        status = STRATA_E_LLAMA; /* err stays empty: the difference is the result */
    }
    free(want);
    return status;
}

/* --- Passes -------------------------------------------------------------------------------- */

/* The server wants the last row of a prompt only; alone, every one is compared. */
static struct strata_item next_item(const struct reference *ref, int seq, size_t ahead)
{
    const struct sequence *s = &ref->seqs[seq];
    size_t at = s->n_done + ahead;
    return (struct strata_item){s->tokens[at], seq, ref->n_seqs == 1 || at + 1 >= s->n_prompt};
}

/* A token of each sequence that generates; then prompts, the first ones first. */
static size_t plan_pass(const struct reference *ref, uint32_t batch, struct strata_item *items)
{
    size_t n = 0, room, here = st_min(ref->n_seqs, ARRIVALS * (ref->n_passes + 1));
    for (size_t i = 0; i < here; i++) {
        const struct sequence *s = &ref->seqs[i];
        if (s->n_done >= s->n_prompt && s->n_done < s->n) {
            items[n++] = next_item(ref, (int)i, 0);
        }
    }
    room = n > 0 ? st_min(batch - n, st_service_piece(batch)) : batch;
    for (size_t i = 0; i < here; i++) {
        const struct sequence *s = &ref->seqs[i];
        for (size_t k = 0; room > 0 && s->n_done + k < s->n_prompt; k++, room--) {
            items[n++] = next_item(ref, (int)i, k);
        }
    }
    return n;
}

/* Adds the token that follows, if one does. */
static enum strata_status continue_sequence(const struct strata_model *model,
    struct strata_session *session, const struct generate_options *o, struct sequence *s,
    size_t row, struct strata_error *err)
{
    int32_t token;
    if (s->n - s->n_prompt == o->n_predict) {
        return STRATA_OK;
    }
    enum strata_status status = strata_sampler_pick(s->sampler, session, row, &token, err);
    if (status == STRATA_OK && (!strata_model_is_eog(model, token) || o->ignore_eos)) {
        s->tokens[s->n++] = token;
    }
    return status;
}

/* Evaluates all sequences. The reference records its rows and goes on by them. */
static enum strata_status run_passes(struct strata_model *model, struct strata_session *session,
    const struct generate_options *o, struct reference *ref, struct strata_error *err)
{
    uint32_t batch = strata_model_batch(model);
    struct strata_item *items = st_xcalloc(batch, sizeof *items);
    enum strata_status status = STRATA_OK;
    size_t n;
    ref->n_passes = ref->n_prompt_rows = ref->n_generated_rows = 0;
    for (uint32_t i = 0; i < ref->n_seqs; i++) {
        ref->seqs[i].n_done = 0;
    }
    while (status == STRATA_OK && (n = plan_pass(ref, batch, items)) > 0) {
        status = strata_decode(session, items, n, err);
        ref->n_passes++;
        for (size_t i = 0; i < n && status == STRATA_OK; i++) {
            struct sequence *s = &ref->seqs[items[i].seq];
            size_t position = s->n_done++;
            if (!items[i].logits) {
                continue;
            }
            ++*(position < s->n_prompt ? &ref->n_prompt_rows : &ref->n_generated_rows);
            const float *row = strata_logits(session, i);
            status = !o->model.plain ? compare_row(ref, items[i].seq, position, row, err)
                                     : record_row(ref, row, err);
            if (status == STRATA_OK && o->model.plain && s->n_done == s->n) {
                status = continue_sequence(model, session, o, s, i, err);
            }
        }
    }
    free(items);
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

/* Sequence i begins with the prompt's token i, and ends with those before it. */
static enum strata_status make_sequences(const struct strata_model *model,
    const struct generate_options *o, struct reference *ref, struct strata_error *err)
{
    int32_t *prompt;
    size_t n;
    enum strata_status status = generate_input(o, model, &prompt, &n, err);
    if (status != STRATA_OK) {
        return status;
    }
    ref->n_vocab = (size_t)strata_model_n_vocab(model);
    for (uint32_t i = 0; i < ref->n_seqs && status == STRATA_OK; i++) {
        struct sequence *s = &ref->seqs[i];
        struct strata_sampling sampling = o->sampling;
        sampling.seed += i;
        s->n = s->n_prompt = n;
        s->tokens = st_xmalloc((n + o->n_predict) * sizeof *s->tokens);
        status = strata_sampler_new(model, &sampling, NULL, &s->sampler, err);
        for (size_t k = 0; k < n && status == STRATA_OK; k++) {
            s->tokens[k] = prompt[(i + k) % n];
            strata_sampler_accept(s->sampler, s->tokens[k]);
        }
    }
    free(prompt);
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
    if (status == STRATA_OK && plain) {
        status = make_sequences(model, o, ref, err);
    }
    if (status == STRATA_OK) {
        rewind(ref->rows);
        status = run_passes(model, session, o, ref, err);
    }
    for (uint32_t i = 0; i < ref->n_seqs; i++) { /* they belong to the model */
        strata_sampler_free(ref->seqs[i].sampler);
        ref->seqs[i].sampler = NULL;
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

static void release(struct reference *ref)
{
    for (uint32_t i = 0; i < ref->n_seqs; i++) {
        free(ref->seqs[i].tokens);
    }
    free(ref->seqs);
    if (ref->rows) {
        fclose(ref->rows);
    }
}

static void print_identical(const struct reference *ref)
{
    printf("identical: %zu prompt + %zu generated positions", ref->n_prompt_rows,
        ref->n_generated_rows);
    if (ref->n_seqs > 1) {
        printf(" of %u sequences in %zu passes", ref->n_seqs, ref->n_passes);
    }
    printf("\n");
}

/* A file that is gone when it is closed; unlike tmpfile's, where TMPDIR says. */
static FILE *temporary_file(void)
{
    char path[1024];
    const char *dir = getenv("TMPDIR");
    int n = snprintf(path, sizeof path, "%s/strata-verify-XXXXXX", dir && *dir ? dir : "/tmp");
    errno = ENAMETOOLONG;
    int fd = n > 0 && (size_t)n < sizeof path ? mkstemp(path) : -1;
    if (fd < 0) {
        return NULL;
    }
    unlink(path);
    return fdopen(fd, "w+b");
}

int cmd_verify(int argc, char **argv)
{
    struct generate_options o;
    const struct cmd_option own[] = {{CMD_GROUP, .help = "As the server"},
        {CMD_UINT32, 0, "parallel", "N",
            "N sequences (the prompt, rotated by one more token each) in passes as strata serve "
            "makes them; of the prompts, the last row is compared",
            .target = &o.parallel, .min = 1, .max = 64}};
    generate_options_init(&o, 32);
    o.parallel = 1;
    int rc = generate_parse("verify",
        "Evaluates the same tokens with plain llama.cpp and with Strata, and compares every row of "
        "logits bit by bit. Exit code 0: identical; 1: not, or something failed; 3: plain "
        "llama.cpp, or Strata in its budget, does not fit.",
        own, argc, argv, &o);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    o.model.n_seq = o.parallel;
    o.model.all_logits = o.parallel == 1;
    struct strata_error err = {0};
    struct reference ref = {.rows = temporary_file(),
        .n_seqs = o.parallel,
        .seqs = st_xcalloc(o.parallel, sizeof *ref.seqs)};
    enum strata_status status = STRATA_OK;
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
        print_identical(&ref);
    }
    release(&ref);
    generate_release(&o);
    if (status == STRATA_OK) {
        return CMD_OK;
    }
    return err.status == STRATA_OK ? CMD_FAILED : cmd_fail(&err);
}
