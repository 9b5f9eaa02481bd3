/* reader_macos.c - repeated readings of the memory state; pressure is the kernel's level. */
#include "os/memory.h"
#include "os/memory_platform.h"

#include "base/error.h"

#include <stdlib.h>
#include <sys/sysctl.h>

struct fb_memory_reader {
    char unused;
};

struct fb_memory_reader *fb_memory_reader_open(void)
{
    return fb_xcalloc(1, sizeof(struct fb_memory_reader));
}

void fb_memory_reader_close(struct fb_memory_reader *r)
{
    free(r);
}

/* kern.memorystatus_vm_pressure_level is 1 (normal), 2 (warning) or 4 (critical), the levels of
 * DISPATCH_SOURCE_TYPE_MEMORYPRESSURE, which would need a run loop of its own. */
void fb_memory_reader_look(struct fb_memory_reader *r, struct fb_memory_state *out)
{
    int level = 1;
    size_t size = sizeof level;
    (void)r;
    fb_memory_state_now(out);
    if (sysctlbyname("kern.memorystatus_vm_pressure_level", &level, &size, NULL, 0) == 0) {
        out->pressure = level >= 4 ? 1 : level >= 2 ? 0.2 : 0;
    }
}
