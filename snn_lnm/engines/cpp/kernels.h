// Forward and backward over time for tiles of neurons. The law itself is in law.h.
//
// A tile is a run of neighbouring neurons whose state stays in cache while time passes. Parameters
// repeat with a period (the batch is a number of repeats of it), so a tile walks over the repeats and
// sums the parameters' gradients on the way: in the lanes' type over a few steps, then in double.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "law.h"

namespace lnm {

constexpr int64_t kTile = 512;                    // neurons per tile at most
constexpr int64_t kStreamBytes = int64_t{1} << 22;  // outputs larger than this bypass the caches
constexpr int kSums = kMaxDegree + 5;             // θ_0..θ_8, threshold, v_reset, gain, alpha

// How flat neuron indices map to parameters, and how the work is cut. Depends on sizes only, never on
// the number of threads, so that sums are always added in the same order.
struct Plan {
  int64_t steps, neurons, inner, groups, period, repeats, tiles, chunks, local_groups;

  Plan(int64_t steps, int64_t neurons, int64_t inner, int64_t groups)
      : steps(steps), neurons(neurons), inner(groups == 1 ? std::min(neurons, kTile) : inner), groups(groups) {
    // One set of parameters repeats with any period: take a tile, the last of which may be shorter.
    period = this->inner * groups;
    repeats = (neurons + period - 1) / std::max<int64_t>(1, period);
    tiles = (period + kTile - 1) / kTile;
    chunks = std::clamp<int64_t>(tiles ? (64 + tiles - 1) / tiles : 1, 1, std::max<int64_t>(1, repeats));
    local_groups = std::min(groups, (std::min(kTile, period) - 1) / std::max<int64_t>(1, this->inner) + 2);
  }
  int64_t items() const { return tiles * chunks; }
  int64_t grain() const { return std::max<int64_t>(1, 32768 * items() / (steps * neurons + 1)); }
};

struct Tile {
  int64_t index, start, width, first_repeat, last_repeat;

  Tile(const Plan& p, int64_t item) : index(item), start(item / p.chunks * kTile) {
    int64_t chunk = item % p.chunks;
    width = std::min(kTile, p.period - start);
    first_repeat = p.repeats * chunk / p.chunks;
    last_repeat = p.repeats * (chunk + 1) / p.chunks;
  }
};

// The parameter tensors, each with one value for the layer or one per group.
template <class T>
struct ParameterPointers {
  const T *theta, *threshold, *v_reset, *gain, *alpha;
  bool many_theta, many_threshold, many_v_reset, many_gain, many_alpha;
};

template <class V>
void fill_numbers(std::vector<Numbers<V>>& numbers, const ParameterPointers<Element<V>>& p, const Plan& plan,
                  const Tile& tile, int degree) {
  using T = Element<V>;
  auto lanes = [&](int64_t vector, const T* values, bool many, int64_t stride, int64_t offset) {
    V out{};
    for (int64_t i = 0; i < kLanes<V>; ++i) {
      int64_t neuron = std::min(tile.start + vector * kLanes<V> + i, plan.period - 1);
      out[i] = values[(many ? neuron / plan.inner : 0) * stride + offset];
    }
    return out;
  };
  for (size_t j = 0; j < numbers.size(); ++j) {
    for (int k = 0; k <= degree; ++k) numbers[j].theta[k] = lanes(j, p.theta, p.many_theta, degree + 1, k);
    numbers[j].threshold = lanes(j, p.threshold, p.many_threshold, 1, 0);
    numbers[j].v_reset = lanes(j, p.v_reset, p.many_v_reset, 1, 0);
    numbers[j].gain = lanes(j, p.gain, p.many_gain, 1, 0);
    if (p.alpha) numbers[j].alpha = lanes(j, p.alpha, p.many_alpha, 1, 0);
  }
}

// The options, in which the usual neuron is known at compile time: a fixed DEGREE with its default
// domain, and none of the rare options, so that the compiler drops their branches. DEGREE = -1: any.
template <int DEGREE>
LNM_INLINE inline Dynamics specialise(Dynamics d) {
  if constexpr (DEGREE >= 0) {
    d.degree = DEGREE;
    d.bounded = DEGREE > 1;
    d.line = true;
    d.smooth = false;
  }
  return d;
}

// Calls f(j, n) for each vector j of a row, n its number of elements: a constant but for the tail.
template <class V, class F>
LNM_INLINE inline void for_each_vector(int64_t width, F f) {
  int64_t full = width / kLanes<V>;
  for (int64_t j = 0; j < full; ++j) f(j, std::integral_constant<int64_t, kLanes<V>>{});
  if (width % kLanes<V>) f(full, width % kLanes<V>);
}

template <class V, class S, class N>
inline void put(S* target, V value, N n, bool streaming) {
  if constexpr (std::is_same_v<S, Element<V>> && !std::is_same_v<N, int64_t>) {
    if (streaming) return stream(target, value);
  }
  store(target, value, n);
}

template <class IO, class T>
bool can_stream(const Plan& p, const void* target) {
  return std::is_same_v<IO, T> && p.steps * p.neurons * int64_t(sizeof(T)) > kStreamBytes &&
         p.neurons % kLanes<Vec<T>> == 0 && p.period % kLanes<Vec<T>> == 0 &&
         reinterpret_cast<uintptr_t>(target) % kVectorBytes == 0;
}

// ---- forward ------------------------------------------------------------------------------------

template <class IO, class T>
struct Forward {
  using Arithmetic = T;
  Plan plan;
  Dynamics dynamics;
  ParameterPointers<T> parameters;
  const IO* x;
  const T *v, *current;
  IO* spikes;
  T *h, *last_v, *last_current;  // null where not wanted

