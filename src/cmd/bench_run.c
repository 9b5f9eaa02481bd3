/*
 * bench_run.c - one run of a benchmark, in a child process.
 *
 *      parent: fork -------------------------------------------- read the pipe, wait
 *      child:       load, prompt, warm-up, measured tokens, write struct bench_run to the pipe
 *
 * A process can load one model at a time, and memory, threads and the registered device of an
 * earlier run would affect the next one. The parent uses neither ggml nor a GPU, so a fork without
 * exec is safe.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/bench_run.h"
#include "cmd/progress.h"

static const char default_text[] =
    "The harbour was quiet when the survey ship came in. Nobody on the pier had expected her "
    "before the end of the month, and the two men who took her lines asked at once what had gone "
    "wrong. Nothing had, said the mate: the weather had held, the instruments had worked, and "
    "every depth on the northern half of the sheet had been measured twice. What they had found "
    "there was another matter. Where the old chart showed forty fathoms of mud there was a ridge "
    "of clean rock, nine miles long, which rose so steeply that the sounding line had touched it "
    "on one side of the boat and not on the other. In the evening the captain drew it in with a "
    "fine pen, compared each figure with the notebook, and wrote the date beside it. Then she put "
    "out the lamp and listened to the water for a while. A chart, she had been taught, is a "
    "promise made to people one will never meet. ";

/* --- The child ----------------------------------------------------------------------------- */

/* The tokens of the input. If it may be `cut`, a text that does not fit into the context is cut
 * until it does. */
static enum forebay_status read_input(const struct generate_options *input, bool cut,
    const struct forebay_model *model, int32_t **out, size_t *n, struct forebay_error *err)
{
    struct generate_options part = *input;
    enum forebay_status status = generate_input(input, model, out, n, err);
    if (!cut || status != FOREBAY_E_CONTEXT || input->tokens) {
        return status;
    }
    char *copy = NULL;
    if (!part.text) {
        part.text = copy = fb_xstrdup(part.prompt);
        part.text_length = strlen(copy);
    }
    while (status == FOREBAY_E_CONTEXT && part.text_length > 1) {
        part.text_length -= part.text_length / 16 + 1;
        while (
            part.text_length > 1 && ((unsigned char)part.text[part.text_length] & 0xc0) == 0x80) {
            part.text_length--; /* not within a character */
        }
        status = generate_input(&part, model, out, n, err);
    }
    free(copy);
    return status;
}

/* The prompt, cut or repeated to --prompt-tokens. */
static enum forebay_status make_prompt(const struct bench_options *o,
    const struct forebay_model *model, int32_t **out, size_t *n, struct forebay_error *err)
{
    struct generate_options input = o->generate;
    int32_t no_text[] = {0};
    bool given = input.prompt || input.file || input.tokens;
    if (!given && forebay_model_has_text(model)) {
        input.prompt = default_text;
    } else if (!given) {
        input.tokens = no_text;
        input.n_tokens = 1;
    }
    enum forebay_status status = read_input(&input, o->prompt_tokens > 0, model, out, n, err);
    if (status != FOREBAY_OK || o->prompt_tokens == 0) {
        return status;
    }
    size_t length = *n, first = length > 1 && !input.tokens; /* do not repeat BOS */
    *out = fb_xrealloc(*out, o->prompt_tokens * sizeof **out);
    for (size_t i = length; i < o->prompt_tokens; i++) {
        (*out)[i] = (*out)[first + (i - length) % (length - first)];
    }
    *n = o->prompt_tokens;
    return FOREBAY_OK;
}

/* Generates n tokens, or fewer if the time limit is reached, but at least one. */
static enum forebay_status generate(struct forebay_session *session, const struct bench_options *o,
    uint32_t n, int32_t *token, struct bench_run *run, struct forebay_error *err)
{
    uint64_t start = fb_now_ns();
    enum forebay_status status = FOREBAY_OK;
    run->n_measured = 0;
    while (run->n_measured < n && status == FOREBAY_OK) {
        if (run->n_measured > 0 && (double)(fb_now_ns() - start) * 1e-9 > (double)o->seconds) {
            break;
        }
        status = forebay_eval(session, token, 1, false, err);
        if (status == FOREBAY_OK) {
            run->n_measured++;
            *token = forebay_sample(session);
            if (run->n_ids < BENCH_IDS) {
                run->ids[run->n_ids++] = *token;
            }
        }
    }
    return status;
}

