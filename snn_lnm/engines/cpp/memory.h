// Memory for large outputs. A fresh 32 MiB tensor costs 8,000 page faults, more time than the kernel
// itself, and glibc gives such blocks back to the system whenever they are freed. So large blocks are
// kept for the next call, and ask for huge pages.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <tuple>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lnm {

constexpr size_t kSmallBytes = size_t{1} << 17;  // below, the usual allocator serves well
constexpr size_t kHugePage = size_t{1} << 21;

// Blocks in use and blocks kept together never exceed what was once in use at the same time: keeping
// memory never makes a program larger than it has already been. Nor do the kept ones exceed `limit`.
class Pool final : public c10::Allocator {
 public:
  static Pool& get() {
    static Pool* pool = new Pool;  // never destroyed: tensors may outlive static objects
    return *pool;
  }

  c10::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{nullptr, rounded(bytes)};
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Block& b) { return b.bytes == block->bytes; });
    used_ += block->bytes;
    peak_ = std::max(peak_, used_);
    if (found != kept_.rend()) {
      block->data = found->data;
      keeping_ -= block->bytes;
      kept_.erase(std::next(found).base());
    } else {
      shrink(std::min(limit_, peak_ - used_));
      block->data = fresh(block->bytes);
      if (!block->data) {
        used_ -= block->bytes;
        delete block;
        throw std::bad_alloc();
      }
    }
    return {block->data, block, &release, at::Device(at::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  // Bytes in use and bytes kept.
  std::tuple<int64_t, int64_t> bytes() {
    std::lock_guard<std::mutex> lock(mutex_);
    return {int64_t(used_), int64_t(keeping_)};
  }

  // Gives everything kept back to the system.
  void empty() {
    std::lock_guard<std::mutex> lock(mutex_);
    shrink(0);
    peak_ = used_;
  }

 private:
  struct Block {
    void* data;
    size_t bytes;
  };

  Pool() {
    if (const char* mib = std::getenv("SNN_LNM_CACHE_MIB")) limit_ = size_t(std::max(0LL, std::atoll(mib))) << 20;
  }

  static size_t alignment(size_t bytes) { return bytes < 4 * kHugePage ? 64 : kHugePage; }
  static size_t rounded(size_t bytes) { return (bytes + alignment(bytes) - 1) / alignment(bytes) * alignment(bytes); }

  static void* fresh(size_t bytes) {
    void* data = std::aligned_alloc(alignment(bytes), bytes);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (data && bytes >= 4 * kHugePage) madvise(data, bytes, MADV_HUGEPAGE);  // only a hint
#endif
    return data;
  }

  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    Pool& pool = get();
    std::lock_guard<std::mutex> lock(pool.mutex_);
    pool.used_ -= block->bytes;
    pool.keeping_ += block->bytes;
    pool.kept_.push_back(*block);
    pool.shrink(std::min(pool.limit_, pool.peak_ - pool.used_));
    delete block;
  }

  // Gives the oldest kept blocks back until at most `bytes` are kept.
  void shrink(size_t bytes) {
    auto oldest = kept_.begin();
    for (; keeping_ > bytes; ++oldest) {
      keeping_ -= oldest->bytes;
      std::free(oldest->data);
    }
    kept_.erase(kept_.begin(), oldest);
  }

  std::mutex mutex_;
  std::vector<Block> kept_;  // oldest first
  size_t used_ = 0, keeping_ = 0, peak_ = 0, limit_ = size_t{1} << 30;
};

// An uninitialised tensor.
inline at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const auto type = c10::typeMetaToScalarType(options.dtype());
  if (c10::multiply_integers(sizes) * c10::elementSize(type) < kSmallBytes) return at::empty(sizes, options);
  return at::Tensor(
      at::detail::empty_generic(sizes, &Pool::get(), c10::DispatchKeySet(c10::DispatchKey::CPU), type, std::nullopt));
}

}  // namespace lnm
