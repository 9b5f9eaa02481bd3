/*
 * quant.c - names, mixes and fallbacks of tensor types (see quant.h), and blocks of random bits.
 *
 * The rules of mixes and fallbacks follow llama-quantize's (src/llama-quant.cpp).
 */
#include "synth/quant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/random.h"
#include "synth/synth.h"

#include "ggml.h"

/* Types a matrix may be stored in, which excludes Q8_1, Q8_K and the integers. */
static const struct {
    const char *name;
    enum ggml_type type;
} types[] = {{"F32", GGML_TYPE_F32}, {"F16", GGML_TYPE_F16}, {"BF16", GGML_TYPE_BF16},
    {"Q4_0", GGML_TYPE_Q4_0}, {"Q4_1", GGML_TYPE_Q4_1}, {"Q5_0", GGML_TYPE_Q5_0},
    {"Q5_1", GGML_TYPE_Q5_1}, {"Q8_0", GGML_TYPE_Q8_0}, {"Q2_K", GGML_TYPE_Q2_K},
    {"Q3_K", GGML_TYPE_Q3_K}, {"Q4_K", GGML_TYPE_Q4_K}, {"Q5_K", GGML_TYPE_Q5_K},
    {"Q6_K", GGML_TYPE_Q6_K}, {"IQ1_S", GGML_TYPE_IQ1_S}, {"IQ1_M", GGML_TYPE_IQ1_M},
    {"IQ2_XXS", GGML_TYPE_IQ2_XXS}, {"IQ2_XS", GGML_TYPE_IQ2_XS}, {"IQ2_S", GGML_TYPE_IQ2_S},
    {"IQ3_XXS", GGML_TYPE_IQ3_XXS}, {"IQ3_S", GGML_TYPE_IQ3_S}, {"IQ4_NL", GGML_TYPE_IQ4_NL},
    {"IQ4_XS", GGML_TYPE_IQ4_XS}, {"TQ1_0", GGML_TYPE_TQ1_0}, {"TQ2_0", GGML_TYPE_TQ2_0},
    {"MXFP4", GGML_TYPE_MXFP4}, {"NVFP4", GGML_TYPE_NVFP4}, {"Q1_0", GGML_TYPE_Q1_0},
    {"Q2_0", GGML_TYPE_Q2_0}};

static const struct fb_synth_quant mixes[] = {
    /* base, more, output, expert */
    {"Q2_K_M", GGML_TYPE_Q2_K, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K, GGML_TYPE_Q2_K},
    {"Q3_K_M", GGML_TYPE_Q3_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_Q3_K},
    {"Q4_K_M", GGML_TYPE_Q4_K, GGML_TYPE_Q6_K, GGML_TYPE_Q6_K, GGML_TYPE_Q4_K},
    {"Q5_K_M", GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_Q6_K, GGML_TYPE_Q5_K},
    {"MXFP4_MOE", GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, GGML_TYPE_MXFP4},
};

#define N_TYPES ((int)(sizeof types / sizeof *types))
#define N_MIXES ((int)(sizeof mixes / sizeof *mixes))

const char *fb_synth_type_name(int i)
{
    if (i < 0 || i >= N_TYPES + N_MIXES) {
        return NULL;
    }
    return i < N_TYPES ? types[i].name : mixes[i - N_TYPES].name;
}

enum forebay_status fb_synth_quant_parse(
    const char *name, struct fb_synth_quant *out, struct forebay_error *err)
{
    for (int i = 0; i < N_TYPES; i++) {
        if (strcasecmp(name, types[i].name) == 0) {
            int type = types[i].type;
            *out = (struct fb_synth_quant){types[i].name, type, type, type, type};
            return FOREBAY_OK;
        }
    }
    for (int i = 0; i < N_MIXES; i++) {
        if (strcasecmp(name, mixes[i].name) == 0) {
            *out = mixes[i];
            return FOREBAY_OK;
        }
    }
    return fb_fail(err, FOREBAY_E_USAGE,
        "Use a name as GGUF writes it: F16, Q8_0, Q4_K, IQ4_XS, MXFP4, ... or the mix Q4_K_M.",
        "unknown tensor type '%s'", name);
}

bool fb_synth_quant_known(int type)
{
    for (int i = 0; i < N_TYPES; i++) {
        if ((int)types[i].type == type) {
            return true;
        }
    }
    return false;
}

/* Layers with more bits: the first and the last eighth, and every third between them. */
static bool more_bits(int layer, int n_layer)
{
    int eighth = n_layer / 8;
    return layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2;
}