  template <bool UNIFORM, int DEGREE>
  void run(const Tile& tile) const {
    using V = Vec<T>;
    constexpr int64_t L = kLanes<V>;
    const Dynamics d = specialise<DEGREE>(dynamics);
    const int64_t vectors = (tile.width + L - 1) / L;
    std::vector<Numbers<V>> numbers(UNIFORM ? 1 : vectors);
    fill_numbers(numbers, parameters, plan, tile, d.degree);
    const Numbers<V> shared = numbers[0];
    V state[kTile / L], spike[kTile / L], synaptic[kTile / L];
    const bool stream_spikes = can_stream<IO, T>(plan, spikes), stream_h = can_stream<IO, T>(plan, h);

    for (int64_t r = tile.first_repeat; r < tile.last_repeat; ++r) {
      const int64_t base = r * plan.period + tile.start;
      const int64_t width = std::min(tile.width, plan.neurons - base);
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        const auto& number = UNIFORM ? shared : numbers[j];
        state[j] = load<V>(v + base + j * L, n);
        synaptic[j] = d.synapse ? load<V>(current + base + j * L, n) : V{};
        spike[j] = d.state_is_membrane() ? fire(state[j], number, d) : V{};
        if (d.state_is_membrane()) state[j] = after_reset(state[j], spike[j], number, d);
      });
      for (int64_t t = 0; t < plan.steps; ++t) {
        const int64_t row = t * plan.neurons + base;
        const bool last = t + 1 == plan.steps;
        for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
          const auto& number = UNIFORM ? shared : numbers[j];
          const int64_t at = row + j * L;
          if (!last) __builtin_prefetch(x + at + plan.neurons);
          V c = synapse(load<V>(x + at, n), synaptic[j], number, d);
          V membrane = charge(state[j], c, number, d);
          if (d.reset == Reset::soft_next) membrane = reset(membrane, spike[j], number, d);
          spike[j] = fire(membrane, number, d);
          state[j] = after_reset(membrane, spike[j], number, d);
          put(spikes + at, spike[j], n, stream_spikes);
          if (h) put(h + at, membrane, n, stream_h);
          if (last && last_v) {
            store(last_v + base + j * L, d.state_is_membrane() ? membrane : state[j], n);
          }
        });
      }
      if (d.synapse) {
        for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE { store(last_current + base + j * L, synaptic[j], n); });
      }
    }
    if (stream_spikes || stream_h) stream_fence();
  }
};

