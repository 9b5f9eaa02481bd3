#define _GNU_SOURCE /* wcwidth */
#include "cmd/wrap.h"

#include <string.h>
#include <wchar.h>

#define TAB 8

/* Length in bytes of the character at `text`, and its width in columns. */
static size_t measure(const char *text, size_t n, int *width)
{
    wchar_t c;
    mbstate_t state = {0};
    size_t length = mbrtowc(&c, text, n, &state);
    if (length > 0 && length <= n) {
        int columns = wcwidth(c);
        *width = columns > 0 ? columns : 0;
        return length;
    }
    /* A locale without UTF-8: one column for each character. */
    length = 1;
    while (length < n && ((unsigned char)text[length] & 0xc0) == 0x80) {
        length++;
    }
    *width = 1;
    return length;
}

static void end_word(struct wrap *w)
{
    w->n = 0;
    w->word_columns = 0;
}

static void end_line(struct wrap *w)
{
    end_word(w);
    w->column = 0;
}

static void watch_fences(struct wrap *w, char c)
{
    if (c == '\n') {
        w->fence = 0;
    } else if (w->fence >= 0 && c == '`') {
        w->code = ++w->fence == 3 ? !w->code : w->code;
    } else if (c != ' ') {
        w->fence = -1;
    }
}

static void print_space(struct wrap *w, char c, int columns)
{
    int width = c == '\t' ? TAB - w->column % TAB : 1;
    end_word(w);
    if (w->column + width > columns && !w->code) { /* the line ends here instead */
        fputc('\n', w->out);
        w->column = 0;
        return;
    }
    fputc(c, w->out);
    w->column = w->column + width > columns ? 0 : w->column + width;
}

/* The next character does not fit into the line. */
static void break_line(struct wrap *w)
{
    bool begins_line = w->word_columns == w->column;
    if (w->code || begins_line || w->n == 0) {
        end_line(w); /* the terminal breaks it */
        return;
    }
    fprintf(w->out, "\033[%dG\033[K\n%.*s", w->column - w->word_columns + 1, (int)w->n, w->word);
    w->column = w->word_columns;
}

static void print_character(struct wrap *w, const char *text, size_t length, int width, int columns)
{
    if (width > 1) { /* ideographs have no spaces in between: each is a word */
        end_word(w);
    }
    if (w->column + width > columns) {
        break_line(w);
    }
    fwrite(text, 1, length, w->out);
    w->column += width;
    w->word_columns += width;
    if (width > 1 || w->n + length > sizeof w->word) {
        end_word(w);
        return;
    }
    memcpy(w->word + w->n, text, length);
    w->n += length;
}

bool wrap_print(struct wrap *w, const char *text, size_t n, int columns)
{
    if (columns < 2) {
        return fwrite(text, 1, n, w->out) == n && fflush(w->out) == 0;
    }
    for (size_t i = 0, length; i < n; i += length) {
        int width;
        length = measure(text + i, n - i, &width);
        watch_fences(w, text[i]);
        if (text[i] == '\n') {
            fputc('\n', w->out);
            end_line(w);
        } else if (text[i] == ' ' || text[i] == '\t') {
            print_space(w, text[i], columns);
        } else {
            print_character(w, text + i, length, width, columns);
        }
    }
    return fflush(w->out) == 0 && !ferror(w->out);
}
