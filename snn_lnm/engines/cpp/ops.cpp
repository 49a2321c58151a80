// The one operator, for CPU tensors: it finds the neuron's kernel and runs it on PyTorch's threads. Arguments are those
// that engines/op.py defines, already checked in Python.
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <dlfcn.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <string>
#include <unordered_map>

#include "memory.h"
#include "plan.h"
#include "words.h"

namespace lnm {
namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

// A neuron's kernel, and what engines/cpp/kernels.py says of it.
struct Kernel {
  void (*run)(const Pass&, int64_t begin, int64_t end);
  int64_t columns = 0;  // gradients of numbers, for each group
  std::vector<double> constants;
  int64_t states;
  std::vector<int64_t> widths;  // of each tensor of numbers; 0: a single number
  int64_t membrane_state;       // the place of the state that is the membrane before the reset, or -1
  bool uses_input;
};

at::ScalarType arithmetic(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// Python compiles what is not there yet.
Kernel compiled(const std::string& law, const std::string& variant) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("snn_lnm::kernel", "");
  torch::jit::Stack stack{law, variant};
  op.callBoxed(stack);
  const std::string path = stack[0].toStringRef();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(library, words("snn_lnm cannot load a kernel: ", dlerror()));
  Kernel kernel;
  kernel.run = reinterpret_cast<decltype(kernel.run)>(dlsym(library, "run"));
  if (const void* columns = dlsym(library, "columns")) kernel.columns = *static_cast<const int64_t*>(columns);
  kernel.constants = stack[1].toDoubleVector();
  kernel.states = stack[2].toInt(), kernel.widths = stack[3].toIntVector();
  kernel.membrane_state = stack[4].toInt(), kernel.uses_input = stack[5].toBool();
  return kernel;
}

const Kernel& find(std::string_view law, const std::string& variant) {
  static std::mutex mutex;
  static auto& known = *new std::unordered_map<std::string, Kernel>;  // never destroyed: threads may outlive it
  const std::string key = std::string(law) + variant;
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (auto found = known.find(key); found != known.end()) return found->second;
  }
  Kernel kernel = compiled(std::string(law), variant);
  std::lock_guard<std::mutex> lock(mutex);
  return known.emplace(key, std::move(kernel)).first->second;
}

// What a kernel is compiled for besides the law: the input's dtype, and whether a tile has one set of numbers.
std::string variant(const char* pass, const Tensor& x, at::ScalarType kept, const Plan& plan) {
  const auto type = x.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf,
                   words("snn_lnm: unsupported input dtype ", type));
  return words(pass, " ", type, " ", kept, plan.uniform ? " uniform" : " mixed");
}

void check_membrane_type(const Tensor& x, at::ScalarType type) {
  TORCH_CHECK_TYPE(type == arithmetic(x) || (type == at::kBFloat16 && arithmetic(x) == at::kFloat),
                   words("the membrane of ", x.scalar_type(), " inputs cannot be ", type, "."));
}

// The tensors of one call as kernels read them, and their checks: what would read or write beyond a tensor. (Python says
// it in better words; the operators can be called without it.)
struct Call {
  Tensors numbers;
  std::vector<const void*> number_pointers, state_pointers;
  std::vector<Tensor> starts;
  std::unique_ptr<bool[]> many;

  Call(const Kernel& kernel, const Plan& plan, const Tensor& x, at::TensorList states, at::TensorList given) {
    TORCH_CHECK_VALUE(given.size() == kernel.widths.size(), words(given.size(), " tensors of numbers, expected ", kernel.widths.size(), "."));
    many = std::make_unique<bool[]>(given.size());
    for (size_t i = 0; i < given.size(); ++i) {
      const int64_t width = std::max<int64_t>(1, kernel.widths[i]), size = given[i].numel();
      TORCH_CHECK_TYPE(given[i].scalar_type() == arithmetic(x), words("a number is ", given[i].scalar_type(), ", expected ", arithmetic(x), "."));
      TORCH_CHECK_VALUE(size == width || size == width * plan.groups, words("a number of ", size, " values among ", plan.groups, " groups."));
      many[i] = size != width;
      numbers.push_back(given[i].contiguous());
      number_pointers.push_back(numbers.back().const_data_ptr());
      if (kernel.widths[i]) check_finite(numbers.back());
    }
    TORCH_CHECK_VALUE(plan.groups == 1 || (plan.inner > 0 && plan.groups > 0 && plan.neurons % (plan.inner * plan.groups) == 0),
                      words(plan.neurons, " neurons are no multiple of ", plan.groups, " groups of ", plan.inner, "."));
    TORCH_CHECK_VALUE(int64_t(states.size()) == kernel.states, words(int64_t(states.size()), " states, expected ", kernel.states, "."));
    for (const Tensor& state : states) {
      TORCH_CHECK_VALUE(state.numel() == plan.neurons, words("a state has ", state.numel(), " values, one step ", plan.neurons, "."));
      TORCH_CHECK_TYPE(state.scalar_type() == arithmetic(x), words("a state is ", state.scalar_type(), ", expected ", arithmetic(x), "."));
      const bool zero = is_expanded_zero(state);
      starts.push_back(zero ? Tensor() : state.contiguous());
      state_pointers.push_back(zero ? nullptr : starts.back().const_data_ptr());
    }
  }

