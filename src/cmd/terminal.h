/* terminal.h - properties of the terminal that a descriptor leads to. */
#ifndef FB_CMD_TERMINAL_H
#define FB_CMD_TERMINAL_H

#include <stdbool.h>

/* True if text may be coloured or dimmed: a terminal, not "dumb", and NO_COLOR is not set. */
bool terminal_has_colours(int fd);

/* True if the cursor can be moved: a terminal that is not "dumb". */
bool terminal_has_cursor(int fd);

/* Width in columns; 0 if there is no terminal, or it does not say. */
int terminal_columns(int fd);

#endif
