// How the neurons are cut into tiles, and which kernel runs on them. The law itself is in law.h, the
// passes over time are in forward.h and backward.h.
//
// A tile is a run of neighbouring neurons whose state stays in cache while time passes. Parameters
// repeat with a period (the batch is a number of repeats of it), so a tile walks over the repeats and
// sums the parameters' gradients on the way: in the lanes' type over a few steps, then in double.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "law.h"
#include "rows.h"

namespace lnm {

constexpr int64_t kTile = 1024;      // neurons per tile at most
constexpr int64_t kNarrowTile = 128; // neurons of a group that are worth tiles of its own
constexpr int64_t kMixedTile = 256;  // where every vector has parameters and sums of its own in cache
constexpr int64_t kItem = 32768;     // elements that are worth a thread
constexpr int64_t kStreamBytes = int64_t{1} << 22;  // outputs larger than this bypass the caches
constexpr int64_t kPerLine = std::max<int64_t>(1, 64 / kVectorBytes);  // vectors in a line of the cache
constexpr int kSums = kMaxDegree + 5;               // θ_0..θ_8, threshold, v_reset, gain, alpha

// How flat neuron indices map to parameters, and how the work is cut. Depends on sizes only, never on
// the number of threads, so that sums are always added in the same order.
struct Plan {
  int64_t steps, neurons, inner, groups;
  bool uniform;                           // every tile lies within one group
  bool holds;                             // the input is one step, the same at each
  int64_t width, span, per_span;          // of a tile; what tiles do not straddle, and how many it takes
  int64_t period, repeats, tiles, chunks, local_groups;

  Plan(int64_t steps, int64_t neurons, int64_t inner, int64_t groups, bool holds)
      : steps(steps), neurons(neurons), inner(inner), groups(groups), uniform(groups == 1 || inner >= kNarrowTile), holds(holds) {
    const auto cut = [](int64_t whole, int64_t part) { return (whole + part - 1) / std::max<int64_t>(1, part); };
    width = uniform ? kTile : kMixedTile;
    // One set of parameters repeats with any period: take a tile, the last of which may be shorter.
    if (groups == 1) width = this->inner = std::min(neurons, std::clamp(cut(neurons, 16 * 64) * 64, kNarrowTile, kTile));
    period = this->inner * groups;
    // Few groups in turn, say those of ten classes: as many turns as fill a tile.
    if (!uniform) period *= std::max<int64_t>(1, kMixedTile / std::max<int64_t>(1, period));
    span = uniform ? this->inner : period;
    per_span = cut(span, width);
    repeats = cut(neurons, period);
    tiles = cut(period, span) * per_span;
    // Enough items for many threads, but none that is not worth one: each has sums of its own.
    const int64_t most = std::clamp<int64_t>(steps * neurons / kItem, 1, 64);
    chunks = std::clamp<int64_t>(cut(most, tiles), 1, std::max<int64_t>(1, repeats));
    local_groups = uniform ? 1 : std::min(groups, (std::min(width, period) - 1) / std::max<int64_t>(1, inner) + 2);
  }
  int64_t group(int64_t neuron) const { return neuron / inner % groups; }
  int64_t input_row(int64_t t) const { return holds ? 0 : t * neurons; }
  int64_t items() const { return tiles * chunks; }
  int64_t ahead() const { return std::max<int64_t>(1, 512 / width); }  // rows, for prefetching
  int64_t grain() const { return std::max<int64_t>(1, kItem * items() / (steps * neurons + 1)); }
};

struct Tile {
  int64_t index, start, width, first_repeat, last_repeat;

  Tile(const Plan& p, int64_t item) : index(item) {
    const int64_t tile = item % p.tiles, chunk = item / p.tiles, within = tile % p.per_span * p.width;
    start = tile / p.per_span * p.span + within;
    width = std::min(p.width, p.span - within);
    first_repeat = p.repeats * chunk / p.chunks;
    last_repeat = p.repeats * (chunk + 1) / p.chunks;
  }
};

// The groups of neighbouring neurons, in turn. (A division for each took as long as several steps.)
struct Groups {
  const Plan& plan;
  int64_t group, left;

