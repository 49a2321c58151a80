// The CPU kernels as PyTorch operators, snn_lnm::forward.cpp and snn_lnm::backward.cpp. Arguments are
// those that op.py defines, already checked in Python.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string_view>
#include <tuple>

#include "backward.h"
#include "call.h"
#include "forward.h"
#include "memory.h"
#include "words.h"

namespace lnm {
namespace {

// The option that `word` stands for; Python's words are the only ones.
template <class Option, size_t N>
Option parsed(const char* name, std::string_view word, const std::string_view (&known)[N]) {
  std::string all;
  for (size_t i = 0; i < N; ++i) {
    if (known[i] == word) return Option(i);
    all += (i ? ", '" : "'") + std::string(known[i]) + "'";
  }
  TORCH_CHECK_VALUE(false, "unknown ", name, " '", std::string(word), "': expected one of ", all, ".");
}

}  // namespace

Options::Options(const Tensor& coefficients, const Maybe& alpha, int64_t inner, bool single_step, int64_t held,
                 std::string_view charge, std::string_view reset, std::string_view synapse, int64_t surrogate,
                 at::ArrayRef<double> surrogate_parameters, at::ArrayRef<double> domain, std::string_view extension,
                 bool detach_reset, bool fire_at_threshold, bool gain_divides, bool smooth)
    : inner(inner), held(held), single_step(single_step), dynamics{} {
  TORCH_CHECK_VALUE(held >= 0 && !(held && single_step), words("held must be a number of steps, 0 with single_step, got ", held, "."));
  TORCH_CHECK_VALUE(surrogate >= 0 && surrogate < int64_t(std::size(kSameFormula)), words("no surrogate ", surrogate, "."));
  TORCH_CHECK_VALUE(surrogate_parameters.size() <= kMaxSurrogateParameters, "too many surrogate parameters.");
  TORCH_CHECK_VALUE(domain.empty() || domain.size() == 2, "domain must be empty or (lo, hi).");
  dynamics.charge = parsed<Charge>("charge", charge, kCharges);
  dynamics.gain_divides = gain_divides;
  dynamics.reset = parsed<Reset>("reset", reset, kResets);
  dynamics.synapse = alpha.has_value();
  dynamics.euler = parsed<Synapse>("synapse", synapse, kSynapses) == Synapse::euler && alpha;
  dynamics.surrogate = kSameFormula[surrogate];
  std::copy(surrogate_parameters.begin(), surrogate_parameters.end(), dynamics.surrogate_parameters);
  dynamics.degree = static_cast<int>(coefficients.size(-1)) - 1;
  TORCH_CHECK_VALUE(dynamics.degree >= 0 && dynamics.degree <= kMaxDegree, words("degree ", dynamics.degree, " is not in 0..8."));
  dynamics.bounded = !domain.empty();
  dynamics.line = parsed<Extension>("extension", extension, kExtensions) == Extension::line;
  if (dynamics.bounded) {
    dynamics.lo = domain[0], dynamics.hi = domain[1];
  } else if (dynamics.degree > 0) {  // bounded by nothing: the same bits, by the kernels of the hosts' neurons
    dynamics.bounded = dynamics.line = true;
    dynamics.hi = std::numeric_limits<double>::infinity(), dynamics.lo = -dynamics.hi;
  }
  dynamics.detach_reset = detach_reset || dynamics.reset == Reset::none;
  dynamics.fire_at_threshold = fire_at_threshold;
  dynamics.smooth = smooth;
}

namespace {

struct Law {
  Tensor coefficients, threshold, v_reset, gain;
  Maybe alpha;
  const Dynamics& dynamics;
  Plan plan;

  Law(const Inputs& in, const Options& options)
      : coefficients(in.coefficients.contiguous()),
        threshold(in.threshold.contiguous()),
        v_reset(in.v_reset.contiguous()),
        gain(in.gain.contiguous()),
        alpha(in.alpha ? Maybe(in.alpha->contiguous()) : in.alpha),
        dynamics(options.dynamics),
        plan(steps(in.x, options), in.x.numel() / std::max<int64_t>(1, options.held ? 1 : steps(in.x, options)), options.inner,
             groups(), options.held) {
    check_sizes(options.inner);
    check_finite();
  }

  static int64_t steps(const Tensor& x, const Options& options) {
    return options.held ? options.held : options.single_step ? 1 : x.size(0);
  }

  // Of spikes and membranes.
  std::vector<int64_t> sizes(const Tensor& x) const {
    std::vector<int64_t> all(x.sizes().begin(), x.sizes().end());
    if (plan.holds) all.insert(all.begin(), plan.steps);
    return all;
  }

