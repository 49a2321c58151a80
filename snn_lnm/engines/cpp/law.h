// The law of reference.py for one vector of neurons, and its derivatives.
#pragma once

#include "bfloat16.h"
#include "generated.h"
#include "vec.h"

namespace lnm {

constexpr int kMaxDegree = 8;

struct Dynamics {
  bool detach_reset, fire_at_threshold, gain_divides, synapse, euler, bounded, line, smooth;
  Charge charge;
  Reset reset;
  int degree, surrogate;
  double surrogate_parameters[kMaxSurrogateParameters], lo, hi;

  bool operator==(const Dynamics&) const = default;
  bool hard() const { return reset == Reset::hard || reset == Reset::hard_next; }
  // The carried state is the membrane before reset; the reset happens at the start of the next step.
  bool state_is_membrane() const { return reset != Reset::hard && reset != Reset::soft; }
};

// The parameters of one vector of neurons, and what follows from them alone.
template <class V>
struct Numbers {
  // First what every step back in time reads: where each vector has its own, the fewer lines of the cache the better.
  V threshold, gain;
  V slope;  // of the line outside the domain: θ_1,
  decltype(V{} < V{}) slope_is_theta_1;  // or the end of the range to which it is held
  V derivative[kMaxDegree];  // coefficients of f'
  V theta[kMaxDegree + 1], v_reset, alpha;
  V below, above;  // what joins the line to the polynomial at either end
  V lowest_slope;
  V center;  // a membrane kept in bfloat16 is kept as its distance from here

