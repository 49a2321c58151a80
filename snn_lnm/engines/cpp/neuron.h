// What the loops need of a neuron: `Neuron`, which is generated (engines/generator/cpp.py), and its numbers in registers.
//
// A neuron has `kStates` states, `kNumbers` numbers in `kTensors` tensors, and
//   shared    what follows from its constants alone, `kShared` vectors;
//   values    what follows from its numbers alone, and the numbers themselves: `kValues` vectors, as the loop reads them.
#pragma once

#include "rows.h"

namespace lnm {

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

// A list that may be empty.
template <class V, int64_t N>
struct List {
  V at[N > 0 ? N : 1];
  LNM_INLINE V& operator[](int64_t k) { return at[k]; }
  LNM_INLINE const V& operator[](int64_t k) const { return at[k]; }
};

template <class Neuron, bool UNIFORM>
struct Numbers {
  using T = typename Neuron::T;
  using V = Vec<T>;
  static constexpr int64_t kVectors = UNIFORM ? 1 : kMixedTile / kLanes<V>;
  using Own = List<V, Neuron::kNumbers>;
  using Values = List<V, Neuron::kValues>;
  using Shared = List<V, Neuron::kShared>;

  Shared shared;
  Values values[kVectors];

  LNM_CALL Numbers(const Pass& pass, const Tile& tile) {
    List<V, Neuron::kConstants> constants;
    for (int64_t k = 0; k < Neuron::kConstants; ++k) constants[k] = splat<V>(pass.constants[k]);
    Neuron::share(constants, shared);
    for_each(pass, tile, [&](int64_t j, const Own& own) { Neuron::prepare(own, shared, values[j]); });
  }

  // Calls f(j, numbers) for each vector j of the tile.
  template <class F>
  static LNM_INLINE inline void for_each(const Pass& pass, const Tile& tile, F f) {
    Groups groups(pass.plan, tile.start);
    const int64_t vectors = UNIFORM ? 1 : (tile.width + kLanes<V> - 1) / kLanes<V>;
    for (int64_t j = 0; j < vectors; ++j) {
      int64_t group[kLanes<V>];
      for (int64_t i = 0; i < kLanes<V>; ++i) group[i] = groups.next();
      Own own;
      for (int64_t tensor = 0, k = 0; tensor < Neuron::kTensors; ++tensor) {
        const T* values = static_cast<const T*>(pass.numbers[tensor]);
        const int64_t width = Neuron::kWidths[tensor];
        for (int64_t column = 0; column < width; ++column, ++k) {
          for (int64_t i = 0; i < kLanes<V>; ++i) own[k][i] = values[(pass.many[tensor] ? group[i] : 0) * width + column];
        }
      }
      f(j, own);
    }
  }
};

}  // namespace lnm
