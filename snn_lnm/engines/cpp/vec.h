// One SIMD register of lanes, in the compilers' own vector extension: every operation is the IEEE
// one of its element type, so the lanes compute exactly what scalar code would.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

// Without it some options of a kernel stay in memory, and its sums with them: half the speed.
#define LNM_INLINE __attribute__((always_inline))
// What is called once a tile, or calls the library once a lane: copied into the loops it only takes time to build.
#define LNM_CALL __attribute__((noinline))

namespace lnm {

// The machine's own register: GCC cuts wider vectors into pieces, which takes it minutes.
#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif
constexpr int64_t kPerLine = kVectorBytes < 64 ? 64 / kVectorBytes : 1;  // vectors in a line of the cache

template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VecOf<T>::type;

template <class V>
using Element = std::remove_cv_t<std::remove_reference_t<decltype(std::declval<V>()[0])>>;
template <class V>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(Element<V>));

template <class V>
LNM_INLINE inline V splat(double value) {
  return V{} + static_cast<Element<V>>(value);
}

template <class Mask, class V>
LNM_INLINE inline V select(Mask mask, V yes, V no) {
  return mask ? yes : no;
}

template <class V>
LNM_INLINE inline V clamp(V u, V low, V high) {
  const V below = select(high < u, high, u);  // in this order one instruction each, and NaN stays NaN
  return select(low > below, low, below);
}

template <class V>
LNM_INLINE inline V abs(V u) {
  return select(u < 0, -u, u);
}

// The elementary functions that a step may use, a lane at a time.
#define LNM_FUNCTION(NAME, EXPRESSION, EXPRESSION_OF_FLOATS)       \
  template <class V>                                               \
  LNM_CALL V NAME(V u) {                                           \
    for (int64_t i = 0; i < kLanes<V>; ++i) {                      \
      const auto a = u[i];                                         \
      if constexpr (sizeof(a) == 4) u[i] = EXPRESSION_OF_FLOATS;   \
      else u[i] = EXPRESSION;                                      \
    }                                                              \
    return u;                                                      \
  }
LNM_FUNCTION(exp, __builtin_exp(a), __builtin_expf(a))
LNM_FUNCTION(log, __builtin_log(a), __builtin_logf(a))
LNM_FUNCTION(sqrt, __builtin_sqrt(a), __builtin_sqrtf(a))
LNM_FUNCTION(tanh, __builtin_tanh(a), __builtin_tanhf(a))
LNM_FUNCTION(sigmoid, 1 / (1 + __builtin_exp(-a)), 1 / (1 + __builtin_expf(-a)))
LNM_FUNCTION(atan, __builtin_atan(a), __builtin_atanf(a))
LNM_FUNCTION(sin, __builtin_sin(a), __builtin_sinf(a))
LNM_FUNCTION(cos, __builtin_cos(a), __builtin_cosf(a))
#undef LNM_FUNCTION

// Loads and stores of `n` elements: a compile-time full vector everywhere but in the tail of a row.
template <class V>
LNM_INLINE inline V load(const Element<V>* source, int64_t n) {
  V out{};
  std::memcpy(&out, source, static_cast<size_t>(n) * sizeof(*source));
  return out;
}
template <class V>
LNM_INLINE inline void store(Element<V>* target, V value, int64_t n) {
  std::memcpy(target, &value, static_cast<size_t>(n) * sizeof(*target));
}

// Calls f(j, n) for each vector j of a row, n its number of elements: a constant but for the tail.
template <class V, class F>
LNM_INLINE inline void for_each_vector(int64_t width, F f) {
  int64_t full = width / kLanes<V>;
  for (int64_t j = 0; j < full; ++j) f(j, std::integral_constant<int64_t, kLanes<V>>{});
  if (width % kLanes<V>) f(full, width % kLanes<V>);
}

// A full-vector store that bypasses the caches: for outputs too large to be read back from them,
// it saves reading each line before overwriting it. `target` must be aligned to the vector.
template <class V>
LNM_INLINE inline void stream(void* target, V value) {
#if defined(__AVX512F__)
  asm volatile("vmovntps %1, %0" : "=m"(*static_cast<V*>(target)) : "v"(value));
#elif defined(__AVX__)
  asm volatile("vmovntps %1, %0" : "=m"(*static_cast<V*>(target)) : "x"(value));
#else
  std::memcpy(target, &value, sizeof value);
#endif
}

inline void stream_fence() {
#if defined(__AVX__)
  asm volatile("sfence" ::: "memory");
#endif
}

}  // namespace lnm
