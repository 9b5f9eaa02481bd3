/* disk_probe.h - the disk under a model's files, measured for a moment before loading. */
#ifndef FB_ENGINE_DISK_PROBE_H
#define FB_ENGINE_DISK_PROBE_H

#include "os/file.h"

struct fb_disk_figures {
    double bytes_per_s; /* sustained, with many reads in flight; 0: not known */
    double burst;       /* speed after a rest, as a multiple of it */
    double latency_s;   /* of a single read, on top of the time for its bytes */
    double cpu_s;       /* processor time that reading a byte takes, in seconds */
};

/* Reads from the files past the page cache for about 0.3 s. `io_method` as in
 * forebay_model_options; injected faults are left out. Figures that cannot be measured are 0. */
struct fb_disk_figures fb_disk_probe(
    struct fb_file *const *files, int n_files, const char *io_method);

#endif
