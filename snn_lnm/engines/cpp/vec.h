// One SIMD register of lanes, in the compilers' own vector extension: every operation is the IEEE
// one of its element type, so the lanes compute exactly what scalar code would.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX__)
#include <immintrin.h>
#endif

// Without it some options of a kernel stay in memory, and its sums with them: half the speed.
#define LNM_INLINE __attribute__((always_inline))
// What is called once a tile, or calls the library once a lane: copied into every kernel it only takes time to build.
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
inline V splat(double value) {
  return V{} + static_cast<Element<V>>(value);
}

template <class Mask, class V>
inline V select(Mask mask, V yes, V no) {
  return mask ? yes : no;
}

// a·b + c, in one rounding where the machine has it: for gradients only, whose last bit is free.
template <class V>
LNM_INLINE inline V fma(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a[0]) == 4) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX__) && defined(__FMA__)
  if constexpr (sizeof(a[0]) == 4) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__ARM_FEATURE_FMA)
  for (int64_t i = 0; i < kLanes<V>; ++i) {
    if constexpr (sizeof(a[0]) == 4) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    else c[i] = __builtin_fma(a[i], b[i], c[i]);
  }
  return c;
#else
  return a * b + c;
#endif
}

template <class V, class F>
inline V lanewise(V u, F f) {
  for (int64_t i = 0; i < kLanes<V>; ++i) u[i] = f(u[i]);
  return u;
}

// The functions that surrogate formulas may use besides arithmetic and comparisons.
template <class V>
inline V abs(V u) {
  return select(u < 0, -u, u);
}
template <class V>
LNM_CALL V sigmoid(V u) {
  return lanewise(u, [](auto a) { return 1 / (1 + std::exp(-a)); });
}
template <class V>
LNM_CALL V atan(V u) {
  return lanewise(u, [](auto a) { return std::atan(a); });
}

// Loads and stores of `n` elements: a compile-time full vector everywhere but in the tail of a row.
template <class V>
inline V load(const Element<V>* source, int64_t n) {
  V out{};
  std::memcpy(&out, source, static_cast<size_t>(n) * sizeof(*source));
  return out;
}
template <class V>
inline void store(Element<V>* target, V value, int64_t n) {
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
inline void stream(void* target, V value) {
#if defined(__AVX512F__)
  __m512i bits;
  std::memcpy(&bits, &value, sizeof bits);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(target), bits);
#elif defined(__AVX__)
  __m256i bits;
  std::memcpy(&bits, &value, sizeof bits);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(target), bits);
#else
  std::memcpy(target, &value, sizeof value);
#endif
}

inline void stream_fence() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

}  // namespace lnm
