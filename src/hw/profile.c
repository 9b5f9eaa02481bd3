/*
 * profile.c - see profile.h. The file is JSON. Everything read is checked against the range of
 * values that we would write; one bad value makes the whole file invalid, and it is measured again.
 */
#include "hw/profile.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/dirs.h"
#include "os/save.h"

#define FORMAT 6 /* version of the file; files of others are ignored */

const uint32_t fb_profile_blocks[4] = {64 << 10, 256 << 10, 1 << 20, 4 << 20};
const uint32_t fb_profile_depths[3] = {1, 4, 16};

/* --- Looking up ---------------------------------------------------------------------------- */

static const struct fb_profile_rate *find(const struct fb_profile *p, const char *device,
    const char *type, bool repacked, int threads, int columns, int rows, int used)
{
    for (int i = 0; i < p->n_rates; i++) {
        const struct fb_profile_rate *r = &p->rates[i];
        if (r->repacked == repacked && r->threads == threads && r->columns == columns &&
            r->rows == rows && r->used == used && strcmp(r->type, type) == 0 &&
            strcmp(r->device, device) == 0) {
            return r;
        }
    }
    return NULL;
}

const struct fb_profile_rate *fb_profile_expert_rate(const struct fb_profile *p, const char *type,
    bool repacked, int threads, int columns, int rows, int used)
{
    return find(p, "", type, repacked, threads, columns, rows, used);
}

const struct fb_profile_rate *fb_profile_device_rate(const struct fb_profile *p, const char *device,
    const char *type, int columns, int rows, int used)
{
    return find(p, device, type, false, 1, columns, rows, used);
}

const struct fb_profile_device *fb_profile_device(const struct fb_profile *p, const char *name)
{
    for (int i = 0; i < p->n_devices; i++) {
        if (strcmp(p->devices[i].name, name) == 0) {
            return &p->devices[i];
        }
    }
    return NULL;
}

const struct fb_profile_rate *fb_profile_rate(
    const struct fb_profile *p, const char *type, bool repacked, int threads)
{
    return fb_profile_expert_rate(p, type, repacked, threads, 0, 0, 0);
}

static bool fresh(int64_t measured, int64_t now)
{
    return measured <= now + 86400 && measured > now - (int64_t)FB_PROFILE_DAYS * 86400;
}

const struct fb_profile_disk *fb_profile_disk(
    const struct fb_profile *p, uint64_t device, int64_t now)
{
    for (int i = 0; i < p->n_disks; i++) {
        if (p->disks[i].device == device && fresh(p->disks[i].measured, now)) {
            return &p->disks[i];
        }
    }
    return NULL;
}

void fb_profile_put_rate(struct fb_profile *p, const struct fb_profile_rate *rate)
{
    struct fb_profile_rate *old = (struct fb_profile_rate *)find(p, rate->device, rate->type,
        rate->repacked, rate->threads, rate->columns, rate->rows, rate->used);
    if (!old && p->n_rates == FB_PROFILE_RATES) {
        memmove(p->rates, p->rates + 1, sizeof p->rates - sizeof p->rates[0]);
        p->n_rates--;
    }
    *(old ? old : &p->rates[p->n_rates++]) = *rate;
}

void fb_profile_drop_cpu(struct fb_profile *p)
{
    int kept = 0;
    for (int i = 0; i < p->n_rates; i++) {
        if (p->rates[i].device[0]) {
            p->rates[kept++] = p->rates[i];
        }
    }
    p->n_rates = kept;
}

void fb_profile_put_device(struct fb_profile *p, const struct fb_profile_device *device)
{
    int i = 0;
    while (i < p->n_devices && strcmp(p->devices[i].name, device->name) != 0) {
        i++;
    }
    if (i == FB_PROFILE_DEVICES) {
        memmove(p->devices, p->devices + 1, sizeof p->devices - sizeof p->devices[0]);
        i--;
    }
    p->n_devices = i == p->n_devices ? i + 1 : p->n_devices;
    p->devices[i] = *device;
}

void fb_profile_put_disk(struct fb_profile *p, const struct fb_profile_disk *disk)
{
    int i = 0;
    while (i < p->n_disks && p->disks[i].device != disk->device) {
        i++;
    }
    if (i == FB_PROFILE_DISKS) {
        memmove(p->disks, p->disks + 1, sizeof p->disks - sizeof p->disks[0]);
        i--;
    }
    p->n_disks = i == p->n_disks ? i + 1 : p->n_disks;
    p->disks[i] = *disk;
}

