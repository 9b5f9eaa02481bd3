#include "serve/ollama_models.h"

#include <stdio.h>
#include <string.h>

#include "serve/answer.h"
#include "serve/fields.h"
#include "serve/served.h"

static json_t *details(const struct fb_served *s)
{
    return json_pack("{s:s,s:s,s:s,s:[s],s:s,s:s}", "parent_model", "", "format", "gguf", "family",
        s->card.arch, "families", s->card.arch, "parameter_size", s->card.parameter_size,
        "quantization_level", s->card.quantization);
}

static json_t *listed(const struct fb_served *s)
{
    return json_pack("{s:s,s:s,s:I,s:s,s:o}", "name", s->card.name, "model", s->card.name, "size",
        (json_int_t)s->card.file_bytes, "digest", s->card.digest, "details", details(s));
}

void fb_ollama_tags(struct fb_request *r)
{
    const struct fb_served *s = r->served;
    json_t *model = listed(s);
    json_object_set_new(model, "modified_at", json_string(s->card.modified));
    fb_answer_json(r, 200, json_pack("{s:[o]}", "models", model));
}

void fb_ollama_ps(struct fb_request *r)
{
    const struct fb_served *s = r->served;
    struct forebay_placement placement;
    uint64_t on_devices = 0;
    forebay_model_placement(s->model, &placement);
    for (int d = 0; d < placement.n_devices; d++) {
        on_devices += placement.devices[d].bytes;
    }
    json_t *model = listed(s);
    json_object_set_new(model, "expires_at", json_string("9999-12-31T23:59:59Z"));
    json_object_set_new(model, "size_vram", json_integer((json_int_t)on_devices));
    json_object_set_new(
        model, "context_length", json_integer((json_int_t)forebay_model_ctx(s->model)));
    fb_answer_json(r, 200, json_pack("{s:[o]}", "models", model));
}

void fb_ollama_version(struct fb_request *r)
{
    fb_answer_json(r, 200, json_pack("{s:s}", "version", FB_OLLAMA_LEVEL));
}

static json_t *capabilities(const struct fb_served *s)
{
    json_t *list = json_pack("[s]", "completion");
    if (s->chat && forebay_chat_has_tools(s->chat)) {
        json_array_append_new(list, json_string("tools"));
    }
    if (s->chat && forebay_chat_can_think(s->chat)) {
        json_array_append_new(list, json_string("thinking"));
    }
    return list;
}

/* The model that a request names. */
static const char *named_model(const struct fb_served *s, struct fb_fields *f)
{
    const char *name = fb_field_string(f, "model", NULL);
    name = name && name[0] ? name : fb_field_string(f, "name", NULL);
    if (!name || !name[0]) {
        fb_fields_fail(f, "model is missing; this server has '%s'", s->card.name);
    }
    return name;
}

void fb_ollama_show(struct fb_request *r)
{
    const struct fb_served *s = r->served;
    struct fb_fields f;
    const char *name = NULL;
    json_t *object = fb_fields_parse(&f, r->body.data, r->body.n);
    if (object) {
        name = named_model(s, &f);
    }
    if (f.bad) {
        fb_answer_error(r, 400, "%s", f.message);
    } else if (!fb_served_is_model(s, name)) {
        fb_answer_no_model(r, name);
    } else {
        char ctx_key[96];
        snprintf(ctx_key, sizeof ctx_key, "%s.context_length", s->card.arch);
        fb_answer_json(r, 200,
            json_pack("{s:s,s:s,s:s,s:o,s:o,s:{s:s,s:I,s:I},s:o,s:s}", "license", "", "modelfile",
                "", "parameters", "", "template",
                s->chat ? fb_json_text(forebay_chat_template(s->chat),
                              strlen(forebay_chat_template(s->chat)))
                        : json_string(""),
                "details", details(s), "model_info", "general.architecture", s->card.arch,
                "general.parameter_count", (json_int_t)s->card.parameters, ctx_key,
                (json_int_t)forebay_model_ctx_train(s->model), "capabilities", capabilities(s),
                "modified_at", s->card.modified));
    }
    json_decref(object);
}

void fb_ollama_embed(struct fb_request *r)
{
    fb_answer_error(r, 400, "embeddings are not supported: this server generates text");
}

void fb_ollama_pull(struct fb_request *r)
{
    static const char *const steps[] = {
        "pulling manifest", "verifying sha256 digest", "writing manifest", "success"};
    enum { LAST = sizeof steps / sizeof *steps - 1 };
    struct fb_fields f;
    json_t *object = fb_fields_parse(&f, r->body.data, r->body.n);
    const char *name = object ? named_model(r->served, &f) : NULL;
    bool stream = object && fb_field_bool(&f, "stream", true);
    if (f.bad) {
        fb_answer_error(r, 400, "%s", f.message);
    } else if (!fb_served_is_model(r->served, name)) {
        fb_answer_error(r, 404, "this server has one model, '%s', and cannot pull '%.200s'",
            r->served->card.name, name);
    } else if (!stream) {
        fb_answer_json(r, 200, json_pack("{s:s}", "status", steps[LAST]));
    } else {
        struct fb_buffer out = FB_BUFFER_INIT;
        for (int i = 0; i <= LAST; i++) {
            fb_buffer_json(&out, json_pack("{s:s}", "status", steps[i]));
            fb_buffer_print(&out, "\n");
        }
        fb_answer_text(r, 200, "application/x-ndjson", out.data);
        fb_buffer_release(&out);
    }
    json_decref(object);
}

void fb_ollama_unsupported(struct fb_request *r)
{
    fb_answer_error(
        r, 400, "this server has one model and cannot push, create, copy or delete models");
}
