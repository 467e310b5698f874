// What the kernels share: activations are stored (H, W, C, N), the batch innermost, so a vector register holds one
// number of 16 images and no channel count wastes lanes. What is left of the batch after the last full vector runs
// through the same code with a scalar for a vector. One thread; every sum has a fixed order, so results repeat bit for
// bit.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
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

// x, in a register: the compiler would rather load it again for every use, and loads are what runs out.
inline float held(float x) { return x; }
inline v16 held(v16 x) {
#ifdef __AVX512F__
    asm("" : "+v"(x));
#endif
    return x;
}

inline v16 choose(m16 m, v16 a, v16 b) { return m ? a : b; }
inline float choose(bool m, float a, float b) { return m ? a : b; }
inline m16 both(m16 a, m16 b) { return a & b; }
inline bool both(bool a, bool b) { return a && b; }
inline m16 either(m16 a, m16 b) { return a | b; }
inline bool either(bool a, bool b) { return a || b; }
inline m16 inverse(m16 a) { return ~a; }
inline bool inverse(bool a) { return !a; }

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

}  // namespace
