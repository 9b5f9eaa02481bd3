/* memory_posix.c - address space: mmap and friends; what differs is behind memory_platform.h. */
#define _GNU_SOURCE
#include "os/memory.h"
#include "os/memory_platform.h"

#include "base/error.h"
#include "base/units.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES (2 * ST_MIB)

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

static _Atomic(st_memory_fake) override;

void st_memory_override(st_memory_fake fake)
{
    atomic_store(&override, fake);
}

static bool overridden(struct st_memory_state *out)
{
    st_memory_fake fake = atomic_load(&override);
    if (fake) {
        fake(out);
    }
    return fake != NULL;
}

void st_memory_state(struct st_memory_state *out)
{
    if (!overridden(out)) {
        st_memory_state_now(out);
    }
}

struct st_memory_reader *st_memory_reader_new(void)
{
    return st_memory_reader_open();
}

void st_memory_reader_read(struct st_memory_reader *reader, struct st_memory_state *out)
{
    if (!overridden(out)) {
        st_memory_reader_look(reader, out);
    }
}

void st_memory_reader_free(struct st_memory_reader *reader)
{
    if (reader) {
        st_memory_reader_close(reader);
    }
}

uint64_t st_memory_headroom(const struct st_memory_state *state)
{
    uint64_t left = UINT64_MAX;
    if (state->limit_bytes != UINT64_MAX) {
        left = state->limit_bytes - st_min(state->limit_used_bytes, state->limit_bytes);
    }
    return st_min(left, state->available_bytes);
}

uint64_t st_memory_default_budget(void)
{
    struct st_memory_state state;
    st_memory_state(&state);
    uint64_t room = st_memory_headroom(&state) + st_memory_rss();
    return room - st_max(room / 10, st_min(512 * ST_MIB, room / 4));
}

uint64_t st_memory_reserve(const struct st_memory_state *state)
{
    uint64_t all = st_min(state->total_bytes, state->limit_bytes);
    return st_min(st_max(all / 16, st_min(all / 8, 32 * ST_MIB)), 512 * ST_MIB);
}

uint64_t st_vm_page_size(void)
{
    static uint64_t size; /* every thread writes the same value */
    uint64_t known = __atomic_load_n(&size, __ATOMIC_RELAXED);
    if (!known) {
        known = (uint64_t)sysconf(_SC_PAGESIZE);
        __atomic_store_n(&size, known, __ATOMIC_RELAXED);
    }
    return known;
}

void *st_vm_reserve(uint64_t size, bool huge)
{
    uint64_t page = st_vm_page_size();
    uint64_t slack = huge ? HUGE_BYTES : 0;
    if (size == 0 || size > SIZE_MAX - slack - page) {
        return NULL;
    }
    size = st_round_up(size, page);
    char *raw = mmap(NULL, size + slack, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
        return NULL;
    }
    if (!huge) {
        return raw;
    }
    /* raw |..lead..| size |..tail..| : only the middle stays. */
    uint64_t lead = st_round_up((uintptr_t)raw, HUGE_BYTES) - (uintptr_t)raw;
    if (lead) {
        munmap(raw, lead);
    }
    if (slack - lead) {
        munmap(raw + lead + size, slack - lead);
    }
    st_vm_advise_huge(raw + lead, size);
    return raw + lead;
}

void st_vm_release(void *base, uint64_t size)
{
    if (base && munmap(base, st_round_up(size, st_vm_page_size()))) {
        ST_BUG("cannot release %p, %llu bytes", base, (unsigned long long)size);
    }
}

void st_vm_populate(void *base, uint64_t size)
{
    uint64_t page = st_vm_page_size();
    size = st_round_up(size, page);
    if (size == 0 || st_vm_populate_call(base, size)) {
        return;
    }
    /* An atomic "or 0" makes the page ours and leaves alone what others may be writing to it. */
    for (uint64_t at = 0; at < size; at += page) {
        __atomic_fetch_or((char *)base + at, 0, __ATOMIC_RELAXED);
    }
}

/* The whole pages inside [base, base + size); false when there are none. */
static bool whole_pages(void *base, uint64_t size, char **start, size_t *length)
{
    uint64_t page = st_vm_page_size();
    uintptr_t from = st_round_up((uintptr_t)base, page);
    uintptr_t to = st_round_down((uintptr_t)base + size, page);
    *start = (char *)base + (from - (uintptr_t)base);
    *length = to > from ? to - from : 0;
    return to > from;
}

void st_vm_discard(void *base, uint64_t size)
{
    char *start;
    size_t length;
    if (whole_pages(base, size, &start, &length) && !st_vm_discard_call(start, length)) {
        memset(start, 0, length);
    }
}

void st_vm_small_pages(void *base, uint64_t size)
{
    char *start;
    size_t length;
    if (whole_pages(base, size, &start, &length)) {
        st_vm_advise_small(start, length);
    }
}

void st_vm_forbid(void *base, uint64_t size)
{
    char *start;
    size_t length;
    if (whole_pages(base, size, &start, &length) && mprotect(start, length, PROT_NONE)) {
        ST_BUG("cannot protect %p, %zu bytes", (void *)start, length);
    }
}
