// The backward pass over time.
#pragma once

#include "kernels.h"

namespace lnm {

// In float: any neuron of degree 1 to 3, and the hosts'. Where a tile has one set of parameters these come with both
// surrogates that call no function, and, of degree 3, with the first of them for inputs in bfloat16.
template <class T, bool UNIFORM>
constexpr Usuals backward_usual() {
  Usuals usuals;
  if constexpr (std::is_same_v<T, float>) {
    // (The storages are those of enum Storage.)
    for (auto [surrogate, storage] : {std::pair{kATan, 0}, {kFastSigmoid, 0}, {kATan, 1}}) {
      if (!UNIFORM && (surrogate != kATan || storage)) continue;
      for (Usual u : kHosts) {
        if (u.degree < 3 && storage) continue;
        u.surrogate = kSameFormula[surrogate], u.storage = storage, u.detach_reset = 1;
        usuals.add(u);
        // A reset that is not delayed may stay attached in the hosts; of the lower degrees Norse's does.
        u.detach_reset = 0;
        const bool at_once = u.reset == int(Reset::hard) || u.reset == int(Reset::soft);
        if (at_once && (u.degree == 3 || u.synapse == int(Synapse::euler))) usuals.add(u);
      }
    }
    for (int degree = 3; degree > 0; --degree) usuals.add({degree});
  }
  usuals.add({});  // any other
  return usuals;
}

template <class T>
struct Backward {
  Plan plan;
  Dynamics dynamics;
  ParameterPointers<T> parameters;
  Input<T> x;
  const T *v, *current;  // null where they are all zero
  Input<T> h, d_spikes;  // null where the loss does not reach
  const T *d_h, *d_last_v, *d_last_current;
  Output<T> d_x;
  T *d_v, *d_current;
  double* partial;  // [items, local_groups, kSums]; null if no parameter needs a gradient
  bool need_start;     // for the gradients of the start, or of what its reset depends on
  bool need_currents;  // for the gradients of gain and alpha

  template <bool UNIFORM>
  static constexpr auto usual = backward_usual<T, UNIFORM>();
  // The last membrane is the last state, whose gradient goes where that of the state after a reset goes; but this one
  // is reset only when the next step comes.
  bool ends_before_reset() const { return d_last_v && dynamics.reset == Reset::hard_next; }
  // A host's neuron in training: no gradient of the membranes comes in, and none of gain or alpha is asked for.
  bool takes(const Usual& u) const {
    const bool spikes_only = d_spikes && !d_h && !ends_before_reset();
    return u.storage < 0 || (spikes_only && int(d_spikes.storage) == u.storage && !need_currents && !h.converts());
  }
  static constexpr int64_t L = kLanes<Vec<T>>;
  // Rows that the lanes sum in their own type before going to double.
  template <bool UNIFORM>
  static constexpr int64_t kRows = UNIFORM ? 4 : 64;

  // The current of every step, [steps, vectors]: recomputed instead of being kept from the forward.
  template <bool UNIFORM>
  void recompute_currents(int64_t base, int64_t width, const std::vector<Numbers<Vec<T>>>& numbers,
                          std::vector<Vec<T>>& currents) const {
    const int64_t vectors = currents.size() / plan.steps;
    Vec<T> state[kTile / L];
    for (int64_t t = 0; t < plan.steps; ++t) {
      const Input<T> x_row = x.from(plan.input_row(t) + base);
      for_each_vector<Vec<T>>(width, [&](int64_t j, auto n) LNM_INLINE {
        if (t == 0) state[j] = dynamics.synapse ? load<Vec<T>>(states_from(current, base) + j * L, n) : Vec<T>{};
        currents[t * vectors + j] = synapse(x_row.template load<Vec<T>>(j * L, n), state[j], numbers[UNIFORM ? 0 : j], dynamics);
      });
    }
  }

  // Of those that a neuron of this degree has.
  template <class F>
  void for_each_sum(F f) const {
    for (int k = 0; k <= dynamics.degree; ++k) f(k);
    for (int k = kMaxDegree + 1; k < kSums; ++k) f(k);
  }

