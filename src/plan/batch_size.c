#include "plan/batch_size.h"

#include <math.h>

#include "base/units.h"

/* With experts, a batch grows up to MOST tokens, until an expert computes with ROWS_ENOUGH rows on
 * average: 85 multiply-adds per byte read at 4.5 bits per weight, which is two cores beside a disk
 * of 500 MB/s. */
#define MOST        2048
#define ROWS_ENOUGH 48

uint32_t fb_batch_size(const struct fb_batch_inputs *in)
{
    uint64_t enough = in->n_used ? ROWS_ENOUGH * (uint64_t)in->n_expert / (uint64_t)in->n_used : 0;
    uint64_t most = fb_min(fb_min(MOST, fb_max(enough, FB_BATCH_USUAL)), in->ctx);
    uint64_t spare = in->budget_bytes - fb_min(in->budget_bytes, in->least_bytes);
    double more = (double)spare / (in->lent ? 2 : 4) / fmax(1, in->token_bytes);
    uint64_t batch = fb_min(FB_BATCH_LEAST + (uint64_t)fmin(more, MOST), most);
    return (uint32_t)fb_max(
        fb_min(FB_BATCH_LEAST, in->ctx), batch / FB_BATCH_LEAST * FB_BATCH_LEAST);
}