  // What would read or write beyond a tensor. Python says it in better words; the operators can be called without it.
  void check_sizes(int64_t inner) const {
    const std::initializer_list<int64_t> sizes = {coefficients.numel() / (dynamics.degree + 1), threshold.numel(),
                                                  v_reset.numel(), gain.numel(), alpha ? alpha->numel() : 1};
    for (int64_t size : sizes) {
      TORCH_CHECK_VALUE(size == 1 || size == groups(), words("a parameter of ", size, " values among some of ", groups(), "."));
    }
    TORCH_CHECK_VALUE(groups() == 1 || (inner > 0 && groups() > 0 && plan.neurons % (inner * groups()) == 0),
                      words(plan.neurons, " neurons are no multiple of ", groups(), " groups of ", inner, "."));
  }

  int64_t groups() const {
    int64_t widest = std::max({coefficients.numel() / coefficients.size(-1), threshold.numel(), v_reset.numel(), gain.numel()});
    return alpha ? std::max(widest, alpha->numel()) : widest;
  }

  void check_finite() const {
    bool finite = true;
    auto scan = [&](const auto* values) {
      for (int64_t i = 0; i < coefficients.numel(); ++i) finite &= std::isfinite(values[i]);
    };
    coefficients.scalar_type() == at::kDouble ? scan(coefficients.const_data_ptr<double>())
                                              : scan(coefficients.const_data_ptr<float>());
    TORCH_CHECK_VALUE(finite, "coefficients must be finite, got NaN or Inf.");
  }

  template <class T>
  ParameterPointers<T> pointers() const {
    return {coefficients.const_data_ptr<T>(), threshold.const_data_ptr<T>(), v_reset.const_data_ptr<T>(),
            gain.const_data_ptr<T>(), alpha ? alpha->const_data_ptr<T>() : nullptr,
            coefficients.numel() > coefficients.size(-1), threshold.numel() > 1, v_reset.numel() > 1,
            gain.numel() > 1, alpha && alpha->numel() > 1};
  }
};

template <class F>
void dispatch(at::ScalarType type, F f) {
  return type == at::kDouble ? f(double{}) : f(float{});
}

Storage storage(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
    case at::kDouble: return Storage::arithmetic;
    case at::kBFloat16: return Storage::bfloat16;
    case at::kHalf: return Storage::half;
    default: TORCH_CHECK_TYPE(false, words("snn_lnm: unsupported input dtype ", type));
  }
}

template <class T>
Input<T> input(const Maybe& t) {
  return {t ? static_cast<const char*>(t->const_data_ptr()) : nullptr, t ? storage(t->scalar_type()) : Storage::arithmetic};
}
template <class T>
Output<T> output(const Plan& plan, const Tensor& t) {
  if (!t.defined() || t.numel() == 0) return {};
  const Storage kept = storage(t.scalar_type());
  return {static_cast<char*>(t.mutable_data_ptr()), kept, streams(plan, t.numel(), t.const_data_ptr(), t.element_size())};
}

template <class T>
T* pointer(const Tensor& t) {
  return t.defined() && t.numel() ? t.mutable_data_ptr<T>() : nullptr;
}
template <class T>
const T* pointer(const Maybe& t) {
  return t ? t->const_data_ptr<T>() : nullptr;
}
void check_states(const Plan& plan, const Tensor& v, const Maybe& current, const Maybe& alpha) {
  TORCH_CHECK_VALUE(v.numel() == plan.neurons, words("v has ", v.numel(), " values, one step ", plan.neurons, "."));
  TORCH_CHECK_VALUE(alpha.has_value() == current.has_value(), "alpha and current belong together.");
  TORCH_CHECK_VALUE(!current || current->numel() == plan.neurons, "current does not have one step's values.");
}
void check_membrane_type(const Tensor& x, at::ScalarType type) {
  TORCH_CHECK_TYPE(type == arithmetic(x) || (type == at::kBFloat16 && arithmetic(x) == at::kFloat),
                   words("the membrane of ", x.scalar_type(), " inputs cannot be ", type, "."));
}
void check_gradient(const Maybe& d, at::ScalarType type, int64_t numel) {
  TORCH_CHECK_TYPE(!d || d->scalar_type() == type, words("a gradient is ", d->scalar_type(), ", expected ", type, "."));
  TORCH_CHECK_VALUE(!d || d->numel() == numel, words("a gradient has ", d->numel(), " values, expected ", numel, "."));
}
Maybe contiguous(const Maybe& t) { return t ? Maybe(t->contiguous()) : t; }

// A start that is one zero under every index is nothing to read.
bool is_expanded_zero(const Tensor& t) {
  for (int64_t i = 0; i < t.dim(); ++i) {
    if (t.size(i) > 1 && t.stride(i) != 0) return false;
  }
  if (t.numel() < 2) return false;
  const double value = t.scalar_type() == at::kDouble ? *t.const_data_ptr<double>() : *t.const_data_ptr<float>();
  return value == 0 && !std::signbit(value);
}
Maybe states(const Maybe& t) { return t && is_expanded_zero(*t) ? Maybe() : contiguous(t); }

}  // namespace

