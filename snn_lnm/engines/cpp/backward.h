// The backward pass over time, from the membranes that the forward pass kept.
//
// Of the states before a step those that follow from the membrane kept one step earlier are found so
// (`Neuron::recover`). The others, and the input, are looked at only if the neuron's gradients ask for them
// (`kRerun`): then such a tile's states are computed again from the start, forward in time, and wait in memory.
#pragma once

#include <cstdlib>
#include <new>

#include "neuron.h"

namespace lnm {

template <class Neuron, class S, class H, bool UNIFORM>
struct Backward {
  using T = typename Neuron::T;
  using V = Vec<T>;
  using States = List<V, Neuron::kStates>;
  using Sums = List<V, Neuron::kSums>;
  using Its = Numbers<Neuron, UNIFORM>;
  static constexpr int64_t L = kLanes<V>, kStates = Neuron::kStates, kSums = Neuron::kSums;
  static constexpr int64_t kRows = UNIFORM ? 4 : 64;  // that the lanes sum in their own type before going to double
  static constexpr int64_t kVectors = Its::kVectors;

  const Pass& pass;
  const Plan& plan;
  const Tile& tile;
  const Its numbers;
  const Input<T, S> x, d_spikes;
  const Input<T, H> kept;
  Sums sums[kVectors]{};
  double wide[kVectors][kSums > 0 ? kSums : 1][L]{};
  V* earlier = nullptr;  // [steps, kRerun, vectors]: states before each step, computed again

  Backward(const Pass& pass, const Tile& tile)
      : pass(pass), plan(pass.plan), tile(tile), numbers(pass, tile), x{static_cast<const S*>(pass.x)},
        d_spikes{static_cast<const S*>(pass.d_spikes)}, kept{static_cast<const H*>(pass.kept)} {}
  Backward(const Backward&) = delete;
  ~Backward() { std::free(earlier); }

  LNM_INLINE static V load_kept(const Input<T, H>& row, int64_t j, int64_t n, const typename Its::Values& values,
                                const typename Its::Shared& shared) {
    if constexpr (std::is_same_v<H, T>) return row.load(j * L, n);
    else return row.load(j * L, n) + Neuron::center(values, shared);  // as close as it was kept
  }

  // What the membrane kept at step t - 1 says of the states before step t; at t = 0, their start.
  LNM_INLINE void states_before(int64_t t, int64_t base, int64_t j, int64_t n, V membrane, States& before,
                                const typename Its::Values& values, const typename Its::Shared& shared) const {
    if (t > 0) return Neuron::recover(membrane, values, shared, before);
    for (int64_t k = 0; k < kStates; ++k) before[k] = load<V>(states_from<T>(pass.states[k], base) + j * L, n);
  }