/* --- Reading ------------------------------------------------------------------------------- */

/* A finite number that is not negative, or NAN. */
static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    double x = json_is_number(value) ? json_number_value(value) : NAN;
    return isfinite(x) && x >= 0 ? x : NAN;
}

static bool read_rate(const json_t *object, struct fb_profile_rate *out)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    double threads = number(object, "threads"), columns = number(object, "columns"),
           rows = number(object, "rows"), used = number(object, "used");
    *out = (struct fb_profile_rate){
        .repacked = json_is_true(json_object_get(object, "repacked")),
        .threads = threads >= 1 && threads <= 4096 ? (int)threads : 0,
        .columns = columns <= 1e9 ? (int)columns : -1,
        .rows = rows <= 1e9 ? (int)rows : -1,
        .used = used <= 1e9 ? (int)used : -1,
        .decode = number(object, "decode_bytes_per_s"),
        .batch = number(object, "batch_madds_per_s"),
        .experts = number(object, "experts_madds_per_s"),
        .unpack = number(object, "unpack_bytes_per_s"),
    };
    const char *device = json_string_value(json_object_get(object, "device"));
    snprintf(out->type, sizeof out->type, "%s", type ? type : "");
    snprintf(out->device, sizeof out->device, "%s", device ? device : "");
    bool sized = out->columns > 0 && out->rows > 0 && out->used > 0; /* experts of a size */
    bool whole = out->columns == 0 && out->rows == 0 && out->used == 0 && out->batch > 0;
    return type && device && json_is_boolean(json_object_get(object, "repacked")) && out->threads &&
           (sized || whole) && out->decode > 0 && out->batch >= 0 && out->experts >= 0 &&
           out->unpack >= 0;
}

static bool read_device(const json_t *object, struct fb_profile_device *out)
{
    const char *name = json_string_value(json_object_get(object, "name"));
    *out = (struct fb_profile_device){
        .upload_bytes_per_s = number(object, "upload_bytes_per_s"),
        .op_s = number(object, "op_s"),
        .turn_s = number(object, "turn_s"),
    };
    snprintf(out->name, sizeof out->name, "%s", name ? name : "");
    return name && out->upload_bytes_per_s > 0 && out->op_s >= 0 && out->turn_s >= 0;
}

static bool read_disk(const json_t *object, struct fb_profile_disk *out)
{
    *out = (struct fb_profile_disk){
        .device = (uint64_t)json_integer_value(json_object_get(object, "device")),
        .bytes_per_s = number(object, "bytes_per_s"),
        .latency_s = number(object, "latency_s"),
        .measured = json_integer_value(json_object_get(object, "measured")),
    };
    const json_t *grid = json_object_get(object, "grid_bytes_per_s");
    for (size_t b = 0; b < 4; b++) {
        for (size_t d = 0; d < 3; d++) {
            const json_t *cell = json_array_get(json_array_get(grid, b), d);
            out->grid[b][d] = json_is_number(cell) ? json_number_value(cell) : NAN;
            if (!isfinite(out->grid[b][d]) || out->grid[b][d] < 0) {
                return false;
            }
        }
    }
    return json_is_integer(json_object_get(object, "device")) && out->bytes_per_s > 0 &&
           out->latency_s >= 0;
}

/* False when a value is missing or out of range. */
static bool read_body(const json_t *root, struct fb_profile *out)
{
    const json_t *item;
    size_t i;
    out->measured = json_integer_value(json_object_get(root, "measured"));
    double cores = number(root, "cores");
    out->cores = cores <= 1e6 ? (int)cores : -1;
    out->op_s = number(root, "op_s");
    out->other_cores = number(root, "other_cores");
    out->memory_bytes_per_s[0] = number(root, "memory_bytes_per_s_1");
    out->memory_bytes_per_s[1] = number(root, "memory_bytes_per_s");
    const json_t *rates = json_object_get(root, "compute");
    const json_t *devices = json_object_get(root, "devices");
    const json_t *disks = json_object_get(root, "disks");
    if (!json_is_array(rates) || !json_is_array(devices) || !json_is_array(disks)) {
        return false;
    }
    json_array_foreach(devices, i, item)
    {
        struct fb_profile_device device;
        if (!read_device(item, &device)) {
            return false;
        }
        fb_profile_put_device(out, &device);
    }
    json_array_foreach(rates, i, item)
    {
        struct fb_profile_rate rate;
        if (!read_rate(item, &rate)) {
            return false;
        }
        fb_profile_put_rate(out, &rate);
    }
    json_array_foreach(disks, i, item)
    {
        struct fb_profile_disk disk;
        if (!read_disk(item, &disk)) {
            return false;
        }
        fb_profile_put_disk(out, &disk);
    }
    return out->cores >= 0 && out->op_s >= 0 && out->other_cores >= 0 &&
           out->memory_bytes_per_s[0] >= 0 && out->memory_bytes_per_s[1] >= 0;
}