Outputs forward(const Inputs& in, const Options& options, std::optional<at::ScalarType> membrane) {
  const Tensor x = in.x.contiguous();
  const Maybe v_start = states(in.v), c_start = states(in.current);
  const Law law(in, options);
  check_states(law.plan, in.v, in.current, in.alpha);
  check_membrane_type(x, membrane.value_or(arithmetic(x)));
  const auto state = x.options().dtype(arithmetic(x));
  const std::vector<int64_t> sizes = law.sizes(x);
  Outputs out;
  out.spikes = allocate(sizes, x.options());
  if (membrane) out.h = allocate(sizes, x.options().dtype(*membrane));
  if (membrane != arithmetic(x) || !options.membrane_is_last()) out.last_v = at::empty(in.v.sizes(), state);
  if (in.alpha) out.last_current = at::empty(in.v.sizes(), state);
  dispatch(x.scalar_type(), [&](auto t) {
    using T = decltype(t);
    run_all(Forward<T>{law.plan, law.dynamics, law.pointers<T>(), input<T>(x), pointer<T>(v_start),
                       pointer<T>(c_start), output<T>(law.plan, out.spikes), output<T>(law.plan, out.h),
                       pointer<T>(out.last_v), pointer<T>(out.last_current)});
  });
  return out;
}

