/* files.h - the files that a command line names: checks that no output damages an input. */
#ifndef FB_CMD_FILES_H
#define FB_CMD_FILES_H

#include "forebay.h"

struct named_file {
    const char *option; /* as in messages: "--stats", "MODEL" */
    const char *path;   /* NULL: not given */
    bool written;       /* an output */
};

/* Checks each output, without changing anything. E_IO if it cannot be written. E_USAGE if it is the
 * same file as another of the list, through whatever links, or holds the weights of any model. */
enum forebay_status files_check(
    const struct named_file *files, size_t n, struct forebay_error *err);

/* Writes the text to an output that a command line or user names: what files_check refuses is
 * refused, and a regular file is replaced only when all of the text has been written. */
enum forebay_status files_write(
    const struct named_file *file, const char *text, size_t length, struct forebay_error *err);

/* True if standard input may hold a text: a pipe, a socket or a file, not a device. */
bool files_stdin_is_given(void);

#endif
