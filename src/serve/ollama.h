/* ollama.h - handlers of Ollama's API that generate. */
#ifndef FB_SERVE_OLLAMA_H
#define FB_SERVE_OLLAMA_H

#include "serve/http.h"

void fb_ollama_generate(struct fb_request *request);
void fb_ollama_chat(struct fb_request *request);

#endif
