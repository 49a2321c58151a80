// The derivative of snn_lnm::forward.cpp, for PyTorch's autograd, and that there is no second one: what op.py's _Scan
// and _Once are for Triton. In C++, because a call through Python costs more time than a small layer's arithmetic.
#include "autograd.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace lnm {
namespace {

void call_below(const c10::OperatorHandle& op, Stack& stack) {
  at::AutoDispatchBelowADInplaceOrView guard;
  op.callBoxed(stack);
}

variable_list tensors(const Stack& stack) {
  variable_list values;
  for (const auto& value : stack) values.push_back(value.toTensor());
  return values;
}

}  // namespace

Tensor kept_input(const Tensor& x, const Tensor& h, const Tensor& gain, const Maybe& alpha) {
  if (gain.requires_grad() || (alpha && alpha->requires_grad())) return x;
  const bool fits = h.defined() && h.scalar_type() == x.scalar_type() && h.sym_sizes() == x.sym_sizes();
  return fits ? h : at::empty({}, x.options()).expand_symint(x.sym_sizes());
}

variable_list backward_by_operator(const std::array<Tensor, 4>& d, const variable_list& saved,
                                   const c10::IValue& options, const std::array<bool, kTensors>& needs) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("snn_lnm::backward", "cpp");
  Stack stack;
  auto push = [&](const Tensor& value) { stack.push_back(value.defined() ? c10::IValue(value) : c10::IValue()); };
  for (const Tensor& gradient : d) push(gradient);
  for (size_t i : {0, 1, 2, 8, 3, 4, 5, 6, 7}) push(saved[i]);
  for (const auto& option : options.toListRef()) stack.push_back(option);
  c10::List<bool> of_parameters;
  for (size_t i = 3; i < kTensors; ++i) of_parameters.push_back(needs[i]);
  stack.push_back(needs[1] || needs[2]);
  stack.push_back(of_parameters);
  op.callBoxed(stack);
  return needed(tensors(stack), needs);
}

namespace {

class Scan : public torch::autograd::Function<Scan> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& v, const Maybe& current,
                               const Tensor& coefficients, const Tensor& threshold, const Tensor& v_reset,
                               const Tensor& gain, const Maybe& alpha, const c10::OperatorHandle& op, Stack& stack) {
    ctx->set_materialize_grads(false);
    const bool keeps_membrane = !stack.back().isNone();
    c10::impl::GenericList options(c10::AnyType::get());
    for (auto option = stack.begin() + kTensors; option + 1 != stack.end(); ++option) options.push_back(*option);
    ctx->saved_data["options"] = options;
    call_below(op, stack);
    const variable_list outputs = tensors(stack);
    const Tensor h = keeps_membrane ? outputs[1] : Tensor();
    ctx->save_for_backward({kept_input(x, h, gain, alpha), v, current.value_or(Tensor()), coefficients, threshold, v_reset, gain,
                            alpha.value_or(Tensor()), h});
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& d_outputs) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &v = saved[1], &h = saved[kTensors];
    TORCH_CHECK_VALUE(h.defined(), "the operator kept no membrane to go back through: call it with a dtype for membrane.");
    const bool last_v_is_membrane = d_outputs[2].defined() && d_outputs[2].sym_sizes() != v.sym_sizes();
    variable_list gradients = backward_by_operator(
        {d_outputs[0], d_outputs[1], last_v_is_membrane ? Tensor() : d_outputs[2],
         saved[2].defined() ? d_outputs[3] : Tensor()},
        saved, ctx->saved_data["options"], needs_of(ctx, saved));
    gradients.resize(kTensors + 2);  // forward has an operator and a stack besides
    return gradients;
  }
};

class Once : public torch::autograd::Function<Once> {
 public:
  static variable_list forward(AutogradContext*, at::TensorList, const c10::OperatorHandle& op, Stack& stack) {
    call_below(op, stack);
    return tensors(stack);
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "snn_lnm's compiled engines have no second derivative: use backend='reference' for it.");
  }
};

Maybe tensor(const c10::IValue& value) { return value.isNone() ? Maybe() : Maybe(value.toTensor()); }

bool has_tangent(const c10::IValue& value) { return value.isTensor() && is_dual(value.toTensor()); }
bool requires_grad(const c10::IValue& value) { return value.isTensor() && value.toTensor().requires_grad(); }
bool differentiated(const Stack& in) {
  return c10::GradMode::is_enabled() && std::any_of(in.begin(), in.end(), requires_grad);
}

void forward(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  Stack call = torch::jit::pop(*stack, op.schema().arguments().size());
  const Stack in(call.begin(), call.begin() + kTensors);
  TORCH_CHECK_NOT_IMPLEMENTED(std::none_of(in.begin(), in.end(), has_tangent),
                              "snn_lnm's neurons have no forward-mode derivative: use backward() or autograd.grad.");
  if (differentiated(in)) {
    const auto outputs = Scan::apply(in[0].toTensor(), in[1].toTensor(), tensor(in[2]), in[3].toTensor(), in[4].toTensor(),
                                     in[5].toTensor(), in[6].toTensor(), tensor(in[7]), op, call);
    stack->insert(stack->end(), outputs.begin(), outputs.end());
  } else {
    call_below(op, call);
    stack->insert(stack->end(), call.begin(), call.end());
  }
}

void backward(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  Stack call = torch::jit::pop(*stack, op.schema().arguments().size());
  if (differentiated(call)) {
    variable_list in;
    for (const auto& value : call) {
      if (value.isTensor()) in.push_back(value.toTensor());
    }
    const auto outputs = Once::apply(at::TensorList(in), op, call);
    stack->insert(stack->end(), outputs.begin(), outputs.end());
  } else {
    call_below(op, call);
    stack->insert(stack->end(), call.begin(), call.end());
  }
}

}  // namespace
}  // namespace lnm

TORCH_LIBRARY_IMPL(snn_lnm, AutogradCPU, m) {
  m.impl("forward.cpp", torch::CppFunction::makeFromBoxedFunction<&lnm::forward>());
  m.impl("backward.cpp", torch::CppFunction::makeFromBoxedFunction<&lnm::backward>());
}
