/* estimate_devices.c - the time that devices take for the weights that they hold. */
#include <math.h>

#include "base/units.h"
#include "model/weights.h"
#include "plan/estimate.h"

/* As in estimate.c. */
#define OPS_PER_LAYER 40

struct fb_device_rates fb_estimate_device_rates(
    const struct fb_speed_inputs *in, const char *device, const struct fb_tensor *t)
{
    const char *type = in->type_name(t->type);
    int used = in->weights->catalog->n_expert_used;
    bool expert = fb_weights_is_expert(t);
    const struct fb_profile_rate *r =
        expert
            ? fb_profile_device_rate(in->profile, device, type, (int)t->ne[0], (int)t->ne[1], used)
            : fb_profile_device_rate(in->profile, device, type, 0, 0, 0);
    struct fb_device_rates rates = {0};
    if (r) {
        rates.decode = r->decode;
        rates.batch = expert ? r->experts : r->batch;
    }
    return rates;
}

/* Whether the tensor is a matrix that tokens are multiplied with. The embeddings of a model without
 * an output matrix are one, too, on the device of the output. */
static int computing_device(
    const struct fb_offload_plan *plan, const struct fb_catalog *c, int t, bool has_output)
{
    const struct fb_tensor *tensor = &c->tensors[t];
    if (!tensor->matrix) {
        return -1;
    }
    if (tensor->role == FB_ROLE_EMBEDDING && tensor->layer < 0 && !has_output) {
        return plan->output ? plan->output_device : -1;
    }
    return fb_offload_holder(plan, c, t);
}

static double elements(const struct fb_tensor *t)
{
    return (double)t->ne[0] * (double)t->ne[1] * (double)t->ne[2] * (double)t->ne[3];
}

/* Adds the seconds of `tokens` tokens at once. False when a rate is not known. */
static bool add_tensor(const struct fb_speed_inputs *in, const char *device,
    const struct fb_tensor *t, double tokens, double *seconds)
{
    struct fb_device_rates rates = fb_estimate_device_rates(in, device, t);
    double rows = tokens, share = 1;
    if (fb_weights_is_expert(t)) {
        double e = t->n_expert, k = fmin(in->weights->catalog->n_expert_used, e);
        share = 1 - pow(1 - k / e, tokens);
        rows = tokens * k / e;
    }
    if (rates.decode <= 0 || rates.batch <= 0) {
        return false;
    }
    *seconds += fmax(share * (double)t->bytes / rates.decode, rows * elements(t) / rates.batch);
    return true;
}

bool fb_estimate_held(const struct fb_speed_inputs *in, const struct fb_offload_plan *plan,
    const char *const *names, double tokens, double *seconds, uint64_t *bytes)
{
    const struct fb_catalog *c = in->weights->catalog;
    bool has_output = false, known = true;
    *seconds = 0;
    *bytes = 0;
    for (int t = 0; t < c->n_tensors; t++) {
        has_output = has_output || (c->tensors[t].role == FB_ROLE_OUTPUT && c->tensors[t].matrix);
    }
    for (int t = 0; t < c->n_tensors && known; t++) {
        const struct fb_tensor *tensor = &c->tensors[t];
        int d = computing_device(plan, c, t, has_output);
        if (d >= 0) {
            known = add_tensor(in, names[d], tensor, tokens, seconds);
            *bytes += fb_weights_is_expert(tensor)
                          ? tensor->expert_bytes * (uint64_t)c->n_expert_used
                          : tensor->bytes;
        }
    }
    for (int d = 0; d < FOREBAY_DEVICES && known; d++) {
        const struct fb_profile_device *device =
            plan->layers_on[d] ? fb_profile_device(in->profile, names[d]) : NULL;
        known = !plan->layers_on[d] || device;
        *seconds += device ? plan->layers_on[d] * OPS_PER_LAYER * device->op_s * sqrt(tokens) : 0;
    }
    return known;
}
