#include "engine/disk_probe.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "hw/disk.h"

#define PROBE_SECONDS 0.2
/* Latency is the time of a single read, less the time its bytes take at full speed. */
#define SINGLE_BLOCK   (256u << 10)
#define SINGLE_SECONDS 0.01
#define SINGLE_TRIES   3
/* A disk with a burst allowance needs a rest before it shows it. */
#define REST_NS 100000000

struct fb_disk_figures fb_disk_probe(struct fb_file *const *files, int n, const char *io_method)
{
    struct fb_io_options io;
    fb_io_options_init(&io);
    /* Faults are meant for the run, not for the measurement before it. */
    io.method = strncmp(io_method, "fault:", 6) == 0 ? "auto" : io_method;
    double single = 0;
    for (int i = 0; i < SINGLE_TRIES; i++) { /* disturbances only make it slower */
        single =
            fmax(single, fb_disk_measure(files, n, &io, SINGLE_BLOCK, 1, SINGLE_SECONDS).sustained);
    }
    nanosleep(&(struct timespec){.tv_nsec = REST_NS}, NULL);
    struct fb_disk_speed speed =
        fb_disk_measure(files, n, &io, FB_DISK_READ_BYTES, FB_DISK_DEPTH, PROBE_SECONDS);
    struct fb_disk_figures figures = {
        .bytes_per_s = speed.sustained,
        .burst = speed.sustained > 0 ? speed.burst / speed.sustained : 1,
        .cpu_s = speed.cpu_s,
    };
    if (single > 0 && speed.burst > 0) {
        figures.latency_s = fmax(0, SINGLE_BLOCK / single - SINGLE_BLOCK / speed.burst);
    }
    return figures;
}
