// Layers of small convolutional networks for a CPU, one thread, float32.
//
// Activations are stored (H, W, C, N): the batch is innermost, so a vector register holds one number of 16 images
// and no channel count wastes lanes. What is left of the batch after the last full vector runs through the same
// code with a scalar for a vector. Every sum has a fixed order: results repeat bit for bit.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

typedef float v16 __attribute__((vector_size(64)));
typedef int m16 __attribute__((vector_size(64)));
typedef float v16_anywhere __attribute__((vector_size(64), aligned(4), may_alias));

namespace {

constexpr int WIDTH = 16;

template <class V> struct Lanes;
template <> struct Lanes<v16> {
    static constexpr int count = 16;
    typedef v16_anywhere anywhere;
    typedef m16 mask;
    static v16 all(float x) { return x - v16{}; }
    static m16 none() { return m16{}; }
};
template <> struct Lanes<float> {
    static constexpr int count = 1;
    typedef float anywhere;
    typedef bool mask;
    static float all(float x) { return x; }
    static bool none() { return false; }
};

template <class V> V load(const float* p) { return *reinterpret_cast<const typename Lanes<V>::anywhere*>(p); }
template <class V> void store(float* p, V x) { *reinterpret_cast<typename Lanes<V>::anywhere*>(p) = x; }

v16 choose(m16 m, v16 a, v16 b) { return m ? a : b; }
float choose(bool m, float a, float b) { return m ? a : b; }
m16 both(m16 a, m16 b) { return a & b; }
bool both(bool a, bool b) { return a && b; }
m16 either(m16 a, m16 b) { return a | b; }
bool either(bool a, bool b) { return a || b; }
m16 inverse(m16 a) { return ~a; }
bool inverse(bool a) { return !a; }

// NaN goes through both, as in torch.
template <class V> V larger(V a, V b) { return choose(either(a < b, b != b), b, a); }
template <class V> V rectified(V x) { return choose(x < V{}, V{}, x); }

template <class V> double total(V x) {
    float lanes[Lanes<V>::count];
    std::memcpy(lanes, &x, sizeof x);
    double sum = 0;
    for (float lane : lanes) sum += lane;
    return sum;
}
// Call f once for each full vector of lanes, then for each lane that is left.
template <class F> void each_lane(long n, F f) {
    long i = 0;
    for (; i + WIDTH <= n; i += WIDTH) f(v16{}, i);
    for (; i < n; ++i) f(float{}, i);
}

struct Size {
    int h, w, c, n;
    long pixel() const { return long(c) * n; }
    long row() const { return pixel() * w; }
};

// -- convolution, stride 1, same size ---------------------------------------------------------------------------

// OUT outputs of NV vectors of images at one pixel, from all inputs under the kernel's rows top..bottom and columns
// left..right. weight: (k, k, inputs, outputs).
template <class V, int NV, int OUT>
void convolve_pixel(const float* x, const float* weight, const float* bias, float* y, const Size& in, int outputs,
                    int k, int top, int bottom, int left, int right, bool relu) {
    constexpr int step = Lanes<V>::count;
    V sum[OUT][NV];
    for (int o = 0; o < OUT; ++o)
        for (int v = 0; v < NV; ++v) sum[o][v] = Lanes<V>::all(bias ? bias[o] : 0.0f);
    for (int i = top; i < bottom; ++i)
        for (int j = left; j < right; ++j) {
            const float* from = x + i * in.row() + j * in.pixel();
            const float* by = weight + long(i * k + j) * in.c * outputs;
            for (int c = 0; c < in.c; ++c, from += in.n, by += outputs) {
                V value[NV];
                for (int v = 0; v < NV; ++v) value[v] = load<V>(from + v * step);
                for (int o = 0; o < OUT; ++o)
                    for (int v = 0; v < NV; ++v) sum[o][v] += by[o] * value[v];
            }
        }
    for (int o = 0; o < OUT; ++o)
        for (int v = 0; v < NV; ++v) store<V>(y + long(o) * in.n + v * step, relu ? rectified(sum[o][v]) : sum[o][v]);
}

template <int OUT>
void convolve_block(const float* x, const float* weight, const float* bias, float* y, const Size& in, int outputs,
                    int k, bool relu) {
    const int pad = k / 2;
    for (int h = 0; h < in.h; ++h) {
        const int top = std::max(0, pad - h), bottom = std::min(k, in.h + pad - h);
        for (int w = 0; w < in.w; ++w) {
            const int left = std::max(0, pad - w), right = std::min(k, in.w + pad - w);
            const float* from = x + (h - pad) * in.row() + (w - pad) * in.pixel();
            float* to = y + (long(h) * in.w + w) * outputs * in.n;
            int lane = 0;
            auto run = [&](auto v, auto vectors) {
                typedef decltype(v) V;
                constexpr int count = decltype(vectors)::value;
                for (; lane + count * Lanes<V>::count <= in.n; lane += count * Lanes<V>::count)
                    convolve_pixel<V, count, OUT>(from + lane, weight, bias, to + lane, in, outputs, k, top, bottom,
                                                  left, right, relu);
            };
            run(v16{}, std::integral_constant<int, 2>{});
            run(v16{}, std::integral_constant<int, 1>{});
            run(float{}, std::integral_constant<int, 1>{});
        }
    }
}

void convolve(const float* x, const float* weight, const float* bias, float* y, const Size& in, int outputs, int k,
              bool relu) {
    int o = 0;
    auto run = [&](auto block) {
        constexpr int OUT = decltype(block)::value;
        for (; o + OUT <= outputs; o += OUT)
            convolve_block<OUT>(x, weight + o, bias ? bias + o : nullptr, y + long(o) * in.n, in, outputs, k, relu);
    };
    run(std::integral_constant<int, 8>{});
    run(std::integral_constant<int, 4>{});
    run(std::integral_constant<int, 1>{});
}

// Sums over the images of a stretch of pixels of input times gradient: OUT outputs, one input, KW kernel columns.
template <class V, int OUT, int KW>
void weight_stretch(const float* x, const float* g, V* sums, const Size& in, long g_pixel, int first, int last, int shift,
                    int lanes) {
    V sum[OUT][KW];
    for (int o = 0; o < OUT; ++o)
        for (int j = 0; j < KW; ++j) sum[o][j] = sums[o * KW + j];
    auto pixel = [&](int w, bool inside) {
        const float* from = x + (w + shift) * in.pixel();
        const float* gradient = g + w * g_pixel;
        for (int lane = 0; lane < lanes; lane += Lanes<V>::count) {
            V window[KW];
            for (int j = 0; j < KW; ++j)
                window[j] = inside || (w + shift + j >= 0 && w + shift + j < in.w)
                                ? load<V>(from + j * in.pixel() + lane)
                                : V{};
            for (int o = 0; o < OUT; ++o) {
                const V value = load<V>(gradient + long(o) * in.n + lane);
                for (int j = 0; j < KW; ++j) sum[o][j] += value * window[j];
            }
        }
    };
    int w = first;
    for (; w < last && w + shift < 0; ++w) pixel(w, false);
    for (; w < last && w + shift + KW <= in.w; ++w) pixel(w, true);
    for (; w < last; ++w) pixel(w, false);
    for (int o = 0; o < OUT; ++o)
        for (int j = 0; j < KW; ++j) sums[o * KW + j] = sum[o][j];
}

template <class V, int OUT, int KW>
void weight_block(const float* x, const float* g, double* weight, const Size& in, int outputs, int k, int first_out,
                  int lanes) {
    const int stretch = std::max(1, 4096 / (OUT * std::max(lanes, 16)));  // 16 KiB of gradient stay in the first cache
    const int pad = k / 2;
    std::vector<V> sums(long(k) * k * in.c * OUT, V{});
    for (int h = 0; h < in.h; ++h)
        for (int first = 0; first < in.w; first += stretch) {
            V* at = sums.data();
            for (int i = 0; i < k; ++i) {
                const int row = h + i - pad;
                if (row < 0 || row >= in.h) {
                    at += long(in.c) * k * OUT;
                    continue;
                }
                for (int c = 0; c < in.c; ++c)
                    for (int column = 0; column < k; column += KW, at += OUT * KW)
                        weight_stretch<V, OUT, KW>(x + row * in.row() + long(c) * in.n,
                                                   g + (long(h) * in.w * outputs + first_out) * in.n, at, in,
                                                   long(outputs) * in.n, first, std::min(in.w, first + stretch),
                                                   column - pad, lanes);
            }
        }
    const V* at = sums.data();
    for (int i = 0; i < k; ++i)
        for (int c = 0; c < in.c; ++c)
            for (int column = 0; column < k; column += KW)
                for (int o = 0; o < OUT; ++o)
                    for (int j = 0; j < KW; ++j)
                        weight[((long(first_out + o) * in.c + c) * k + i) * k + column + j] += total(*at++);
}

template <class V, int KW>
void weight_lanes(const float* x, const float* g, double* weight, const Size& in, int outputs, int k, int lanes) {
    int o = 0;
    for (; o + 8 <= outputs; o += 8) weight_block<V, 8, KW>(x, g, weight, in, outputs, k, o, lanes);
    for (; o + 4 <= outputs; o += 4) weight_block<V, 4, KW>(x, g, weight, in, outputs, k, o, lanes);
    for (; o < outputs; ++o) weight_block<V, 1, KW>(x, g, weight, in, outputs, k, o, lanes);
}

// -- normalisation and pooling ----------------------------------------------------------------------------------

// Number of pixels and numbers a pixel: what is alike for every channel and image is a loop over `width`.
struct Plane {
    long pixels, width;
};

// Mean and sum of squared deviations of each number over the pixels, in one pass about the first pixel.
void moments(const float* x, Plane plane, float* mean, float* square) {
    std::fill(mean, mean + plane.width, 0.0f);
    std::fill(square, square + plane.width, 0.0f);
    for (long p = 1; p < plane.pixels; ++p) {
        const float* here = x + p * plane.width;
        for (long j = 0; j < plane.width; ++j) {
            const float d = here[j] - x[j];
            mean[j] += d;
            square[j] += d * d;
        }
    }
    for (long j = 0; j < plane.width; ++j) {
        square[j] -= mean[j] * mean[j] / float(plane.pixels);
        mean[j] = x[j] + mean[j] / float(plane.pixels);
    }
}

// Moments of many equally large samples from the moments of each, in a fixed order.
struct Pooled {
    double mean = 0, square = 0;
    long samples = 0;
    void add(double m, double s, long size) {
        const double d = m - mean;
        ++samples;
        mean += d / samples;
        square += s + d * d * size * (samples - 1) / samples;
    }
    double variance(long size) const { return std::max(square, 0.0) / (double(samples) * size); }
};

// Where the pixels of a 2x2 block are; at an odd edge it has fewer than four, and no pooled pixel.
struct Block {
    long at[4];
    int count = 0;
    explicit Block(long pixel) { at[count++] = pixel; }
    Block(const Size& s, int h, int w) {
        for (int r = h; r < std::min(h + 2, s.h); ++r)
            for (int q = w; q < std::min(w + 2, s.w); ++q) at[count++] = r * s.row() + q * s.pixel();
    }
    bool whole() const { return count == 4; }
};

// Call f(block, offset of its pooled pixel) for every block, always in the same order, whether there is a pool or not:
// a sum over all pixels does not depend on that in any bit.
template <class F> void each_block(const Size& s, F f) {
    for (int h = 0; h < s.h; h += 2)
        for (int w = 0; w < s.w; w += 2) f(Block(s, h, w), (long(h / 2) * (s.w / 2) + w / 2) * s.pixel());
}

// [relu](max over the block of a z + b) for every number of a pixel.
void affine_maximum(const float* z, const Block& block, const float* a, const float* b, float* y, long width,
                    bool relu) {
    each_lane(width, [&](auto v, long j) {
        typedef decltype(v) V;
        const V scale = load<V>(a + j), shift = load<V>(b + j);
        V top = load<V>(z + block.at[0] + j) * scale + shift;
        for (int i = 1; i < block.count; ++i) top = larger<V>(top, load<V>(z + block.at[i] + j) * scale + shift);
        store<V>(y + j, relu ? rectified(top) : top);
    });
}

// The same for every pixel, or for every pooled one. a and b have a number for each of a pixel's.
void affine_plane(const float* z, const Size& s, const float* a, const float* b, float* y, bool pool, bool relu) {
    if (pool)
        each_block(s, [&](const Block& block, long at) {
            if (block.whole()) affine_maximum(z, block, a, b, y + at, s.pixel(), relu);
        });
    else
        for (long at = 0; at < s.h * s.row(); at += s.pixel())
            affine_maximum(z, Block(at), a, b, y + at, s.pixel(), relu);
}

// Pooling gives all of a gradient to the first largest.
template <class V> void route(const V value[4], V gradient, V out[4]) {
    V top = value[0];
    for (int i = 1; i < 4; ++i) top = larger<V>(top, value[i]);
    auto taken = Lanes<V>::none();
    for (int i = 0; i < 4; ++i) {
        const typename Lanes<V>::mask here = both(value[i] == top, inverse(taken));
        out[i] = choose(here, gradient, V{});
        taken = either(taken, here);
    }
}

// The gradient that reaches each pixel of a block through [max pooling of] the ReLU of scale z + shift.
template <class V>
void through_relu(const float* z, const Block& block, V scale, V shift, const float* dy, long pooled, bool pool,
                  V out[4]) {
    V value[4];
    for (int i = 0; i < block.count; ++i) value[i] = load<V>(z + block.at[i]) * scale + shift;
    if (!pool)
        for (int i = 0; i < block.count; ++i) out[i] = load<V>(dy + block.at[i]);
    else if (block.whole())
        route<V>(value, load<V>(dy + pooled), out);
    else
        for (int i = 0; i < block.count; ++i) out[i] = V{};
    for (int i = 0; i < block.count; ++i) out[i] = choose(value[i] > V{}, out[i], V{});
}

// One number a channel, for every image.
std::vector<float> spread(const std::vector<float>& channel, int n) {
    std::vector<float> out;
    out.reserve(channel.size() * n);
    for (float x : channel) out.insert(out.end(), n, x);
    return out;
}

}  // namespace

