// One call of the operators: its tensors, what it has besides them, and its two passes.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string_view>

#include "law.h"

namespace lnm {

using at::Tensor;
using Maybe = std::optional<Tensor>;

struct Inputs {
  const Tensor &x, &v;
  const Maybe& current;
  const Tensor &coefficients, &threshold, &v_reset, &gain;
  const Maybe& alpha;
};

struct Options {
  int64_t inner, held;
  bool single_step;
  Dynamics dynamics;  // degree, synapse and domain as the tensors and the kernels have them

  Options(const Tensor& coefficients, const Maybe& alpha, int64_t inner, bool single_step, int64_t held,
          std::string_view charge, std::string_view reset, std::string_view synapse, int64_t surrogate,
          at::ArrayRef<double> surrogate_parameters, at::ArrayRef<double> domain, std::string_view extension,
          bool detach_reset, bool fire_at_threshold, bool gain_divides, bool smooth);
  bool operator==(const Options&) const = default;

  // The membrane, if kept in the arithmetic dtype, is the last state.
  bool membrane_is_last() const { return single_step && dynamics.state_is_membrane(); }
};

// Undefined where there is none: the membrane if nobody keeps it, the last state if it is the membrane.
struct Outputs {
  Tensor spikes, h, last_v, last_current;
};
struct OutputGradients {
  Maybe spikes, h, last_v, last_current;
};

inline at::ScalarType arithmetic(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Outputs forward(const Inputs& in, const Options& options, std::optional<at::ScalarType> membrane);

// Of x, v, current and the five parameters; undefined where not needed.
std::array<Tensor, 8> backward(const OutputGradients& d, const Inputs& in, const Tensor& h, const Options& options,
                               bool need_state, std::array<bool, 5> need);

}  // namespace lnm
