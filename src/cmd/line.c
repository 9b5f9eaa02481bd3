/* line.c - libedit on a terminal, getline elsewhere. */
#include "cmd/line.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

struct line_reader {
    EditLine *edit;
    History *history; /* NULL: no editing */
    const char *prompt;
    FILE *terminal; /* libedit draws on it */
    char *line;     /* the last one returned */
    size_t cap;
};

static struct line_reader *reader_of(EditLine *edit)
{
    struct line_reader *reader = NULL;
    el_get(edit, EL_CLIENTDATA, &reader);
    return reader;
}

static char *show_prompt(EditLine *edit)
{
    return (char *)(uintptr_t)reader_of(edit)->prompt; /* libedit only reads it */
}

/* libedit edits multi-byte characters according to the locale. A locale without them is replaced by
 * UTF-8. */
static void choose_characters(void)
{
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) {
        setlocale(LC_CTYPE, "C.UTF-8");
    }
}

/* On failure of libedit reader->history stays NULL, and lines are not edited. */
static void start_editing(struct line_reader *reader)
{
    HistEvent event;
    choose_characters();
    reader->edit = el_init("forebay", stdin, reader->terminal, stderr);
    reader->history = reader->edit ? history_init() : NULL;
    if (!reader->history) {
        return;
    }
    history(reader->history, &event, H_SETSIZE, 1000);
    history(reader->history, &event, H_SETUNIQUE, 1); /* no duplicates */
    el_set(reader->edit, EL_CLIENTDATA, reader);
    el_set(reader->edit, EL_EDITOR, "emacs");
    el_set(reader->edit, EL_PROMPT, show_prompt);
    el_set(reader->edit, EL_HIST, history, reader->history);
    el_source(reader->edit, NULL); /* key bindings of the user: ~/.editrc */
}

struct line_reader *line_reader_new(void)
{
    struct line_reader *reader = fb_xcalloc(1, sizeof *reader);
    reader->terminal = isatty(STDOUT_FILENO) ? stdout : isatty(STDERR_FILENO) ? stderr : NULL;
    if (isatty(STDIN_FILENO) && reader->terminal) {
        start_editing(reader);
    }
    return reader;
}

void line_reader_free(struct line_reader *reader)
{
    if (!reader) {
        return;
    }
    if (reader->edit) {
        el_end(reader->edit);
    }
    if (reader->history) {
        history_end(reader->history);
    }
    free(reader->line);
    free(reader);
}

bool line_reader_edits(const struct line_reader *reader)
{
    return reader->history != NULL;
}

static enum line_status edit_line(struct line_reader *reader, const char **text, size_t *n)
{
    HistEvent event;
    int count = 0;
    errno = 0;
    const char *line = el_gets(reader->edit, &count);
    if (!line || count <= 0) {
        bool interrupted = errno == EINTR;
        fputc('\n', reader->terminal);
        return interrupted ? LINE_INTERRUPTED : LINE_END;
    }
    size_t length = strlen(line);
    if (length > 0 && line[length - 1] == '\n') {
        length--;
    }
    free(reader->line);
    reader->line = fb_xmalloc(length + 1);
    memcpy(reader->line, line, length);
    reader->line[length] = 0;
    if (length > 0) {
        history(reader->history, &event, H_ENTER, reader->line);
    }
    *text = reader->line;
    *n = length;
    return LINE_READ;
}

static enum line_status plain_line(struct line_reader *reader, const char **text, size_t *n)
{
    errno = 0;
    ssize_t length = getline(&reader->line, &reader->cap, stdin);
    if (length < 0) {
        return errno == EINTR ? LINE_INTERRUPTED : LINE_END;
    }
    while (length > 0 && strchr("\r\n", reader->line[length - 1])) {
        reader->line[--length] = 0;
    }
    *text = reader->line;
    *n = (size_t)length;
    return LINE_READ;
}

enum line_status line_read(
    struct line_reader *reader, const char *prompt, const char **text, size_t *n)
{
    reader->prompt = prompt;
    return reader->history ? edit_line(reader, text, n) : plain_line(reader, text, n);
}
