/*
 * memory_posix.c - memory.h: the figures derived from a memory state, the override for tests, and
 * address space by mmap. memory_platform.h has the functions that differ between systems.
 */
#define _GNU_SOURCE
#include "os/memory.h"
#include "os/memory_platform.h"

#include "base/error.h"
#include "base/units.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define HUGE_BYTES (2 * FB_MIB)

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

static _Atomic(fb_memory_fake) override;

void fb_memory_override(fb_memory_fake fake)
{
    atomic_store(&override, fake);
}

static bool overridden(struct fb_memory_state *out)
{
    fb_memory_fake fake = atomic_load(&override);
    if (fake) {
        fake(out);
    }
    return fake != NULL;
}

void fb_memory_state(struct fb_memory_state *out)
{
    if (!overridden(out)) {
        fb_memory_state_now(out);
    }
}

struct fb_memory_reader *fb_memory_reader_new(void)
{
    return fb_memory_reader_open();
}

void fb_memory_reader_read(struct fb_memory_reader *reader, struct fb_memory_state *out)
{
    if (!overridden(out)) {
        fb_memory_reader_look(reader, out);
    }
}

void fb_memory_reader_free(struct fb_memory_reader *reader)
{
    if (reader) {
        fb_memory_reader_close(reader);
    }
}

uint64_t fb_memory_headroom(const struct fb_memory_state *state)
{
    uint64_t left = UINT64_MAX;
    if (state->limit_bytes != UINT64_MAX) {
        left = state->limit_bytes - fb_min(state->limit_used_bytes, state->limit_bytes);
    }
    return fb_min(left, state->available_bytes);
}

uint64_t fb_memory_default_budget(void)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    uint64_t room = fb_min(fb_memory_headroom(&state), fb_vm_promised()) + fb_memory_rss();
    return room - fb_max(room / 10, fb_min(512 * FB_MIB, room / 4));
}

uint64_t fb_memory_reserve(const struct fb_memory_state *state)
{
    uint64_t all = fb_min(state->total_bytes, state->limit_bytes);
    return fb_min(fb_max(all / 16, fb_min(all / 8, 32 * FB_MIB)), 512 * FB_MIB);
}

uint64_t fb_vm_page_size(void)
{
    static uint64_t size; /* every thread writes the same value */
    uint64_t known = __atomic_load_n(&size, __ATOMIC_RELAXED);
    if (!known) {
        known = (uint64_t)sysconf(_SC_PAGESIZE);
        __atomic_store_n(&size, known, __ATOMIC_RELAXED);
    }
    return known;
}

static void *reserve(uint64_t size, bool huge, int access)
{
    uint64_t page = fb_vm_page_size();
    uint64_t slack = huge ? HUGE_BYTES : 0;
    if (size == 0 || size > SIZE_MAX - slack - page) {
        return NULL;
    }
    size = fb_round_up(size, page);
    char *raw =
        mmap(NULL, size + slack, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
        return NULL;
    }
    if (!huge) {
        return raw;
    }
    /* raw |..lead..| size |..tail..| : only the middle stays mapped. */
    uint64_t lead = fb_round_up((uintptr_t)raw, HUGE_BYTES) - (uintptr_t)raw;
    if (lead) {
        munmap(raw, lead);
    }
    if (slack - lead) {
        munmap(raw + lead + size, slack - lead);
    }
    fb_vm_advise_huge(raw + lead, size);
    return raw + lead;
}

void *fb_vm_reserve(uint64_t size, bool huge)
{
    return reserve(size, huge, PROT_READ | PROT_WRITE);
}

void *fb_vm_reserve_space(uint64_t size, bool huge)
{
    return reserve(size, huge, PROT_NONE);
}

bool fb_vm_allow(void *base, uint64_t size)
{
    uint64_t page = fb_vm_page_size();
    uintptr_t from = fb_round_down((uintptr_t)base, page);
    uintptr_t to = fb_round_up((uintptr_t)base + size, page);
    return mprotect((void *)from, to - from, PROT_READ | PROT_WRITE) == 0;
}

static uint64_t limit_of(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) || limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX
                                                                          : limit.rlim_cur;
}

uint64_t fb_vm_promised(void)
{
    uint64_t data = limit_of(RLIMIT_DATA);
    if (data != UINT64_MAX) {
        data -= fb_min(data, fb_vm_data_bytes());
    }
    return fb_min(data, fb_vm_commit_left());
}

void fb_vm_limit_text(char *text, size_t cap)
{
    uint64_t space = limit_of(RLIMIT_AS), data = limit_of(RLIMIT_DATA);
    uint64_t commit = fb_vm_commit_left();
    if (space != UINT64_MAX) {
        snprintf(text, cap,
            "The limit of address space (ulimit -v) is %s; it must exceed the model's size.",
            FB_SIZE(space));
    } else if (data != UINT64_MAX) {
        snprintf(text, cap, "The limit of data (ulimit -d) is %s: lower --mem, or raise it.",
            FB_SIZE(data));
    } else if (commit != UINT64_MAX) {
        snprintf(text, cap,
            "With vm.overcommit_memory=2 the system promises only %s more: lower --mem.",
            FB_SIZE(commit));
    } else {
        snprintf(text, cap, "Lower --mem.");
    }
}

void fb_vm_release(void *base, uint64_t size)
{
    if (base && munmap(base, fb_round_up(size, fb_vm_page_size()))) {
        FB_BUG("cannot release %p, %llu bytes", base, (unsigned long long)size);
    }
}

void fb_vm_populate(void *base, uint64_t size)
{
    uint64_t page = fb_vm_page_size();
    size = fb_round_up(size, page);
    if (size == 0 || fb_vm_populate_call(base, size)) {
        return;
    }
    /* An atomic "or 0" makes the page present and is safe while other threads write to it. */
    for (uint64_t at = 0; at < size; at += page) {
        __atomic_fetch_or((char *)base + at, 0, __ATOMIC_RELAXED);
    }
}

/* The whole pages inside [base, base + size); false when there are none. */
static bool whole_pages(void *base, uint64_t size, char **start, size_t *length)
{
    uint64_t page = fb_vm_page_size();
    uintptr_t from = fb_round_up((uintptr_t)base, page);
    uintptr_t to = fb_round_down((uintptr_t)base + size, page);
    *start = (char *)base + (from - (uintptr_t)base);
    *length = to > from ? to - from : 0;
    return to > from;
}

void fb_vm_discard(void *base, uint64_t size)
{
    char *start;
    size_t length;
    if (whole_pages(base, size, &start, &length) && !fb_vm_discard_call(start, length)) {
        memset(start, 0, length);
    }
}

void fb_vm_small_pages(void *base, uint64_t size)
{
    char *start;
    size_t length;
    if (whole_pages(base, size, &start, &length)) {
        fb_vm_advise_small(start, length);
    }
}

void fb_vm_forbid(void *base, uint64_t size)
{
    char *start;
    size_t length;
    if (whole_pages(base, size, &start, &length) && mprotect(start, length, PROT_NONE)) {
        FB_BUG("cannot protect %p, %zu bytes", (void *)start, length);
    }
}