  void complete(const Dynamics& d);
};

// ---- forward ------------------------------------------------------------------------------------

template <class V>
LNM_INLINE inline V horner(V v, const Numbers<V>& n, int degree) {
  V p = n.theta[degree];
  for (int k = degree - 1; k >= 0; --k) p = p * v + n.theta[k];
  return p;
}

template <class V>
LNM_INLINE inline V clamp(V v, V lo, V hi) {  // lo ≤ hi
  const V not_above = select(hi < v, hi, v);  // in this order one instruction each, and NaN stays NaN
  return select(lo > not_above, lo, not_above);
}

template <class V>
void Numbers<V>::complete(const Dynamics& d) {
  for (int k = 0; k < d.degree; ++k) derivative[k] = splat<V>(k + 1) * theta[k + 1];
  const bool map = d.charge == Charge::map;
  const V lo = splat<V>(d.lo), hi = splat<V>(d.hi);
  lowest_slope = map ? splat<V>(-1) : d.gain_divides ? -2 * gain : -2 / gain;
  // The lower end is asked first: below zero a gain leaves the range empty, where `clamp` gives the other end.
  const V highest = splat<V>(map), held = select(theta[1] > highest, highest, theta[1]);
  const bool bounded = d.hi < std::numeric_limits<double>::infinity();  // else nothing holds the slope
  slope = !d.degree ? V{} : bounded ? select(theta[1] < lowest_slope, lowest_slope, held) : theta[1];
  slope_is_theta_1 = theta[1] == slope;
  below = horner(lo, *this, d.degree) - (slope * lo + theta[0]);
  above = horner(hi, *this, d.degree) - (slope * hi + theta[0]);
  // A huge threshold, of an output that shall never fire, is no place to measure from.
  center = select(abs(threshold) <= 100, threshold, V{});
}

template <class V>
LNM_INLINE inline V scale(V u, const Numbers<V>& n, const Dynamics& d) {
  return d.gain_divides ? u / n.gain : n.gain * u;
}

template <class V>
LNM_INLINE inline V polynomial(V v, const Numbers<V>& n, const Dynamics& d) {
  if (!d.bounded) return horner(v, n, d.degree);
  const V lo = splat<V>(d.lo), hi = splat<V>(d.hi);
  if (!d.line) return horner(clamp(v, lo, hi), n, d.degree);
  if (d.degree == 1) return n.slope * v + n.theta[0];  // a line has no inside
  // Outside, the line's slope takes the place of Horner's last bracket. (Adding -0 changes nothing.)
  V p = d.degree ? n.theta[d.degree] : V{};
  for (int k = d.degree - 1; k > 0; --k) p = p * v + n.theta[k];
  auto below = v < lo, above = v > hi;
  p = select(below | above, n.slope, p);
  return (p * v + n.theta[0]) + select(below, n.below, select(above, n.above, splat<V>(-0.0)));
}

template <class V>
LNM_INLINE inline V charge(V v, V current, const Numbers<V>& n, const Dynamics& d) {
  V f = polynomial(v, n, d);
  if (d.charge == Charge::map) return f + scale(current, n, d);
  if (d.charge == Charge::residual) return (v + scale(f, n, d)) + current;
  return v + scale(f + current, n, d);
}

template <class V>
LNM_INLINE inline auto above_threshold(V u, const Dynamics& d) {
  return d.fire_at_threshold ? u >= 0 : u > 0;
}

template <class V>
LNM_INLINE inline V fire(V h, const Numbers<V>& n, const Dynamics& d) {
  V u = h - n.threshold;
  if (d.smooth) return surrogate_primitive(d.surrogate, u, d.surrogate_parameters);
  return select(above_threshold(u, d), splat<V>(1), V{});
}

// The membrane's distance from the center in bfloat16: the nearest of those that leave it on its side of the
// threshold, so that the backward pass finds the same spike.
LNM_INLINE inline Floats distance_in_bfloat16(Floats h, const Numbers<Floats>& n, const Dynamics& d) {
  const Floats distance = h - n.center, nearest = nearest_bfloat16(distance);
  const auto fires = above_threshold(h - n.threshold, d);
  const Words away = (Words)(fires == (distance > 0));  // rounded so, the magnitude grows
  const Floats same_side = (Floats)(((Words)distance + (away & 0xffff)) & 0xffff0000);
  return select(above_threshold((nearest + n.center) - n.threshold, d) == fires, nearest, same_side);
}

template <class V>
LNM_INLINE inline V reset(V h, V s, const Numbers<V>& n, const Dynamics& d) {
  if (d.reset == Reset::none) return h;
  return d.hard() ? (1 - s) * h + s * n.v_reset : h - s * n.threshold;
}

// What enters the polynomial, from the membrane h of the previous step and its spike.
template <class V>
LNM_INLINE inline V after_reset(V h, V s, const Numbers<V>& n, const Dynamics& d) {
  return d.reset == Reset::soft_next ? h : reset(h, s, n, d);
}

// The current that reaches the membrane; `state` becomes the synaptic state of the next step.
template <class V>
LNM_INLINE inline V synapse(V x, V& state, const Numbers<V>& n, const Dynamics& d) {
  if (!d.synapse) return x;
  if (!d.euler) return state = n.alpha * state + x;
  V current = state + x;
  state = current - n.alpha * current;
  return current;
}

// ---- backward -----------------------------------------------------------------------------------
// `d_a` is the gradient of the loss with respect to `a`.

// Gradient sums of the parameters, per lane.
template <class V>
struct Sums {
  V theta[kMaxDegree + 1], threshold, v_reset, gain, alpha;

