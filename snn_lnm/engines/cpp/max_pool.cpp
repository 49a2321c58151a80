// Max pooling over windows of 2 x 2, the operators snn_lnm::max_pool and snn_lnm::max_pool_backward, with PyTorch's bits:
// the first of equal values wins, and the last NaN. It keeps one byte per window, the place of its value.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "memory.h"
#include "words.h"

namespace lnm {
namespace {

using at::Tensor;

constexpr int64_t kWindows = 1024;  // in one go: their lines stay in the cache

template <class T>
using Place = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;  // as wide as T, or a loop over both has no vectors

// Of each window the larger value and its place. STEP 2: right values follow left ones; STEP 1: they are `apart`.
template <int64_t STEP, class T>
void choose(const T* __restrict upper, const T* __restrict lower, int64_t apart, int64_t count, T* __restrict out,
            uint8_t* __restrict places) {
  const int64_t right = STEP == 2 ? 1 : apart;
  for (int64_t j = 0; j < count; ++j) {
    T best = upper[STEP * j];
    Place<T> place = 0;
    auto meet = [&](T value, Place<T> its_place) {
      const bool wins = (value > best) | (value != value);
      best = wins ? value : best;
      place = wins ? its_place : place;
    };
    meet(upper[STEP * j + right], 1);
    meet(lower[STEP * j], 2);
    meet(lower[STEP * j + right], 3);
    out[j] = best;
    places[j] = static_cast<uint8_t>(place);
  }
}

// The way back to one line, whose left values have the place `first`.
template <int64_t STEP, class T>
void spread(const T* __restrict d, const uint8_t* __restrict places, Place<T> first, int64_t apart, int64_t count,
            T* __restrict line) {
  const int64_t right = STEP == 2 ? 1 : apart;
  for (int64_t j = 0; j < count; ++j) {
    const T value = T(0) + d[j];  // PyTorch adds it to a zero, which has no sign
    const Place<T> place = places[j];
    const T of_left = place == first ? value : T(0), of_right = place == first + 1 ? value : T(0);
    line[STEP * j] = of_left;
    line[STEP * j + right] = of_right;
  }
}

// Planes of `height` x `width` places of `channels` values each, 1 unless channels come last.
struct Planes {
  int64_t count, height, width, channels;
  int64_t rows() const { return count * (height / 2); }  // of windows, through all planes
  int64_t windows() const { return width / 2 * channels; }  // of a row
  int64_t line() const { return width * channels; }
  int64_t upper(int64_t row) const { return (row / (height / 2) * height + row % (height / 2) * 2) * line(); }
  int64_t at_once() const { return std::max<int64_t>(1, kWindows / windows()); }
};

// Calls f(row, rows, upper, lower) for all rows of windows, some at a time, with buffers for their lines: a row alone
// may be too short to fill a vector.
template <class T, class F>
void for_rows(const Planes& p, F f) {
  at::parallel_for(0, p.rows(), 16 * p.at_once(), [&](int64_t row, int64_t end) {
    std::vector<T> upper(2 * p.at_once() * p.windows()), lower(upper.size());
    for (int64_t rows; row < end; row += rows) {
      rows = std::min(p.at_once(), end - row);
      f(row, rows, upper.data(), lower.data());
    }
  });
}

// Calls f(offset in the line, offset in the buffer, length) for the pieces of the i-th line of `rows` in a buffer.
template <class F>
void for_pieces(const Planes& p, int64_t i, int64_t rows, F f) {
  const int64_t windows = p.windows(), channels = p.channels;
  if (channels == 1) return f(0, 2 * windows * i, 2 * windows);
  for (int64_t j = 0; j < windows; j += channels) {
    f(2 * j, windows * i + j, channels);
    f(2 * j + channels, windows * (rows + i) + j, channels);
  }
}

template <class T>
void pool(const Planes& p, const T* x, T* out, uint8_t* places) {
  for_rows<T>(p, [&](int64_t row, int64_t rows, T* upper, T* lower) {
    for (int64_t i = 0; i < rows; ++i) {
      const T *from = x + p.upper(row + i), *below = from + p.line();
      for_pieces(p, i, rows, [&](int64_t in_line, int64_t in_buffer, int64_t length) {
        std::copy_n(from + in_line, length, upper + in_buffer);
        std::copy_n(below + in_line, length, lower + in_buffer);
      });
    }
    const int64_t first = row * p.windows(), count = rows * p.windows();
    const auto choose_all = p.channels == 1 ? choose<2, T> : choose<1, T>;
    choose_all(upper, lower, count, count, out + first, places + first);
  });
}

template <class T>
void unpool(const Planes& p, const T* d, const uint8_t* places, T* d_x) {
  for_rows<T>(p, [&](int64_t row, int64_t rows, T* upper, T* lower) {
    const int64_t first = row * p.windows(), count = rows * p.windows();
    const auto spread_line = p.channels == 1 ? spread<2, T> : spread<1, T>;
    spread_line(d + first, places + first, 0, count, count, upper);
    spread_line(d + first, places + first, 2, count, count, lower);
    for (int64_t i = 0; i < rows; ++i) {
      T *to = d_x + p.upper(row + i), *below = to + p.line();
      for_pieces(p, i, rows, [&](int64_t in_line, int64_t in_buffer, int64_t length) {
        std::copy_n(upper + in_buffer, length, to + in_line);
        std::copy_n(lower + in_buffer, length, below + in_line);
      });
    }
  });
}

Planes planes_of(at::IntArrayRef sizes, at::MemoryFormat format) {
  TORCH_CHECK_VALUE(sizes.size() == 4 && sizes[2] >= 2 && sizes[3] >= 2,
                    words("max_pool takes [N, C, H, W] with H and W of at least 2, got ", sizes, "."));
  if (format == at::MemoryFormat::ChannelsLast) return {sizes[0], sizes[2], sizes[3], sizes[1]};
  return {sizes[0] * sizes[1], sizes[2], sizes[3], 1};
}

at::MemoryFormat format_of(const Tensor& t) {
  return t.is_contiguous() ? at::MemoryFormat::Contiguous : t.suggest_memory_format();
}

Tensor allocate_as(const std::vector<int64_t>& sizes, const at::TensorOptions& options, at::MemoryFormat format) {
  if (format != at::MemoryFormat::ChannelsLast) return allocate(sizes, options);
  return allocate({sizes[0], sizes[2], sizes[3], sizes[1]}, options).permute({0, 3, 1, 2});
}

std::tuple<Tensor, Tensor> max_pool(const Tensor& x_any) {
  const auto format = format_of(x_any);
  const Planes planes = planes_of(x_any.sizes(), format);
  const Tensor x = x_any.contiguous(format);
  const std::vector<int64_t> sizes = {x.size(0), x.size(1), x.size(2) / 2, x.size(3) / 2};
  Tensor out = allocate_as(sizes, x.options(), format);
  Tensor places = allocate_as(sizes, x.options().dtype(at::kByte), format);
  if (x.numel() == 0) return {out, places};
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "max_pool", [&] {
    pool(planes, x.const_data_ptr<scalar_t>(), out.mutable_data_ptr<scalar_t>(), places.mutable_data_ptr<uint8_t>());
  });
  return {out, places};
}

Tensor max_pool_backward(const Tensor& d_any, const Tensor& places_any, at::IntArrayRef sizes, bool channels_last) {
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const Planes planes = planes_of(sizes, format);
  const Tensor d = d_any.contiguous(format), places = places_any.contiguous(format);
  const std::vector<int64_t> expected = {sizes[0], sizes[1], sizes[2] / 2, sizes[3] / 2};
  TORCH_CHECK_VALUE(d.sizes() == expected && places.sizes() == expected,
                    words("a gradient of ", d.sizes(), " and places of ", places.sizes(), " for an input of ", sizes, "."));
  Tensor d_x = allocate_as(sizes.vec(), d.options(), format);
  if (planes.height % 2 || planes.width % 2) d_x.zero_();
  if (d_x.numel() == 0) return d_x;
  AT_DISPATCH_FLOATING_TYPES(d.scalar_type(), "max_pool_backward", [&] {
    unpool(planes, d.const_data_ptr<scalar_t>(), places.const_data_ptr<uint8_t>(), d_x.mutable_data_ptr<scalar_t>());
  });
  return d_x;
}

}  // namespace
}  // namespace lnm

TORCH_LIBRARY_IMPL(snn_lnm, CPU, m) {
  m.impl("max_pool", &lnm::max_pool);
  m.impl("max_pool_backward", &lnm::max_pool_backward);
}
