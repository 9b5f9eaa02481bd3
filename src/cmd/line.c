/*
 * line.c - libedit on a terminal, getline elsewhere.
 *
 * While a line is edited the terminal is asked to mark pasted text (bracketed paste):
 *
 *      ESC [200~ text, several lines ESC [201~
 *
 * libedit does not know that; the first mark is bound to a function that reads up to the second.
 */
#include "cmd/line.h"

#include <errno.h>
#include <histedit.h>
#include <jansson.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "base/error.h"
#include "cmd/terminal.h"
#include "os/dirs.h"
#include "os/save.h"

#define HISTORY_LINES 1000
#define HISTORY_FILE  "chat-history"
#define PASTE_BEGIN   "\033[200~"
#define PASTE_END     L"\033[201~"

struct line_reader {
    EditLine *edit;
    History *history; /* NULL: no editing */
    const char *prompt;
    FILE *terminal;          /* libedit draws on it */
    bool marks_paste;        /* the terminal is asked to */
    char history_path[4096]; /* "": no history is kept */
    char *line;              /* the last one returned */
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

/* --- Pasting ------------------------------------------------------------------------------- */

/* Pasted text as it can be edited: newlines as such, no other control characters but tabs. */
static size_t clean_paste(wchar_t *text, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        wchar_t c = text[i] == L'\r' ? L'\n' : text[i];
        if (c == L'\n' || c == L'\t' || (c >= 32 && c != 127)) {
            text[kept++] = c;
        }
    }
    return kept;
}

/* Bound to PASTE_BEGIN: inserts all text up to PASTE_END. */
static unsigned char insert_paste(EditLine *edit, int key)
{
    const size_t mark = wcslen(PASTE_END);
    wchar_t *text = NULL, c;
    size_t n = 0, cap = 0;
    (void)key;
    while (el_wgetc(edit, &c) == 1) {
        if (n + 1 >= cap) {
            cap = cap ? 2 * cap : 1024;
            text = fb_xrealloc(text, cap * sizeof *text);
        }
        text[n++] = c;
        if (n >= mark && wmemcmp(text + n - mark, PASTE_END, mark) == 0) {
            n -= mark;
            break;
        }
    }
    if (text) {
        text[clean_paste(text, n)] = 0;
        el_winsertstr(edit, text);
    }
    free(text);
    return CC_REFRESH;
}

static void mark_paste(const struct line_reader *reader, bool on)
{
    if (reader->marks_paste) {
        fputs(on ? "\033[?2004h" : "\033[?2004l", reader->terminal);
        fflush(reader->terminal);
    }
}

/* --- History ------------------------------------------------------------------------------- */

/* Writes the last lines of the history, when the file has become much longer than that. */
static void shorten_history(const struct line_reader *reader)
{
    HistEvent event;
    char *all = NULL;
    size_t n = 0;
    for (int rc = history(reader->history, &event, H_LAST); rc == 0;
         rc = history(reader->history, &event, H_PREV)) { /* from the oldest on */
        json_t *line = json_string(event.str);
        char *text = json_dumps(line, JSON_ENCODE_ANY);
        size_t length = text ? strlen(text) : 0;
        all = fb_xrealloc(all, n + length + 1);
        memcpy(all + n, text ? text : "", length);
        all[n + length] = '\n';
        n += length + (text != NULL);
        free(text);
        json_decref(line);
    }
    if (n > 0) {
        fb_private_replace(reader->history_path, all, n);
    }
    free(all);
}

static void load_history(struct line_reader *reader)
{
    HistEvent event;
    if (!fb_cache_path(HISTORY_FILE, reader->history_path, sizeof reader->history_path)) {
        reader->history_path[0] = 0;
        return;
    }
    FILE *file = fopen(reader->history_path, "r");
    char *text = NULL;
    size_t cap = 0, lines = 0;
    for (; file && getline(&text, &cap, file) > 0; lines++) {
        json_t *line = json_loads(text, JSON_DECODE_ANY, NULL);
        if (json_is_string(line)) {
            history(reader->history, &event, H_ENTER, json_string_value(line));
        }
        json_decref(line);
    }
    free(text);
    if (file) {
        fclose(file);
    }
    if (lines > 2 * HISTORY_LINES) {
        shorten_history(reader);
    }
}

static void add_to_history(struct line_reader *reader, const char *text)
{
    HistEvent event;
    history(reader->history, &event, H_ENTER, text);
    json_t *line = json_string(text);
    char *encoded = json_dumps(line, JSON_ENCODE_ANY);
    if (encoded && reader->history_path[0]) {
        size_t length = strlen(encoded);
        encoded[length] = '\n'; /* in place of the NUL */
        fb_private_append(reader->history_path, encoded, length + 1);
    }
    free(encoded);
    json_decref(line);
}

/* --- Editing ------------------------------------------------------------------------------- */

/* On failure of libedit reader->history stays NULL, and lines are not edited. */
static void start_editing(struct line_reader *reader)
{
    HistEvent event;
    reader->edit = el_init("forebay", stdin, reader->terminal, stderr);
    reader->history = reader->edit ? history_init() : NULL;
    if (!reader->history) {
        return;
    }
    history(reader->history, &event, H_SETSIZE, HISTORY_LINES);
    history(reader->history, &event, H_SETUNIQUE, 1); /* no duplicates */
    el_set(reader->edit, EL_CLIENTDATA, reader);
    el_set(reader->edit, EL_EDITOR, "emacs");
    el_set(reader->edit, EL_PROMPT, show_prompt);
    el_set(reader->edit, EL_HIST, history, reader->history);
    el_source(reader->edit, NULL); /* key bindings of the user: ~/.editrc */
    el_set(reader->edit, EL_ADDFN, "forebay-paste", "insert pasted text", insert_paste);
    el_set(reader->edit, EL_BIND, PASTE_BEGIN, "forebay-paste", NULL);
    reader->marks_paste = terminal_has_cursor(fileno(reader->terminal));
    load_history(reader);
}

struct line_reader *line_reader_new(void)
{
    struct line_reader *reader = fb_xcalloc(1, sizeof *reader);
    choose_characters();
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
    int count = 0;
    mark_paste(reader, true);
    errno = 0;
    const char *line = el_gets(reader->edit, &count);
    bool interrupted = errno == EINTR;
    mark_paste(reader, false);
    if (!line || count <= 0) {
        fputc('\n', reader->terminal);
        return interrupted ? LINE_INTERRUPTED : LINE_END;
    }
    size_t length = strlen(line);
    while (length > 0 && line[length - 1] == '\n') { /* that of Enter, and those of pasted text */
        length--;
    }
    free(reader->line);
    reader->line = fb_xmalloc(length + 1);
    memcpy(reader->line, line, length);
    reader->line[length] = 0;
    if (length > 0) {
        add_to_history(reader, reader->line);
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
