/* figures.h - the statistics of a session (docs/STATS.md), as JSON and as text. */
#ifndef FB_CMD_FIGURES_H
#define FB_CMD_FIGURES_H

#include <stdio.h>

#include "forebay.h"

/* Writes all statistics to a JSON file. E_IO if that fails. */
enum forebay_status figures_write(
    const char *path, const struct forebay_stats *stats, struct forebay_error *err);

/* Says how the length of the context was chosen; nothing when the user gave it. */
void figures_print_context(FILE *out, const struct forebay_placement *placement);

/* Prints the most important ones on stderr. */
void figures_print(const struct forebay_stats *stats, const struct forebay_placement *placement);

#endif
