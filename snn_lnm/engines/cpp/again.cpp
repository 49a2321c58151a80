// snn_lnm::remember and snn_lnm::again: a call like one that was checked before goes to the kernels without the
// dispatcher's reading of twenty arguments, forward and backward. What fits is looked at in full; only values are not.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/library.h>

#include <memory>
#include <mutex>
#include <vector>

#include "autograd.h"
#include "call.h"

namespace lnm {
namespace {

struct Call {
  Options options;
  bool membrane;  // is asked for
  at::ScalarType type;
  std::vector<int64_t> step;
  std::array<std::vector<int64_t>, 4> parameters;
  std::optional<std::vector<int64_t>> alpha;
  Tensor zero;           // a start under every index
  c10::IValue as_given;  // the operator's options, boxed

  bool operator==(const Call& other) const {
    return options == other.options && membrane == other.membrane && type == other.type && step == other.step &&
           parameters == other.parameters && alpha == other.alpha;
  }

  // Besides spikes, of a call that is differentiated.
  bool gives_h() const { return membrane || options.membrane_is_last(); }
  bool gives_last_v() const { return !options.membrane_is_last(); }

  // An ordinary tensor: on the CPU, dense, of no subclass, mode or transform, without a tangent.
  bool is_plain(const Tensor& t) const {
    constexpr auto autograd = c10::autograd_dispatch_keyset_with_ADInplaceOrView;
    return (t.key_set() - autograd) == (zero.key_set() - autograd) && !is_dual(t);
  }
  bool fits(const Tensor& t, c10::ScalarType dtype, at::IntArrayRef sizes) const {
    return t.scalar_type() == dtype && t.sizes() == sizes && is_plain(t);
  }
  bool fits(const Inputs& in) const {
    const auto arithmetic = zero.scalar_type();
    const bool is_sequence = !options.single_step && !options.held;
    if (!is_plain(in.x) || in.x.scalar_type() != type || in.x.dim() < is_sequence || in.x.numel() == 0) return false;
    return in.x.sizes().slice(is_sequence) == step && in.x.is_contiguous() && fits(in.v, arithmetic, step) &&
           (!in.current || fits(*in.current, arithmetic, step)) &&
           fits(in.coefficients, arithmetic, parameters[0]) && fits(in.threshold, arithmetic, parameters[1]) &&
           fits(in.v_reset, arithmetic, parameters[2]) && fits(in.gain, arithmetic, parameters[3]) &&
           in.alpha.has_value() == alpha.has_value() && in.alpha.has_value() == in.current.has_value() &&
           (!alpha || fits(*in.alpha, arithmetic, *alpha));
  }
};

// The last ones of a process. A number is never given again: whoever has an old one finds nothing, and goes by the
// operator.
class Calls {
 public:
  int64_t add(Call call) {
    std::lock_guard lock(mutex_);
    const auto found = std::find_if(calls_.begin(), calls_.end(), [&](const auto& known) { return *known == call; });
    if (found != calls_.end()) return first_ + (found - calls_.begin());
    if (calls_.size() == kMost) {
      first_ += int64_t(kMost);
      calls_.clear();
    }
    calls_.push_back(std::make_shared<const Call>(std::move(call)));
    return first_ + int64_t(calls_.size()) - 1;
  }
  std::shared_ptr<const Call> find(int64_t number) {
    std::lock_guard lock(mutex_);
    const int64_t place = number - first_;
    return place >= 0 && place < int64_t(calls_.size()) ? calls_[place] : nullptr;
  }
  static Calls& get() {
    static Calls* calls = new Calls;  // never destroyed: tensors in it would outlive what frees them
    return *calls;
  }

