// Batches of images, sums and means, the loss, and the optimiser's step.

#include "kernels.hpp"
#include "lanes.hpp"

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
void crops(const unsigned char* images, int height, int width, const int64_t* rows, const int64_t* tops,
           const int64_t* lefts, const bool* flips, const float* mean, const float* gain, float* y, int h, int w,
           int channels, int n) {
    // row by row: first the bytes of all images, which then fit the nearest cache, then many numbers at a time
    const int width_out = w * channels;
    const long stride = long(width) * channels;
    std::vector<const unsigned char*> from(n);
    for (int i = 0; i < n; ++i) from[i] = images + ((rows[i] * height + tops[i]) * width + lefts[i]) * channels;
    std::vector<unsigned char> bytes(long(width_out) * n);
    for (int r = 0; r < h; ++r) {
        for (int i = 0; i < n; ++i) {
            __builtin_prefetch(from[i] + 4 * stride);  // so many streams are too many for the machine to follow
            __builtin_prefetch(from[i] + 4 * stride + 64);
            unsigned char* to = bytes.data() + i;
            for (int q = 0; q < w; ++q) {
                const unsigned char* pixel = from[i] + (flips[i] ? w - 1 - q : q) * channels;
                for (int c = 0; c < channels; ++c, to += n) *to = pixel[c];
            }
            from[i] += stride;
        }
        const unsigned char* byte = bytes.data();
        for (int q = 0; q < w; ++q)
            for (int c = 0; c < channels; ++c)
                for (int i = 0; i < n; ++i) *y++ = (float(*byte++) - mean[c]) * gain[c];
    }
}

// The sum of each channel over pixels and images.
void channel_sums(const float* x, float* y, int pixels, int channels, int n) {
    const long width = long(channels) * n;
    std::vector<float> sums(width, 0.0f);
    for (long p = 0; p < pixels; ++p)
        for (long j = 0; j < width; ++j) sums[j] += x[p * width + j];
    for (int c = 0; c < channels; ++c) {
        double all = 0;
        for (int i = 0; i < n; ++i) all += sums[long(c) * n + i];
        y[c] = float(all);
    }
}

// The mean over the pixels of each of their `width` numbers.
void mean_pixels(const float* x, float* y, int pixels, int width) {
    std::fill(y, y + width, 0.0f);
    for (long p = 0; p < pixels; ++p, x += width)
        for (int j = 0; j < width; ++j) y[j] += x[j];
    for (int j = 0; j < width; ++j) y[j] /= float(pixels);
}

void mean_pixels_backward(const float* dy, float* dx, int pixels, int width) {
    for (long p = 0; p < pixels; ++p, dx += width)
        for (int j = 0; j < width; ++j) dx[j] = dy[j] / float(pixels);
}

// The gradient of the mean cross entropy of logits (classes, n). Adds to `loss` the sum over the images, in nats, and to
// `hits` how many have the largest logit, the first of equal ones, at their label;
// both may be null.
void cross_entropy(const float* logits, const int64_t* labels, float* gradient, double* loss, int64_t* hits,
                   int classes, int n) {
    std::vector<double> shares(classes);
    for (int i = 0; i < n; ++i) {
        const float* z = logits + i;
        int best = 0;
        bool comparable = true;
        for (int c = 0; c < classes; ++c) {
            if (z[long(c) * n] > z[long(best) * n]) best = c;
            comparable = comparable && !std::isnan(z[long(c) * n]);
        }
        double all = 0;
        for (int c = 0; c < classes; ++c) all += shares[c] = std::exp(double(z[long(c) * n]) - z[long(best) * n]);
        for (int c = 0; c < classes; ++c)
            gradient[long(c) * n + i] = float((shares[c] / all - (c == labels[i])) / n);
        if (loss) *loss += std::log(all) + z[long(best) * n] - z[long(labels[i]) * n];
        if (hits) *hits += comparable && best == labels[i];
    }
}

// One step of SGD with Nesterov momentum for `count` tensors, whose gradients are first clipped together. norms: of
// each gradient before that. A null gradient is zero, and its tensor is left alone.
void sgd(int count, float** values, const float** gradients, float** momenta, const int64_t* sizes, const float* decays,
         const float* rate, float momentum, float clip, float* norms) {
    double squares = 0;
    for (int i = 0; i < count; ++i) {
        double square = 0;
        if (gradients[i])
            for (long j = 0; j < sizes[i]; ++j) square = fused<double>(gradients[i][j], gradients[i][j], square);
        norms[i] = float(std::sqrt(square));
        squares += square;
    }
    const double all = std::sqrt(squares), factor = clip / (all + 1e-6);
    const float scale = factor < 1 || std::isnan(all) ? float(factor) : 1.0f;
    for (int i = 0; i < count; ++i)
        for (long j = 0; gradients[i] && j < sizes[i]; ++j) {
            const float g = gradients[i][j] * scale + decays[i] * values[i][j];
            const float m = momenta[i][j] = momentum * momenta[i][j] + g;
            values[i][j] -= *rate * (g + momentum * m);
        }
}

}  // extern "C"
