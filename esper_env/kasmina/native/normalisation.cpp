// Batch and group norm with the pooling and ReLU that follow them.

#include "kernels.hpp"
#include "lanes.hpp"

namespace {

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

// Where the COUNT pixels of a 2x2 block are; at an odd edge it has fewer than four, and no pooled pixel.
template <int COUNT> struct Block {
    static constexpr int count = COUNT;
    static constexpr bool whole = COUNT == 4;
    long at[COUNT];
};

// Call f(block, offset of its pooled pixel) for every block, always in the same order, whether there is a pool or not:
// a sum over all pixels does not depend on that in any bit.
template <class F> void each_block(const Size& s, F f) {
    for (int h = 0; h < s.h; h += 2)
        for (int w = 0; w < s.w; w += 2) {
            const long at = h * s.row() + w * s.pixel(), right = at + s.pixel(), below = at + s.row();
            const long pooled = (long(h / 2) * (s.w / 2) + w / 2) * s.pixel();
            if (h + 1 < s.h && w + 1 < s.w)
                f(Block<4>{{at, right, below, below + s.pixel()}}, pooled);
            else if (w + 1 < s.w)
                f(Block<2>{{at, right}}, pooled);
            else if (h + 1 < s.h)
                f(Block<2>{{at, below}}, pooled);
            else
                f(Block<1>{{at}}, pooled);
        }
}

// [relu](max over the block of a z + b) for every number of a pixel.
template <int COUNT>
void affine_maximum(const float* z, const Block<COUNT>& block, const float* a, const float* b, float* y, long width,
                    bool relu) {
    each_lane(width, [&](auto v, long j) {
        typedef decltype(v) V;
        const V scale = load<V>(a + j), shift = load<V>(b + j);
        V top = load<V>(z + block.at[0] + j) * scale + shift;
        for (int i = 1; i < COUNT; ++i) top = larger<V>(top, load<V>(z + block.at[i] + j) * scale + shift);
        store<V>(y + j, relu ? rectified(top) : top);
    });
}

// The same for every pixel, or for every pooled one. a and b have a number for each of a pixel's.
void affine_plane(const float* z, const Size& s, const float* a, const float* b, float* y, bool pool, bool relu) {
    if (pool)
        each_block(s, [&](const auto& block, long at) {
            if (block.whole) affine_maximum(z, block, a, b, y + at, s.pixel(), relu);
        });
    else
        for (long at = 0; at < s.h * s.row(); at += s.pixel())
            affine_maximum(z, Block<1>{{at}}, a, b, y + at, s.pixel(), relu);
}

// The pixels of a block at which a gradient arrives, and what of it: pooling gives all of a gradient to the first largest,
// and a ReLU what is above 0. `value` is what was pooled, `dy` the gradient.
template <class V> struct Arrival {
    typename Lanes<V>::mask first[4];
    V gradient;
    Arrival(const V value[4], V dy, bool relu) {
        V top = value[0];
        for (int i = 1; i < 4; ++i) top = choose(top < value[i], value[i], top);
        auto taken = Lanes<V>::none();
        for (int i = 0; i < 4; ++i) {
            first[i] = both(value[i] == top, inverse(taken));
            taken = either(taken, first[i]);
        }
        gradient = relu ? choose(top > V{}, dy, V{}) : dy;
    }
};

// One number a channel, for every image.
std::vector<float> spread(const std::vector<float>& channel, int n) {
    std::vector<float> out;
    out.reserve(channel.size() * n);
    for (float x : channel) out.insert(out.end(), n, x);
    return out;
}

}  // namespace

extern "C" {

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
    // the gradients at the pixels of a block, of which pooling leaves at most one
    auto each_gradient = [&](auto f) {
        each_block(s, [&](const auto& block, long at) {
            each_lane(width, [&](auto v, long j) {
                typedef decltype(v) V;
                V value[4];
                for (int i = 0; i < block.count; ++i)
                    value[i] = load<V>(z + block.at[i] + j) * load<V>(&scale[j]) + load<V>(&shift[j]);
                if (pool && block.whole) {
                    const Arrival<V> arrival(value, load<V>(dy + at + j), true);
                    f(block, j, [&](int i) { return choose(arrival.first[i], arrival.gradient, V{}); });
                } else {
                    f(block, j, [&](int i) {
                        return pool ? V{} : choose(value[i] > V{}, load<V>(dy + block.at[i] + j), V{});
                    });
                }
            });
        });
    };
    each_gradient([&](const auto& block, long j, auto gradient) {
        typedef decltype(gradient(0)) V;
        V total = load<V>(&sum[j]), weighted = load<V>(&product[j]);
        for (int i = 0; i < block.count; ++i) {
            const V g = gradient(i);
            total += g;
            weighted += g * load<V>(z + block.at[i] + j);
        }
        store<V>(&sum[j], total);
        store<V>(&product[j], weighted);
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
    each_gradient([&](const auto& block, long j, auto gradient) {
        typedef decltype(gradient(0)) V;
        const V by = load<V>(&scale[j]), tilt = load<V>(&slope[j]), base = load<V>(&offset[j]);
        for (int i = 0; i < block.count; ++i)
            store<V>(dz + block.at[i] + j, by * gradient(i) + (tilt * load<V>(z + block.at[i] + j) + base));
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
    // f(place, number of the pixel, gradient that the norm gets)
    auto each_gradient = [&](auto f) {
        for (long p = 0; p < plane.pixels; ++p)
            each_lane(plane.width, [&](auto v, long j) {
                typedef decltype(v) V;
                const long at = p * plane.width + j;
                const V g = load<V>(dy + at);
                f(at, j, relu ? choose(load<V>(x + at) * load<V>(&scale[j]) + load<V>(&shift[j]) > V{}, g, V{}) : g);
            });
    };
    each_gradient([&](long at, long j, auto g) {
        typedef decltype(g) V;
        store<V>(&sum[j], load<V>(&sum[j]) + g);
        store<V>(&product[j], load<V>(&product[j]) + g * load<V>(x + at));
    });
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
        each_gradient([&](long at, long j, auto g) {
            typedef decltype(g) V;
            store<V>(dx + at, load<V>(&scale[j]) * g + (load<V>(&slope[j]) * load<V>(x + at) + load<V>(&offset[j])));
        });
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
    each_block(s, [&](const auto& block, long at) {
        each_lane(s.pixel(), [&](auto v, long j) {
            typedef decltype(v) V;
            if constexpr (std::decay_t<decltype(block)>::whole) {
                V value[4];
                for (int i = 0; i < 4; ++i) value[i] = load<V>(x + block.at[i] + j);
                const Arrival<V> arrival(value, load<V>(dy + at + j), false);
                for (int i = 0; i < 4; ++i)
                    store<V>(dx + block.at[i] + j, choose(arrival.first[i], arrival.gradient, V{}));
            } else {
                for (int i = 0; i < block.count; ++i) store<V>(dx + block.at[i] + j, V{});
            }
        });
    });
}

}  // extern "C"
