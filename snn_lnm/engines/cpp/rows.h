// The input's and output's rows in the arithmetic type. A tensor of that type lends its own memory;
// halves are converted through a buffer, so that the kernels know one type only.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "bfloat16.h"

namespace lnm {

enum class Storage { arithmetic, bfloat16, half };

// A vector of floats from half as many bytes, and back (to nearest, ties to even).
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));

inline Floats widen(Halves bits, c10::BFloat16) { return (Floats)(__builtin_convertvector(bits, Words) << 16); }

inline Halves narrow(Floats value, c10::BFloat16) {
  Words rounded = (Words)nearest_bfloat16(value) >> 16;
#if defined(__AVX2__) && !defined(__AVX512F__)  // GCC 12 converts element by element
  __m256i packed = _mm256_packus_epi32((__m256i)rounded, (__m256i)rounded);
  return (Halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(rounded, Halves);
#endif
}

inline Floats widen(Halves bits, c10::Half) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__)
  return (Floats)_mm256_cvtph_ps((__m128i)bits);
#else
  Floats out;
  for (int64_t i = 0; i < kLanes<Floats>; ++i) out[i] = c10::Half(bits[i], c10::Half::from_bits());
  return out;
#endif
}

inline Halves narrow(Floats value, c10::Half) {
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (Halves)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#else
  Halves out;
  for (int64_t i = 0; i < kLanes<Floats>; ++i) out[i] = c10::Half(value[i]).x;
  return out;
#endif
}

template <class Half>
void widen_row(const uint16_t* source, int64_t n, int64_t next, float* target) {
  constexpr int64_t kLine = 64 / sizeof(Halves);  // vectors of a cache line
  for_each_vector<Floats>(n, [&](int64_t j, auto lanes) LNM_INLINE {
    if (j % kLine == 0) __builtin_prefetch(source + next + j * kLanes<Floats>);
    Halves bits{};
    std::memcpy(&bits, source + j * kLanes<Floats>, lanes * sizeof *source);
    store(target + j * kLanes<Floats>, widen(bits, Half{}), lanes);
  });
}

template <class Half>
void narrow_row(const float* source, int64_t n, uint16_t* target) {
  for_each_vector<Floats>(n, [&](int64_t j, auto lanes) LNM_INLINE {
    Halves bits = narrow(load<Floats>(source + j * kLanes<Floats>, lanes), Half{});
    std::memcpy(target + j * kLanes<Floats>, &bits, lanes * sizeof *target);
  });
}

template <class T>
void stream_row(const T* source, int64_t n, T* target) {
  constexpr int64_t L = kLanes<Vec<T>>;
  for (int64_t i = 0; i < n; i += L) stream(target + i, load<Vec<T>>(source + i, L));
}

template <class T>
struct Input {
  const void* data;  // may be null
  Storage storage;

  explicit operator bool() const { return data; }
  bool converts() const { return storage != Storage::arithmetic; }
  // Halves are widened into the buffer, while the row `next` elements further comes to the cache.
  const T* row(int64_t at, int64_t n, int64_t next, T* buffer) const {
    if constexpr (std::is_same_v<T, float>) {
      const auto* halves = static_cast<const uint16_t*>(data) + at;
      if (storage == Storage::bfloat16) return widen_row<c10::BFloat16>(halves, n, next, buffer), buffer;
      if (storage == Storage::half) return widen_row<c10::Half>(halves, n, next, buffer), buffer;
    }
    return static_cast<const T*>(data) + at;
  }
};

// Whole rows are converted or streamed at once, from a buffer: a streaming store among the kernel's own
// loads makes each of them wait whose address agrees with the store's in the last 12 bits.
template <class T>
struct Output {
  void* data;  // may be null
  Storage storage;
  bool streams;

  explicit operator bool() const { return data; }
  bool is_bfloat16() const { return storage == Storage::bfloat16; }
  // Where to write a row; `finish` brings it to its place.
  T* row(int64_t at, T* buffer) const {
    return storage == Storage::arithmetic && !streams ? static_cast<T*>(data) + at : buffer;
  }
  void finish(int64_t at, int64_t n, const T* buffer) const {
    if (streams) return stream_row(buffer, n, static_cast<T*>(data) + at);
    if constexpr (std::is_same_v<T, float>) {
      auto* halves = static_cast<uint16_t*>(data) + at;
      if (storage == Storage::bfloat16) narrow_row<c10::BFloat16>(buffer, n, halves);
      if (storage == Storage::half) narrow_row<c10::Half>(buffer, n, halves);
    }
  }
};

}  // namespace lnm
