#include "serve/served.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"
#include "serve/buffer.h"

/* --- The model's card ---------------------------------------------------------------------- */

/* The tensor type that has most of the file's bytes. */
static void format_usual_type(
    const struct forebay_file *file, int n_tensors, char *name, size_t cap)
{
    const char *names[64];
    uint64_t bytes[64] = {0};
    int n = 0, best = 0;
    for (int i = 0; i < n_tensors; i++) {
        struct forebay_tensor_info t;
        forebay_file_tensor(file, i, &t);
        int at = 0;
        while (at < n && strcmp(names[at], t.type) != 0) {
            at++;
        }
        if (at == n && n < 64) {
            names[n++] = t.type;
        }
        if (at < n) {
            bytes[at] += t.bytes;
            best = bytes[at] > bytes[best] ? at : best;
        }
    }
    snprintf(name, cap, "%s", n > 0 ? names[best] : "unknown");
}

static void format_time(time_t when, char *text, size_t cap)
{
    struct tm tm;
    gmtime_r(&when, &tm);
    strftime(text, cap, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* File names and GGUF strings may hold any bytes; JSON may not. */
static void copy_text(char *out, size_t cap, const char *text)
{
    json_t *valid = fb_json_text(text, strlen(text));
    snprintf(out, cap, "%s", json_string_value(valid));
    json_decref(valid);
}

static enum forebay_status make_card(
    struct fb_served *s, const char *name, const char *path, struct forebay_error *err)
{
    struct forebay_file *file;
    struct forebay_file_info info;
    struct stat st;
    struct fb_model_card *card = &s->card;
    enum forebay_status status = forebay_file_open(path, &file, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    forebay_file_describe(file, &info);
    copy_text(card->name, sizeof card->name, name);
    copy_text(card->arch, sizeof card->arch, info.arch);
    format_usual_type(file, info.n_tensors, card->quantization, sizeof card->quantization);
    double billions = (double)info.parameters * 1e-9;
    snprintf(card->parameter_size, sizeof card->parameter_size, billions >= 1 ? "%.1fB" : "%.1fM",
        billions >= 1 ? billions : billions * 1000);
    card->parameters = info.parameters;
    card->file_bytes = info.file_bytes;
    uint64_t print = 0;
    status = forebay_state_fingerprint(s->model, &print, err);
    snprintf(card->digest, sizeof card->digest, "%064llx", (unsigned long long)print);
    format_time(
        stat(path, &st) == 0 ? st.st_mtime : time(NULL), card->modified, sizeof card->modified);
    forebay_file_free(file);
    return status;
}

/* --- Life ---------------------------------------------------------------------------------- */

enum forebay_status fb_served_init(struct fb_served *s, struct fb_service *service,
    const char *name, const char *path, const char *chat_template, struct forebay_error *err)
{
    memset(s, 0, sizeof *s);
    s->service = service;
    s->model = fb_service_model(service);
    s->started_s = (int64_t)time(NULL);
    enum forebay_status status = make_card(s, name, path, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    struct forebay_error why;
    status = forebay_chat_new(s->model, chat_template, &s->chat, &why);
    if (status == FOREBAY_OK) {
        return FOREBAY_OK;
    }
    if (forebay_model_has_text(s->model)) {
        if (chat_template) {
            *err = why;
            return status;
        }
        fb_warn("chat is not available: %s; give a template with --chat-template", why.message);
    }
    copy_text(s->no_chat, sizeof s->no_chat, why.message);
    return FOREBAY_OK;
}

void fb_served_release(struct fb_served *s)
{
    forebay_chat_free(s->chat);
}

bool fb_served_is_model(const struct fb_served *s, const char *name)
{
    size_t n = strcspn(name, ":");
    return strcmp(name, s->card.name) == 0 ||
           (strcmp(name + n, ":latest") == 0 && strlen(s->card.name) == n &&
               strncmp(name, s->card.name, n) == 0);
}
