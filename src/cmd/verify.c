/*
 * verify.c - forebay verify: checks that Forebay's logits equal llama.cpp's bit by bit.
 *
 * The first run loads the model with plain llama.cpp, evaluates the prompt, generates, and writes
 * every row of logits to a temporary file. The second run loads it with Forebay, evaluates the same
 * tokens in the same passes, and compares every row with the file. The runs follow each other: two
 * loaded models would need the memory of both, and llama.cpp offers every weight to a registered
 * device.
 *
 * With several sequences the passes are like the server's. Each pass starts two more sequences:
 *
 *      pass 0   prompts of 0 and 1
 *      pass 1   a token of 0 and of 1; prompts of 2 and 3, or pieces of them
 *      pass 2   a token of 0, 1, 2 and 3; prompts of 4 and 5, ...
 *
 * A sequence ends when it has all its tokens. The contents of a pass depend only on the tokens and
 * on how many of them are evaluated, so the second run repeats the passes of the first.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/figures.h"
#include "cmd/generate.h"
#include "cmd/progress.h"
#include "serve/service.h"

#define NEW_PER_PASS 2 /* sequences started by each pass */

/* A prompt and its continuation. */
struct verify_sequence {
    int32_t *tokens;
    size_t n_prompt, n; /* tokens: of the prompt, in total */
    size_t n_done;      /* evaluated in this run */
    struct forebay_sampler *sampler;
};

/* The reference: the tokens of the first run, and its logits, row after row. */
struct reference {
    struct verify_sequence *seqs;
    uint32_t n_seqs;
    size_t n_passes, n_prompt_rows, n_generated_rows; /* of the current run */
    size_t n_vocab;
    char device_experts[32];
    char devices[FOREBAY_DEVICES * sizeof(forebay_name)]; /* that layers were offloaded to */
    FILE *rows;
};

static enum forebay_status record_row(
    struct reference *ref, const float *row, struct forebay_error *err)
{
    if (fwrite(row, sizeof *row, ref->n_vocab, ref->rows) != ref->n_vocab) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno,
            "Free space in the directory for temporary files, or set TMPDIR to another one.",
            "cannot write the reference logits to a temporary file");
    }
    return FOREBAY_OK;
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
           "llama.cpp %.9g, Forebay %.9g\n",
        position, position < ref->seqs[seq].n_prompt ? "prompt" : "generated", differ, ref->n_vocab,
        first, (double)want[first], (double)row[first]);
}

static enum forebay_status compare_row(
    struct reference *ref, int seq, size_t position, const float *row, struct forebay_error *err)
{
    float *want = fb_xmalloc(ref->n_vocab * sizeof *want);
    enum forebay_status status = FOREBAY_OK;
    if (fread(want, sizeof *want, ref->n_vocab, ref->rows) != ref->n_vocab) {
        status = fb_fail(
            err, FOREBAY_E_IO, "", "cannot read the reference logits from the temporary file");
    } else if (memcmp(want, row, ref->n_vocab * sizeof *want) != 0) {
        print_difference(ref, seq, position, want, row);
        status = FOREBAY_E_LLAMA; /* err stays empty: the difference is the result */
    }
    free(want);
    return status;
}

/* --- Passes -------------------------------------------------------------------------------- */

/* The token `offset` places behind those evaluated. Several sequences ask for the logits of a
 * prompt's last token only, like the server; a single sequence asks for those of every token. */
static struct forebay_item next_item(const struct reference *ref, int seq, size_t offset)
{
    const struct verify_sequence *s = &ref->seqs[seq];
    size_t at = s->n_done + offset;
    return (struct forebay_item){s->tokens[at], seq, ref->n_seqs == 1 || at + 1 >= s->n_prompt};
}

/* One token of each generating sequence, then tokens of prompts, in the order of sequences. */
static size_t plan_pass(const struct reference *ref, uint32_t batch, struct forebay_item *items)
{
    size_t n = 0, room, started = fb_min(ref->n_seqs, NEW_PER_PASS * (ref->n_passes + 1));
    for (size_t i = 0; i < started; i++) {
        const struct verify_sequence *s = &ref->seqs[i];
        if (s->n_done >= s->n_prompt && s->n_done < s->n) {
            items[n++] = next_item(ref, (int)i, 0);
        }
    }
    room = n > 0 ? fb_min(batch - n, fb_service_piece(batch)) : batch;
    for (size_t i = 0; i < started; i++) {
        const struct verify_sequence *s = &ref->seqs[i];
        for (size_t k = 0; room > 0 && s->n_done + k < s->n_prompt; k++, room--) {
            items[n++] = next_item(ref, (int)i, k);
        }
    }
    return n;
}