  // Adds the lanes to those in double and clears them.
  LNM_CALL void widen(std::vector<Sums<Vec<T>>>& sums, std::vector<double>& wide) const {
    for (size_t j = 0; j < sums.size(); ++j) {
      const T* lanes = reinterpret_cast<const T*>(sums[j].theta);  // theta and the four that follow it
      double* to = wide.data() + j * kSums * L;
      for_each_sum([&](int k) {
        for (int64_t i = k * L; i < (k + 1) * L; ++i) to[i] += double(lanes[i]);
      });
      sums[j] = Sums<Vec<T>>{};
    }
  }

  // Adds the lanes, in order, to the tile's partial sums of each group. (The lanes past the end of a
  // uniform tile hold zeros: no gradient enters them.)
  template <bool UNIFORM>
  LNM_CALL void reduce(const std::vector<double>& wide, const Tile& tile) const {
    double* out = partial + tile.index * plan.local_groups * kSums;
    Groups groups(plan, tile.start);
    const int64_t lanes = UNIFORM ? L : tile.width, first = groups.group;
    for (int64_t i = 0; i < lanes; ++i) {
      double* to = out + (UNIFORM ? 0 : groups.next() - first) * kSums;
      const double* lane = wide.data() + i / L * kSums * L + i % L;
      for_each_sum([&](int k) { to[k] += lane[k * L]; });
    }
  }

