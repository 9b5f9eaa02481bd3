/* disk.h - what the disk that holds a model can do for the pattern the engine uses. */
#ifndef ST_HW_DISK_H
#define ST_HW_DISK_H

#include "io/io.h"

/* Reads random chunks of the files, past the page cache, with many in flight, for about
 * `seconds` or, of a small file, as many bytes as it has; returns bytes per second, 0 if nothing
 * could be read. Writes nothing. */
double st_disk_bandwidth(
    struct st_file *const *files, int n_files, const struct st_io_options *io, double seconds);

#endif
