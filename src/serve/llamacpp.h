/* llamacpp.h - handlers of the routes of llama.cpp's server that editors use. */
#ifndef FB_SERVE_LLAMACPP_H
#define FB_SERVE_LLAMACPP_H

#include "serve/http.h"

void fb_llamacpp_completion(struct fb_request *request);
void fb_llamacpp_infill(struct fb_request *request); /* 501: the model has no tokens for it */
void fb_llamacpp_tokenize(struct fb_request *request);
void fb_llamacpp_detokenize(struct fb_request *request);
void fb_llamacpp_apply(struct fb_request *request); /* the prompt of a conversation, as text */
void fb_llamacpp_props(struct fb_request *request);

#endif