/* Samples the next token and adds it, unless the sequence has ended. */
static enum forebay_status continue_sequence(const struct forebay_model *model,
    struct forebay_session *session, const struct generate_options *o, struct verify_sequence *s,
    size_t row, struct forebay_error *err)
{
    int32_t token;
    if (s->n - s->n_prompt == o->n_predict) {
        return FOREBAY_OK;
    }
    enum forebay_status status = forebay_sampler_pick(s->sampler, session, row, &token, err);
    if (status == FOREBAY_OK && (!forebay_model_is_eog(model, token) || o->ignore_eos)) {
        s->tokens[s->n++] = token;
    }
    return status;
}

/* Evaluates all sequences. The first run records its rows and samples from them; the second
 * compares. */
static enum forebay_status run_passes(struct forebay_model *model, struct forebay_session *session,
    const struct generate_options *o, struct reference *ref, struct forebay_error *err)
{
    uint32_t batch = forebay_model_batch(model);
    struct forebay_item *items = fb_xcalloc(batch, sizeof *items);
    enum forebay_status status = FOREBAY_OK;
    size_t n;
    ref->n_passes = ref->n_prompt_rows = ref->n_generated_rows = 0;
    for (uint32_t i = 0; i < ref->n_seqs; i++) {
        ref->seqs[i].n_done = 0;
    }
    while (status == FOREBAY_OK && (n = plan_pass(ref, batch, items)) > 0) {
        status = forebay_decode(session, items, n, err);
        ref->n_passes++;
        for (size_t i = 0; i < n && status == FOREBAY_OK; i++) {
            struct verify_sequence *s = &ref->seqs[items[i].seq];
            size_t position = s->n_done++;
            if (!items[i].logits) {
                continue;
            }
            ++*(position < s->n_prompt ? &ref->n_prompt_rows : &ref->n_generated_rows);
            const float *row = forebay_logits(session, i);
            status = !o->model.plain ? compare_row(ref, items[i].seq, position, row, err)
                                     : record_row(ref, row, err);
            if (status == FOREBAY_OK && o->model.plain && s->n_done == s->n) {
                status = continue_sequence(model, session, o, s, i, err);
            }
        }
    }
    free(items);
    return status;
}

/* Without --batch: uses the batch that Forebay would choose, for both runs. */
static enum forebay_status choose_batch(struct generate_options *o, struct forebay_error *err)
{
    struct forebay_plan *plan;
    enum forebay_status status = forebay_plan_new(o->model_path, &o->model, &plan, err);
    if (status == FOREBAY_OK) {
        struct forebay_placement placement;
        forebay_plan_placement(plan, &placement);
        o->model.batch = placement.batch;
        forebay_plan_free(plan);
    }
    return status;
}

/* --- The two runs -------------------------------------------------------------------------- */