 private:
  static constexpr size_t kMost = 4096;
  std::mutex mutex_;
  int64_t first_ = 0;
  std::vector<std::shared_ptr<const Call>> calls_;
};

template <class F>
bool any(const Inputs& in, F of) {
  return of(in.x) || of(in.v) || (in.current && of(*in.current)) || of(in.coefficients) || of(in.threshold) ||
         of(in.v_reset) || of(in.gain) || (in.alpha && of(*in.alpha));
}

// In inference mode, and in a kernel below autograd, whatever GradMode says.
bool autograd_is_off() {
  return c10::InferenceMode::is_enabled() || c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutogradCPU);
}

// Below autograd, as the operator's kernels are.
Outputs run(const Inputs& in, const Call& call, bool keeps) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return forward(in, call.options, keeps ? std::optional(arithmetic(in.x)) : std::nullopt);
}

// As Scan in autograd.cpp; its outputs are those that somebody may use.
class Again : public torch::autograd::Function<Again> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& v, const Maybe& current,
                               const Tensor& coefficients, const Tensor& threshold, const Tensor& v_reset,
                               const Tensor& gain, const Maybe& alpha, int64_t number, const Call& call) {
    ctx->set_materialize_grads(false);
    ctx->saved_data["call"] = number;
    ctx->saved_data["options"] = call.as_given;
    ctx->saved_data["gives_h"] = call.gives_h();
    ctx->saved_data["gives_last_v"] = call.gives_last_v();
    const Outputs out = run({x, v, current, coefficients, threshold, v_reset, gain, alpha}, call, true);
    ctx->save_for_backward({kept_input(x, out.h, gain, alpha), v, current.value_or(Tensor()), coefficients, threshold,
                            v_reset, gain, alpha.value_or(Tensor()), out.h});
    variable_list outputs{out.spikes};
    if (call.gives_h()) outputs.push_back(out.h);
    if (call.gives_last_v()) outputs.push_back(out.last_v);
    if (alpha) outputs.push_back(out.last_current);
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& d_outputs) {
    const variable_list saved = ctx->get_saved_variables();
    auto next = d_outputs.begin();
    std::array<Tensor, 4> d{*next++};
    if (ctx->saved_data["gives_h"].toBool()) d[1] = *next++;
    if (ctx->saved_data["gives_last_v"].toBool()) d[2] = *next++;
    if (saved[7].defined()) d[3] = *next++;
    const auto needs = needs_of(ctx, saved);
    const auto call = Calls::get().find(ctx->saved_data["call"].toInt());
    variable_list gradients = call && is_ordinary(*call, d, saved)
                                  ? directly(*call, d, saved, needs)
                                  : backward_by_operator(d, saved, ctx->saved_data["options"], needs);
    gradients.resize(kTensors + 2);  // forward has a number and a call besides
    return gradients;
  }

 private:
  // Nobody watches, and nobody asks for a second derivative (which there is none: the operator says so).
  static bool is_ordinary(const Call& call, const std::array<Tensor, 4>& d, const variable_list& saved) {
    const auto is_plain = [&](const Tensor& t) { return !t.defined() || call.is_plain(t); };
    return !c10::GradMode::is_enabled() && !c10::impl::dispatch_mode_enabled() &&
           std::all_of(d.begin(), d.end(), is_plain) && std::all_of(saved.begin(), saved.end(), is_plain);
  }

  static variable_list directly(const Call& call, const std::array<Tensor, 4>& d, const variable_list& saved,
                                const std::array<bool, kTensors>& needs) {
    const auto maybe = [](const Tensor& t) { return t.defined() ? Maybe(t) : Maybe(); };
    const Maybe current = maybe(saved[2]), alpha = maybe(saved[7]);
    at::AutoDispatchBelowADInplaceOrView guard;
    auto found = lnm::backward({maybe(d[0]), maybe(d[1]), maybe(d[2]), maybe(d[3])},
                               {saved[0], saved[1], current, saved[3], saved[4], saved[5], saved[6], alpha}, saved[kTensors],
                               call.options, needs[1] || needs[2], {needs[3], needs[4], needs[5], needs[6], needs[7]});
    return needed({found.begin(), found.end()}, needs);
  }
};