  LNM_INLINE void add(const Sums& other, const Dynamics& d) {
    for (int k = 0; k <= d.degree; ++k) theta[k] += other.theta[k];
    threshold += other.threshold;
    v_reset += other.v_reset;
    gain += other.gain;
    alpha += other.alpha;
  }
};

// Through `s = fire(h)` and `after = reset(h, s)`: returns d_h. `d_s` is the gradient that the spike
// receives from elsewhere (all zero unless `spikes_count`), `d_next` that of the next step's h, from
// which "soft_next" subtracts.
template <class V>
LNM_INLINE inline V reset_backward(V h, V d_s, bool spikes_count, V d_after, V d_next, const Numbers<V>& n,
                        const Dynamics& d, Sums<V>& sums) {
  V s = fire(h, n, d);
  V d_h = d_after;
  if (d.hard()) {
    if (!d.detach_reset) d_s = fma(d_after, n.v_reset - h, d_s);
    d_h = d_after * (1 - s);
    sums.v_reset = fma(d_after, s, sums.v_reset);
  } else if (d.reset != Reset::none) {
    V d_subtracted = d.reset == Reset::soft ? d_after : d_next;
    if (!d.detach_reset) d_s = fma(-d_subtracted, n.threshold, d_s);
    sums.threshold = fma(-d_subtracted, s, sums.threshold);
  }
  if (d.detach_reset && !spikes_count) return d_h;
  V d_u = d_s * surrogate_derivative(d.surrogate, h - n.threshold, d.surrogate_parameters);
  sums.threshold -= d_u;
  return d_h + d_u;
}

// Through `f = polynomial(v)`: adds d_f times the gradients of f to `sums`, returns d_f · f'(v).
template <class V>
LNM_INLINE inline V polynomial_backward(V v, V d_f, const Numbers<V>& n, const Dynamics& d, Sums<V>& sums) {
  const V lo = splat<V>(d.lo), hi = splat<V>(d.hi);
  const bool all_line = d.bounded && d.line && d.degree == 1;
  V w = all_line ? V{} : d.bounded ? clamp(v, lo, hi) : v;
  const auto outside = (v < w) | (v > w);  // NaN is not: its gradient is NaN
  V slope = d.degree ? n.derivative[d.degree - 1] : V{}, power = d_f;
  for (int k = d.degree - 2; k >= 0; --k) slope = fma(slope, w, n.derivative[k]);
  const bool line = d.bounded && d.line && d.degree;
  // ∂f/∂θ_1 is w; v where the line's slope is θ_1 itself.
  V by_theta_1 = line ? select(n.slope_is_theta_1, v, w) : w;
  for (int k = 0; k <= d.degree; ++k) {
    sums.theta[k] = k == 1 ? fma(d_f, by_theta_1, sums.theta[k]) : sums.theta[k] + power;
    power *= w;
  }
  if (!d.bounded) return d_f * slope;
  if (all_line) slope = n.slope;
  if (line && d.charge != Charge::map) {
    V d_lowest = d.gain_divides ? splat<V>(-2) : -n.lowest_slope / n.gain;
    sums.gain += select(outside & (n.theta[1] < n.slope), d_f * (v - w) * d_lowest, V{});
  }
  return d_f * select(outside, line ? n.slope : V{}, slope);
}

// Through `scale(u)`: returns d_u, given d = the gradient of the scaled value.
template <class V>
LNM_INLINE inline V scale_backward(V u, V d_scaled, const Numbers<V>& n, const Dynamics& d, bool gain, Sums<V>& sums) {
  V d_u = scale(d_scaled, n, d);
  if (gain) sums.gain += d.gain_divides ? -d_u * u / n.gain : d_scaled * u;
  return d_u;
}

// Through `h = charge(v, current)`: returns d_v and writes d_current.
template <class V>
LNM_INLINE inline V charge_backward(V v, V current, V d_h, const Numbers<V>& n, const Dynamics& d, bool gain,
                                    Sums<V>& sums, V& d_current) {
  if (d.charge == Charge::map) {
    d_current = scale_backward(current, d_h, n, d, gain, sums);
    return polynomial_backward(v, d_h, n, d, sums);
  }
  V f = gain ? polynomial(v, n, d) : V{};
  if (d.charge == Charge::drift) f += current;
  V d_f = scale_backward(f, d_h, n, d, gain, sums);
  d_current = d.charge == Charge::drift ? d_f : d_h;
  return d_h + polynomial_backward(v, d_f, n, d, sums);
}

// Through the synapse: `d_state` is the gradient of the state after the step and becomes that of the
// state before it; returns d_x.
template <class V>
LNM_INLINE inline V synapse_backward(V current, V before, V d_current, V& d_state, const Numbers<V>& n,
                          const Dynamics& d, Sums<V>& sums) {
  if (!d.synapse) return d_current;
  if (d.euler) {
    sums.alpha -= d_state * current;
    d_current += d_state - n.alpha * d_state;
    return d_state = d_current;
  }
  d_current += d_state;
  sums.alpha += d_current * before;
  d_state = n.alpha * d_current;
  return d_current;
}

}  // namespace lnm
