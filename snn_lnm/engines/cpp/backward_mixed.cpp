#include "backward.h"

namespace lnm {

void run_mixed(const Backward<float>& pass) { run_tiles<false>(pass); }
void run_mixed(const Backward<double>& pass) { run_tiles<false>(pass); }

}  // namespace lnm
