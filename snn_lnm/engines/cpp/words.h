// What a refusal says, put together without streams. Where a linker finds only a static libstdc++, this library has
// one of its own beside PyTorch's, and a stream that meets both crashes.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>

#include <string>

namespace lnm {

inline std::string word(const char* text) { return text; }
inline std::string word(int64_t number) { return std::to_string(number); }
inline std::string word(at::ScalarType type) { return c10::toString(type); }
inline std::string word(at::IntArrayRef sizes) {
  std::string all;
  for (int64_t size : sizes) all += (all.empty() ? "" : ", ") + std::to_string(size);
  return "[" + all + "]";
}

template <class... Parts>
std::string words(const Parts&... parts) {
  return (word(parts) + ...);
}

}  // namespace lnm