extern "C" {

// (n, width) to (width, n).
void to_lanes(const float* x, float* y, int n, int width) {
    constexpr int tile = 16;
    for (int j = 0; j < width; j += tile)
        for (int i = 0; i < n; ++i)
            for (int t = j; t < std::min(width, j + tile); ++t) y[long(t) * n + i] = x[long(i) * width + t];
}

// A batch from `images`, (rows, height, width, channels) bytes: of image rows[i] the h x w pixels from (tops[i],
// lefts[i]) on, mirrored if flips[i], as (value - mean) * gain.
void crops(const unsigned char* images, int height, int width, const long* rows, const long* tops, const long* lefts,
           const bool* flips, const float* mean, const float* gain, float* y, int h, int w, int channels, int n) {
    std::vector<float> table(256l * channels);
    for (int c = 0; c < channels; ++c)
        for (int value = 0; value < 256; ++value) table[256 * c + value] = (float(value) - mean[c]) * gain[c];
    std::vector<const unsigned char*> from(n);
    std::vector<long> step(n);
    for (int i = 0; i < n; ++i) {
        from[i] = images + ((rows[i] * height + tops[i]) * width + lefts[i] + (flips[i] ? w - 1 : 0)) * channels;
        step[i] = flips[i] ? -channels : channels;
    }
    for (int r = 0; r < h; ++r)
        for (int q = 0; q < w; ++q)
            for (int c = 0; c < channels; ++c)
                for (int i = 0; i < n; ++i)
                    *y++ = table[256 * c + from[i][long(r) * width * channels + q * step[i] + c]];
}

// y = [relu](conv(x) [+ bias]), weight: (outputs, inputs, k, k); or, backward, the gradient that reaches the inputs of
// a convolution with weight: (inputs, outputs, k, k).
void convolution(const float* x, const float* weight, const float* bias, float* y, int h, int w, int inputs,
                 int outputs, int k, int n, int relu, int backward) {
    std::vector<float> arranged(long(k) * k * inputs * outputs);  // (k, k, inputs, outputs)
    const int area = k * k;
    for (int c = 0; c < inputs; ++c)
        for (int o = 0; o < outputs; ++o)
            for (int at = 0; at < area; ++at)
                arranged[(long(at) * inputs + c) * outputs + o] =
                    backward ? weight[(long(c) * outputs + o) * area + area - 1 - at]
                             : weight[(long(o) * inputs + c) * area + at];
    convolve(x, arranged.data(), bias, y, {h, w, inputs, n}, outputs, k, relu);
}

// dweight: (outputs, inputs, k, k).
void convolution_weight(const float* x, const float* dy, float* dweight, int h, int w, int inputs, int outputs, int k,
                        int n) {
    const long size = long(outputs) * inputs * k * k;
    std::vector<double> sum(size, 0.0);
    const Size in{h, w, inputs, n};
    const int full = n / WIDTH * WIDTH;
    auto run = [&](auto v, int lane, int lanes) {
        typedef decltype(v) V;
        if (k == 3)
            weight_lanes<V, 3>(x + lane, dy + lane, sum.data(), in, outputs, k, lanes);
        else
            weight_lanes<V, 1>(x + lane, dy + lane, sum.data(), in, outputs, k, lanes);
    };
    if (full) run(v16{}, 0, full);
    if (full < n) run(float{}, full, n - full);
    for (long i = 0; i < size; ++i) dweight[i] = float(sum[i]);
}

// Each channel on its own, weight: (channels, 1, k, k); or, backward, the gradient that reaches the inputs.
void depthwise(const float* x, const float* weight, float* y, int h, int w, int channels, int k, int n, int backward) {
    const Size s{h, w, channels, n};
    const int pad = k / 2, area = k * k;
    for (int r = 0; r < h; ++r)
        for (int q = 0; q < w; ++q)
            for (int c = 0; c < channels; ++c)
                each_lane(n, [&](auto v, long lane) {
                    typedef decltype(v) V;
                    V sum{};
                    for (int i = std::max(0, pad - r); i < std::min(k, h + pad - r); ++i)
                        for (int j = std::max(0, pad - q); j < std::min(k, w + pad - q); ++j)
                            sum += weight[c * area + (backward ? area - 1 - i * k - j : i * k + j)] *
                                   load<V>(x + (r + i - pad) * s.row() + (q + j - pad) * s.pixel() + long(c) * n + lane);
                    store<V>(y + r * s.row() + q * s.pixel() + long(c) * n + lane, sum);
                });
}

// dweight: (channels, 1, k, k).
void depthwise_weight(const float* x, const float* dy, float* dweight, int h, int w, int channels, int k, int n) {
    const Size s{h, w, channels, n};
    const int pad = k / 2;
    for (int c = 0; c < channels; ++c)
        for (int i = 0; i < k; ++i)
            for (int j = 0; j < k; ++j) {
                double sum = 0;
                each_lane(n, [&](auto v, long lane) {
                    typedef decltype(v) V;
                    V part{};
                    for (int r = 0; r < h; ++r)
                        for (int q = 0; q < w; ++q) {
                            const int from = r + i - pad, column = q + j - pad;
                            if (from < 0 || from >= h || column < 0 || column >= w) continue;
                            part += load<V>(dy + r * s.row() + q * s.pixel() + long(c) * n + lane) *
                                    load<V>(x + from * s.row() + column * s.pixel() + long(c) * n + lane);
                        }
                    sum += total(part);
                });
                dweight[(c * k + i) * k + j] = float(sum);
            }
}

// Batch norm over the batch, then 2x2 max pooling where asked, then ReLU. mean and rstd are outputs; running_mean and
// running_var may be null.
void batch_norm(const float* z, const float* weight, const float* bias, float* mean, float* rstd, float* running_mean,
                float* running_var, float momentum, float eps, float* y, int h, int w, int channels, int n, int pool) {
    const Size s{h, w, channels, n};
    const Plane plane{long(h) * w, s.pixel()};
    std::vector<float> means(plane.width), squares(plane.width), a(channels), b(channels);
    moments(z, plane, means.data(), squares.data());
    for (int c = 0; c < channels; ++c) {
        Pooled all;
        for (long j = long(c) * n; j < long(c + 1) * n; ++j) all.add(means[j], squares[j], plane.pixels);
        const double variance = all.variance(plane.pixels), count = double(plane.pixels) * n;
        mean[c] = float(all.mean);
        rstd[c] = float(1.0 / std::sqrt(variance + eps));
        a[c] = weight[c] * rstd[c];
        b[c] = bias[c] - mean[c] * a[c];
        if (running_mean) {
            running_mean[c] += momentum * (mean[c] - running_mean[c]);
            running_var[c] += momentum * (float(variance * count / (count - 1)) - running_var[c]);
        }
    }
    const std::vector<float> scale = spread(a, n), shift = spread(b, n);
    affine_plane(z, s, scale.data(), shift.data(), y, pool, true);
}

void batch_norm_backward(const float* dy, const float* z, const float* weight, const float* bias, const float* mean,
                         const float* rstd, float* dz, float* dweight, float* dbias, int h, int w, int channels, int n,
                         int pool) {
    const Size s{h, w, channels, n};
    const long width = s.pixel();
    const double count = double(h) * w * n;
    std::vector<float> a(channels), b(channels), slopes(channels), offsets(channels);
    for (int c = 0; c < channels; ++c) {
        a[c] = weight[c] * rstd[c];
        b[c] = bias[c] - mean[c] * a[c];
    }
    const std::vector<float> scale = spread(a, n), shift = spread(b, n);
    std::vector<float> sum(width, 0.0f), product(width, 0.0f);
    each_block(s, [&](const Block& block, long at) {
        each_lane(width, [&](auto v, long j) {
            typedef decltype(v) V;
            V g[4], total = load<V>(&sum[j]), weighted = load<V>(&product[j]);
            through_relu<V>(z + j, block, load<V>(&scale[j]), load<V>(&shift[j]), dy + j, at, pool, g);
            for (int i = 0; i < block.count; ++i) {
                total += g[i];
                weighted += g[i] * load<V>(z + block.at[i] + j);
            }
            store<V>(&sum[j], total);
            store<V>(&product[j], weighted);
        });
    });
    for (int c = 0; c < channels; ++c) {
        double total = 0, weighted = 0;
        for (long j = long(c) * n; j < long(c + 1) * n; ++j) {
            total += sum[j];
            weighted += product[j];
        }
        const double slope = (weighted - mean[c] * total) * rstd[c];
        dweight[c] = float(slope);
        dbias[c] = float(total);
        slopes[c] = float(-a[c] * rstd[c] * slope / count);
        offsets[c] = float(-a[c] * total / count - double(slopes[c]) * mean[c]);
    }
    const std::vector<float> slope = spread(slopes, n), offset = spread(offsets, n);
    each_block(s, [&](const Block& block, long at) {
        each_lane(width, [&](auto v, long j) {
            typedef decltype(v) V;
            V g[4];
            const V by = load<V>(&scale[j]), tilt = load<V>(&slope[j]), base = load<V>(&offset[j]);
            through_relu<V>(z + j, block, by, load<V>(&shift[j]), dy + j, at, pool, g);
            for (int i = 0; i < block.count; ++i)
                store<V>(dz + block.at[i] + j, by * g[i] + (tilt * load<V>(z + block.at[i] + j) + base));
        });
    });
}

// Group norm, then ReLU where asked. mean and rstd are outputs, (groups, n).
void group_norm(const float* x, const float* weight, const float* bias, float* mean, float* rstd, float eps, float* y,
                int h, int w, int channels, int groups, int n, int relu) {
    const Plane plane{long(h) * w, long(channels) * n};
    const int members = channels / groups;
    std::vector<float> means(plane.width), squares(plane.width), scale(plane.width), shift(plane.width);
    moments(x, plane, means.data(), squares.data());
    for (int group = 0; group < groups; ++group)
        for (int i = 0; i < n; ++i) {
            Pooled all;
            for (int c = group * members; c < (group + 1) * members; ++c)
                all.add(means[long(c) * n + i], squares[long(c) * n + i], plane.pixels);
            const float centre = float(all.mean), r = float(1.0 / std::sqrt(all.variance(plane.pixels) + eps));
            mean[long(group) * n + i] = centre;
            rstd[long(group) * n + i] = r;
            for (int c = group * members; c < (group + 1) * members; ++c) {
                scale[long(c) * n + i] = weight[c] * r;
                shift[long(c) * n + i] = bias[c] - centre * weight[c] * r;
            }
        }
    affine_plane(x, {h, w, channels, n}, scale.data(), shift.data(), y, false, relu);
}

// dx may be null.
void group_norm_backward(const float* dy, const float* x, const float* weight, const float* bias, const float* mean,
                         const float* rstd, float* dx, float* dweight, float* dbias, int h, int w, int channels,
                         int groups, int n, int relu) {
    const Plane plane{long(h) * w, long(channels) * n};
    const int members = channels / groups;
    const double count = double(plane.pixels) * members;
    std::vector<float> scale(plane.width), shift(plane.width), sum(plane.width, 0.0f), product(plane.width, 0.0f);
    for (int c = 0; c < channels; ++c)
        for (int i = 0; i < n; ++i) {
            const long at = long(c / members) * n + i, j = long(c) * n + i;
            scale[j] = weight[c] * rstd[at];
            shift[j] = bias[c] - mean[at] * weight[c] * rstd[at];
        }
    auto gradient = [&](long p, long j) {
        const long at = p * plane.width + j;
        return !relu || x[at] * scale[j] + shift[j] > 0.0f ? dy[at] : 0.0f;
    };
    for (long p = 0; p < plane.pixels; ++p)
        for (long j = 0; j < plane.width; ++j) {
            const float g = gradient(p, j);
            sum[j] += g;
            product[j] += g * x[p * plane.width + j];
        }
    std::vector<double> sum_weight(channels, 0.0), sum_bias(channels, 0.0);
    std::vector<float> slope(plane.width), offset(plane.width);
    for (int group = 0; group < groups; ++group)
        for (int i = 0; i < n; ++i) {
            const double m = mean[long(group) * n + i], r = rstd[long(group) * n + i];
            double a = 0, b = 0;
            for (int c = group * members; c < (group + 1) * members; ++c) {
                const double total = sum[long(c) * n + i], normal = (product[long(c) * n + i] - m * total) * r;
                sum_weight[c] += normal;
                sum_bias[c] += total;
                a += weight[c] * total;
                b += weight[c] * normal;
            }
            const double tilt = -b * r * r / count;
            for (int c = group * members; c < (group + 1) * members; ++c) {
                slope[long(c) * n + i] = float(tilt);
                offset[long(c) * n + i] = float(-a * r / count - tilt * m);
            }
        }
    for (int c = 0; c < channels; ++c) {
        dweight[c] = float(sum_weight[c]);
        dbias[c] = float(sum_bias[c]);
    }
    if (dx)
        for (long p = 0; p < plane.pixels; ++p)
            for (long j = 0; j < plane.width; ++j) {
                const long at = p * plane.width + j;
                dx[at] = scale[j] * gradient(p, j) + (slope[j] * x[at] + offset[j]);
            }
}

// y = [relu]([2x2 max pooling of](scale x + shift)), scale and shift a number a channel; both null for x itself.
void affine(const float* x, const float* scale, const float* shift, float* y, int h, int w, int channels, int n,
            int pool, int relu) {
    const Size s{h, w, channels, n};
    const std::vector<float> by = spread(scale ? std::vector<float>(scale, scale + channels)
                                               : std::vector<float>(channels, 1.0f), n);
    const std::vector<float> plus = spread(shift ? std::vector<float>(shift, shift + channels)
                                                 : std::vector<float>(channels, 0.0f), n);
    affine_plane(x, s, by.data(), plus.data(), y, pool, relu);
}

void max_pool_backward(const float* dy, const float* x, float* dx, int h, int w, int channels, int n) {
    const Size s{h, w, channels, n};
    each_block(s, [&](const Block& block, long at) {
        each_lane(s.pixel(), [&](auto v, long j) {
            typedef decltype(v) V;
            V value[4], g[4] = {};
            for (int i = 0; i < block.count; ++i) value[i] = load<V>(x + block.at[i] + j);
            if (block.whole()) route<V>(value, load<V>(dy + at + j), g);
            for (int i = 0; i < block.count; ++i) store<V>(dx + block.at[i] + j, g[i]);
        });
    });
}

// y = h + scale x, scale a number a channel.
void scaled_add(const float* h, const float* x, const float* scale, float* y, int pixels, int channels, int n) {
    for (long p = 0; p < pixels; ++p)
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < n; ++i, ++h, ++x, ++y) *y = *h + scale[c] * *x;
}

