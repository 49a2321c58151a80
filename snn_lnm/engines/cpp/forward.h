// The forward pass over time.
#pragma once

#include "neuron.h"

namespace lnm {

// S: how inputs and spikes are stored, H: how the membrane is kept.
template <class Neuron, class S, class H, bool UNIFORM>
void forward(const Pass& pass, const Tile& tile) {
  using T = typename Neuron::T;
  using V = Vec<T>;
  constexpr int64_t L = kLanes<V>, kStates = Neuron::kStates;
  const Plan& plan = pass.plan;
  const Numbers<Neuron, UNIFORM> numbers(pass, tile);
  const auto shared = numbers.shared;
  const auto uniform = numbers.values[0];
  const Input<T, S> x{static_cast<const S*>(pass.x)};
  const Output<T, S> spikes{static_cast<S*>(pass.spikes.data), pass.spikes.streams};
  const Output<T, H> h{static_cast<H*>(pass.h.data), pass.h.streams};
  V state[kStates][(UNIFORM ? kTile : kMixedTile) / L];
  alignas(kVectorBytes) T spikes_buffer[kTile], h_buffer[kTile];

  for (int64_t r = tile.first_repeat; r < tile.last_repeat; ++r) {
    const int64_t base = r * plan.period + tile.start, width = smaller(tile.width, plan.neurons - base);
    for (int64_t k = 0; k < kStates; ++k) {
      const T* start = states_from<T>(pass.states[k], base);
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE { state[k][j] = load<V>(start + j * L, n); });
    }
    for (int64_t t = 0; t < plan.steps; ++t) {
      const int64_t row = t * plan.neurons + base;
      const Input<T, S> x_row = x.from(plan.input_row(t) + base);
      const Input<T, S> next_row = x_row.from(plan.input_row(smaller(plan.ahead(), plan.steps - 1 - t)));
      const Output<T, S> spikes_row = spikes.row(row, spikes_buffer);
      const Output<T, H> h_row = h ? h.row(row, h_buffer) : h;
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        const auto& values = UNIFORM ? uniform : numbers.values[j];
        if (j % kPerLine == 0) next_row.prefetch(j * L);
        List<V, kStates> before, after;
        for (int64_t k = 0; k < kStates; ++k) before[k] = state[k][j];
        V spike, membrane;
        Neuron::step(x_row.load(j * L, n), before, values, shared, after, spike, membrane);
        for (int64_t k = 0; k < kStates; ++k) state[k][j] = after[k];
        if constexpr (std::is_same_v<S, T> || !Neuron::kSpikesAreExact) spikes_row.store(j * L, spike, n);
        else S::store_exact(spikes_row.data + j * L, spike, n);
        if constexpr (!std::is_same_v<H, T>) H::template keep<Neuron>(h_row.data + j * L, membrane, before, values, shared, n);
        else if (h_row) h_row.store(j * L, membrane, n);
      });
      spikes.finish(row, width, spikes_buffer);
      if (h) h.finish(row, width, h_buffer);
    }
    for (int64_t k = 0; k < kStates; ++k) {
      T* last = static_cast<T*>(pass.last[k]);
      if (last) for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE { store(last + base + j * L, state[k][j], n); });
    }
  }
  stream_fence();
}

}  // namespace lnm
