/* served.h - the model that is served, as API handlers see it. Read by many threads at once. */
#ifndef FB_SERVE_SERVED_H
#define FB_SERVE_SERVED_H

#include "forebay.h"
#include "serve/service.h"

/* Facts about the model for clients; valid UTF-8. */
struct fb_model_card {
    char name[256];
    char arch[64];
    char quantization[32];   /* the type of most of the bytes, as GGUF writes it: "Q4_K" */
    char parameter_size[32]; /* "4.7B" */
    char digest[65];         /* 64 hexadecimal digits; not a hash of the file */
    char modified[40];       /* RFC 3339 */
    uint64_t parameters, file_bytes;
};

struct fb_served {
    struct fb_service *service;
    const struct forebay_model *model;
    struct forebay_chat *chat; /* NULL: see no_chat */
    char no_chat[512];         /* why there is no chat: no tokenizer, or a broken template */
    struct fb_model_card card;
    int64_t started_s;     /* since the epoch */
    bool client_templates; /* requests may bring their own chat templates */
    _Atomic bool stopping; /* requests under way should end now */
};

/* Describes the service's model, which clients call `name`; `path` is its file. `chat_template`
 * replaces the model's own; NULL: it does not. E_IO, E_FORMAT: the file cannot be read. E_USAGE:
 * `chat_template` is invalid. A model whose own template is invalid is served without chat. */
enum forebay_status fb_served_init(struct fb_served *served, struct fb_service *service,
    const char *name, const char *path, const char *chat_template, struct forebay_error *err);
void fb_served_release(struct fb_served *served);

/* True if a client means this model by `name`: its name, or its name with Ollama's ":latest". */
bool fb_served_is_model(const struct fb_served *served, const char *name);

#endif
