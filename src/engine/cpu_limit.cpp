/* cpu_limit.cpp - see cpu_limit.h. */
#include "engine/cpu_limit.h"

#include <cstdlib>
#include <exception>

extern "C" {
#include "base/units.h"
}

static const unsigned check_every = 64; /* allocations: 0.3 us for the clock */

static thread_local bool limited;
static thread_local unsigned n_allocations;
static thread_local int64_t end_ns;

fb_cpu_limit::fb_cpu_limit(int64_t ns)
{
    end_ns = (int64_t)fb_thread_cpu_ns() + ns;
    limited = true;
}

fb_cpu_limit::~fb_cpu_limit()
{
    limited = false;
}

int64_t fb_cpu_limit::left_ns() const
{
    return end_ns - (int64_t)fb_thread_cpu_ns();
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

void *operator new(size_t n)
{
    if (limited && ++n_allocations % check_every == 0 && std::uncaught_exceptions() == 0 &&
        (int64_t)fb_thread_cpu_ns() > end_ns) {
        throw fb_out_of_time();
    }
    for (;;) { /* as the standard wants it */
        void *p = malloc(n > 0 ? n : 1);
        if (p) {
            return p;
        }
        std::new_handler handler = std::get_new_handler();
        if (!handler) {
            throw std::bad_alloc();
        }
        handler();
    }
}

/* Beside it, so that compilers see a pair. */
void operator delete(void *p) noexcept
{
    free(p);
}

void operator delete(void *p, size_t) noexcept
{
    free(p);
}

#endif