  static void check_finite(const Tensor& t) {
    bool finite = true;
    const auto look = [&](const auto* values) {
      for (int64_t i = 0; i < t.numel(); ++i) finite &= std::isfinite(values[i]);
    };
    t.scalar_type() == at::kDouble ? look(t.const_data_ptr<double>()) : look(t.const_data_ptr<float>());
    TORCH_CHECK_VALUE(finite, "coefficients must be finite, got NaN or Inf.");
  }

  // A start that is one zero under every index is nothing to read.
  static bool is_expanded_zero(const Tensor& t) {
    for (int64_t i = 0; i < t.dim(); ++i) {
      if (t.size(i) > 1 && t.stride(i) != 0) return false;
    }
    if (t.numel() < 2) return false;
    const double value = t.scalar_type() == at::kDouble ? *t.const_data_ptr<double>() : *t.const_data_ptr<float>();
    return value == 0 && !std::signbit(value);
  }
};

Pass pass_of(const Plan& plan, const Kernel& kernel, const Call& call) {
  Pass pass{};
  pass.plan = plan, pass.constants = kernel.constants.data(), pass.numbers = call.number_pointers.data();
  pass.many = call.many.get(), pass.states = call.state_pointers.data();
  return pass;
}

Plan plan_of(const Tensor& x, bool single_step, int64_t inner, int64_t groups, int64_t held) {
  TORCH_CHECK_VALUE(held >= 0 && !(held && single_step), words("steps must be a number of steps, 0 for a single one, got ", held, "."));
  TORCH_CHECK_VALUE(groups > 0 && inner > 0, "groups and inner must be positive.");
  const int64_t steps = held ? held : single_step ? 1 : x.size(0);
  return make_plan(steps, x.numel() / std::max<int64_t>(1, held ? 1 : steps), inner, groups, held > 0);
}

Target target(const Plan& plan, const Tensor& t) {
  if (!t.defined() || t.numel() == 0) return {};
  const int64_t lanes = 64 / t.element_size();
  const bool whole = plan.neurons % lanes == 0 && plan.span % lanes == 0 && plan.width % lanes == 0;
  const bool streams = int64_t(t.nbytes()) > kStreamBytes && whole && reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 64 == 0;
  return {t.mutable_data_ptr(), streams};
}

void run(const Kernel& kernel, const Pass& pass) {
  if (pass.plan.steps * pass.plan.neurons == 0) return;
  at::parallel_for(0, pass.plan.items(), grain(pass.plan), [&](int64_t begin, int64_t end) { kernel.run(pass, begin, end); });
}

Tensors scan(const Tensor& x_any, at::TensorList states, at::TensorList numbers, std::string_view law, int64_t inner,
             int64_t groups, int64_t held, bool single_step, std::optional<at::ScalarType> kept) {
  const Tensor x = x_any.contiguous();
  const Plan plan = plan_of(x, single_step, inner, groups, held);
  check_membrane_type(x, kept.value_or(arithmetic(x)));
  const Kernel& kernel = find(law, variant("forward", x, kept.value_or(arithmetic(x)), plan));
  const Call call(kernel, plan, x, states, numbers);
  const auto type = x.options().dtype(arithmetic(x));
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  if (held) sizes.insert(sizes.begin(), held);
  const Tensor spikes = allocate(sizes, x.options());
  const Tensor h = kept ? allocate(sizes, x.options().dtype(*kept)) : at::empty({0}, type);
  const int64_t kept_state = single_step && kept == arithmetic(x) ? kernel.membrane_state : -1;
  Tensors out{spikes, h};
  std::vector<void*> last;
  for (size_t k = 0; k < states.size(); ++k) {
    const bool written = int64_t(k) != kept_state;
    out.push_back(written ? at::empty(states[k].sizes(), type) : at::empty({0}, type));
    last.push_back(written ? out.back().mutable_data_ptr() : nullptr);
  }
  Pass pass = pass_of(plan, kernel, call);
  pass.x = x.const_data_ptr(), pass.spikes = target(plan, spikes), pass.h = target(plan, h), pass.last = last.data();
  run(kernel, pass);
  return out;
}

// Adds the tiles' partial sums in order: [groups, columns].
std::vector<double> reduce(const Plan& plan, const std::vector<double>& partial, int64_t columns) {
  std::vector<double> total(plan.groups * columns, 0.0);
  for (int64_t item = 0; item < plan.items() && plan.steps * plan.neurons; ++item) {
    const Tile tile(plan, item);
    // A tile of several turns begins with the first group, and has them all.
    const int64_t first = plan.group(tile.start);
    const int64_t last = std::min((tile.start + tile.width - 1) / plan.inner, plan.groups - 1);
    for (int64_t group = first; group <= last; ++group) {
      const double* from = partial.data() + (item * plan.local_groups + group - first) * columns;
      for (int64_t k = 0; k < columns; ++k) total[group * columns + k] += from[k];
    }
  }
  return total;
}

