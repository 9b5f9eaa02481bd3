/*
 * memory.h - how much memory there is, how much of it is ours to use, and how to take it.
 */
#ifndef FB_OS_MEMORY_H
#define FB_OS_MEMORY_H

#include "forebay.h"

struct fb_memory_state {
    uint64_t total_bytes;     /* physical */
    uint64_t available_bytes; /* could be taken without swapping, system-wide */
    /* Of all containers around us (cgroup v1, v2, ancestors) the one with the least left: */
    uint64_t limit_bytes;      /* UINT64_MAX: none */
    uint64_t limit_used_bytes; /* charged to it; page cache it could drop not counted */
    /* Share of the last seconds in which a task of this container (without one: of this machine,
     * if little is available) stood still for want of memory. 0: none, or not known. Only readers
     * fill it: it takes two looks. */
    double pressure;
};

/* Reads the state now. Never fails: what cannot be read is given as the physical total / none. */
void fb_memory_state(struct fb_memory_state *out);

/* Bytes this process may still take: min(available, limit - limit_used). */
uint64_t fb_memory_headroom(const struct fb_memory_state *state);

/* Memory of a process besides weights, KV cache and compute buffers: thread stacks, logits, the
 * allocator's slack. Measured on the models of the test suite: 20 to 45 MiB. */
#define FB_PROCESS_SLACK_BYTES ((uint64_t)64 << 20)

/* What this process may hold in all when nobody says: what is free and what it has already, less a
 * part that the rest of the machine may need at any time (a tenth, or 512 MiB of a large machine). */
uint64_t fb_memory_default_budget(void);

/* Of the headroom, what should always be left: for the program's own small needs, for others, and
 * for the time it takes to notice that there is less. A sixteenth of the machine or container, at
 * most 512 MiB. */
uint64_t fb_memory_reserve(const struct fb_memory_state *state);

/* The same figures again and again, in some 10 us: what they are read from stays open. The
 * containers looked at are those of the time when the reader was made. */
struct fb_memory_reader;
struct fb_memory_reader *fb_memory_reader_new(void);
void fb_memory_reader_read(struct fb_memory_reader *reader, struct fb_memory_state *out);
void fb_memory_reader_free(struct fb_memory_reader *reader);

/* For tests: from now on fb_memory_state and every reader report what `fake` says. It is called on
 * any thread. NULL: the truth again. */
typedef void (*fb_memory_fake)(struct fb_memory_state *out);
void fb_memory_override(fb_memory_fake fake);

/* Resident set of this process now, and the largest it has been. */
uint64_t fb_memory_rss(void);
uint64_t fb_memory_peak_rss(void);

/* Bytes this process has caused to be written to storage, or 0 where the system does not say. */
uint64_t fb_os_written_bytes(void);

/* --- Address space. Addresses are page-aligned; sizes are rounded up to pages. ---- */

/* Reserves zero-filled, readable and writable address space that costs memory only where touched.
 * `huge` asks for huge pages (2 MiB aligned; advice). NULL when the address space is refused. */
void *fb_vm_reserve(uint64_t size, bool huge);
void fb_vm_release(void *base, uint64_t size);

/* The same, but inaccessible until fb_vm_allow makes parts readable and writable: what is not allowed
 * counts neither as memory that the system has promised (vm.overcommit_memory=2) nor as data of the
 * process (ulimit -d). False: refused, nothing has changed. */
void *fb_vm_reserve_space(uint64_t size, bool huge);
bool fb_vm_allow(void *base, uint64_t size);

/* Writable memory that the system would still promise this process; UINT64_MAX: no limit but that of
 * the memory itself. */
uint64_t fb_vm_promised(void);

/* The limit on address space or promised memory that keeps this process from reserving more, as a
 * sentence; the usual remedy when there is none. */
void fb_vm_limit_text(char *text, size_t cap);

/* No huge pages in the whole pages inside the range: it is taken and given back in small pieces. */
void fb_vm_small_pages(void *base, uint64_t size);

/* Touches every page now, so that no page is zeroed later. E_NOMEM is not reported: the system
 * either gives the memory or kills us; callers check fb_memory_headroom first. */
void fb_vm_populate(void *base, uint64_t size);

/* Gives the memory of the whole pages inside the range back; it reads as zero afterwards. */
void fb_vm_discard(void *base, uint64_t size);

/* Makes the whole pages inside the range inaccessible, so that a stray use faults at once. */
void fb_vm_forbid(void *base, uint64_t size);

uint64_t fb_vm_page_size(void);

/* --- Processors -------------------------------------------------------------------------- */

/* Physical cores this process may run on (affinity and container CPU quota counted), at least 1. */
int fb_cpu_count(void);

/* Physical core model name and instruction-set flags in one line, for profiles and sidecars. */
const char *fb_cpu_name(void);

#endif
