/* run.c - strata run: continue a text. The text goes to stdout, everything else to stderr. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "cmd/generate.h"
#include "cmd/utf8.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    interrupted = 1;
    signal(sig, SIG_DFL); /* a second time, it need not wait for the end of the pass */
}

static bool put_token(const struct strata_model *model, const struct generate_options *o,
    struct utf8_begun *begun, int32_t token)
{
    if (o->ids || !strata_model_has_text(model)) {
        printf("%d\n", token);
    } else {
        char piece[1024];
        utf8_print(begun, piece, strata_token_bytes(model, token, piece, sizeof piece), stdout);
    }
    return fflush(stdout) == 0;
}

static bool context_full(const struct strata_model *model, const struct strata_session *session,
    const struct generate_options *o)
{
    uint32_t ctx = strata_model_ctx(model);
    if (strata_session_n_past(session) < ctx) {
        return false;
    }
    if (!o->quiet) {
        fprintf(stderr, "\nstopped: the context of %u tokens is full (--ctx)\n", ctx);
    }
    return true;
}

/* --- Generating ---------------------------------------------------------------------------- */

/* Samples and prints up to n_predict tokens. *n: those printed. */
static enum strata_status go_on(struct strata_model *model, struct strata_session *session,
    const struct generate_options *o, uint32_t *n, struct strata_error *err)
{
    struct utf8_begun begun = {0};
    while (*n < o->n_predict && !interrupted) {
        int32_t token = strata_sample(session);
        if (strata_model_is_eog(model, token) && !o->ignore_eos) {
            break;
        }
        if (!put_token(model, o, &begun, token)) {
            return st_fail_errno(err, STRATA_E_IO, errno, "", "cannot write to standard output");
        }
        if (++*n == o->n_predict || context_full(model, session, o)) {
            break;
        }
        enum strata_status status = strata_eval(session, &token, 1, false, err);
        if (status != STRATA_OK) {
            return status;
        }
    }
    return STRATA_OK;
}

static enum strata_status generate(struct strata_model *model, struct strata_session *session,
    const struct generate_options *o, struct strata_error *err)
{
    int32_t *prompt = NULL;
    size_t n_prompt = 0;
    uint32_t n = 0;
    enum strata_status status = generate_input(o, model, &prompt, &n_prompt, err);
    if (status == STRATA_OK) {
        status = strata_sampling_set(session, &o->sampling, err);
    }
    for (size_t i = 0; status == STRATA_OK && i < n_prompt; i++) {
        strata_sample_accept(session, prompt[i]);
    }
    if (status == STRATA_OK) {
        status = strata_eval(session, prompt, n_prompt, false, err);
    }
    if (status == STRATA_OK) {
        status = go_on(model, session, o, &n, err);
    }
    if (!o->ids && strata_model_has_text(model) && n > 0) {
        printf("\n");
    }
    fflush(stdout);
    free(prompt);
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct generate_options o;
    const struct cmd_option own[] = {
        {CMD_FLAG, 0, "ids", NULL, "print token ids, one a line, instead of text",
            .target = &o.ids},
        {CMD_STRING, 0, "trace-out", "FILE", "write which experts each token used, for strata sim",
            .target = &o.trace_path}};
    generate_options_init(&o, 128);
    int rc = generate_parse("run",
        "Continues a text with a model that may be bigger than memory. The text goes to standard "
        "output; progress and figures go to standard error.",
        own, argc, argv, &o);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    struct strata_error err = {0};
    struct progress_line line;
    struct strata_model *model = NULL;
    struct strata_session *session = NULL;
    progress_init(&line, o.quiet);
    o.model.progress = progress_report;
    o.model.progress_user = &line;
    enum strata_status status = strata_model_load(o.model_path, &o.model, &model, &err);
    progress_end(&line);
    if (status == STRATA_OK) {
        status = strata_session_new(model, &session, &err);
    }
    if (status == STRATA_OK && o.trace_path) {
        status = strata_trace_start(session, o.trace_path, &err);
    }
    if (status == STRATA_OK) {
        if (!o.quiet && !o.verbose) {
            strata_log_set_level(STRATA_LOG_INFO); /* that memory gets short is no warning */
        }
        signal(SIGINT, on_interrupt);
        status = generate(model, session, &o, &err);
        signal(SIGINT, SIG_DFL);
    }
    if (session) { /* also after a failure: the figures say how far it came */
        struct strata_stats stats;
        struct strata_placement placement;
        strata_stats_get(session, &stats);
        strata_model_placement(model, &placement);
        if (!o.quiet) {
            stats_print(&stats, &placement);
        }
        if (o.stats_path && status == STRATA_OK) {
            status = stats_write(o.stats_path, &stats, &err);
        }
    }
    if (session) {
        struct strata_error trace_err;
        enum strata_status trace_status = strata_trace_stop(session, &trace_err);
        if (trace_status != STRATA_OK && status == STRATA_OK) {
            status = trace_status;
            err = trace_err;
        }
    }
    strata_session_free(session);
    strata_model_free(model);
    generate_release(&o);
    if (status != STRATA_OK) {
        return cmd_fail(&err);
    }
    return interrupted ? CMD_INTERRUPTED : CMD_OK;
}
