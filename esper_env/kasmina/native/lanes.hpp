// What the kernels share: activations are stored (H, W, C, N), the batch innermost, so a vector register holds one
// number of several images and no channel count wastes lanes. What is left of the batch after the last full vector runs
// through the same code with a scalar for a vector. One thread; every sum has a fixed order, so results repeat bit for
// bit, on a processor with wider registers too.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#endif

// Numbers a register holds. What is wider than the processor's registers would live in memory.
#ifndef ESPER_WIDTH
#if defined(__AVX512F__)
#define ESPER_WIDTH 16
#elif defined(__AVX__)
#define ESPER_WIDTH 8
#else
#define ESPER_WIDTH 4
#endif
#endif

typedef float wide __attribute__((vector_size(4 * ESPER_WIDTH)));
typedef int wide_mask __attribute__((vector_size(4 * ESPER_WIDTH)));
typedef float wide_anywhere __attribute__((vector_size(4 * ESPER_WIDTH), aligned(4), may_alias));

namespace {

constexpr int WIDTH = ESPER_WIDTH;
// Sums over images are taken in so many parts, of every sixteenth image, whatever the registers are.
constexpr int PARTS = 16;
static_assert(PARTS % WIDTH == 0);
// How many outputs a convolution works on at a time: their sums fill the registers, of which there are 32 or 16.
constexpr int OUTPUTS = WIDTH == 16 ? 8 : 4;

template <class V> struct Lanes;
template <> struct Lanes<wide> {
    static constexpr int count = WIDTH;
    static constexpr int parts = PARTS;
    typedef wide_anywhere anywhere;
    typedef wide_mask mask;
    static wide all(float x) { return x - wide{}; }
    static wide_mask none() { return wide_mask{}; }
};
template <> struct Lanes<float> {
    static constexpr int count = 1;
    static constexpr int parts = 1;
    typedef float anywhere;
    typedef bool mask;
    static float all(float x) { return x; }
    static bool none() { return false; }
};

template <class V> V load(const float* p) { return *reinterpret_cast<const typename Lanes<V>::anywhere*>(p); }
template <class V> void store(float* p, V x) { *reinterpret_cast<typename Lanes<V>::anywhere*>(p) = x; }

// x, in a register: the compiler would rather load it again for every use, and loads are what runs out.
inline float held(float x) { return x; }
inline wide held(wide x) {
#if defined(__AVX512F__)
    asm("" : "+v"(x));
#elif defined(__SSE__)
    asm("" : "+x"(x));
#endif
    return x;
}

// a b + c, rounded once where the processor can. Said outright in long sums: whether a compiler fuses those by itself
// depends on the kind of processor it tunes for.
inline wide fused(wide a, wide b, wide c) {
#if defined(__FMA__) && ESPER_WIDTH == 16
    return (wide)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && ESPER_WIDTH == 8
    return (wide)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
    return (wide)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif defined(__ARM_FEATURE_FMA)
    return (wide)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
template <class T> T fused(T a, T b, T c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}

inline wide choose(wide_mask m, wide a, wide b) { return m ? a : b; }
inline float choose(bool m, float a, float b) { return m ? a : b; }
inline wide_mask both(wide_mask a, wide_mask b) { return a & b; }
inline bool both(bool a, bool b) { return a && b; }
inline wide_mask either(wide_mask a, wide_mask b) { return a | b; }
inline bool either(bool a, bool b) { return a || b; }
inline wide_mask inverse(wide_mask a) { return ~a; }
inline bool inverse(bool a) { return !a; }

// NaN goes through both, as in torch.
template <class V> V larger(V a, V b) { return choose(either(a < b, b != b), b, a); }
template <class V> V rectified(V x) { return choose(x < V{}, V{}, x); }

// The sum of the lanes of all parts, in their order.
template <class V> double total(const V* parts) {
    constexpr int count = Lanes<V>::parts;
    float lanes[count];
    std::memcpy(lanes, parts, sizeof lanes);
    double sum = 0;
    for (float lane : lanes) sum += lane;
    return sum;
}

// Call f once for each full vector of lanes, or for each STEP of them, then for each lane that is left.
template <int STEP = WIDTH, class F> void each_lane(long n, F f) {
    long i = 0;
    for (; i + STEP <= n; i += STEP) f(wide{}, i);
    for (; i < n; ++i) f(float{}, i);
}

struct Size {
    int h, w, c, n;
    long pixel() const { return long(c) * n; }
    long row() const { return pixel() * w; }
};

}  // namespace
