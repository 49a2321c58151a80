// What the two ways to a derivative share: of the operator, and of a call like one before.
#pragma once
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <optional>

namespace lnm {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using torch::jit::Stack;
using Maybe = std::optional<Tensor>;

constexpr size_t kTensors = 8;  // of the forward operator; its options follow, and the membrane's dtype is the last one

// Of the forward operator's tensors, which need a gradient: an absent one has no edge.
inline std::array<bool, kTensors> needs_of(AutogradContext* ctx, const variable_list& saved) {
  std::array<bool, kTensors> needs;
  for (size_t i = 0, edge = 0; i < kTensors; ++i) needs[i] = saved[i].defined() && ctx->needs_input_grad(edge++);
  return needs;
}

// `gradients`, of which those that nobody needs are undefined.
inline variable_list needed(variable_list gradients, const std::array<bool, kTensors>& needs) {
  for (size_t i = 0; i < kTensors; ++i) {
    if (!needs[i]) gradients[i] = Tensor();
  }
  return gradients;
}

// What is kept in place of the input. Only gain and α need that; for the rest anything of its shape and dtype does.
Tensor kept_input(const Tensor& x, const Tensor& h, const Tensor& gain, const Maybe& alpha);

// snn_lnm::backward.cpp with gradients `d` of its four outputs; `saved` are the forward operator's tensors and the membrane.
variable_list backward_by_operator(const std::array<Tensor, 4>& d, const variable_list& saved,
                                   const c10::IValue& options, const std::array<bool, kTensors>& needs);

inline bool is_dual(const Tensor& t) { return t._fw_grad(0).defined(); }

}  // namespace lnm
