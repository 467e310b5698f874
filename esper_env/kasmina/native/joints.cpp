// How a seed joins the stream, and what weighs activations.

#include "kernels.hpp"
#include "lanes.hpp"

namespace {

inline wide power_of_two(wide_mask n) { return (wide)((n + 127) << 23); }
inline float power_of_two(int n) {
    const int bits = (n + 127) << 23;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}
inline wide_mask whole(wide x) { return __builtin_convertvector(x, wide_mask); }
inline int whole(float x) { return int(x); }

// e^x to 2 units in the last place: 2^n times the Taylor series about 0, |r| <= ln(2) / 2.
template <class V> V exponential(V x) {
    x = choose(x < -87.0f, Lanes<V>::all(-87.0f), x);
    x = choose(x > 88.0f, Lanes<V>::all(88.0f), x);
    const V rounder = Lanes<V>::all(12582912.0f);  // 1.5 * 2^23: adding it leaves no room for a fraction
    V n = x * 1.44269504f + rounder;
    n = n - rounder;
    const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    V sum = Lanes<V>::all(1.0f / 5040);
    for (float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + factor;
    const V safe = choose(n == n, n, V{});
    return sum * power_of_two(whole(safe));
}

template <class V> V sigmoid(V x) { return 1.0f / (1.0f + exponential<V>(-x)); }

// The quotient loses what is small beside 1, so near 0 it is the series.
template <class V> V hyperbolic_tangent(V x) {
    const V size = choose(x < 0.0f, -x, x), e = exponential<V>(-2.0f * size), square = x * x;
    const V far = (1.0f - e) / (1.0f + e);
    const V near = x * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15 + square * (-17.0f / 315))));
    return choose(size < 0.2f, near, choose(x < 0.0f, -far, far));
}

// Every channel's factor, for every image.
std::vector<float> factors(const float* scale, float alpha, int channels, int n) {
    std::vector<float> out(long(channels) * n);
    for (long j = 0; j < long(channels) * n; ++j) out[j] = alpha * scale[j / n];
    return out;
}

// The sum of each channel's numbers, times alpha.
void channel_totals(const std::vector<float>& sums, float alpha, float* out, int channels, int n) {
    for (int c = 0; c < channels; ++c) {
        double all = 0;
        for (int i = 0; i < n; ++i) all += sums[long(c) * n + i];
        out[c] = float(alpha * all);
    }
}

}  // namespace

