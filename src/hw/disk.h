/* disk.h - measures the disk that holds a model, with the access pattern of the engine. */
#ifndef FB_HW_DISK_H
#define FB_HW_DISK_H

#include "io/io.h"

#define FB_DISK_READ_BYTES (1u << 20) /* size of most reads of the engine */
#define FB_DISK_DEPTH      16         /* reads in flight */

/* All 0 if nothing could be read. */
struct fb_disk_speed {
    double sustained; /* bytes per second, for any length of time */
    double burst;     /* bytes per second after a rest: higher where a rate limit allows bursts */
    double cpu_s;     /* CPU seconds per byte */
};

/* Reads random blocks of the largest of the files, `depth` (1 to 16) at a time, with the method in
 * `io`. Blocks for two to five times `seconds`, until the speed has settled, or until it has read
 * as many bytes as the file has. Allocates about depth * block bytes meanwhile; writes nothing. */
struct fb_disk_speed fb_disk_measure(struct fb_file *const *files, int n_files,
    const struct fb_io_options *io, uint32_t block, uint32_t depth, double seconds);

#endif