// The gradients of x and of scale.
void scaled_add_backward(const float* dy, const float* x, const float* scale, float* dx, float* dscale, int pixels,
                         int channels, int n) {
    const long width = long(channels) * n;
    std::vector<float> factor(width), sum(width, 0.0f);
    for (long j = 0; j < width; ++j) factor[j] = scale[j / n];
    for (long p = 0; p < pixels; ++p)
        for (long j = 0; j < width; ++j) {
            const long at = p * width + j;
            dx[at] = dy[at] * factor[j];
            sum[j] += dy[at] * x[at];
        }
    for (int c = 0; c < channels; ++c) {
        double all = 0;
        for (int i = 0; i < n; ++i) all += sum[long(c) * n + i];
        dscale[c] = float(all);
    }
}

// One step of SGD with Nesterov momentum for `count` tensors, whose gradients are first clipped together. norms: of
// each gradient before that. A null gradient is zero, and its tensor is left alone.
void sgd(int count, float** values, const float** gradients, float** momenta, const long* sizes, const float* decays,
         float rate, float momentum, float clip, float* norms) {
    double squares = 0;
    for (int i = 0; i < count; ++i) {
        double square = 0;
        if (gradients[i])
            for (long j = 0; j < sizes[i]; ++j) square += double(gradients[i][j]) * gradients[i][j];
        norms[i] = float(std::sqrt(square));
        squares += square;
    }
    const double all = std::sqrt(squares), factor = clip / (all + 1e-6);
    const float scale = factor < 1 || std::isnan(all) ? float(factor) : 1.0f;
    for (int i = 0; i < count; ++i)
        for (long j = 0; gradients[i] && j < sizes[i]; ++j) {
            const float g = gradients[i][j] * scale + decays[i] * values[i][j];
            const float m = momenta[i][j] = momentum * momenta[i][j] + g;
            values[i][j] -= rate * (g + momentum * m);
        }
}

}  // extern "C"
