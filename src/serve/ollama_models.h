/* ollama_models.h - handlers of Ollama's API that are about models: list, show, manage. */
#ifndef FB_SERVE_OLLAMA_MODELS_H
#define FB_SERVE_OLLAMA_MODELS_H

#include "serve/http.h"

void fb_ollama_tags(struct fb_request *request);
void fb_ollama_ps(struct fb_request *request);
void fb_ollama_version(struct fb_request *request);
void fb_ollama_show(struct fb_request *request);
void fb_ollama_embed(struct fb_request *request);       /* 400: not supported */
void fb_ollama_unsupported(struct fb_request *request); /* 400: this server manages no models */

#endif
