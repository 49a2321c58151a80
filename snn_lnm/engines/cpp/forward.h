// The forward pass over time.
#pragma once

#include "kernels.h"

namespace lnm {

// Any neuron of degree 1 to 3; in float the hosts', and, where a tile has one set of parameters, those of degree 3 for
// inputs in bfloat16, too.
template <class T, bool UNIFORM>
constexpr Usuals forward_usual() {
  Usuals usuals;
  if constexpr (std::is_same_v<T, float>) {
    for (int storage = 0; storage < 1 + UNIFORM; ++storage) {
      for (Usual u : kHosts) {
        u.storage = storage;
        if (u.degree == 3 || !storage) usuals.add(u);
      }
    }
  }
  for (int degree = 3; degree > 0; --degree) usuals.add({degree});
  usuals.add({});  // any other
  return usuals;
}

template <class T>
struct Forward {
  Plan plan;
  Dynamics dynamics;
  ParameterPointers<T> parameters;
  Input<T> x;
  const T *v, *current;      // null where they are all zero
  Output<T> spikes, h;       // h, last_v and last_current are null where not wanted
  T *last_v, *last_current;

  template <bool UNIFORM>
  static constexpr auto usual = forward_usual<T, UNIFORM>();
  bool takes(const Usual& u) const {
    return u.storage < 0 || (int(x.storage) == u.storage && (!h || h.storage == Storage::arithmetic));
  }

  template <bool UNIFORM, Usual USUAL>
  void run(const Tile& tile) const {
    using V = Vec<T>;
    constexpr int64_t L = kLanes<V>;
    const Dynamics d = specialise<USUAL>(dynamics);
    const int64_t vectors = (tile.width + L - 1) / L;
    std::vector<Numbers<V>> numbers(UNIFORM ? 1 : vectors);
    fill_numbers(numbers, parameters, plan, tile, d);
    const Numbers<V> shared = numbers[0];
    constexpr bool plain = USUAL.storage >= 0;  // as `takes` says
    const bool rounds = !plain && std::is_same_v<T, float> && h.is_bfloat16();
    V state[kTile / L], spike[kTile / L], synaptic[kTile / L];
    alignas(kVectorBytes) T spikes_buffer[kTile], h_buffer[kTile];

    for (int64_t r = tile.first_repeat; r < tile.last_repeat; ++r) {
      const int64_t base = r * plan.period + tile.start;
      const int64_t width = std::min(tile.width, plan.neurons - base);
      const T *v_row = states_from(v, base), *current_row = states_from(current, base);
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        const auto& number = UNIFORM ? shared : numbers[j];
        state[j] = load<V>(v_row + j * L, n);
        synaptic[j] = d.synapse ? load<V>(current_row + j * L, n) : V{};
        spike[j] = d.state_is_membrane() ? fire(state[j], number, d) : V{};
        if (d.state_is_membrane()) state[j] = after_reset(state[j], spike[j], number, d);
      });
      for (int64_t t = 0; t < plan.steps; ++t) {
        const int64_t row = t * plan.neurons + base;
        const Input<T> x_row = x.from(plan.input_row(t) + base).as(USUAL.storage);
        const Input<T> next_row = x_row.from(plan.input_row(std::min(plan.ahead(), plan.steps - 1 - t)));
        const Output<T> spikes_row = spikes.row(row, spikes_buffer).as(USUAL.storage);
        const Output<T> h_row = h ? h.row(row, h_buffer).as(plain ? 0 : -1) : h;
        T* last_row = t + 1 == plan.steps && last_v ? last_v + base : nullptr;
        for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
          const auto& number = UNIFORM ? shared : numbers[j];
          if (j % kPerLine == 0) next_row.prefetch(j * L);
          V c = synapse(x_row.template load<V>(j * L, n), synaptic[j], number, d);
          V membrane = charge(state[j], c, number, d);
          if (d.reset == Reset::soft_next) membrane = reset(membrane, spike[j], number, d);
          V s = fire(membrane, number, d);
          if (d.reset == Reset::soft_next) spike[j] = s;
          state[j] = after_reset(membrane, s, number, d);
          spikes_row.store(j * L, s, n, !d.smooth);
          if constexpr (std::is_same_v<T, float>) {
            if (rounds) h_row.store(j * L, distance_in_bfloat16(membrane, number, d), n, true);
          }
          if (h_row && !rounds) h_row.store(j * L, membrane, n);
          if (last_row) store(last_row + j * L, d.state_is_membrane() ? membrane : state[j], n);
        });
        spikes.finish(row, width, spikes_buffer);
        if (h) h.finish(row, width, h_buffer);
      }
      if (d.synapse) {
        for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE { store(last_current + base + j * L, synaptic[j], n); });
      }
    }
    stream_fence();
  }
};

template <class T>
void run_all(const Forward<T>& pass);

}  // namespace lnm
