/* work_limit.cpp - see work_limit.h. */
#include "engine/work_limit.h"

#include <cstdlib>
#include <exception>

extern "C" {
#include "base/units.h"
#include "os/library.h"
#include "os/memory.h"
}

static const unsigned check_every = 64; /* allocations: 0.3 us for the clock */

static thread_local bool limited;
static thread_local unsigned n_allocations;
static thread_local int64_t end_ns, live_bytes, most_live_bytes;
static thread_local uintptr_t lowest_stack;
static thread_local const char *broken_by;
static thread_local bool (*wanted)(void *user);
static thread_local void *wanted_user;

static const char cancelled_text[] = "it was cancelled";

fb_work_limit::fb_work_limit(const fb_work &most)
{
    end_ns = (int64_t)fb_thread_cpu_ns() + most.cpu_ns;
    live_bytes = 0;
    most_live_bytes = most.live_bytes;
    broken_by = nullptr;
    wanted = most.wanted;
    wanted_user = most.user;
    lowest_stack = (uintptr_t)__builtin_frame_address(0) - most.stack_bytes;
    limited = true;
}

fb_work_limit::~fb_work_limit()
{
    limited = false;
}

int64_t fb_work_limit::cpu_left_ns() const
{
    return end_ns - (int64_t)fb_thread_cpu_ns();
}

const char *fb_work_limit::broken() const
{
    return broken_by;
}

bool fb_work_limit::cancelled() const
{
    return broken_by == cancelled_text;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/* The limit that the next allocation would exceed; NULL: none. */
static const char *exceeded(size_t n)
{
    if (live_bytes + (int64_t)(n > INT64_MAX / 2 ? INT64_MAX / 2 : n) > most_live_bytes) {
        return "it takes too much memory";
    }
    if ((uintptr_t)__builtin_frame_address(0) < lowest_stack) {
        return "it recurses too deeply";
    }
    if (++n_allocations % check_every != 0) {
        return nullptr;
    }
    if ((int64_t)fb_thread_cpu_ns() > end_ns) {
        return "it takes too long";
    }
    return wanted && !wanted(wanted_user) ? cancelled_text : nullptr;
}

static void check(size_t n)
{
    const char *what = exceeded(n);
    if (what && std::uncaught_exceptions() == 0) {
        limited = false; /* for what follows allocates, too */
        bool unsafe = fb_library_called_from("nlohmann");
        limited = true;
        if (!unsafe) {
            broken_by = what;
            throw fb_too_much_work(what);
        }
    }
}

void *operator new(size_t n)
{
    if (limited) {
        check(n);
    }
    for (;;) { /* as the standard wants it */
        void *p = malloc(n > 0 ? n : 1);
        if (p) {
            if (limited) {
                live_bytes += (int64_t)fb_memory_block_bytes(p);
            }
            return p;
        }
        std::new_handler handler = std::get_new_handler();
        if (!handler) {
            throw std::bad_alloc();
        }
        handler();
    }
}

void operator delete(void *p) noexcept
{
    if (limited) {
        live_bytes -= (int64_t)fb_memory_block_bytes(p);
    }
    free(p);
}

void operator delete(void *p, size_t) noexcept
{
    operator delete(p);
}

#endif