// ---- backward -----------------------------------------------------------------------------------

template <class IO, class T>
struct Backward {
  using Arithmetic = T;
  Plan plan;
  Dynamics dynamics;
  ParameterPointers<T> parameters;
  const IO* x;
  const T *v, *current, *h;
  const IO* d_spikes;                  // null where the loss does not reach
  const T *d_h, *d_last_v, *d_last_current;
  IO* d_x;
  T *d_v, *d_current;
  double* partial;  // [items, local_groups, kSums]; null if no parameter needs a gradient
  bool need_currents;  // for the gradients of gain and alpha

  static constexpr int64_t L = kLanes<Vec<T>>;
  // Rows that the lanes sum in their own type before going to double.
  template <bool UNIFORM>
  static constexpr int64_t kRows = UNIFORM ? 4 : 16;

  // The current of every step, [steps, vectors]: recomputed instead of being kept from the forward.
  template <bool UNIFORM>
  void recompute_currents(int64_t base, int64_t width, const std::vector<Numbers<Vec<T>>>& numbers,
                          std::vector<Vec<T>>& currents) const {
    const int64_t vectors = currents.size() / plan.steps;
    for_each_vector<Vec<T>>(width, [&](int64_t j, auto n) LNM_INLINE {
      auto state = dynamics.synapse ? load<Vec<T>>(current + base + j * L, n) : Vec<T>{};
      for (int64_t t = 0; t < plan.steps; ++t) {
        auto input = load<Vec<T>>(x + t * plan.neurons + base + j * L, n);
        currents[t * vectors + j] = synapse(input, state, numbers[UNIFORM ? 0 : j], dynamics);
      }
    });
  }

  // Adds the lanes to the tile's partial sums, group by group, and clears them. (The lanes past the
  // end of a uniform tile hold zeros: no gradient enters them.)
  template <bool UNIFORM>
  void flush(std::vector<Sums<Vec<T>>>& sums, const Tile& tile) const {
    if (!partial) return;
    double* out = partial + tile.index * plan.local_groups * kSums;
    const int64_t lanes = UNIFORM ? L : tile.width;
    for (int64_t i = 0; i < lanes; ++i) {
      const Vec<T>* terms = sums[i / L].theta;  // theta and the four that follow it
      const int64_t group = UNIFORM ? 0 : (tile.start + i) / plan.inner - tile.start / plan.inner;
      for (int k = 0; k < kSums; ++k) {
        if (k <= dynamics.degree || k > kMaxDegree) out[group * kSums + k] += double(terms[k][i % L]);
      }
    }
    std::fill(sums.begin(), sums.end(), Sums<Vec<T>>{});
  }