static enum ggml_type fallback(enum ggml_type type, int64_t row_length)
{
    if (row_length % ggml_blck_size(type) == 0) {
        return type;
    }
    enum ggml_type next = GGML_TYPE_IQ4_NL;
    if (type == GGML_TYPE_Q4_K) {
        next = GGML_TYPE_Q5_0;
    } else if (type == GGML_TYPE_Q5_K) {
        next = GGML_TYPE_Q5_1;
    } else if (type == GGML_TYPE_Q6_K) {
        next = GGML_TYPE_Q8_0;
    }
    return row_length % ggml_blck_size(next) == 0 ? next : GGML_TYPE_F16;
}

int fb_synth_quant_pick(const struct fb_synth_quant *quant, enum fb_synth_part part, int layer,
    int n_layer, int64_t row_length)
{
    int type = quant->base;
    switch (part) {
    case FB_PART_OTHER:
    case FB_PART_ROUTER:
        return GGML_TYPE_F32;
    case FB_PART_OUTPUT:
        type = quant->output;
        break;
    case FB_PART_ATTN_V:
    case FB_PART_DOWN:
        type = more_bits(layer, n_layer) ? quant->more : quant->base;
        break;
    case FB_PART_EXPERT_DOWN:
        /* a mix with a type for experts uses it for all of them */
        type =
            quant->expert == quant->base && more_bits(layer, n_layer) ? quant->more : quant->expert;
        break;
    case FB_PART_EXPERT:
        type = quant->expert;
        break;
    default:
        break;
    }
    return fallback((enum ggml_type)type, row_length);
}

void fb_synth_quantize(int type, const float *rows, int64_t n_rows, int64_t row_length, void *out)
{
    float *importance = NULL;
    if (ggml_quantize_requires_imatrix((enum ggml_type)type)) {
        importance = fb_xmalloc((size_t)row_length * sizeof *importance);
        for (int64_t i = 0; i < row_length; i++) {
            importance[i] = 1.0f;
        }
    }
    ggml_quantize_chunk((enum ggml_type)type, rows, out, 0, n_rows, row_length, importance);
    free(importance);
}

/* --- Blocks of random bits ---------------------------------------------------------------- */

#define BLOCK_WEIGHTS 256 /* of all the types below */
#define IQ1_M_SCALES  48  /* where its four 16-bit words of scales begin */

/* Every type here starts its block with the scale as a 16-bit float, except IQ1_M, which spreads
 * that float over the top four bits of four words. */
static void set_scale(int type, uint8_t *block, float scale)
{
    uint16_t half = ggml_fp32_to_fp16(scale);
    if (type != GGML_TYPE_IQ1_M) {
        memcpy(block, &half, sizeof half);
        return;
    }
    uint16_t words[4];
    memcpy(words, block + IQ1_M_SCALES, sizeof words);
    for (int i = 0; i < 4; i++) {
        words[i] = (uint16_t)((words[i] & 0x0fff) | (half >> 4 * i & 15) << 12);
    }
    memcpy(block + IQ1_M_SCALES, words, sizeof words);
}

static bool has_slow_tables(int type)
{
    switch (type) {
    case GGML_TYPE_IQ1_S:
    case GGML_TYPE_IQ1_M:
    case GGML_TYPE_IQ2_XXS:
    case GGML_TYPE_IQ2_XS:
    case GGML_TYPE_IQ2_S:
    case GGML_TYPE_IQ3_XXS:
    case GGML_TYPE_IQ3_S:
        return true;
    default:
        return false;
    }
}

bool fb_synth_random_blocks(int type, uint64_t key, float spread, int64_t n_blocks, void *out)
{
    if (!has_slow_tables(type)) {
        return false;
    }
    const struct ggml_type_traits *traits = ggml_get_type_traits((enum ggml_type)type);
    uint8_t *block = out;
    for (int64_t i = 0; i < n_blocks; i++, block += traits->type_size) {
        for (size_t at = 0; at < traits->type_size; at += 8) {
            uint64_t bits = fb_random_mix(key, (uint64_t)i, at);
            size_t rest = traits->type_size - at;
            memcpy(block + at, &bits, rest < 8 ? rest : 8);
        }
        float weights[BLOCK_WEIGHTS], sum = 0.0f;
        set_scale(type, block, 1.0f);
        traits->to_float(block, weights, BLOCK_WEIGHTS);
        for (int j = 0; j < BLOCK_WEIGHTS; j++) {
            sum += weights[j] * weights[j];
        }
        set_scale(type, block, sum > 0 ? spread / sqrtf(sum / BLOCK_WEIGHTS) : 0.0f);
    }
    return true;
}

void fb_synth_zeros(int type, int64_t row_length, void *out)
{
    if (fb_synth_random_blocks(type, 0, 0.0f, row_length / BLOCK_WEIGHTS, out)) {
        return;
    }
    float *floats = fb_xcalloc((size_t)row_length, sizeof *floats);
    fb_synth_quantize(type, floats, 1, row_length, out);
    free(floats);
}
