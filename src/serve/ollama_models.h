/* ollama_models.h - handlers of Ollama's API that are about models: list, show, manage. */
#ifndef FB_SERVE_OLLAMA_MODELS_H
#define FB_SERVE_OLLAMA_MODELS_H

#include "serve/http.h"

/* The version of Ollama whose API this is. Clients ask for it and refuse to work with older ones:
 * 0.13.4 is what the youngest of those we know of asks for. */
#define FB_OLLAMA_LEVEL "0.13.4"

void fb_ollama_tags(struct fb_request *request);
void fb_ollama_ps(struct fb_request *request);
void fb_ollama_version(struct fb_request *request);
void fb_ollama_show(struct fb_request *request);
void fb_ollama_pull(struct fb_request *request);        /* succeeds for the model that is served */
void fb_ollama_embed(struct fb_request *request);       /* 400: not supported */
void fb_ollama_unsupported(struct fb_request *request); /* 400: this server manages no models */

#endif
