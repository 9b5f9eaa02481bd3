#include "plan/context.h"

#include "base/units.h"

#define SHARE 8   /* the context gets at most a SHARE-th of the budget */
#define STEP  256 /* llama.cpp pads the KV cache to this many tokens */

uint32_t fb_context_default(const struct fb_context_inputs *in)
{
    uint64_t most = in->budget_bytes / SHARE;
    if (in->budget_bytes >= in->fits_bytes) {
        most = fb_min(most, in->budget_bytes - in->fits_bytes + in->least_bytes);
    }
    double tokens = (double)in->least * (double)most / (double)fb_max(in->least_bytes, 1);
    if (tokens >= in->trained) {
        return in->trained > in->least ? in->trained : in->least;
    }
    uint32_t n = (uint32_t)fb_round_down((uint64_t)tokens, STEP);
    return n > in->least ? n : in->least;
}
