// Convolutions with stride 1 that keep the size.

#include "kernels.hpp"
#include "lanes.hpp"

namespace {

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
                    for (int v = 0; v < NV; ++v) sum[o][v] = fused(Lanes<V>::all(by[o]), value[v], sum[o][v]);
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
            run(wide{}, std::integral_constant<int, 2>{});
            run(wide{}, std::integral_constant<int, 1>{});
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
    run(std::integral_constant<int, OUTPUTS>{});
    run(std::integral_constant<int, 4>{});
    run(std::integral_constant<int, 1>{});
}

// Sums over the images of a stretch of pixels of input times gradient: OUT outputs, one input, KW kernel columns. One
// register of each sum, of which there are `registers`.
template <class V, int OUT, int KW>
void weight_stretch(const float* x, const float* g, V* sums, const Size& in, long g_pixel, int first, int last,
                    int shift, int lanes) {
    constexpr int registers = Lanes<V>::parts / Lanes<V>::count;
    V sum[OUT][KW];
    for (int o = 0; o < OUT; ++o)
        for (int j = 0; j < KW; ++j) sum[o][j] = sums[(o * KW + j) * registers];
    auto pixel = [&](int w, bool inside) {
        const float* from = x + (w + shift) * in.pixel();
        const float* gradient = g + w * g_pixel;
        for (int lane = 0; lane < lanes; lane += Lanes<V>::parts) {
            V window[KW];
            for (int j = 0; j < KW; ++j)
                window[j] = inside || (w + shift + j >= 0 && w + shift + j < in.w)
                                ? load<V>(from + j * in.pixel() + lane)
                                : V{};
            for (int o = 0; o < OUT; ++o) {
                const V value = held(load<V>(gradient + long(o) * in.n + lane));
                for (int j = 0; j < KW; ++j) sum[o][j] = fused(value, window[j], sum[o][j]);
            }
        }
    };
    int w = first;
    for (; w < last && w + shift < 0; ++w) pixel(w, false);
    for (; w < last && w + shift + KW <= in.w; ++w) pixel(w, true);
    for (; w < last; ++w) pixel(w, false);
    for (int o = 0; o < OUT; ++o)
        for (int j = 0; j < KW; ++j) sums[(o * KW + j) * registers] = sum[o][j];
}

template <class V, int OUT, int KW>
void weight_block(const float* x, const float* g, double* weight, const Size& in, int outputs, int k, int first_out,
                  int lanes) {
    constexpr int registers = Lanes<V>::parts / Lanes<V>::count;
    // 16 KiB of gradient, which stay in the first cache
    const int stretch = std::max(1, 4096 / (OUT * std::max(lanes, PARTS)));
    const int pad = k / 2;
    std::vector<V> sums(long(k) * k * in.c * OUT * registers, V{});
    for (int h = 0; h < in.h; ++h)
        for (int first = 0; first < in.w; first += stretch) {
            V* at = sums.data();
            for (int i = 0; i < k; ++i) {
                const int row = h + i - pad;
                if (row < 0 || row >= in.h) {
                    at += long(in.c) * k * OUT * registers;
                    continue;
                }
                for (int c = 0; c < in.c; ++c)
                    for (int column = 0; column < k; column += KW, at += OUT * KW * registers)
                        for (int r = 0; r < registers; ++r)
                            weight_stretch<V, OUT, KW>(
                                x + row * in.row() + long(c) * in.n + r * Lanes<V>::count,
                                g + (long(h) * in.w * outputs + first_out) * in.n + r * Lanes<V>::count, at + r, in,
                                long(outputs) * in.n, first, std::min(in.w, first + stretch), column - pad, lanes);
            }
        }
    const V* at = sums.data();
    for (int i = 0; i < k; ++i)
        for (int c = 0; c < in.c; ++c)
            for (int column = 0; column < k; column += KW)
                for (int o = 0; o < OUT; ++o)
                    for (int j = 0; j < KW; ++j, at += registers)
                        weight[((long(first_out + o) * in.c + c) * k + i) * k + column + j] += total(at);
}

template <class V, int KW>
void weight_lanes(const float* x, const float* g, double* weight, const Size& in, int outputs, int k, int lanes) {
    int o = 0;
    for (; o + OUTPUTS <= outputs; o += OUTPUTS) weight_block<V, OUTPUTS, KW>(x, g, weight, in, outputs, k, o, lanes);
    for (; o + 4 <= outputs; o += 4) weight_block<V, 4, KW>(x, g, weight, in, outputs, k, o, lanes);
    for (; o < outputs; ++o) weight_block<V, 1, KW>(x, g, weight, in, outputs, k, o, lanes);
}

}  // namespace

extern "C" {

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
    const int full = n / PARTS * PARTS;
    auto run = [&](auto v, int lane, int lanes) {
        typedef decltype(v) V;
        if (k == 3)
            weight_lanes<V, 3>(x + lane, dy + lane, sum.data(), in, outputs, k, lanes);
        else
            weight_lanes<V, 1>(x + lane, dy + lane, sum.data(), in, outputs, k, lanes);
    };
    if (full) run(wide{}, 0, full);
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
                    const float* from = x + (r - pad) * s.row() + (q - pad) * s.pixel() + long(c) * n + lane;
                    V sum{};
                    for (int i = std::max(0, pad - r); i < std::min(k, h + pad - r); ++i)
                        for (int j = std::max(0, pad - q); j < std::min(k, w + pad - q); ++j)
                            sum = fused(Lanes<V>::all(weight[c * area + (backward ? area - 1 - i * k - j : i * k + j)]),
                                        load<V>(from + i * s.row() + j * s.pixel()), sum);
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
                each_lane<PARTS>(n, [&](auto v, long lane) {
                    typedef decltype(v) V;
                    V parts[Lanes<V>::parts / Lanes<V>::count] = {};
                    for (V& sums : parts) {
                        for (int r = 0; r < h; ++r)
                            for (int q = 0; q < w; ++q) {
                                const int from = r + i - pad, column = q + j - pad;
                                if (from < 0 || from >= h || column < 0 || column >= w) continue;
                                sums = fused(load<V>(dy + r * s.row() + q * s.pixel() + long(c) * n + lane),
                                             load<V>(x + from * s.row() + column * s.pixel() + long(c) * n + lane), sums);
                            }
                        lane += Lanes<V>::count;
                    }
                    sum += total(parts);
                });
                dweight[(c * k + i) * k + j] = float(sum);
            }
}

}  // extern "C"
