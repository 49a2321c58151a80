// Rows of inputs and outputs in memory: in the arithmetic type, or in halves that are widened and narrowed on the way, so
// that the loops know one type only.
#pragma once

#include "pass.h"
#include "vec.h"

namespace lnm {

template <class T, class S>  // S: what is stored
struct Input {
  const S* data;  // may be null

  explicit operator bool() const { return data; }
  Input from(int64_t at) const { return {data + at}; }
  LNM_INLINE Vec<T> load(int64_t at, int64_t n) const {
    if constexpr (std::is_same_v<T, S>) return lnm::load<Vec<T>>(data + at, n);
    else return S::load(data + at, n);
  }
  LNM_INLINE void prefetch(int64_t at) const { __builtin_prefetch(data + at); }
};

template <class T, class S>
struct Output {
  S* data;  // may be null
  bool streams;

  explicit operator bool() const { return data; }
  LNM_INLINE void store(int64_t at, Vec<T> value, int64_t n) const {
    if constexpr (std::is_same_v<T, S>) lnm::store(data + at, value, n);
    else S::store(data + at, value, n);
  }

  // Where to write a row: its place, or a buffer from which `finish` streams it whole. (A streaming store among
  // the kernel's own loads makes each of them wait whose address agrees with the store's in the last 12 bits.)
  Output row(int64_t at, void* buffer) const { return {streams ? static_cast<S*>(buffer) : data + at, streams}; }
  void finish(int64_t at, int64_t n, const void* buffer) const {
    if (!streams) return;
    char* target = reinterpret_cast<char*>(data + at);
    const int64_t bytes = n * int64_t(sizeof(S));  // here: the compiler takes the stores to change it
    for (int64_t i = 0; i < bytes; i += kVectorBytes) {
      stream(target + i, lnm::load<Vec<char>>(static_cast<const char*>(buffer) + i, kVectorBytes));
    }
  }
};

// The states of a tile's neurons from `at` on; null values are all zero.
template <class T>
const T* states_from(const void* values, int64_t at) {
  static const T zeros[kTile] = {};
  return values ? static_cast<const T*>(values) + at : zeros;
}

}  // namespace lnm
