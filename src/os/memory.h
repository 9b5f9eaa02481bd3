/*
 * memory.h - how much memory the machine has and this process may use, and address space.
 *
 * All functions may be called from any thread; a reader belongs to one thread at a time.
 */
#ifndef FB_OS_MEMORY_H
#define FB_OS_MEMORY_H

#include "forebay.h"

struct fb_memory_state {
    uint64_t total_bytes;     /* physical */
    uint64_t available_bytes; /* can be allocated without swapping, system-wide */
    /* The container around us (cgroup v1 or v2, any level) that has the least memory left: */
    uint64_t limit_bytes;      /* UINT64_MAX: none */
    uint64_t limit_used_bytes; /* charged to it, without page cache that it can drop */
    /* Fraction of the last seconds in which a task of this container was stalled by lack of memory;
     * without a container, of this machine, if little is available. 0: none, or not known. Only
     * readers set it, because it takes two readings. */
    double pressure;
};

/* Reads the state now. Never fails: a figure that cannot be read is the physical total, or
 * "none". */
void fb_memory_state(struct fb_memory_state *out);

/* Bytes this process can still allocate: min(available, limit - limit_used). */
uint64_t fb_memory_headroom(const struct fb_memory_state *state);

/* Bytes of a block of malloc's; 0 for NULL. */
size_t fb_memory_block_bytes(const void *block);

/* Memory of a process besides weights, KV cache and compute buffers: thread stacks, logits, the
 * allocator's slack. Measured on the models of the test suite: 20 to 45 MiB. */
#define FB_PROCESS_SLACK_BYTES ((uint64_t)64 << 20)

/* The default budget, for everything this process holds: headroom and resident set together, less a
 * tenth for the rest of the machine, or less 512 MiB (at most a quarter) if that is more. */
uint64_t fb_memory_default_budget(void);

/* The part of the headroom to leave free: for small allocations of our own, for other processes,
 * and for the time it takes to notice a shortage. A sixteenth of the machine or container, at most
 * 512 MiB; in very small ones 32 MiB, at most an eighth. */
uint64_t fb_memory_reserve(const struct fb_memory_state *state);

/* For reading the state repeatedly: about 10 us a reading, because the files stay open. It reads
 * the containers that were around us when it was made. */
struct fb_memory_reader;
struct fb_memory_reader *fb_memory_reader_new(void);
void fb_memory_reader_read(struct fb_memory_reader *reader, struct fb_memory_state *out);
void fb_memory_reader_free(struct fb_memory_reader *reader);

/* For tests: from now on fb_memory_state and every reader call `fake`, on any thread. NULL: the
 * real figures again. */
typedef void (*fb_memory_fake)(struct fb_memory_state *out);
void fb_memory_override(fb_memory_fake fake);

/* Resident set of this process now, and its maximum so far. */
uint64_t fb_memory_rss(void);
uint64_t fb_memory_peak_rss(void);

/* Bytes this process has caused to be written to storage; 0 where the system does not tell. */
uint64_t fb_os_written_bytes(void);

/* --- Address space. Addresses are page-aligned; sizes are rounded up to pages. ---- */

/* Reserves zero-filled, readable and writable address space; a page takes memory when it is
 * touched. `huge`: aligned to 2 MiB, and huge pages are requested (advice). NULL when the system
 * refuses. */
void *fb_vm_reserve(uint64_t size, bool huge);
/* Unmaps a whole reservation. NULL is fine. */
void fb_vm_release(void *base, uint64_t size);

/* The same, but inaccessible until fb_vm_allow makes parts readable and writable. Inaccessible parts
 * count neither as memory that the system has promised (vm.overcommit_memory=2) nor as data of the
 * process (ulimit -d). False: refused, nothing has changed. */
void *fb_vm_reserve_space(uint64_t size, bool huge);
bool fb_vm_allow(void *base, uint64_t size);

/* Writable memory that the system would still promise this process; UINT64_MAX: no limit but that of
 * the memory itself. */
uint64_t fb_vm_promised(void);

/* The limit on address space or promised memory that keeps this process from reserving more, as a
 * sentence; the usual remedy when there is none. */
void fb_vm_limit_text(char *text, size_t cap);

/* Advises against huge pages in a range that is populated and discarded in small pieces. */
void fb_vm_small_pages(void *base, uint64_t size);

/* Touches every page now, so that no page fault has to zero one later; keeps the contents. Reports
 * no error: the system either provides the memory or kills us. Check fb_memory_headroom first. */
void fb_vm_populate(void *base, uint64_t size);

/* Releases the memory of the whole pages inside the range, which read as zero afterwards. */
void fb_vm_discard(void *base, uint64_t size);

/* Makes the whole pages inside the range inaccessible, so that a stray use faults at once. */
void fb_vm_forbid(void *base, uint64_t size);

uint64_t fb_vm_page_size(void);

#endif