// Columns [first, first + width) of the sums, in the shape and dtype of the number.
Tensor gradient(const Plan& plan, const std::vector<double>& total, int64_t columns, const Tensor& number, int64_t first, int64_t width) {
  std::vector<double> values(number.numel(), 0.0);
  const bool many = number.numel() > width;
  for (int64_t group = 0; group < plan.groups; ++group) {
    for (int64_t k = 0; k < width; ++k) values[(many ? group : 0) * width + k] += total[group * columns + first + k];
  }
  const Tensor out = at::empty(number.sizes(), number.options());
  if (out.scalar_type() == at::kDouble) std::copy(values.begin(), values.end(), out.mutable_data_ptr<double>());
  else std::copy(values.begin(), values.end(), out.mutable_data_ptr<float>());
  return out;
}

void check_gradient(const Maybe& d, at::ScalarType type, int64_t numel) {
  TORCH_CHECK_TYPE(!d || d->scalar_type() == type, words("a gradient is ", d ? d->scalar_type() : type, ", expected ", type, "."));
  TORCH_CHECK_VALUE(!d || d->numel() == numel, words("a gradient has ", d ? d->numel() : 0, " values, expected ", numel, "."));
}

Tensors scan_backward(const c10::List<Maybe>& d_outputs, const Tensor& x_any, at::TensorList states,
                      at::TensorList numbers, const Tensor& kept_any, std::string_view law, int64_t inner, int64_t groups,
                      int64_t held, bool single_step, bool need_states, const c10::List<bool>& needs) {
  TORCH_CHECK_VALUE(d_outputs.size() == states.size() + 2, "a gradient of each output is expected, or None.");
  TORCH_CHECK_VALUE(needs.size() == numbers.size(), "need_numbers has not one word for each number.");
  const Plan plan = plan_of(x_any, single_step, inner, groups, held);
  check_membrane_type(x_any, kept_any.scalar_type());
  std::string which = variant("backward", x_any, kept_any.scalar_type(), plan) + " ";
  for (const bool need : needs) which += need ? '1' : '0';
  const Kernel& kernel = find(law, which);
  const Call call(kernel, plan, x_any, states, numbers);
  const auto type = x_any.options().dtype(arithmetic(x_any));
  const int64_t outputs = plan.steps * plan.neurons;
  TORCH_CHECK_VALUE(kept_any.numel() == outputs, words("h has ", kept_any.numel(), " values, the spikes ", outputs, "."));
  const Tensor x = kernel.uses_input ? x_any.contiguous() : x_any, kept = kept_any.contiguous();
  std::vector<Tensor> alive;
  const auto read = [&](const Maybe& d, at::ScalarType wanted, int64_t numel) -> const void* {
    check_gradient(d, wanted, numel);
    return d ? alive.emplace_back(d->contiguous()).const_data_ptr() : nullptr;
  };
  Pass pass = pass_of(plan, kernel, call);
  pass.x = kernel.uses_input ? x.const_data_ptr() : nullptr, pass.kept = kept.const_data_ptr();
  pass.d_spikes = read(d_outputs.get(0), x.scalar_type(), outputs);
  pass.d_h = read(d_outputs.get(1), arithmetic(x), outputs);
  std::vector<const void*> d_last;
  for (size_t k = 0; k < states.size(); ++k) d_last.push_back(read(d_outputs.get(2 + k), arithmetic(x), plan.neurons));
  Tensors gradients{allocate(x.sizes(), x.options())};
  std::vector<void*> d_states;
  for (const Tensor& state : states) {
    gradients.push_back(need_states ? at::empty(state.sizes(), type) : at::empty({0}, type));
    d_states.push_back(need_states ? gradients.back().mutable_data_ptr() : nullptr);
  }
  std::vector<double> partial(plan.items() * plan.local_groups * kernel.columns, 0.0);
  pass.d_last = d_last.data(), pass.d_x = target(plan, gradients[0]), pass.d_states = d_states.data(), pass.sums = partial.data();
  run(kernel, pass);
  const auto total = reduce(plan, partial, kernel.columns);
  for (size_t i = 0, column = 0; i < numbers.size(); ++i) {
    const int64_t width = std::max<int64_t>(1, kernel.widths[i]);
    gradients.push_back(needs[i] ? gradient(plan, total, kernel.columns, numbers[i], column, width) : at::empty({0}, type));
    if (needs[i]) column += width;
  }
  return gradients;
}

}  // namespace
}  // namespace lnm

TORCH_LIBRARY_IMPL(snn_lnm, CPU, m) {
  m.impl("scan.cpp", &lnm::scan);
  m.impl("scan_backward.cpp", &lnm::scan_backward);
}

TORCH_LIBRARY_FRAGMENT(snn_lnm_cpp, m) {
  m.def("memory() -> (int, int)", [] { return lnm::Pool::get().bytes(); });
  m.def("empty_cache() -> ()", [] { lnm::Pool::get().empty(); });
}