static void empty(struct fb_profile *p, const char *machine, int64_t now)
{
    *p = (struct fb_profile){.measured = now};
    snprintf(p->machine, sizeof p->machine, "%s", machine);
}

bool fb_profile_load(
    const char *path, const char *machine, int64_t now, struct fb_profile *out, const char **why)
{
    json_error_t error;
    FILE *file = fb_file_open_text(path);
    bool there = file || errno != ENOENT;
    json_t *root = file ? json_loadf(file, 0, &error) : NULL;
    if (file) {
        fclose(file);
    }
    const char *of = json_string_value(json_object_get(root, "machine"));
    *why = NULL;
    empty(out, machine, now);
    if (!root) {
        *why = there ? "it is damaged" : "there is none yet";
    } else if (!of || json_integer_value(json_object_get(root, "format")) != FORMAT) {
        *why = "it is damaged, or of another version";
    } else if (strcmp(of, out->machine) != 0) {
        *why = "it is of another machine or llama.cpp";
    } else if (!read_body(root, out)) {
        *why = "it is damaged";
    } else if (!fresh(out->measured, now)) {
        *why = "it is too old";
    }
    json_decref(root);
    if (*why) {
        empty(out, machine, now);
    }
    return *why == NULL;
}

/* --- Writing ------------------------------------------------------------------------------- */

static json_t *rate_json(const struct fb_profile_rate *r)
{
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:b, s:i, s:f, s:f, s:f, s:f}", "device", r->device,
        "type", r->type, "columns", r->columns, "rows", r->rows, "used", r->used, "repacked",
        r->repacked, "threads", r->threads, "decode_bytes_per_s", r->decode, "batch_madds_per_s",
        r->batch, "experts_madds_per_s", r->experts, "unpack_bytes_per_s", r->unpack);
}

static json_t *device_json(const struct fb_profile_device *d)
{
    return json_pack("{s:s, s:f, s:f, s:f}", "name", d->name, "upload_bytes_per_s",
        d->upload_bytes_per_s, "op_s", d->op_s, "turn_s", d->turn_s);
}

static json_t *disk_json(const struct fb_profile_disk *d)
{
    json_t *grid = json_array();
    for (int b = 0; b < 4; b++) {
        json_array_append_new(
            grid, json_pack("[f, f, f]", d->grid[b][0], d->grid[b][1], d->grid[b][2]));
    }
    return json_pack("{s:I, s:I, s:f, s:f, s:o}", "device", (json_int_t)d->device, "measured",
        (json_int_t)d->measured, "bytes_per_s", d->bytes_per_s, "latency_s", d->latency_s,
        "grid_bytes_per_s", grid);
}

char *fb_profile_json(const struct fb_profile *p)
{
    json_t *rates = json_array(), *devices = json_array(), *disks = json_array();
    for (int i = 0; i < p->n_devices; i++) {
        json_array_append_new(devices, device_json(&p->devices[i]));
    }
    for (int i = 0; i < p->n_rates; i++) {
        json_array_append_new(rates, rate_json(&p->rates[i]));
    }
    for (int i = 0; i < p->n_disks; i++) {
        json_array_append_new(disks, disk_json(&p->disks[i]));
    }
    json_t *root = json_pack("{s:i, s:s, s:I, s:i, s:f, s:f, s:f, s:f, s:o, s:o, s:o}", "format",
        FORMAT, "machine", p->machine, "measured", (json_int_t)p->measured, "cores", p->cores,
        "other_cores", p->other_cores, "op_s", p->op_s, "memory_bytes_per_s_1",
        p->memory_bytes_per_s[0], "memory_bytes_per_s", p->memory_bytes_per_s[1], "compute", rates,
        "devices", devices, "disks", disks);
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(5));
    json_decref(root);
    return text;
}

bool fb_profile_save(const char *path, const struct fb_profile *p)
{
    char *text = fb_profile_json(p);
    bool saved = text && fb_private_replace(path, text, strlen(text));
    free(text);
    return saved;
}
