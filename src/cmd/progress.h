/* progress.h - the progress of a long operation, on stderr. */
#ifndef FB_CMD_PROGRESS_H
#define FB_CMD_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* On a terminal, one line that is redrawn with a percentage; elsewhere, one line per phase. */
struct progress_line {
    bool enabled;     /* false: nothing is printed */
    bool terminal;    /* stderr is a terminal */
    const char *what; /* the phase last printed; NULL: none */
    int percent;
};

void progress_init(struct progress_line *line, bool quiet);
/* A forebay_progress; `user` is a struct progress_line. Always returns true. */
bool progress_report(const char *what, uint64_t done, uint64_t total, void *user);
/* Erases the line, so that other output can follow. */
void progress_end(struct progress_line *line);

#endif