/* The prompt of sequence i is the prompt rotated left by i tokens. */
static enum forebay_status make_sequences(const struct forebay_model *model,
    const struct generate_options *o, struct reference *ref, struct forebay_error *err)
{
    int32_t *prompt;
    size_t n;
    enum forebay_status status = generate_input(o, model, &prompt, &n, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    ref->n_vocab = (size_t)forebay_model_n_vocab(model);
    for (uint32_t i = 0; i < ref->n_seqs && status == FOREBAY_OK; i++) {
        struct verify_sequence *s = &ref->seqs[i];
        struct forebay_sampling sampling = o->sampling;
        sampling.seed += i;
        s->n = s->n_prompt = n;
        s->tokens = fb_xmalloc((n + o->n_predict) * sizeof *s->tokens);
        status = forebay_sampler_new(model, &sampling, NULL, &s->sampler, err);
        for (size_t k = 0; k < n && status == FOREBAY_OK; k++) {
            s->tokens[k] = prompt[(i + k) % n];
            forebay_sampler_accept(s->sampler, s->tokens[k]);
        }
    }
    free(prompt);
    return status;
}

/* The second run gets the devices of the first, with the same room and the same layers' experts. */
static void use_devices_again(const struct forebay_placement *placement, struct reference *ref,
    struct forebay_model_options *model)
{
    size_t used = 0;
    int n_slotted = 0, n_whole = 0;
    bool shared = false;
    snprintf(ref->devices, sizeof ref->devices, "none");
    for (int d = 0; d < placement->n_devices; d++) {
        const struct forebay_device_use *use = &placement->devices[d];
        used += (size_t)snprintf(
            ref->devices + used, sizeof ref->devices - used, "%s%s", used ? "," : "", use->name);
        model->device_mem_bytes[d] = use->room_bytes;
        n_slotted += use->n_slotted;
        n_whole += use->n_whole;
        shared = shared || use->slots_shared;
    }
    const char *form = n_slotted == 0 ? "layers" : shared ? "slots:%d" : "copies:%d";
    snprintf(ref->device_experts, sizeof ref->device_experts, form, n_whole);
    model->device_experts = ref->device_experts;
    model->n_device_mem = placement->n_devices;
    model->device = ref->devices;
}

static enum forebay_status one_run(
    struct generate_options *o, bool plain, struct reference *ref, struct forebay_error *err)
{
    struct progress_line line;
    struct forebay_model *model = NULL;
    struct forebay_session *session = NULL;
    if (!o->quiet) {
        fprintf(stderr, "%s\n", plain ? "llama.cpp:" : "Forebay:");
    }
    progress_init(&line, o->quiet);
    o->model.plain = plain;
    o->model.progress = progress_report;
    o->model.progress_user = &line;
    enum forebay_status status = forebay_model_load(o->model_path, &o->model, &model, err);
    progress_end(&line);
    if (status == FOREBAY_OK) {
        status = forebay_session_new(model, &session, err);
    }
    if (status == FOREBAY_OK && plain) {
        status = make_sequences(model, o, ref, err);
    }
    if (status == FOREBAY_OK) {
        rewind(ref->rows);
        status = run_passes(model, session, o, ref, err);
    }
    for (uint32_t i = 0; i < ref->n_seqs; i++) { /* must be freed before the model */
        forebay_sampler_free(ref->seqs[i].sampler);
        ref->seqs[i].sampler = NULL;
    }
    if (status == FOREBAY_OK &&
        plain) { /* the same context and offloaded layers in the second run */
        struct forebay_placement placement;
        o->model.ctx = forebay_model_ctx(model);
        forebay_model_placement(model, &placement);
        use_devices_again(&placement, ref, &o->model);
    }
    if (status == FOREBAY_OK && !plain) {
        struct forebay_stats stats;
        struct forebay_placement placement;
        forebay_stats_get(session, &stats);
        forebay_model_placement(model, &placement);
        if (!o->quiet) {
            figures_print(&stats, &placement);
        }
        if (o->stats_path) {
            status = figures_write(o->stats_path, &stats, err);
        }
    }
    forebay_session_free(session);
    forebay_model_free(model);
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

/* A file that is deleted when it is closed. Unlike tmpfile, uses TMPDIR. */
static FILE *temporary_file(void)
{
    char path[1024];
    const char *dir = getenv("TMPDIR");
    int n = snprintf(path, sizeof path, "%s/forebay-verify-XXXXXX", dir && *dir ? dir : "/tmp");
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
    const struct cmd_option own[] = {{CMD_GROUP, .help = "Several sequences"},
        {CMD_UINT32, 0, "parallel", "N",
            "evaluate N sequences in passes like those of forebay serve; each has the prompt "
            "rotated by one more token, and only the last row of a prompt is compared",
            .target = &o.parallel, .min = 1, .max = 64},
        {0}};
    generate_options_init(&o, 32);
    o.parallel = 1;
    int rc = generate_parse("verify",
        "Evaluates the same tokens with plain llama.cpp and with Forebay, and compares every row "
        "of logits bit by bit. Exit code 0: identical; 1: different, or an error; 3: the model "
        "does not fit into memory with plain llama.cpp, or into the budget with Forebay.",
        own, argc, argv, &o);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    o.model.n_seq = o.parallel;
    o.model.all_logits = o.parallel == 1;
    struct forebay_error err = {0};
    struct reference ref = {.rows = temporary_file(),
        .n_seqs = o.parallel,
        .seqs = fb_xcalloc(o.parallel, sizeof *ref.seqs)};
    enum forebay_status status = FOREBAY_OK;
    if (!ref.rows) {
        status = fb_fail_errno(&err, FOREBAY_E_IO, errno, "Set TMPDIR to a writable directory.",
            "cannot create a temporary file");
    }
    if (status == FOREBAY_OK && o.model.batch == 0) {
        status = choose_batch(&o, &err);
    }
    if (status == FOREBAY_OK) {
        status = one_run(&o, true, &ref, &err);
    }
    if (status == FOREBAY_OK) {
        status = one_run(&o, false, &ref, &err);
    }
    if (status == FOREBAY_OK) {
        print_identical(&ref);
    }
    release(&ref);
    generate_release(&o);
    if (status == FOREBAY_OK) {
        return CMD_OK;
    }
    return err.status == FOREBAY_OK ? CMD_FAILED : cmd_fail(&err);
}
