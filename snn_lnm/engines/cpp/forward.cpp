#include "forward.h"

namespace lnm {

template <class T>
void run_all(const Forward<T>& pass) {
  pass.plan.uniform ? run_tiles<true>(pass) : run_tiles<false>(pass);
}
template void run_all(const Forward<float>& pass);
template void run_all(const Forward<double>& pass);

}  // namespace lnm
