/* Kernels of the deployed form, fp32, for any processor that the compiler has vectors for. Tensors are row-major and
 * contiguous; VECTOR is the number of floats in a vector.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR 16
#define ROWS 6
#define COLUMNS 4 /* vectors */
#elif defined(__AVX__)
#define VECTOR 8
#define ROWS 4
#define COLUMNS 3
#else
#define VECTOR 4
#define ROWS 4
#define COLUMNS 4
#endif

typedef float vf __attribute__((vector_size(VECTOR * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(VECTOR * 4), aligned(4), may_alias));

static inline vf load(const float *p) { return *(const vf *)p; }
static inline void store(float *p, vf x) { *(vf *)p = x; }
static inline vf fill(float x) { return x - vf{}; }
static inline vf larger(vf a, vf b) { return a > b ? a : b; }

/* e to the x for x <= 0, within 2 units in the last place; x below -87 counts as -87. */
static inline vf exponential(vf x)
{
    const vf magic = fill(12582912.0f);
    x = x < fill(-87.0f) ? fill(-87.0f) : x;
    vf shifted = x * fill(1.44269504088896341f) + magic;
    vf k = shifted - magic;
    vf r = x - k * fill(0.693359375f) - k * fill(-2.12194440e-4f);
    vf p = fill(1.9875691500e-4f);
    p = p * r + fill(1.3981999507e-3f);
    p = p * r + fill(8.3334519073e-3f);
    p = p * r + fill(4.1665795894e-2f);
    p = p * r + fill(1.6666665459e-1f);
    p = p * r + fill(5.0000001201e-1f);
    p = p * (r * r) + r + fill(1.0f);
    union { vf f; vi i; } power;
    power.f = shifted;
    power.i = (power.i << 23) + (127 << 23);
    return p * power.f;
}

extern "C" int vector_width() { return VECTOR; }

/* ------------------------------------------------------------------------------------------------------- attention */

/* Attention within square windows, with a bias for each offset between two tokens.
 *
 * What it computes, for each window w and head h, with N = side * side tokens of D numbers:
 *
 *     out[w, :, h] = softmax(scale * q @ k^T + bias) @ v
 *     bias[i, j] = table[h, |row(i) - row(j)|, column(j) - column(i) + side - 1], or OUTSIDE where kept[w, j] is 0
 *
 * Layouts (row-major):
 *     qkv     (windows, N, 3, heads, D)       q, k and v as one projection writes them
 *     table   (heads, side, 2 * side - 1)     and VECTOR numbers after its end that may be read
 *     kept    (windows, N)                    bytes, 0 for a token that no query sees; or null
 *     out     (windows, N, heads, D)
 *
 * The bias is spread out from its table a few rows at a time: all of it would be more to read than q, k and v. One task
 * is one window and head. Its keys are transposed and its values copied together once; then a block of ROWS queries at
 * a time goes through scores, softmax and values without leaving the first cache, while the next task is fetched.
 */
#define OUTSIDE -1e30f

/* Swap the off-diagonal blocks of STEP x STEP within each block of twice that side. */
template <int STEP>
static inline void swap_blocks(vf *rows)
{
    vi low, high;
    for (int lane = 0; lane < VECTOR; lane++) {
        low[lane] = lane & STEP ? VECTOR + lane - STEP : lane;
        high[lane] = lane & STEP ? VECTOR + lane : lane + STEP;
    }
    for (int i = 0; i < VECTOR; i++)
        if (!(i & STEP)) {
            const vf a = rows[i], b = rows[i + STEP];
            rows[i] = __builtin_shuffle(a, b, low);
            rows[i + STEP] = __builtin_shuffle(a, b, high);
        }
}

/* VECTOR rows of VECTOR numbers. */
static inline void transpose(vf *rows)
{
    swap_blocks<1>(rows);
    swap_blocks<2>(rows);
    if (VECTOR > 4)
        swap_blocks<4>(rows);
    if (VECTOR > 8)
        swap_blocks<8>(rows);
}

/* scores[r, :] += q[r, :] @ keys, for ROWS rows and COUNT vectors of columns from `column` on. */
template <int COUNT>
static inline void score(const float *q, const float *keys, float *scores, long width, long padded, long column)
{
    vf sum[ROWS][COUNT];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COUNT; c++)
            sum[r][c] = load(scores + r * padded + column + c * VECTOR);
    for (long d = 0; d < width; d++) {
        vf key[COUNT];
        for (int c = 0; c < COUNT; c++)
            key[c] = load(keys + d * padded + column + c * VECTOR);
        for (int r = 0; r < ROWS; r++) {
            vf x = fill(q[r * width + d]);
            for (int c = 0; c < COUNT; c++)
                sum[r][c] += x * key[c];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COUNT; c++)
            store(scores + r * padded + column + c * VECTOR, sum[r][c]);
}

/* The bias of query `token` with all keys; columns beyond the last key get a weight of zero. Writes up to VECTOR numbers
 * beyond the row. */
static inline void spread(const float *table, const uint8_t *kept, float *row, long token, long side, long padded)
{
    const long y = token / side, x = token % side;
    for (long other = 0; other < side; other++) {
        const float *from = table + (y < other ? other - y : y - other) * (2 * side - 1) + side - 1 - x;
        for (long i = 0; i < side; i += VECTOR)
            store(row + other * side + i, load(from + i));
    }
    for (long i = side * side; i < padded; i++)
        row[i] = OUTSIDE;
    for (long i = 0; kept && i < side * side; i++)
        if (!kept[i])
            row[i] = OUTSIDE;
}

/* Over the numbers of one vector, by halves. */
template <typename Join>
static inline float reduce(vf x, Join join)
{
    vi lane;
    for (int i = 0; i < VECTOR; i++)
        lane[i] = i;
    for (int half = VECTOR / 2; half; half /= 2)
        x = join(x, __builtin_shuffle(x, lane ^ half));
    return x[0];
}

/* Rows of scores -> e to the (score - largest); one over their sums. */
static inline void softmax(float *scores, long padded, float *inverse)
{
    for (int r = 0; r < ROWS; r++) {
        float *row = scores + r * padded;
        vf most = load(row), sum = {};
        for (long c = VECTOR; c < padded; c += VECTOR)
            most = larger(load(row + c), most);
        const float top = reduce(most, larger);
        for (long c = 0; c < padded; c += VECTOR) {
            vf e = exponential(load(row + c) - fill(top));
            store(row + c, e);
            sum += e;
        }
        inverse[r] = 1.0f / reduce(sum, [](vf a, vf b) { return a + b; });
    }
}

/* out[r, :] = (weights[r, :tokens] @ values) * inverse[r], two vectors of columns from `column` on. */
static inline void mix(const float *weights, const float *values, const float *inverse, float *out, long rows,
                       long tokens, long width, long padded, long stride, long column)
{
    vf sum[ROWS][2] = {};
    for (long n = 0; n < tokens; n++) {
        vf a = load(values + n * width + column), b = load(values + n * width + column + VECTOR);
        for (int r = 0; r < ROWS; r++) {
            vf x = fill(weights[r * padded + n]);
            sum[r][0] += x * a;
            sum[r][1] += x * b;
        }
    }
    for (int r = 0; r < rows; r++) {
        store(out + r * stride + column, sum[r][0] * inverse[r]);
        store(out + r * stride + column + VECTOR, sum[r][1] * inverse[r]);
    }
}

static void attend(const float *qkv, const float *next, const float *table, const uint8_t *kept, float *out,
                   float *scratch, long side, long heads, long width, long padded, float scale)
{
    const long tokens = side * side, stride = 3 * heads * width;
    const float *k = qkv + heads * width, *v = qkv + 2 * heads * width;
    float *keys = scratch, *values = keys + width * padded, *q = values + tokens * width;
    float *scores = q + ROWS * width;
    for (long n = 0; n < padded; n += VECTOR)
        for (long d = 0; d < width; d += VECTOR) {
            vf block[VECTOR];
            for (int i = 0; i < VECTOR; i++)
                block[i] = n + i < tokens ? load(k + (n + i) * stride + d) : vf{};
            transpose(block);
            for (int i = 0; i < VECTOR; i++)
                store(keys + (d + i) * padded + n, block[i]);
        }
    for (long n = 0; n < tokens; n++)
        memcpy(values + n * width, v + n * stride, width * sizeof(float));
    for (long first = 0; first < tokens; first += ROWS) {
        const long rows = tokens - first < ROWS ? tokens - first : ROWS;
        float inverse[ROWS];
        for (int r = 0; r < ROWS; r++) {
            const long row = first + (r < rows ? r : rows - 1);
            spread(table, kept, scores + r * padded, row, side, padded);
            for (long d = 0; d < width; d++)
                q[r * width + d] = qkv[row * stride + d] * scale;
            for (long d = 0; d < width; d += 16)
                for (int part = 0; part < 3; part++)
                    __builtin_prefetch(next + row * stride + part * heads * width + d, 0, 2);
        }
        long column = 0;
        for (; column + COLUMNS * VECTOR <= padded; column += COLUMNS * VECTOR)
            score<COLUMNS>(q, keys, scores, width, padded, column);
        for (; column < padded; column += VECTOR)
            score<1>(q, keys, scores, width, padded, column);
        softmax(scores, padded, inverse);
        for (column = 0; column < width; column += 2 * VECTOR)
            mix(scores, values, inverse, out + first * heads * width, rows, tokens, width, padded, heads * width, column);
    }
}

/* D must be a multiple of 2 * VECTOR. Returns 0, or 1 when there is no memory. */
extern "C" int window_attention(const float *qkv, const float *table, const uint8_t *kept, float *out, long windows,
                                long side, long heads, long width, float scale, int threads)
{
    const long tokens = side * side, padded = (tokens + VECTOR - 1) / VECTOR * VECTOR, tasks = windows * heads;
    const size_t floats = width * padded + tokens * width + ROWS * width + ROWS * padded + VECTOR;
    const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *scratch = static_cast<float *>(aligned_alloc(64, bytes));
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (long task = 0; task < tasks; task++) {
            if (!scratch)
                continue;
            const long after = task + 1 < tasks ? task + 1 : task;
            const long window = tokens * 3 * heads * width;
            attend(qkv + task / heads * window + task % heads * width,
                   qkv + after / heads * window + after % heads * width, table + task % heads * side * (2 * side - 1),
                   kept ? kept + task / heads * tokens : kept,
                   out + task / heads * tokens * heads * width + task % heads * width, scratch, side, heads, width,
                   padded, scale);
        }
        free(scratch);
    }
    return failed;
}

