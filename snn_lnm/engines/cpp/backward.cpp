#include "backward.h"

namespace lnm {

void run_all(const Backward<float>& pass) { run_tiles(pass); }
void run_all(const Backward<double>& pass) { run_tiles(pass); }

}  // namespace lnm
