// Runs recorded kernels.

#include <cstring>
#include <utility>

#include "kernels.hpp"

namespace {

// An argument: a pointer, an int or a float in the lowest bytes.
typedef uint64_t Value;

template <class T> T get(const Value& value) {
    T out;
    std::memcpy(&out, &value, sizeof out);
    return out;
}

template <class... A, size_t... I>
void run(void (*kernel)(A...), const Value* values, std::index_sequence<I...>) {
    kernel(get<A>(values[I])...);
}
template <class... A> void run(void (*kernel)(A...), const Value* values) {
    run(kernel, values, std::index_sequence_for<A...>());
}

struct Step {
    void (*kernel)(const Value*);
    int64_t first;
};

struct Move {
    int64_t index, bytes;
};

}  // namespace

#define RECORDED(kernel) \
    void kernel##_recorded(const Value* values) { run(kernel, values); }

extern "C" {

RECORDED(to_lanes)
RECORDED(crops)
RECORDED(convolution)
RECORDED(convolution_weight)
RECORDED(depthwise)
RECORDED(depthwise_weight)
RECORDED(batch_norm)
RECORDED(batch_norm_backward)
RECORDED(group_norm)
RECORDED(group_norm_backward)
RECORDED(affine)
RECORDED(max_pool_backward)
RECORDED(scaled_add)
RECORDED(scaled_add_backward)
RECORDED(scaled_multiply)
RECORDED(scaled_multiply_backward)
RECORDED(gated)
RECORDED(gated_backward)
RECORDED(weighted)
RECORDED(weighted_backward)
RECORDED(silu)
RECORDED(silu_backward)
RECORDED(sum)
RECORDED(channel_sums)
RECORDED(mean_pixels)
RECORDED(mean_pixels_backward)
RECORDED(cross_entropy)
RECORDED(sgd)

// `count` steps, `times` times, each time with the pointers that move `bytes` further.
void replay(const Step* steps, int count, Value* values, const Move* moves, int moving, int times) {
    for (int t = 0; t < times; ++t) {
        for (int i = 0; i < moving; ++i) values[moves[i].index] += moves[i].bytes;
        for (int i = 0; i < count; ++i) steps[i].kernel(values + steps[i].first);
    }
}

}  // extern "C"
