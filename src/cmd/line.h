/* line.h - lines from a person or a script: with editing and a history where there is a terminal,
 * as they come where there is none. */
#ifndef FB_CMD_LINE_H
#define FB_CMD_LINE_H

#include <stdbool.h>
#include <stddef.h>

enum line_status {
    LINE_READ,
    LINE_END,         /* Ctrl-D, or the end of the input */
    LINE_INTERRUPTED, /* Ctrl-C: what was typed is dropped */
};

/* Reads standard input; one at a time. */
struct line_reader;

struct line_reader *line_reader_new(void);
void line_reader_free(struct line_reader *reader);

/* True when a person types at a terminal. */
bool line_reader_edits(const struct line_reader *reader);

/* Reads a line; the prompt is only shown where a person types. *text: without the line end, n bytes
 * and a NUL, valid until the next call. Lines that are not empty join the history. A signal whose
 * handler does not restart reads (no SA_RESTART) comes back as LINE_INTERRUPTED. */
enum line_status line_read(
    struct line_reader *reader, const char *prompt, const char **text, size_t *n);

#endif
