// Every kernel that Python calls. What each does is said where it is defined.

#pragma once

#include <cstdint>

extern "C" {

void to_lanes(const float* x, float* y, int n, int width);
void crops(const unsigned char* images, int height, int width, const int64_t* rows, const int64_t* tops,
           const int64_t* lefts, const bool* flips, const float* mean, const float* gain, float* y, int h, int w,
           int channels, int n);

void convolution(const float* x, const float* weight, const float* bias, float* y, int h, int w, int inputs,
                 int outputs, int k, int n, int relu, int backward);
void convolution_weight(const float* x, const float* dy, float* dweight, int h, int w, int inputs, int outputs, int k,
                        int n);
void depthwise(const float* x, const float* weight, float* y, int h, int w, int channels, int k, int n, int backward);
void depthwise_weight(const float* x, const float* dy, float* dweight, int h, int w, int channels, int k, int n);

void batch_norm(const float* z, const float* weight, const float* bias, float* mean, float* rstd, float* running_mean,
                float* running_var, float momentum, float eps, float* y, int h, int w, int channels, int n, int pool);
void batch_norm_backward(const float* dy, const float* z, const float* weight, const float* bias, const float* mean,
                         const float* rstd, float* dz, float* dweight, float* dbias, int h, int w, int channels, int n,
                         int pool);
void group_norm(const float* x, const float* weight, const float* bias, float* mean, float* rstd, float eps, float* y,
                int h, int w, int channels, int groups, int n, int relu);
void group_norm_backward(const float* dy, const float* x, const float* weight, const float* bias, const float* mean,
                         const float* rstd, float* dx, float* dweight, float* dbias, int h, int w, int channels,
                         int groups, int n, int relu);
void affine(const float* x, const float* scale, const float* shift, float* y, int h, int w, int channels, int n,
            int pool, int relu);
void max_pool_backward(const float* dy, const float* x, float* dx, int h, int w, int channels, int n);

void scaled_add(const float* h, const float* x, const float* scale, float alpha, float* y, int pixels, int channels,
                int n);
void scaled_add_backward(const float* dy, const float* x, const float* scale, float alpha, float* dx, float* dscale,
                         int pixels, int channels, int n);
void scaled_multiply(const float* h, const float* x, const float* scale, float alpha, float* y, int pixels,
                     int channels, int n);
void scaled_multiply_backward(const float* dy, const float* h, const float* x, const float* scale, float alpha,
                              float* dh, float* dx, float* dscale, int pixels, int channels, int n);
void gated(const float* x, const float* gate, float* share, float* y, int pixels, int channels, int n);
void gated_backward(const float* dy, const float* x, const float* share, float* dx, float* dgate, int pixels,
                    int channels, int n);
void weighted(const float* x, const float* weight, float* share, float* y, int pixels, int width);
void weighted_backward(const float* dy, const float* x, const float* share, float* dx, float* dweight, int pixels,
                       int width);
void silu(const float* x, float* y, int size);
void silu_backward(const float* dy, const float* x, float* dx, int size);
void sum(const float* a, const float* b, float* y, int size);

void channel_sums(const float* x, float* y, int pixels, int channels, int n);
void mean_pixels(const float* x, float* y, int pixels, int width);
void mean_pixels_backward(const float* dy, float* dx, int pixels, int width);

void cross_entropy(const float* logits, const int64_t* labels, float* gradient, double* loss, int64_t* hits,
                   int classes, int n);
void sgd(int count, float** values, const float** gradients, float** momenta, const int64_t* sizes, const float* decays,
         const float* rate, float momentum, float clip, float* norms);

}  // extern "C"
