// bfloat16 and float16 in memory, floats in registers.
// (Instructions by name: the header of the intrinsics takes longer to read than a kernel to compile.)
#pragma once

#include "vec.h"

namespace lnm {

using Floats = Vec<float>;
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));

#if defined(__AVX2__) && !defined(__AVX512F__)  // GCC 12 converts between halves and words element by element
#define LNM_SHUFFLED_HALVES
typedef int8_t Bytes __attribute__((vector_size(kVectorBytes)));

// In each half of the register: the byte from each of these places; 0 for -1.
template <class V>
LNM_INLINE inline V shuffle(V value, Bytes places) {
  asm("vpshufb %2, %1, %0" : "=x"(value) : "x"(value), "x"(places));
  return value;
}
#endif

// The upper halves.
LNM_INLINE inline Halves upper(Floats value) {
#if defined(LNM_SHUFFLED_HALVES)
  const Bytes places = {2,  3,  6,  7,  10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1,
                        -1, -1, -1, -1, -1, -1, -1, -1, 2,  3,  6,  7,  10, 11, 14, 15};
  const Floats apart = shuffle(value, places);
  Halves parts[2];
  std::memcpy(parts, &apart, sizeof parts);
  return parts[0] | parts[1];
#else
  return __builtin_convertvector((Words)value >> 16, Halves);
#endif
}

// The upper half of a float.
struct bfloat16 {
  uint16_t bits;

  // Rounded to nearest, ties to even: a float whose lower half is zero.
  LNM_INLINE static Floats nearest(Floats value) {
    Words bits = (Words)value;
    Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
    return (Floats)(value == value ? rounded : Words{} + 0x7fc00000);  // rounding must not turn a NaN into infinity
  }

  LNM_INLINE static Floats load(const bfloat16* source, int64_t n) {
    Halves bits{};
    std::memcpy(&bits, source, static_cast<size_t>(n) * 2);
#if defined(LNM_SHUFFLED_HALVES)
    // Twice the halves, then each to where it belongs. (Zen 3 begins two `vpshufb` a cycle, but not one `vpmovzxwd`.)
    const Bytes places = {-1, -1, 0, 1, -1, -1, 2,  3,  -1, -1, 4,  5,  -1, -1, 6,  7,
                          -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15};
    const Halves parts[2] = {bits, bits};
    Floats twice;
    std::memcpy(&twice, parts, sizeof twice);
    return shuffle(twice, places);
#else
    return (Floats)(__builtin_convertvector(bits, Words) << 16);
#endif
  }

  LNM_INLINE static void store(bfloat16* target, Floats value, int64_t n) { store_exact(target, nearest(value), n); }
  // The membrane's distance from the neuron's center: the nearest of those that leave it on its side of the threshold, so
  // that the backward pass finds the same spike.
  template <class Neuron, class States, class Values, class Shared>
  LNM_INLINE static void keep(bfloat16* target, Floats h, const States& before, const Values& values, const Shared& shared, int64_t n) {
    const Floats center = Neuron::center(values, shared), distance = h - center, near = nearest(distance);
    const auto fires = Neuron::above(h, before, values, shared);
    const Words away = (Words)(fires == (distance > 0));  // rounded so, the magnitude grows
    const Floats same_side = (Floats)(((Words)distance + (away & 0xffff)) & 0xffff0000);
    store_exact(target, select(Neuron::above(near + center, before, values, shared) == fires, near, same_side), n);
  }
  // A value without bits that bfloat16 lacks.
  LNM_INLINE static void store_exact(bfloat16* target, Floats value, int64_t n) {
    const Halves bits = upper(value);
    std::memcpy(target, &bits, static_cast<size_t>(n) * 2);
  }
};

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__F16C__))
#define LNM_CONVERTS_FLOAT16
#endif
struct float16 {
  uint16_t bits;

  LNM_INLINE static Floats load(const float16* source, int64_t n) {
    Halves bits{};
    std::memcpy(&bits, source, static_cast<size_t>(n) * 2);
#if defined(LNM_CONVERTS_FLOAT16)
    Floats out;
    asm("vcvtph2ps %1, %0" : "=v"(out) : "v"(bits));
    return out;
#else
    _Float16 values[kLanes<Floats>];
    std::memcpy(values, &bits, sizeof bits);
    Floats out;
    for (int64_t i = 0; i < kLanes<Floats>; ++i) out[i] = values[i];
    return out;
#endif
  }

  LNM_INLINE static void store(float16* target, Floats value, int64_t n) {  // to nearest, ties to even
#if defined(LNM_CONVERTS_FLOAT16)
    Halves bits;
    asm("vcvtps2ph $0, %1, %0" : "=v"(bits) : "v"(value));
#else
    _Float16 bits[kLanes<Floats>];
    for (int64_t i = 0; i < kLanes<Floats>; ++i) bits[i] = (_Float16)value[i];
#endif
    std::memcpy(target, &bits, static_cast<size_t>(n) * 2);
  }
  LNM_INLINE static void store_exact(float16* target, Floats value, int64_t n) { store(target, value, n); }
};

}  // namespace lnm
