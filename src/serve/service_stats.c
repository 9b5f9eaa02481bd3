#include "serve/service_stats.h"

#define SECOND_NS 1000000000u

void fb_rate_add(struct fb_rate *r, uint64_t now_ns, uint64_t tokens)
{
    uint64_t second = now_ns / SECOND_NS;
    size_t i = (size_t)(second % FB_RATE_SECONDS);
    if (r->second[i] != second) {
        r->second[i] = second;
        r->tokens[i] = 0;
    }
    r->tokens[i] += tokens;
}

double fb_rate_get(const struct fb_rate *r, uint64_t now_ns)
{
    uint64_t now = now_ns / SECOND_NS, sum = 0, span = FB_RATE_SECONDS - 1;
    for (size_t i = 0; i < FB_RATE_SECONDS; i++) {
        if (r->second[i] < now && now - r->second[i] <= span) {
            sum += r->tokens[i];
        }
    }
    return (double)sum / (double)span;
}
