/* choose.h - finds a read method by name and opens it, falling back to the next best. */
#ifndef FB_IO_CHOOSE_H
#define FB_IO_CHOOSE_H

#include "forebay.h"

struct fb_io_options; /* io/options.h */
struct fb_io_queue;   /* io/method.h */

/* E_USAGE, listing the names, when there is no method called `name`. */
enum forebay_status fb_io_check_method(const char *name, struct forebay_error *err);

/* Opens the queue of options->method, with the fallback that fb_io_open describes. E_USAGE for an
 * unknown name or an impossible depth or chunk size, E_UNSUPPORTED when no method works. */
enum forebay_status fb_io_queue_open(
    const struct fb_io_options *options, struct fb_io_queue **out, struct forebay_error *err);

#endif
