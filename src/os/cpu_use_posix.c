/* cpu_use_posix.c - see cpu_use.h. */
#include "os/cpu_use.h"

#include <stdatomic.h>
#include <stddef.h>
#include <sys/resource.h>
#include <time.h>

#include "base/units.h"

static _Atomic(fb_cpu_use_fake) override;

void fb_cpu_use_override(fb_cpu_use_fake fake)
{
    atomic_store(&override, fake);
}

static uint64_t ns_of(struct timeval t)
{
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_usec * 1000;
}

bool fb_cpu_use_read(struct fb_cpu_use *out)
{
    fb_cpu_use_fake fake = atomic_load(&override);
    if (fake) {
        fake(out);
        return true;
    }
    struct rusage usage;
    *out = (struct fb_cpu_use){.now_ns = fb_now_ns()};
    if (!fb_cpu_idle_now(&out->idle_ns, &out->n_cpus) || getrusage(RUSAGE_SELF, &usage) != 0) {
        return false;
    }
    out->own_ns = ns_of(usage.ru_utime) + ns_of(usage.ru_stime);
    return true;
}

double fb_cpu_use_by_others(const struct fb_cpu_use *from, const struct fb_cpu_use *to)
{
    double span = (double)(to->now_ns - from->now_ns);
    double all = span * to->n_cpus;
    double known = (double)(int64_t)(to->idle_ns - from->idle_ns) +
                   (double)(int64_t)(to->own_ns - from->own_ns);
    return span > 0 && known < all ? (all - known) / span : 0;
}

double fb_cpu_use_watch(uint64_t ns, int *n_cpus)
{
    struct fb_cpu_use from, to;
    const struct timespec pause = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    *n_cpus = 1;
    if (!fb_cpu_use_read(&from)) {
        return 0;
    }
    nanosleep(&pause, NULL);
    if (!fb_cpu_use_read(&to)) {
        return 0;
    }
    *n_cpus = to.n_cpus;
    return fb_cpu_use_by_others(&from, &to);
}
