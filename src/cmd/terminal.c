#include "cmd/terminal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool terminal_has_cursor(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && !(term && strcmp(term, "dumb") == 0);
}

bool terminal_has_colours(int fd)
{
    const char *unwanted = getenv("NO_COLOR"); /* no-color.org: set and not empty */
    return terminal_has_cursor(fd) && !(unwanted && *unwanted);
}

int terminal_columns(int fd)
{
    struct winsize size;
    return isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}