extern "C" {

// y = h + alpha scale x, scale a number a channel.
void scaled_add(const float* h, const float* x, const float* scale, float alpha, float* y, int pixels, int channels,
                int n) {
    for (long p = 0; p < pixels; ++p)
        for (int c = 0; c < channels; ++c) {
            const float factor = alpha * scale[c];
            for (int i = 0; i < n; ++i, ++h, ++x, ++y) *y = *h + factor * *x;
        }
}

// The gradients of x and of scale; dx may be null.
void scaled_add_backward(const float* dy, const float* x, const float* scale, float alpha, float* dx, float* dscale,
                         int pixels, int channels, int n) {
    const long width = long(channels) * n;
    const std::vector<float> factor = factors(scale, alpha, channels, n);
    std::vector<float> sums(width, 0.0f);
    for (long p = 0; p < pixels; ++p) {
        const long at = p * width;
        for (long j = 0; j < width; ++j) sums[j] += dy[at + j] * x[at + j];
        for (long j = 0; dx && j < width; ++j) dx[at + j] = dy[at + j] * factor[j];
    }
    channel_totals(sums, alpha, dscale, channels, n);
}

// y = h (1 + alpha tanh(scale x)), scale a number a channel.
void scaled_multiply(const float* h, const float* x, const float* scale, float alpha, float* y, int pixels,
                     int channels, int n) {
    const long width = long(channels) * n;
    const std::vector<float> factor = factors(scale, 1.0f, channels, n);
    for (long at = 0; at < pixels * width; at += width)
        each_lane(width, [&](auto v, long j) {
            typedef decltype(v) V;
            const V change = hyperbolic_tangent<V>(load<V>(x + at + j) * load<V>(&factor[j]));
            store<V>(y + at + j, load<V>(h + at + j) * (1.0f + alpha * change));
        });
}

// The gradients of h, x and scale; dh and dx may be null.
void scaled_multiply_backward(const float* dy, const float* h, const float* x, const float* scale, float alpha,
                              float* dh, float* dx, float* dscale, int pixels, int channels, int n) {
    const long width = long(channels) * n;
    const std::vector<float> factor = factors(scale, 1.0f, channels, n);
    std::vector<float> sums(width, 0.0f);
    for (long at = 0; at < pixels * width; at += width)
        each_lane(width, [&](auto v, long j) {
            typedef decltype(v) V;
            const V by = load<V>(&factor[j]), in = load<V>(x + at + j), change = hyperbolic_tangent<V>(in * by);
            const V g = load<V>(dy + at + j), slope = g * load<V>(h + at + j) * alpha * (1.0f - change * change);
            store<V>(&sums[j], load<V>(&sums[j]) + slope * in);
            if (dx) store<V>(dx + at + j, slope * by);
            if (dh) store<V>(dh + at + j, g * (1.0f + alpha * change));
        });
    channel_totals(sums, 1.0f, dscale, channels, n);
}

// y = x sigmoid(gate), gate a number a pixel and image; share: the sigmoids.
void gated(const float* x, const float* gate, float* share, float* y, int pixels, int channels, int n) {
    for (long p = 0; p < pixels; ++p)
        each_lane(n, [&](auto v, long i) {
            typedef decltype(v) V;
            const V s = sigmoid<V>(load<V>(gate + p * n + i));
            store<V>(share + p * n + i, s);
            for (long at = p * channels * n + i, c = 0; c < channels; ++c, at += n) store<V>(y + at, load<V>(x + at) * s);
        });
}

// The gradients of x and of the gate.
void gated_backward(const float* dy, const float* x, const float* share, float* dx, float* dgate, int pixels,
                    int channels, int n) {
    for (long p = 0; p < pixels; ++p)
        each_lane(n, [&](auto v, long i) {
            typedef decltype(v) V;
            const V s = load<V>(share + p * n + i);
            V sum{};
            for (long at = p * channels * n + i, c = 0; c < channels; ++c, at += n) {
                const V g = load<V>(dy + at);
                sum += g * load<V>(x + at);
                store<V>(dx + at, g * s);
            }
            store<V>(dgate + p * n + i, sum * s * (1.0f - s));
        });
}

// y = x sigmoid(weight), weight (width,) for every pixel of x (pixels, width); share: the sigmoids.
void weighted(const float* x, const float* weight, float* share, float* y, int pixels, int width) {
    each_lane(width, [&](auto v, long j) { store(share + j, sigmoid<decltype(v)>(load<decltype(v)>(weight + j))); });
    for (long p = 0; p < pixels; ++p)
        for (long j = 0; j < width; ++j) y[p * width + j] = x[p * width + j] * share[j];
}

// The gradients of x and of the weight; dx may be null.
void weighted_backward(const float* dy, const float* x, const float* share, float* dx, float* dweight, int pixels,
                       int width) {
    std::fill(dweight, dweight + width, 0.0f);
    for (long p = 0; p < pixels; ++p) {
        const long at = p * width;
        for (long j = 0; j < width; ++j) dweight[j] += dy[at + j] * x[at + j];
        for (long j = 0; dx && j < width; ++j) dx[at + j] = dy[at + j] * share[j];
    }
    for (long j = 0; j < width; ++j) dweight[j] *= share[j] * (1.0f - share[j]);
}

// y = x sigmoid(x).
void silu(const float* x, float* y, int size) {
    each_lane(size, [&](auto v, long j) {
        typedef decltype(v) V;
        const V in = load<V>(x + j);
        store<V>(y + j, in * sigmoid<V>(in));
    });
}

void silu_backward(const float* dy, const float* x, float* dx, int size) {
    each_lane(size, [&](auto v, long j) {
        typedef decltype(v) V;
        const V in = load<V>(x + j), s = sigmoid<V>(in);
        store<V>(dx + j, load<V>(dy + j) * s * (1.0f + in * (1.0f - s)));
    });
}

// y = a + b.
void sum(const float* a, const float* b, float* y, int size) {
    for (int i = 0; i < size; ++i) y[i] = a[i] + b[i];
}

}  // extern "C"