  template <bool UNIFORM, int DEGREE>
  void run(const Tile& tile) const {
    using V = Vec<T>;
    const Dynamics d = specialise<DEGREE>(dynamics);
    const int64_t vectors = (tile.width + L - 1) / L;
    std::vector<Numbers<V>> numbers(UNIFORM ? 1 : vectors);
    fill_numbers(numbers, parameters, plan, tile, d.degree);
    const Numbers<V> shared = numbers[0];
    std::vector<Sums<V>> sums(UNIFORM ? 1 : vectors);
    std::vector<V> currents(need_currents ? plan.steps * vectors : 0);
    V d_state[kTile / L], d_synaptic[kTile / L], d_next[kTile / L], membrane[kTile / L];
    int64_t rows = 0;
    const bool streaming = can_stream<IO, T>(plan, d_x);

    for (int64_t r = tile.first_repeat; r < tile.last_repeat; ++r) {
      const int64_t base = r * plan.period + tile.start;
      const int64_t width = std::min(tile.width, plan.neurons - base);
      if (need_currents) recompute_currents<UNIFORM>(base, width, numbers, currents);
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        membrane[j] = load<V>(h + (plan.steps - 1) * plan.neurons + base + j * L, n);
        d_state[j] = d_last_v && !d.state_is_membrane() ? load<V>(d_last_v + base + j * L, n) : V{};
        d_synaptic[j] = d_last_current ? load<V>(d_last_current + base + j * L, n) : V{};
        d_next[j] = V{};
      });
      for (int64_t t = plan.steps - 1; t >= 0; --t) {
        const int64_t row = t * plan.neurons + base;
        const bool last = t + 1 == plan.steps;
        Sums<V> row_sum = UNIFORM ? sums[0] : Sums<V>{};
        for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
          const auto& number = UNIFORM ? shared : numbers[j];
          auto& sum = UNIFORM ? row_sum : sums[j];
          const int64_t at = row + j * L;
          if (t > 1) __builtin_prefetch(h + at - 2 * plan.neurons);
          if (t > 0 && d_spikes) __builtin_prefetch(d_spikes + at - plan.neurons);
          V d_s = d_spikes ? load<V>(d_spikes + at, n) : V{};
          V d_membrane = reset_backward(membrane[j], d_s, d_spikes, d_state[j], d_next[j], number, d, sum);
          if (d_h) d_membrane += load<V>(d_h + at, n);
          if (last && d_last_v && d.state_is_membrane()) d_membrane += load<V>(d_last_v + base + j * L, n);

          V before = t > 0 ? load<V>(h + at - plan.neurons, n) : load<V>(v + base + j * L, n);
          membrane[j] = before;
          const bool resets = d.reset != Reset::none && d.reset != Reset::soft_next && (t > 0 || d.state_is_membrane());
          if (resets) before = reset(before, fire(before, number, d), number, d);
          V c = need_currents ? currents[t * vectors + j] : V{};
          V d_c;
          d_state[j] = charge_backward(before, c, d_membrane, number, d, need_currents, sum, d_c);
          d_next[j] = d_membrane;
          if (d.synapse) {
            V earlier = !need_currents ? V{} : t > 0 ? currents[(t - 1) * vectors + j] : load<V>(current + base + j * L, n);
            d_c = synapse_backward(c, earlier, d_c, d_synaptic[j], number, d, sum);
          }
          if (d_x) put(d_x + at, d_c, n, streaming);
        });
        if (UNIFORM) sums[0] = row_sum;
        if (++rows % kRows<UNIFORM> == 0) flush<UNIFORM>(sums, tile);
      }
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        V d_start = d_state[j];
        if (d.state_is_membrane()) {
          const auto& number = UNIFORM ? shared : numbers[j];
          d_start = reset_backward(membrane[j], V{}, false, d_start, d_next[j], number, d, sums[UNIFORM ? 0 : j]);
        }
        if (d_v) store(d_v + base + j * L, d_start, n);
        if (d_current) store(d_current + base + j * L, d_synaptic[j], n);
      });
    }
    flush<UNIFORM>(sums, tile);
    if (streaming) stream_fence();
  }
};

template <class Pass>
using Run = void (Pass::*)(const Tile&) const;

template <class Pass, bool UNIFORM>
Run<Pass> pick(const Dynamics& d) {
  if constexpr (std::is_same_v<typename Pass::Arithmetic, float>) {
    if (d == specialise<1>(d)) return &Pass::template run<UNIFORM, 1>;
    if (d == specialise<2>(d)) return &Pass::template run<UNIFORM, 2>;
    if (d == specialise<3>(d)) return &Pass::template run<UNIFORM, 3>;
  }
  return &Pass::template run<UNIFORM, -1>;
}

template <class Pass>
void run_all(const Pass& pass) {
  const Plan& plan = pass.plan;
  if (plan.steps * plan.neurons == 0) return;
  const Run<Pass> run = plan.groups == 1 ? pick<Pass, true>(pass.dynamics) : pick<Pass, false>(pass.dynamics);
  at::parallel_for(0, plan.items(), plan.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) (pass.*run)(Tile(plan, item));
  });
}

}  // namespace lnm
