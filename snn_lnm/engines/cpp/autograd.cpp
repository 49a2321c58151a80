// The derivative of snn_lnm::forward.cpp, for PyTorch's autograd, and that there is no second one: what op.py's _Scan
// and _Once are for Triton. In C++, because a call through Python costs more time than a small layer's arithmetic.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace lnm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using torch::jit::Stack;
using Maybe = std::optional<Tensor>;

constexpr size_t kTensors = 8;  // of the forward operator; its options follow, and the membrane's dtype is the last one

void call_below(const c10::OperatorHandle& op, Stack& stack) {
  at::AutoDispatchBelowADInplaceOrView guard;
  op.callBoxed(stack);
}

variable_list tensors(const Stack& stack) {
  variable_list values;
  for (const auto& value : stack) values.push_back(value.toTensor());
  return values;
}

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
    Tensor kept = x;
    if (!gain.requires_grad() && !(alpha && alpha->requires_grad())) {
      // Only gain and α need the input; for the rest anything of its shape and dtype does.
      const bool fits = keeps_membrane && h.scalar_type() == x.scalar_type() && h.sym_sizes() == x.sym_sizes();
      kept = fits ? h : at::empty({}, x.options()).expand_symint(x.sym_sizes());
    }
    ctx->save_for_backward({kept, v, current.value_or(Tensor()), coefficients, threshold, v_reset, gain,
                            alpha.value_or(Tensor()), h});
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& d_outputs) {
    static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("snn_lnm::backward", "cpp");
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &v = saved[1], &h = saved[kTensors];
    TORCH_CHECK_VALUE(h.defined(), "the operator kept no membrane to go back through: call it with a dtype for membrane.");
    c10::List<bool> needs;  // an absent tensor has no edge
    for (size_t i = 0, edge = 0; i < kTensors; ++i) needs.push_back(saved[i].defined() && ctx->needs_input_grad(edge++));
    c10::List<bool> of_parameters;
    for (size_t i = 3; i < kTensors; ++i) of_parameters.push_back(needs[i]);
    const bool last_v_is_membrane = d_outputs[2].defined() && d_outputs[2].sym_sizes() != v.sym_sizes();

    Stack stack;
    auto push = [&](const Tensor& value) { stack.push_back(value.defined() ? c10::IValue(value) : c10::IValue()); };
    push(d_outputs[0]);
    push(d_outputs[1]);
    push(last_v_is_membrane ? Tensor() : d_outputs[2]);
    push(saved[2].defined() ? d_outputs[3] : Tensor());
    for (size_t i : {0, 1, 2, 8, 3, 4, 5, 6, 7}) push(saved[i]);
    for (const auto& option : ctx->saved_data["options"].toListRef()) stack.push_back(option);
    stack.push_back(needs[1] || needs[2]);
    stack.push_back(of_parameters);
    op.callBoxed(stack);
    variable_list gradients = tensors(stack);
    for (size_t i = 0; i < kTensors; ++i) {
      if (!needs[i]) gradients[i] = Tensor();
    }
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

bool is_dual(const c10::IValue& value) { return value.isTensor() && value.toTensor()._fw_grad(0).defined(); }
bool requires_grad(const c10::IValue& value) { return value.isTensor() && value.toTensor().requires_grad(); }
bool differentiated(const Stack& in) {
  return c10::GradMode::is_enabled() && std::any_of(in.begin(), in.end(), requires_grad);
}

void forward(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  Stack call = torch::jit::pop(*stack, op.schema().arguments().size());
  const Stack in(call.begin(), call.begin() + kTensors);
  TORCH_CHECK_NOT_IMPLEMENTED(std::none_of(in.begin(), in.end(), is_dual),
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