namespace {

// Adds the tiles' partial sums in order: [groups, kSums].
std::vector<double> reduce(const Plan& plan, const std::vector<double>& partial) {
  std::vector<double> total(plan.groups * kSums, 0.0);
  for (int64_t item = 0; item < plan.items() && plan.steps * plan.neurons; ++item) {
    const Tile tile(plan, item);
    // A tile of several turns begins with the first group, and has them all.
    const int64_t first = plan.group(tile.start);
    const int64_t last = std::min((tile.start + tile.width - 1) / plan.inner, plan.groups - 1);
    for (int64_t group = first; group <= last; ++group) {
      const double* from = partial.data() + (item * plan.local_groups + group - first) * kSums;
      for (int k = 0; k < kSums; ++k) total[group * kSums + k] += from[k];
    }
  }
  return total;
}

// Columns [first, first + count) of the sums, in the shape and dtype of the parameter.
Tensor gradient(const Plan& plan, const std::vector<double>& total, const Tensor& parameter, int first, int count) {
  std::vector<double> values(parameter.numel(), 0.0);
  const bool many = parameter.numel() > count;
  for (int64_t group = 0; group < plan.groups; ++group) {
    for (int k = 0; k < count; ++k) values[(many ? group : 0) * count + k] += total[group * kSums + first + k];
  }
  Tensor out = at::empty(parameter.sizes(), parameter.options());
  if (out.scalar_type() == at::kDouble) std::copy(values.begin(), values.end(), out.mutable_data_ptr<double>());
  else std::copy(values.begin(), values.end(), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace

std::array<Tensor, 8> backward(const OutputGradients& d, const Inputs& in, const Tensor& h_any, const Options& options,
                               bool need_state, std::array<bool, 5> need) {
  const Maybe d_spikes = contiguous(d.spikes), d_h = contiguous(d.h), d_last_v = contiguous(d.last_v),
              d_last_current = contiguous(d.last_current), v_start = states(in.v), c_start = states(in.current);
  const Law law(in, options);
  need[4] = need[4] && in.alpha;
  const bool need_parameters = std::any_of(need.begin(), need.end(), std::identity{});
  const bool need_currents = need[3] || need[4];  // the gradients of gain and alpha are sums over them
  const Tensor x = need_currents ? in.x.contiguous() : in.x;
  check_states(law.plan, in.v, in.current, in.alpha);
  check_membrane_type(x, h_any.scalar_type());
  const int64_t outputs = law.plan.steps * law.plan.neurons;
  TORCH_CHECK_VALUE(h_any.numel() == outputs, words("h has ", h_any.numel(), " values, the spikes ", outputs, "."));
  check_gradient(d_spikes, x.scalar_type(), outputs);
  check_gradient(d_h, arithmetic(x), outputs);
  check_gradient(d_last_v, arithmetic(x), law.plan.neurons);
  check_gradient(d_last_current, arithmetic(x), law.plan.neurons);
  const Tensor h = h_any.contiguous();
  const auto state = x.options().dtype(arithmetic(x));
  std::array<Tensor, 8> gradients;
  auto& [d_x, d_v, d_current, d_coefficients, d_threshold, d_v_reset, d_gain, d_alpha] = gradients;
  d_x = allocate(x.sizes(), x.options());
  if (need_state) d_v = at::empty(in.v.sizes(), state);
  if (need_state && in.alpha) d_current = at::empty(in.v.sizes(), state);
  const Plan& plan = law.plan;
  std::vector<double> partial(need_parameters ? plan.items() * plan.local_groups * kSums : 0, 0.0);
  dispatch(x.scalar_type(), [&](auto t) {
    using T = decltype(t);
    run_all(Backward<T>{plan, law.dynamics, law.pointers<T>(), input<T>(x), pointer<T>(v_start),
                        pointer<T>(c_start), input<T>(h), input<T>(d_spikes), pointer<T>(d_h),
                        pointer<T>(d_last_v), pointer<T>(d_last_current), output<T>(plan, d_x), pointer<T>(d_v),
                        pointer<T>(d_current), need_parameters ? partial.data() : nullptr,
                        need_state || (law.dynamics.state_is_membrane() && (need[1] || need[2])), need_currents});
  });
  if (!need_parameters) return gradients;
  const auto total = reduce(plan, partial);
  if (need[0]) d_coefficients = gradient(plan, total, in.coefficients, 0, law.dynamics.degree + 1);
  if (need[1]) d_threshold = gradient(plan, total, in.threshold, kMaxDegree + 1, 1);
  if (need[2]) d_v_reset = gradient(plan, total, in.v_reset, kMaxDegree + 2, 1);
  if (need[3]) d_gain = gradient(plan, total, in.gain, kMaxDegree + 3, 1);
  if (need[4]) d_alpha = gradient(plan, total, *in.alpha, kMaxDegree + 4, 1);
  return gradients;
}

namespace {

// An operator gives a tensor for everything.
Tensor or_empty(const Tensor& t, const Tensor& x) {
  return t.defined() ? t : at::empty({0}, x.options().dtype(arithmetic(x)));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward_op(
    const Tensor& x, const Tensor& v, const Maybe& current, const Tensor& coefficients, const Tensor& threshold,
    const Tensor& v_reset, const Tensor& gain, const Maybe& alpha, int64_t inner, bool single_step, int64_t held,
    std::string_view charge, std::string_view reset, std::string_view synapse, int64_t surrogate,
    at::ArrayRef<double> surrogate_parameters, at::ArrayRef<double> domain, std::string_view extension,
    bool detach_reset, bool fire_at_threshold, bool gain_divides, bool smooth,
    std::optional<at::ScalarType> membrane) {
  const Options options(coefficients, alpha, inner, single_step, held, charge, reset, synapse, surrogate, surrogate_parameters,
                        domain, extension, detach_reset, fire_at_threshold, gain_divides, smooth);
  const Outputs out = forward({x, v, current, coefficients, threshold, v_reset, gain, alpha}, options, membrane);
  return {out.spikes, or_empty(out.h, x), or_empty(out.last_v, x), or_empty(out.last_current, x)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward_op(
    const Maybe& d_spikes, const Maybe& d_h, const Maybe& d_last_v, const Maybe& d_last_current,
    const Tensor& x, const Tensor& v, const Maybe& current, const Tensor& h, const Tensor& coefficients,
    const Tensor& threshold, const Tensor& v_reset, const Tensor& gain, const Maybe& alpha, int64_t inner,
    bool single_step, int64_t held, std::string_view charge, std::string_view reset, std::string_view synapse,
    int64_t surrogate, at::ArrayRef<double> surrogate_parameters, at::ArrayRef<double> domain,
    std::string_view extension, bool detach_reset, bool fire_at_threshold, bool gain_divides, bool smooth, bool need_state,
    std::array<bool, 5> need) {
  const Options options(coefficients, alpha, inner, single_step, held, charge, reset, synapse, surrogate, surrogate_parameters,
                        domain, extension, detach_reset, fire_at_threshold, gain_divides, smooth);
  std::array<Tensor, 8> found = backward({d_spikes, d_h, d_last_v, d_last_current},
                                         {x, v, current, coefficients, threshold, v_reset, gain, alpha}, h, options, need_state, need);
  for (Tensor& gradient : found) gradient = or_empty(gradient, x);
  return std::tuple_cat(found);
}

}  // namespace
}  // namespace lnm

TORCH_LIBRARY_IMPL(snn_lnm, CPU, m) {
  m.impl("forward.cpp", &lnm::forward_op);
  m.impl("backward.cpp", &lnm::backward_op);
}

TORCH_LIBRARY_FRAGMENT(snn_lnm_cpp, m) {
  m.def("memory() -> (int, int)", [] { return lnm::Pool::get().bytes(); });
  m.def("empty_cache() -> ()", [] { lnm::Pool::get().empty(); });
}