/* ------------------------------------------------------------------------------------------- depthwise convolution */

/* x times the normal distribution's share below x. The error function is Abramowitz and Stegun's 7.1.26, whose error is
 * below 1.5e-7. */
static inline vf gelu(vf x)
{
    const vf size = x < vf{} ? -x : x, z = size * fill(0.70710678118654752f);
    const vf t = fill(1.0f) / (fill(1.0f) + fill(0.3275911f) * z);
    vf p = fill(1.061405429f);
    p = p * t + fill(-1.453152027f);
    p = p * t + fill(1.421413741f);
    p = p * t + fill(-0.284496736f);
    p = p * t + fill(0.254829592f);
    return larger(x, vf{}) - fill(0.5f) * size * (p * t) * exponential(-z * z);
}

/* PIXELS neighbouring outputs of a row, none of which looks beyond the left or right edge; `rows` are the lines
 * `from` to `to` of the kernel, at the first column that is looked at. */
template <int PIXELS, int STRIDE, bool GELU>
static inline void convolve(const float *const *rows, int from, int to, const float *weight, const float *bias, float *out,
                            long channels)
{
    for (long c = 0; c < channels; c += VECTOR) {
        vf sum[PIXELS];
        for (int p = 0; p < PIXELS; p++)
            sum[p] = load(bias + c);
        for (int line = from; line < to; line++)
            for (int column = 0; column < 3; column++) {
                const vf factor = load(weight + (line * 3 + column) * channels + c);
                for (int p = 0; p < PIXELS; p++)
                    sum[p] += factor * load(rows[line] + (p * STRIDE + column) * channels + c);
            }
        for (int p = 0; p < PIXELS; p++)
            store(out + p * channels + c, GELU ? gelu(sum[p]) : sum[p]);
    }
}

