#include "backward.h"

namespace lnm {

void run_uniform(const Backward<float>& pass) { run_tiles<true>(pass); }
void run_uniform(const Backward<double>& pass) { run_tiles<true>(pass); }

}  // namespace lnm