  Groups(const Plan& plan, int64_t neuron) : plan(plan), group(plan.group(neuron)), left(plan.inner - neuron % plan.inner) {}
  int64_t next() {
    const int64_t now = group;
    if (--left == 0) left = plan.inner, group = group + 1 < plan.groups ? group + 1 : 0;
    return now;
  }
};

// The states of a tile's neurons from `at` on; null values are all zero.
template <class T>
const T* states_from(const T* values, int64_t at) {
  static const T zeros[kTile] = {};
  return values ? values + at : zeros;
}

// The parameter tensors, each with one value for the layer or one per group.
template <class T>
struct ParameterPointers {
  const T *theta, *threshold, *v_reset, *gain, *alpha;
  bool many_theta, many_threshold, many_v_reset, many_gain, many_alpha;
};

template <class V>
LNM_CALL void fill_numbers(std::vector<Numbers<V>>& numbers, const ParameterPointers<Element<V>>& p,
                           const Plan& plan, const Tile& tile, const Dynamics& d) {
  using T = Element<V>;
  int64_t group[kLanes<V>];
  Groups groups(plan, tile.start);
  auto lanes = [&](const T* values, bool many, int64_t stride, int64_t offset) {
    V out{};
    for (int64_t i = 0; i < kLanes<V>; ++i) out[i] = values[(many ? group[i] : 0) * stride + offset];
    return out;
  };
  for (size_t j = 0; j < numbers.size(); ++j) {
    for (int64_t i = 0; i < kLanes<V>; ++i) group[i] = groups.next();
    for (int k = 0; k <= d.degree; ++k) numbers[j].theta[k] = lanes(p.theta, p.many_theta, d.degree + 1, k);
    numbers[j].threshold = lanes(p.threshold, p.many_threshold, 1, 0);
    numbers[j].v_reset = lanes(p.v_reset, p.many_v_reset, 1, 0);
    numbers[j].gain = lanes(p.gain, p.many_gain, 1, 0);
    if (p.alpha) numbers[j].alpha = lanes(p.alpha, p.many_alpha, 1, 0);
    numbers[j].complete(d);
  }
}

// Options known at compile time, so that the compiler drops the branches of all others; -1: any.
struct Usual {
  int degree = -1, charge = -1, reset = -1;
  int synapse = -1;  // looked at where the reset is known; -1: none
  int detach_reset = -1, surrogate = -1;
  int storage = -1;  // of input and output; where it is known the membrane is kept in full
};

// A pass's list of them. The size is known when it is full, so that the list need not be counted by hand.
struct Usuals {
  std::array<Usual, 128> all{};
  size_t size = 0;
  constexpr void add(Usual usual) { all[size++] = usual; }
  constexpr const Usual* begin() const { return all.data(); }
  constexpr const Usual* end() const { return all.data() + size; }
};

// The neurons of snnTorch and Norse, and this library's own presets, LIF and QIF among them. (SpikingJelly's fire at the
// threshold, and may divide by the gain; its default surrogate takes most of their time.)
constexpr Usual kOfDegreesUpTo3[] = {  // (the degree comes with `hosts`)
    {0, int(Charge::drift), int(Reset::hard)},     {0, int(Charge::drift), int(Reset::soft)},
    {0, int(Charge::map), int(Reset::hard)},       {0, int(Charge::map), int(Reset::soft)},
    {0, int(Charge::map), int(Reset::hard_next)},  {0, int(Charge::map), int(Reset::soft_next)},
    {0, int(Charge::drift), int(Reset::hard), int(Synapse::euler)},     // Norse's LIF
    {0, int(Charge::map), int(Reset::soft_next), int(Synapse::decay)},  // snnTorch's Synaptic
};
constexpr Usual kCubic[] = {{3, int(Charge::drift), int(Reset::none)}, {3, int(Charge::map), int(Reset::none)}};
constexpr Usuals hosts() {
  Usuals usuals;
  for (int degree = 3; degree > 0; --degree) {
    for (Usual u : kOfDegreesUpTo3) u.degree = degree, usuals.add(u);
  }
  for (Usual u : kCubic) usuals.add(u);
  return usuals;
}
constexpr Usuals kHosts = hosts();

template <Usual USUAL>
LNM_INLINE inline Dynamics specialise(Dynamics d) {
  if constexpr (USUAL.degree >= 0) {
    d.degree = USUAL.degree;
    d.bounded = USUAL.degree > 0;
    d.line = true;
    d.smooth = false;
  }
  if constexpr (USUAL.reset >= 0) {
    d.charge = Charge(USUAL.charge);
    d.reset = Reset(USUAL.reset);
    d.gain_divides = d.fire_at_threshold = false;
    d.synapse = USUAL.synapse >= 0;
    d.euler = USUAL.synapse == int(Synapse::euler);
  }
  if constexpr (USUAL.detach_reset >= 0) d.detach_reset = USUAL.detach_reset;
  if constexpr (USUAL.surrogate >= 0) d.surrogate = USUAL.surrogate;
  return d;
}

inline bool streams(const Plan& p, int64_t size, const void* target, int64_t bytes) {
  const int64_t lanes = kVectorBytes / bytes;
  return size * bytes > kStreamBytes && p.neurons % lanes == 0 && p.span % lanes == 0 &&
         p.width % lanes == 0 && reinterpret_cast<uintptr_t>(target) % kVectorBytes == 0;
}

// The pass's kernel for these options: the first of its usual ones that fits, or the general one.
template <class Pass>
using Run = void (Pass::*)(const Tile&) const;

template <class Pass, bool UNIFORM>
Run<Pass> pick(const Pass& pass) {
  const Dynamics& d = pass.dynamics;
  constexpr auto usual = Pass::template usual<UNIFORM>;
  Run<Pass> run = nullptr;
  [&]<size_t... I>(std::index_sequence<I...>) {
    ((run = !run && pass.takes(usual.all[I]) && d == specialise<usual.all[I]>(d)
                ? &Pass::template run<UNIFORM, usual.all[I]> : run), ...);
  }(std::make_index_sequence<usual.size>{});
  return run;
}

template <bool UNIFORM, class Pass>
void run_tiles(const Pass& pass) {
  const Plan& plan = pass.plan;
  if (plan.steps * plan.neurons == 0) return;
  const Run<Pass> run = pick<Pass, UNIFORM>(pass);
  at::parallel_for(0, plan.items(), plan.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) (pass.*run)(Tile(plan, item));
  });
}

}  // namespace lnm
