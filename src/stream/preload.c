#include "stream/preload.h"

#include "base/error.h"

#define PASS_MOST 64 /* experts in a pass */

static bool room_for_all(const struct st_stream *stream, const struct st_weights *weights)
{
    bool all = true;
    for (int g = 0; g < weights->n_groups && all; g++) {
        uint64_t stride;
        int n_slots;
        st_stream_slots(stream, weights->groups[g].weight[0], &stride, &n_slots);
        all = n_slots == weights->groups[g].n_expert; /* a shared pool has more, or too few */
    }
    return all;
}

/* Experts first, first + 1, ... of the group: as many as a pass takes. */
static enum strata_status preload_pass(struct st_stream *stream, struct st_pass *pass, int group,
    const struct st_group *info, int first, struct strata_error *err)
{
    int experts[PASS_MOST], n = 0;
    for (; n < PASS_MOST && first + n < info->n_expert; n++) {
        experts[n] = first + n;
    }
    enum strata_status status = STRATA_OK;
    st_stream_begin(stream, pass, group, experts, NULL, n, st_group_parts(info));
    for (int part = 0; part < info->n_parts && status == STRATA_OK; part++) {
        status = st_stream_wait(stream, pass, part, err);
    }
    st_stream_end(stream, pass);
    return status;
}

enum strata_status st_preload(struct st_stream *stream, const struct st_weights *weights,
    strata_progress progress, void *progress_user, struct strata_error *err)
{
    struct st_pass pass = {.group = -1};
    enum strata_status status = STRATA_OK;
    int n_groups = room_for_all(stream, weights) ? weights->n_groups : 0;
    for (int g = 0; g < n_groups && status == STRATA_OK; g++) {
        const struct st_group *info = &weights->groups[g];
        for (int e = 0; e < info->n_expert && status == STRATA_OK; e += PASS_MOST) {
            status = preload_pass(stream, &pass, g, info, e, err);
        }
        if (status == STRATA_OK && progress &&
            !progress("reading experts", (uint64_t)g + 1, (uint64_t)n_groups, progress_user)) {
            status = st_fail(err, STRATA_E_CANCELLED, "", "loading was cancelled");
        }
    }
    st_pass_release(&pass);
    return status;
}
