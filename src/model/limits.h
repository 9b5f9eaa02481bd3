/* limits.h - llama.cpp's own limits (LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS). */
#ifndef FB_MODEL_LIMITS_H
#define FB_MODEL_LIMITS_H

#define FB_MAX_LAYERS  512
#define FB_MAX_EXPERTS 1024

#endif
