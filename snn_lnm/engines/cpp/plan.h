// How the work is cut.
#pragma once

#include <algorithm>

#include "pass.h"

namespace lnm {

constexpr int64_t kItem = 32768;  // elements that are worth a thread
constexpr int64_t kStreamBytes = int64_t{1} << 22;  // outputs larger than this bypass the caches

inline Plan make_plan(int64_t steps, int64_t neurons, int64_t inner, int64_t groups, bool holds) {
  Plan p{};
  p.steps = steps, p.neurons = neurons, p.inner = inner, p.groups = groups, p.holds = holds;
  const auto cut = [](int64_t whole, int64_t part) { return (whole + part - 1) / std::max<int64_t>(1, part); };
  p.uniform = groups == 1 || inner >= kNarrowTile;
  p.width = p.uniform ? kTile : kMixedTile;
  // One set of numbers repeats with any period: take a tile, the last of which may be shorter.
  if (groups == 1) p.width = p.inner = std::min(neurons, std::clamp(cut(neurons, 16 * 64) * 64, kNarrowTile, kTile));
  p.period = p.inner * groups;
  // Few groups in turn, say those of ten classes: as many turns as fill a tile.
  if (!p.uniform) p.period *= std::max<int64_t>(1, kMixedTile / std::max<int64_t>(1, p.period));
  p.span = p.uniform ? p.inner : p.period;
  p.per_span = cut(p.span, p.width);
  p.repeats = cut(neurons, p.period);
  p.tiles = cut(p.period, p.span) * p.per_span;
  // Enough items for many threads, but none that is not worth one: each has sums of its own.
  const int64_t most = std::clamp<int64_t>(steps * neurons / kItem, 1, 64);
  p.chunks = std::clamp<int64_t>(cut(most, p.tiles), 1, std::max<int64_t>(1, p.repeats));
  p.local_groups = p.uniform ? 1 : std::min(groups, (std::min(p.width, p.period) - 1) / std::max<int64_t>(1, p.inner) + 2);
  return p;
}

// Items that are worth a thread.
inline int64_t grain(const Plan& p) { return std::max<int64_t>(1, kItem * p.items() / (p.steps * p.neurons + 1)); }

}  // namespace lnm
