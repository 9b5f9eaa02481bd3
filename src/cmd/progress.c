#include "cmd/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void progress_init(struct progress_line *line, bool quiet)
{
    *line = (struct progress_line){
        .enabled = !quiet, .terminal = isatty(STDERR_FILENO) != 0, .percent = -1};
}

bool progress_report(const char *what, uint64_t done, uint64_t total, void *user)
{
    struct progress_line *line = user;
    int percent = total ? (int)((double)done / (double)total * 100) : 100;
    if (!line->enabled) {
        return true;
    }
    bool new_phase = !line->what || strcmp(line->what, what) != 0;
    if (line->terminal && (new_phase || percent != line->percent)) {
        fprintf(stderr, "\r\033[K%s %d %%", what, percent);
    } else if (!line->terminal && new_phase) {
        fprintf(stderr, "%s ...\n", what);
    }
    line->what = what;
    line->percent = percent;
    return true;
}

void progress_end(struct progress_line *line)
{
    if (line->enabled && line->terminal && line->what) {
        fprintf(stderr, "\r\033[K");
    }
    line->what = NULL;
}
