/* disk.h - what the disk that holds a model can do for the pattern the engine uses. */
#ifndef FB_HW_DISK_H
#define FB_HW_DISK_H

#include "io/io.h"

#define FB_DISK_READ_BYTES (1u << 20) /* what the engine mostly reads at once */
#define FB_DISK_DEPTH      16         /* and how many of them are under way */

/* Bytes per second, and what that costs. 0 if nothing could be read. */
struct fb_disk_speed {
    double sustained; /* what it does for as long as one likes */
    double burst;     /* after a rest: more, where a limit lets some bytes through at once */
    double cpu_s;     /* seconds of the processors' time for a byte */
};

/* Reads random blocks of the largest of the files, past the page cache, `depth` (1 to 16) at a
 * time, for two to five times `seconds`, until the speed has settled, or, of a small file, as many
 * bytes as it has. Takes depth * block bytes of memory meanwhile; writes nothing. */
struct fb_disk_speed fb_disk_measure(struct fb_file *const *files, int n_files,
    const struct fb_io_options *io, uint32_t block, uint32_t depth, double seconds);

#endif
