// Inputs and outputs in memory: in the arithmetic type, or in halves that are widened and narrowed on the way,
// so that the kernels know one type only.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "bfloat16.h"

namespace lnm {

enum class Storage { arithmetic, bfloat16, half };

// A vector of floats from half as many bytes, and back (to nearest, ties to even).
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));

LNM_INLINE inline Floats widen(Halves bits, c10::BFloat16) {
#if defined(__AVX2__) && !defined(__AVX512F__)  // GCC 12 converts each half by itself
  // Twice the halves, then each to where it belongs. (Zen 3 begins two `vpshufb` a cycle, but not one `vpmovzxwd`.)
  const __m256i places = _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7,  //
                                          -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  return (Floats)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256((__m128i)bits), places);
#else
  return (Floats)(__builtin_convertvector(bits, Words) << 16);
#endif
}

// The upper halves.
LNM_INLINE inline Halves upper(Floats value) {
#if defined(__AVX2__) && !defined(__AVX512F__)  // GCC 12 converts element by element
  const __m256i places = _mm256_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                          -1, -1, -1, -1, -1, -1, -1, -1, 2, 3, 6, 7, 10, 11, 14, 15);
  const __m256i apart = _mm256_shuffle_epi8((__m256i)value, places);
  return (Halves)_mm_or_si128(_mm256_castsi256_si128(apart), _mm256_extracti128_si256(apart, 1));
#else
  return __builtin_convertvector((Words)value >> 16, Halves);
#endif
}

LNM_INLINE inline Halves narrow(Floats value, c10::BFloat16) { return upper(nearest_bfloat16(value)); }

LNM_INLINE inline Floats widen(Halves bits, c10::Half) {
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

LNM_INLINE inline Halves narrow(Floats value, c10::Half) {
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

inline int64_t bytes_of(Storage storage, int64_t arithmetic) { return storage == Storage::arithmetic ? arithmetic : 2; }

// Elements of a tensor, from one of them on.
template <class T>
struct Input {
  const char* data;  // may be null
  Storage storage;

  explicit operator bool() const { return data; }
  bool converts() const { return storage != Storage::arithmetic; }
  Input from(int64_t at) const { return {data + at * bytes_of(storage, sizeof(T)), storage}; }
  Input as(int known) const { return {data, known < 0 ? storage : Storage(known)}; }

  template <class V>
  LNM_INLINE V load(int64_t at, int64_t n) const {
    if constexpr (std::is_same_v<T, float>) {
      if (converts()) {
        Halves bits{};
        std::memcpy(&bits, data + at * 2, static_cast<size_t>(n) * 2);
        return storage == Storage::bfloat16 ? widen(bits, c10::BFloat16{}) : widen(bits, c10::Half{});
      }
    }
    return lnm::load<V>(reinterpret_cast<const T*>(data) + at, n);
  }
  LNM_INLINE void prefetch(int64_t at) const { __builtin_prefetch(data + at * bytes_of(storage, sizeof(T))); }
};

template <class T>
struct Output {
  char* data;  // may be null
  Storage storage;
  bool streams;  // past the caches

  explicit operator bool() const { return data; }
  bool is_bfloat16() const { return storage == Storage::bfloat16; }
  Output from(int64_t at) const { return {data + at * bytes_of(storage, sizeof(T)), storage, streams}; }
  Output as(int known) const { return {data, known < 0 ? storage : Storage(known), streams}; }

  // `exact`: the value has no bits that bfloat16 lacks.
  template <class V>
  LNM_INLINE void store(int64_t at, V value, int64_t n, bool exact = false) const {
    if constexpr (std::is_same_v<T, float>) {
      if (storage != Storage::arithmetic) {
        const Halves bits = !is_bfloat16() ? narrow(value, c10::Half{})
                            : exact        ? upper(value)
                                           : narrow(value, c10::BFloat16{});
        std::memcpy(data + at * 2, &bits, static_cast<size_t>(n) * 2);
        return;
      }
    }
    lnm::store(reinterpret_cast<T*>(data) + at, value, n);
  }

  // Where to write a row: its place, or a buffer from which `finish` streams it whole. (A streaming store among
  // the kernel's own loads makes each of them wait whose address agrees with the store's in the last 12 bits.)
  Output row(int64_t at, T* buffer) const {
    return streams ? Output{reinterpret_cast<char*>(buffer), storage, true} : from(at);
  }
  void finish(int64_t at, int64_t n, const T* buffer) const {
    if (!streams) return;
    char* target = from(at).data;
    const int64_t bytes = n * bytes_of(storage, sizeof(T));  // here: the compiler takes the stores to change it
    for (int64_t i = 0; i < bytes; i += kVectorBytes) {
      stream(target + i, lnm::load<Vec<char>>(reinterpret_cast<const char*>(buffer) + i, kVectorBytes));
    }
  }
};

}  // namespace lnm
