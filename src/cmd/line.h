/*
 * line.h - reads lines from standard input: with editing and history on a terminal, unchanged
 * elsewhere.
 *
 * Text that is pasted into a terminal is inserted with its newlines and sent as one message by
 * Enter, if the terminal knows bracketed paste. The history is kept in the cache directory, in a
 * file that only this user may read: one JSON string per line.
 */
#ifndef FB_CMD_LINE_H
#define FB_CMD_LINE_H

#include <stdbool.h>
#include <stddef.h>

enum line_status {
    LINE_READ,
    LINE_END,         /* Ctrl-D, or end of input */
    LINE_INTERRUPTED, /* Ctrl-C; text typed so far is dropped */
};

/* Reads standard input. At most one at a time. */
struct line_reader;

struct line_reader *line_reader_new(void);
void line_reader_free(struct line_reader *reader);

/* True on a terminal, where lines can be edited. */
bool line_reader_edits(const struct line_reader *reader);

/* Waits for a line. The prompt is shown only on a terminal. *text: the line without its end, *n
 * bytes and a NUL, valid until the next call; pasted text may be several lines. Lines that are not
 * empty are added to the history. A signal whose handler does not restart reads (no SA_RESTART)
 * returns LINE_INTERRUPTED. */
enum line_status line_read(
    struct line_reader *reader, const char *prompt, const char **text, size_t *n);

#endif