// Takes what the forward operator takes; to be called when that would take it, too.
void remember(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const c10::InferenceMode guard(false);  // what is made in it could not be kept for a backward pass
  const torch::jit::Stack in = torch::jit::pop(*stack, op.schema().arguments().size());
  const auto option = [&](size_t i) -> const c10::IValue& { return in.at(kTensors + i); };
  const Tensor &x = in[0].toTensor(), &coefficients = in[3].toTensor();
  const Maybe alpha = in[7].toOptional<Tensor>();
  const auto surrogate = option(7).toDoubleVector(), domain = option(8).toDoubleVector();
  const Options options(coefficients, alpha, option(0).toInt(), option(1).toBool(), option(2).toInt(), option(3).toStringView(),
                        option(4).toStringView(), option(5).toStringView(), option(6).toInt(), surrogate, domain,
                        option(9).toStringView(), option(10).toBool(), option(11).toBool(), option(12).toBool(), option(13).toBool());
  c10::impl::GenericList as_given(c10::AnyType::get());
  for (size_t i = kTensors; i + 1 < in.size(); ++i) as_given.push_back(in[i]);
  const bool is_sequence = !options.single_step && !options.held;
  Call call{options, !in.back().isNone(), x.scalar_type(), x.sizes().slice(is_sequence).vec()};
  for (size_t i = 0; i < 4; ++i) call.parameters[i] = in[3 + i].toTensor().sizes().vec();
  if (alpha) call.alpha = alpha->sizes().vec();
  call.zero = at::zeros({}, x.options().dtype(arithmetic(x)).requires_grad(false)).expand(call.step);
  call.as_given = as_given;
  torch::jit::push(*stack, Calls::get().add(std::move(call)));
}

// Spikes; the membrane, empty if not asked for; the last states. Undefined all, if the tensors do not fit the call of
// that number.
std::tuple<Tensor, Tensor, Tensor, Tensor> again(
    const Tensor& x, const Maybe& v, const Maybe& current, const Tensor& coefficients, const Tensor& threshold,
    const Tensor& v_reset, const Tensor& gain, const Maybe& alpha, int64_t number) {
  const auto known = Calls::get().find(number);
  if (!known) return {};
  const Call& call = *known;
  const Maybe synapse = alpha && !current ? Maybe(call.zero) : current;
  const Tensor& start = v ? *v : call.zero;
  const Inputs in{x, start, synapse, coefficients, threshold, v_reset, gain, alpha};
  if (!call.fits(in)) return {};
  const bool wants_gradients = c10::GradMode::is_enabled();
  // The dispatcher knows better whether the operator would be differentiated.
  if (wants_gradients && (autograd_is_off() || any(in, [](const Tensor& t) { return t.is_inference(); }))) return {};
  const bool differentiated = wants_gradients && any(in, [](const Tensor& t) { return t.requires_grad(); });
  Outputs out;
  if (differentiated) {
    const variable_list found =
        Again::apply(x, start, synapse, coefficients, threshold, v_reset, gain, alpha, number, call);
    auto next = found.begin();
    out.spikes = *next++;
    if (call.gives_h()) out.h = *next++;
    if (call.gives_last_v()) out.last_v = *next++;
    if (alpha) out.last_current = *next++;
  } else {
    out = run(in, call, call.membrane);
  }
  return {out.spikes, call.membrane ? out.h : at::empty({0}, call.zero.options()),
          out.last_v.defined() ? out.last_v : out.h, out.last_current};
}

}  // namespace
}  // namespace lnm

TORCH_LIBRARY_IMPL(snn_lnm, CompositeImplicitAutograd, m) {
  m.impl("remember", torch::CppFunction::makeFromBoxedFunction<&lnm::remember>());
  m.impl("again", &lnm::again);
}