static enum forebay_status measure(struct forebay_model *model, struct forebay_session *session,
    const struct bench_options *o, struct bench_run *run, struct forebay_error *err)
{
    int32_t *prompt = NULL;
    size_t n = 0;
    enum forebay_status status = make_prompt(o, model, &prompt, &n, err);
    if (status == FOREBAY_OK) {
        status = forebay_eval(session, prompt, n, false, err);
    }
    free(prompt);
    if (status != FOREBAY_OK) {
        return status;
    }
    int32_t token = forebay_sample(session);
    run->ids[run->n_ids++] = token;
    forebay_stats_get(session, &run->prompt);
    if (o->warmup > 0) {
        status = generate(session, o, o->warmup, &token, run, err);
    }
    forebay_stats_get(session, &run->start);
    if (status == FOREBAY_OK) {
        status = generate(session, o, o->generate.n_predict, &token, run, err);
    }
    forebay_stats_get(session, &run->end);
    return status;
}

static void run_model(
    const struct bench_options *o, enum bench_program program, struct bench_run *run)
{
    struct forebay_model_options options = o->generate.model;
    struct forebay_model *model = NULL;
    struct forebay_session *session = NULL;
    struct progress_line line;
    progress_init(&line, o->generate.quiet);
    options.progress = progress_report;
    options.progress_user = &line;
    if (program == BENCH_LLAMA) {
        options.plain = options.mmap = true;
        options.repack = options.repack && o->llama_repacks;
    }
    enum forebay_status status =
        forebay_model_load(o->generate.model_path, &options, &model, &run->err);
    progress_end(&line);
    if (status == FOREBAY_OK) {
        forebay_model_placement(model, &run->placement);
        status = forebay_session_new(model, &session, &run->err);
    }
    if (status == FOREBAY_OK) {
        status = measure(model, session, o, run, &run->err);
    }
    forebay_session_free(session);
    forebay_model_free(model);
    run->err.status = status;
}

static bool send_run(int fd, const struct bench_run *run)
{
    const char *at = (const char *)run;
    for (size_t left = sizeof *run; left > 0;) {
        ssize_t n = write(fd, at, left);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        at += n > 0 ? n : 0;
        left -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* --- The parent ---------------------------------------------------------------------------- */

static bool receive_run(int fd, struct bench_run *run)
{
    size_t got = 0;
    while (got < sizeof *run) {
        ssize_t n = read(fd, (char *)run + got, sizeof *run - got);
        if (n == 0 || (n < 0 && errno != EINTR)) {
            return false;
        }
        got += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static enum forebay_status died(enum bench_program program, int status,
    const struct bench_options *o, struct forebay_error *err)
{
    const char *name = program == BENCH_LLAMA ? "llama.cpp" : "Forebay";
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
        return fb_fail(err, FOREBAY_E_NOMEM,
            "The likely reason is lack of memory: raise the limit of the container or machine.",
            "the process running %s with %s was killed", o->generate.model_path, name);
    }
    return fb_fail(err, FOREBAY_E_LLAMA, "Its messages are above; --verbose shows more.",
        "the process running %s with %s ended with %s %d", o->generate.model_path, name,
        WIFSIGNALED(status) ? "signal" : "exit code",
        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

enum forebay_status bench_run(const struct bench_options *o, enum bench_program program,
    struct bench_run *run, struct forebay_error *err)
{
    int ends[2], status = 0;
    *run = (struct bench_run){0};
    if (pipe(ends) != 0) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno, "", "cannot create a pipe");
    }
    fflush(NULL); /* otherwise the child would write its copy of the buffers, too */
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        run_model(o, program, run);
        fflush(NULL);
        _exit(send_run(ends[1], run) ? 0 : 1);
    }
    int failed = child < 0 ? errno : 0;
    close(ends[1]);
    bool complete = child > 0 && receive_run(ends[0], run);
    close(ends[0]);
    if (failed) {
        return fb_fail_errno(err, FOREBAY_E_NOMEM, failed, "", "cannot start a process");
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!complete) {
        return died(program, status, o, err);
    }
    if (run->err.status != FOREBAY_OK) {
        *err = run->err;
    }
    return run->err.status;
}
