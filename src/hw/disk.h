/* disk.h - what the disk that holds a model can do for the pattern the engine uses. */
#ifndef ST_HW_DISK_H
#define ST_HW_DISK_H

#include "io/io.h"

#define ST_DISK_BLOCK (1u << 20) /* what the engine mostly reads at once */
#define ST_DISK_DEPTH 16         /* and how many of them are under way */

/* Reads random blocks of the largest of the files, past the page cache, `depth` (1 to 16) at a
 * time, for about `seconds`, longer while the speed has not settled, or, of a small file, as many
 * bytes as it has. Returns bytes per second,
 * 0 if nothing could be read. Takes depth * block bytes of memory meanwhile; writes nothing. */
double st_disk_rate(struct st_file *const *files, int n_files, const struct st_io_options *io,
    uint32_t block, uint32_t depth, double seconds);

#endif
