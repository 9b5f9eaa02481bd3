/*
 * run.c - forebay run: continues a text.
 *
 *      options -> load the model -> evaluate the prompt -> sample, print, evaluate -> statistics
 *
 * The text goes to stdout, everything else to stderr. Ctrl-C ends generating after the current
 * pass; the statistics are still printed and written.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "cmd/cmd.h"
#include "cmd/figures.h"
#include "cmd/generate.h"
#include "cmd/progress.h"
#include "cmd/utf8.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    interrupted = 1;
    signal(sig, SIG_DFL); /* a second Ctrl-C ends the program at once */
}

static bool print_token(const struct forebay_model *model, const struct generate_options *o,
    struct utf8_begun *begun, int32_t token)
{
    if (o->ids || !forebay_model_has_text(model)) {
        printf("%d\n", token);
    } else {
        char piece[1024];
        utf8_print(begun, piece, forebay_token_bytes(model, token, piece, sizeof piece), stdout);
    }
    return fflush(stdout) == 0;
}

static bool context_full(const struct forebay_model *model, const struct forebay_session *session,
    const struct generate_options *o)
{
    uint32_t ctx = forebay_model_ctx(model);
    if (forebay_session_n_past(session) < ctx) {
        return false;
    }
    if (!o->quiet) {
        fprintf(stderr, "\nstopped: the context of %u tokens is full; --ctx sets its size\n", ctx);
    }
    return true;
}

/* Says that a model made for chats continues the bare prompt. */
static void note_template(const struct forebay_model *model, const struct generate_options *o)
{
    struct forebay_chat *chat;
    if (o->quiet || o->chat || o->tokens || !forebay_model_has_text(model) ||
        forebay_chat_new(model, NULL, &chat, NULL) != FOREBAY_OK) {
        return;
    }
    if (!forebay_chat_is_default(chat)) {
        fprintf(stderr, "note: the model has a chat template; with --chat it is applied\n");
    }
    forebay_chat_free(chat);
}

/* --- Generating ---------------------------------------------------------------------------- */

/* Samples and prints up to n_predict tokens. *n: number of tokens printed. */
static enum forebay_status continue_text(struct forebay_model *model,
    struct forebay_session *session, const struct generate_options *o, uint32_t *n,
    struct forebay_error *err)
{
    struct utf8_begun begun = {.clean = isatty(STDOUT_FILENO)};
    while (*n < o->n_predict && !interrupted) {
        int32_t token = forebay_sample(session);
        if (forebay_model_is_eog(model, token) && !o->ignore_eos) {
            break;
        }
        if (!print_token(model, o, &begun, token)) {
            return fb_fail_errno(err, FOREBAY_E_IO, errno, "", "cannot write to standard output");
        }
        if (++*n == o->n_predict || context_full(model, session, o)) {
            break;
        }
        enum forebay_status status = forebay_eval(session, &token, 1, false, err);
        if (status != FOREBAY_OK) {
            return status;
        }
    }
    return FOREBAY_OK;
}

static enum forebay_status generate(struct forebay_model *model, struct forebay_session *session,
    const struct generate_options *o, struct forebay_error *err)
{
    int32_t *prompt = NULL;
    size_t n_prompt = 0;
    uint32_t n = 0;
    enum forebay_status status = generate_input(o, model, &prompt, &n_prompt, err);
    if (status == FOREBAY_OK) {
        status = forebay_sampling_set(session, &o->sampling, err);
    }
    for (size_t i = 0; status == FOREBAY_OK && i < n_prompt; i++) {
        forebay_sample_accept(session, prompt[i]);
    }
    if (status == FOREBAY_OK) {
        status = forebay_eval(session, prompt, n_prompt, false, err);
    }
    if (status == FOREBAY_OK) {
        status = continue_text(model, session, o, &n, err);
    }
    if (!o->ids && forebay_model_has_text(model) && n > 0) {
        printf("\n");
    }
    fflush(stdout);
    free(prompt);
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct generate_options o;
    const struct cmd_option own[3] = {
        {CMD_FLAG, 0, "chat", NULL,
            "take the prompt as a message, and apply the model's chat template", .target = &o.chat},
        {CMD_FLAG, 0, "ids", NULL, "print token ids, one per line, instead of text",
            .target = &o.ids},
        {CMD_STRING, 0, "trace-out", "FILE",
            "write the experts that each token uses, for forebay sim", .target = &o.trace_path}};
    generate_options_init(&o, 128);
    o.reads_stdin = true;
    int rc = generate_parse("run",
        "Continues a text with a model that may be bigger than memory. Without another prompt, "
        "what "
        "is piped into standard input is continued, except a newline at its end. The text goes to "
        "standard output; progress and statistics go to standard error.",
        own, argc, argv, &o);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    struct forebay_error err = {0};
    struct progress_line line;
    struct forebay_model *model = NULL;
    struct forebay_session *session = NULL;
    progress_init(&line, o.quiet);
    o.model.progress = progress_report;
    o.model.progress_user = &line;
    enum forebay_status status = forebay_model_load(o.model_path, &o.model, &model, &err);
    progress_end(&line);
    if (status == FOREBAY_OK) {
        status = forebay_session_new(model, &session, &err);
    }
    if (status == FOREBAY_OK && o.trace_path) {
        status = forebay_trace_start(session, o.trace_path, &err);
    }
    if (status == FOREBAY_OK) {
        note_template(model, &o);
        if (!o.quiet && !o.verbose) {
            forebay_log_set_level(FOREBAY_LOG_INFO); /* shows changes of the memory in use */
        }
        signal(SIGINT, on_interrupt);
        status = generate(model, session, &o, &err);
        signal(SIGINT, SIG_DFL);
    }
    if (session) { /* after a failure, too: the statistics show its progress */
        struct forebay_stats stats;
        struct forebay_placement placement;
        forebay_stats_get(session, &stats);
        forebay_model_placement(model, &placement);
        if (!o.quiet) {
            figures_print(&stats, &placement);
        }
        if (o.stats_path && status == FOREBAY_OK) {
            status = figures_write(o.stats_path, &stats, &err);
        }
    }
    if (session) {
        struct forebay_error trace_err;
        enum forebay_status trace_status = forebay_trace_stop(session, &trace_err);
        if (trace_status != FOREBAY_OK && status == FOREBAY_OK) {
            status = trace_status;
            err = trace_err;
        }
    }
    forebay_session_free(session);
    forebay_model_free(model);
    generate_release(&o);
    if (status != FOREBAY_OK) {
        return cmd_fail(&err);
    }
    return interrupted ? CMD_INTERRUPTED : CMD_OK;
}
