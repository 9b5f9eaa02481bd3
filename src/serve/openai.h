/* openai.h - handlers of OpenAI's API: models, chat completions, completions. */
#ifndef FB_SERVE_OPENAI_H
#define FB_SERVE_OPENAI_H

#include "serve/http.h"

void fb_openai_models(struct fb_request *request);
void fb_openai_model(struct fb_request *request);
void fb_openai_chat(struct fb_request *request);
void fb_openai_text(struct fb_request *request);
void fb_openai_embeddings(struct fb_request *request); /* 400: not supported */

#endif
