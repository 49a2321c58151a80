// bfloat16 is the upper half of a float.
#pragma once

#include "vec.h"

namespace lnm {

using Floats = Vec<float>;
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));

// Rounded to nearest, ties to even: a float whose lower half is zero.
LNM_INLINE inline Floats nearest_bfloat16(Floats value) {
  Words bits = (Words)value;
  Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  return (Floats)(value == value ? rounded : Words{} + 0x7fc00000);  // rounding must not turn a NaN into infinity
}

}  // namespace lnm