/* One output at the left or right edge. */
template <bool GELU>
static inline void convolve_edge(const float *const *lines, int from, int to, long column, long width,
                                 const float *weight, const float *bias, float *out, long channels)
{
    for (long c = 0; c < channels; c += VECTOR) {
        vf sum = load(bias + c);
        for (int line = from; line < to; line++)
            for (int k = 0; k < 3; k++)
                if (column + k >= 0 && column + k < width)
                    sum += load(weight + (line * 3 + k) * channels + c) * load(lines[line] + (column + k) * channels + c);
        store(out + c, GELU ? gelu(sum) : sum);
    }
}

template <int STRIDE, bool GELU>
static void convolve_row(const float *image, const float *weight, const float *bias, float *out, long row, long height,
                         long width, long out_width, long channels)
{
    const long top = row * STRIDE - 1;
    const int from = top < 0 ? 1 : 0, to = top + 3 > height ? (int)(height - top) : 3;
    const float *lines[3] = {}, *rows[3] = {};
    for (int line = from; line < to; line++)
        lines[line] = image + (top + line) * width * channels;
    long x = 0;
    while (x < out_width) {
        const long column = x * STRIDE - 1;
        for (int line = from; line < to; line++)
            rows[line] = lines[line] + column * channels;
        if (column >= 0 && column + 3 * STRIDE + 3 <= width && x + 4 <= out_width) {
            convolve<4, STRIDE, GELU>(rows, from, to, weight, bias, out + x * channels, channels);
            x += 4;
            continue;
        }
        if (column >= 0 && column + 3 <= width)
            convolve<1, STRIDE, GELU>(rows, from, to, weight, bias, out + x * channels, channels);
        else
            convolve_edge<GELU>(lines, from, to, column, width, weight, bias, out + x * channels, channels);
        x++;
    }
}

/* 3 x 3, one filter a channel, padding 1: image (batch, height, width, C), weight (3, 3, C), bias (C),
 * out (batch, (height - 1) / stride + 1, (width - 1) / stride + 1, C); C a multiple of VECTOR, stride 1 or 2. */
extern "C" void depthwise_conv(const float *image, const float *weight, const float *bias, float *out, long batch,
                               long height, long width, long channels, int stride, int with_gelu, int threads)
{
    const long out_height = (height - 1) / stride + 1, out_width = (width - 1) / stride + 1;
    auto run = stride == 1 ? (with_gelu ? convolve_row<1, true> : convolve_row<1, false>)
                           : (with_gelu ? convolve_row<2, true> : convolve_row<2, false>);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (long task = 0; task < batch * out_height; task++) {
        const long one = task / out_height, row = task % out_height;
        run(image + one * height * width * channels, weight, bias, out + task * out_width * channels, row, height, width,
            out_width, channels);
    }
}
