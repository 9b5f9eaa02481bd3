/* run.c - strata run: continue a text. The text goes to stdout, everything else to stderr. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cmd/generate.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* --- Whole characters only ----------------------------------------------------------------- */

/* Tokens may end in the middle of a UTF-8 character; the rest of it waits here. */
struct utf8_out {
    char held[8];
    size_t n;
};

/* Length of the longest prefix that does not end inside a character that may still be completed. */
static size_t whole(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xc0) == 0x80) {
            continue;
        }
        size_t need = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return need > back ? n - back : n;
    }
    return n;
}

static void put_text(struct utf8_out *out, const char *bytes, size_t n)
{
    char buf[sizeof out->held + 1024];
    memcpy(buf, out->held, out->n);
    while (n > 0 || out->n > 0) {
        size_t take = n < 1024 ? n : 1024;
        memcpy(buf + out->n, bytes, take);
        size_t total = out->n + take, ready = whole(buf, total);
        fwrite(buf, 1, ready, stdout);
        out->n = total - ready;
        memcpy(out->held, buf + ready, out->n);
        memmove(buf, buf + ready, out->n);
        bytes += take;
        n -= take;
        if (n == 0) {
            break;
        }
    }
}

static bool put_token(const struct strata_model *model, const struct generate_options *o,
    struct utf8_out *out, int32_t token)
{
    if (o->ids || !strata_model_has_text(model)) {
        printf("%d\n", token);
    } else {
        char piece[1024];
        put_text(out, piece, strata_token_bytes(model, token, piece, sizeof piece));
    }
    return fflush(stdout) == 0;
}

/* --- Generating ---------------------------------------------------------------------------- */

static enum strata_status generate(struct strata_model *model, struct strata_session *session,
    const struct generate_options *o, struct strata_error *err)
{
    int32_t *prompt = NULL;
    size_t n_prompt = 0;
    struct utf8_out out = {0};
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
    for (uint32_t i = 0; status == STRATA_OK && i < o->n_predict && !interrupted; i++) {
        int32_t token = strata_sample(session);
        if (strata_model_is_eog(model, token) && !o->ignore_eos) {
            break;
        }
        if (!put_token(model, o, &out, token)) {
            status = st_fail(err, STRATA_E_IO, "", "cannot write to standard output");
        } else if (i + 1 < o->n_predict) {
            status = strata_eval(session, &token, 1, false, err);
        }
    }
    fwrite(out.held, 1, out.n, stdout);
    if (!o->ids && strata_model_has_text(model) && n_prompt > 0) {
        printf("\n");
    }
    fflush(stdout);
    free(prompt);
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct generate_options o;
    int rc = generate_parse("run",
        "Continues a text with a model that may be bigger than memory. The text goes to standard "
        "output;\nprogress and figures go to standard error.",
        argc, argv, &o);
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
    if (status == STRATA_OK) {
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
    strata_session_free(session);
    strata_model_free(model);
    generate_release(&o);
    return status == STRATA_OK ? CMD_OK : cmd_fail(&err);
}