  LNM_CALL void rerun(int64_t base, int64_t width) {
    const int64_t vectors = (width + L - 1) / L;
    if (!earlier) {
      const int64_t most = (tile.width + L - 1) / L;
      earlier = static_cast<V*>(std::aligned_alloc(kVectorBytes, size_t(plan.steps * Neuron::kRerun * most) * sizeof(V)));
      if (!earlier) throw std::bad_alloc();
    }
    const auto shared = numbers.shared;
    for (int64_t t = 0; t < plan.steps; ++t) {
      const int64_t row = t * plan.neurons + base;
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        const auto& values = numbers.values[UNIFORM ? 0 : j];
        States before, after;
        const V last = t > 0 ? load_kept(kept.from(row - plan.neurons), j, n, values, shared) : V{};
        states_before(t, base, j, n, last, before, values, shared);
        V* place = earlier + t * Neuron::kRerun * vectors + j;
        if (t > 0) Neuron::unpack(place, vectors, before);
        else Neuron::pack(before, vectors, place);
        if (t + 1 == plan.steps) return;
        const V x_now = x ? x.from(plan.input_row(t) + base).load(j * L, n) : V{};
        Neuron::advance(load_kept(kept.from(row), j, n, values, shared), x_now, before, values, shared, after);
        Neuron::pack(after, vectors, place + Neuron::kRerun * vectors);
      });
    }
  }

  // Adds the lanes to those in double and clears them.
  LNM_CALL void widen() {
    for (int64_t j = 0; j < kVectors; ++j) {
      for (int64_t k = 0; k < kSums; ++k) {
        for (int64_t i = 0; i < L; ++i) wide[j][k][i] += double(sums[j][k][i]);
      }
      sums[j] = Sums{};
    }
  }

  // The gradients of the numbers from those of the values, and these added in order to the tile's of each group. (The lanes
  // past the end of a uniform tile hold zeros: no gradient enters them.)
  LNM_CALL void finish() {
    if (!pass.sums) return;
    double* out = pass.sums + tile.index * plan.local_groups * Neuron::kColumns;
    Groups groups(plan, tile.start);
    const int64_t first = groups.group;
    Its::for_each(pass, tile, [&](int64_t j, const typename Its::Own& own) {
      Sums total;
      for (int64_t k = 0; k < kSums; ++k) {
        for (int64_t i = 0; i < L; ++i) total[k][i] = T(wide[j][k][i]);
      }
      List<V, Neuron::kColumns> gradients;
      Neuron::finish(own, numbers.shared, total, gradients);
      for (int64_t i = 0; i < L && (UNIFORM || j * L + i < tile.width); ++i) {
        double* to = out + (UNIFORM ? 0 : groups.next() - first) * Neuron::kColumns;
        for (int64_t k = 0; k < Neuron::kColumns; ++k) to[k] += double(gradients[k][i]);
      }
    });
  }

  void run() {
    const auto shared = numbers.shared;
    const auto uniform = numbers.values[0];
    const Output<T, S> d_x{static_cast<S*>(pass.d_x.data), pass.d_x.streams};
    const T* const d_h = static_cast<const T*>(pass.d_h);
    const int64_t most = (tile.width + L - 1) / L;
    // Side by side: a page apart, those of a narrow tile would share a few sets of the cache.
    V memory[(kStates + 2) * (UNIFORM ? kTile : kMixedTile) / L];
    V *const membrane = memory, *const d_held = memory + most, *const d_state = memory + 2 * most;
    alignas(kVectorBytes) T d_x_buffer[kTile];
    int64_t rows = 0;

    for (int64_t r = tile.first_repeat; r < tile.last_repeat; ++r) {
      const int64_t base = r * plan.period + tile.start, width = smaller(tile.width, plan.neurons - base);
      if constexpr (Neuron::kRerun > 0) rerun(base, width);
      const int64_t vectors = (width + L - 1) / L;
      const Input<T, H> last_row = kept.from((plan.steps - 1) * plan.neurons + base);
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        membrane[j] = load_kept(last_row, j, n, UNIFORM ? uniform : numbers.values[j], shared);
        d_held[j] = V{};
        for (int64_t k = 0; k < kStates; ++k) {
          const T* d = static_cast<const T*>(pass.d_last[k]);
          d_state[k * most + j] = d ? load<V>(d + base + j * L, n) : V{};
        }
      });
      for (int64_t t = plan.steps - 1; t >= 0; --t) {
        const int64_t row = t * plan.neurons + base;
        const int64_t last = t > 0 ? row - plan.neurons : row, distance = smaller(plan.ahead(), t) * plan.neurons;
        const Input<T, S> d_spikes_row = d_spikes.from(row), next_d_row = d_spikes_row.from(-distance);
        const Input<T, S> x_row = x.from(plan.input_row(t) + base);
        const Input<T, H> before_row = kept.from(last), next_row = kept.from(larger(last - distance, base));
        const T* d_h_row = d_h ? d_h + row : nullptr;
        const Output<T, S> d_x_row = d_x.row(plan.input_row(t) + base, d_x_buffer);
        Sums row_sums{};
        for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
          const auto& values = UNIFORM ? uniform : numbers.values[j];
          auto& sum = UNIFORM ? row_sums : sums[j];
          if (j % kPerLine == 0) {
            next_row.prefetch(j * L);
            if (d_spikes) next_d_row.prefetch(j * L);
          }
          const V h = membrane[j], d_spike = d_spikes ? d_spikes_row.load(j * L, n) : V{};
          const V d_membrane = d_h_row ? load<V>(d_h_row + j * L, n) : V{};
          membrane[j] = load_kept(before_row, j, n, values, shared);
          States before, d_after, d_before;
          states_before(t, base, j, n, membrane[j], before, values, shared);
          if constexpr (Neuron::kRerun > 0) Neuron::unpack(earlier + t * Neuron::kRerun * vectors + j, vectors, before);
          for (int64_t k = 0; k < kStates; ++k) d_after[k] = d_state[k * most + j];
          V x_now{}, d_now;
          if constexpr (Neuron::kUsesInput) x_now = x_row.load(j * L, n);
          if constexpr (std::is_same_v<decltype(n), int64_t>) {  // what lies behind the end has no share in the sums
            Sums lanes{};
            Neuron::back(h, x_now, before, d_spike, d_membrane, d_after, values, shared, d_before, d_now, lanes);
            for (int64_t k = 0; k < kSums; ++k) {
              for (int64_t i = 0; i < n; ++i) sum[k][i] += lanes[k][i];
            }
          } else {
            Neuron::back(h, x_now, before, d_spike, d_membrane, d_after, values, shared, d_before, d_now, sum);
          }
          for (int64_t k = 0; k < kStates; ++k) d_state[k * most + j] = d_before[k];
          if (plan.holds) d_now = d_held[j] += d_now;  // the gradients of all steps are one sum
          d_x_row.store(j * L, d_now, n);
        });
        if (!plan.holds || t == 0) d_x.finish(plan.input_row(t) + base, width, d_x_buffer);
        if (UNIFORM) for (int64_t k = 0; k < kSums; ++k) sums[0][k] += row_sums[k];
        if (kSums > 0 && ++rows % kRows == 0) widen();
      }
      for (int64_t k = 0; k < kStates; ++k) {
        T* d = static_cast<T*>(pass.d_states[k]);
        if (d) for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE { store(d + base + j * L, d_state[k * most + j], n); });
      }
    }
    if (kSums > 0) widen(), finish();
    stream_fence();
  }
};

}  // namespace lnm