  template <bool UNIFORM, Usual USUAL>
  void run(const Tile& tile) const {
    using V = Vec<T>;
    const Dynamics d = specialise<USUAL>(dynamics);
    constexpr bool plain = USUAL.storage >= 0;  // as `takes` says
    const bool spikes_count = plain || d_spikes, with_currents = !plain && need_currents;
    const int64_t vectors = (tile.width + L - 1) / L;
    std::vector<Numbers<V>> numbers(UNIFORM ? 1 : vectors);
    fill_numbers(numbers, parameters, plan, tile, d);
    const Numbers<V> shared = numbers[0];
    std::vector<Sums<V>> sums(UNIFORM ? 1 : vectors);
    std::vector<double> wide(sums.size() * kSums * L);
    std::vector<V> currents(with_currents ? plan.steps * vectors : 0);
    V states[5 * kTile / L];  // side by side: a page apart, those of a narrow tile would share a few sets of the cache
    V *const d_state = states, *const d_next = d_state + vectors, *const membrane = d_next + vectors;
    V *const d_synaptic = membrane + vectors, *const d_held = d_synaptic + vectors;
    alignas(kVectorBytes) T d_x_buffer[kTile];
    // The membrane as the forward pass had it, or as close as it was kept.
    const auto kept = [&](const Input<T>& row, int64_t j, auto n, const Numbers<V>& number) LNM_INLINE {
      const V value = row.template load<V>(j * L, n);
      return row.converts() ? value + number.center : value;
    };
    int64_t rows = 0;

    for (int64_t r = tile.first_repeat; r < tile.last_repeat; ++r) {
      const int64_t base = r * plan.period + tile.start;
      const int64_t width = std::min(tile.width, plan.neurons - base);
      if (with_currents) recompute_currents<UNIFORM>(base, width, numbers, currents);
      const Input<T> start_row{reinterpret_cast<const char*>(states_from(v, base)), Storage::arithmetic};
      const T* current_row = states_from(current, base);
      const Input<T> h_row = h.from((plan.steps - 1) * plan.neurons + base);
      for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        membrane[j] = kept(h_row, j, n, UNIFORM ? shared : numbers[j]);
        d_state[j] = d_last_v && !ends_before_reset() ? load<V>(d_last_v + base + j * L, n) : V{};
        d_synaptic[j] = d_last_current ? load<V>(d_last_current + base + j * L, n) : V{};
        d_next[j] = d_held[j] = V{};
      });
      for (int64_t t = plan.steps - 1; t >= 0; --t) {
        const int64_t row = t * plan.neurons + base;
        const int64_t last = t > 0 ? row - plan.neurons : row, distance = std::min(plan.ahead(), t) * plan.neurons;
        const Input<T> d_spikes_row = d_spikes.from(row).as(USUAL.storage);
        const Input<T> before_row = (t > 0 ? h.from(last) : start_row).as(plain ? 0 : -1);
        const Input<T> next_row = h.from(std::max(last - distance, base)).as(plain ? 0 : -1);
        const Input<T> next_d_row = d_spikes ? d_spikes_row.from(-distance) : h;
        const T* d_h_row = !plain && d_h ? d_h + row : nullptr;
        const T* d_last_row = !plain && ends_before_reset() && t + 1 == plan.steps ? d_last_v + base : nullptr;
        const V* currents_row = with_currents ? &currents[t * vectors] : nullptr;
        const Output<T> d_x_row = d_x.row(plan.input_row(t) + base, d_x_buffer).as(USUAL.storage);
        const bool resets = d.reset != Reset::none && d.reset != Reset::soft_next && (t > 0 || d.state_is_membrane());
        Sums<V> row_sum{};
        for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
          const auto& number = UNIFORM ? shared : numbers[j];
          auto& sum = UNIFORM ? row_sum : sums[j];
          V d_s = spikes_count ? d_spikes_row.template load<V>(j * L, n) : V{};
          V d_membrane = reset_backward(membrane[j], d_s, spikes_count, d_state[j], d_next[j], number, d, sum);
          if (d_h_row) d_membrane += load<V>(d_h_row + j * L, n);
          if (d_last_row) d_membrane += load<V>(d_last_row + j * L, n);

          if (j % kPerLine == 0) {
            next_row.prefetch(j * L);
            next_d_row.prefetch(j * L);
          }
          V before = kept(before_row, j, n, number);
          membrane[j] = before;
          if (resets) before = reset(before, fire(before, number, d), number, d);
          V c = currents_row ? currents_row[j] : V{};
          V d_c;
          d_state[j] = charge_backward(before, c, d_membrane, number, d, currents_row, sum, d_c);
          if (d.reset == Reset::soft_next) d_next[j] = d_membrane;
          if (d.synapse) {
            V earlier = !currents_row ? V{} : t > 0 ? currents_row[j - vectors] : load<V>(current_row + j * L, n);
            d_c = synapse_backward(c, earlier, d_c, d_synaptic[j], number, d, sum);
          }
          if (plan.holds) d_c = d_held[j] += d_c;  // the gradients of all steps are one sum
          d_x_row.store(j * L, d_c, n);
        });
        if (!plan.holds || t == 0) d_x.finish(plan.input_row(t) + base, width, d_x_buffer);
        if (UNIFORM) sums[0].add(row_sum, d);
        if (++rows % kRows<UNIFORM> == 0) widen(sums, wide);
      }
      if (need_start) for_each_vector<V>(width, [&](int64_t j, auto n) LNM_INLINE {
        V d_start = d_state[j];
        if (d.state_is_membrane()) {
          const auto& number = UNIFORM ? shared : numbers[j];
          d_start = reset_backward(membrane[j], V{}, false, d_start, d_next[j], number, d, sums[UNIFORM ? 0 : j]);
        }
        if (d_v) store(d_v + base + j * L, d_start, n);
        if (d_current) store(d_current + base + j * L, d_synaptic[j], n);
      });
    }
    widen(sums, wide);
    if (partial) reduce<UNIFORM>(wide, tile);
    stream_fence();
  }
};

// Two files, compiled side by side.
void run_uniform(const Backward<float>& pass);
void run_uniform(const Backward<double>& pass);
void run_mixed(const Backward<float>& pass);
void run_mixed(const Backward<double>& pass);

template <class T>
void run_all(const Backward<T>& pass) {
  pass.plan.uniform ? run_uniform(pass) : run_mixed(pass);
}

}  // namespace lnm
