#include "forward.h"

namespace lnm {

void run_all(const Forward<float>& pass) { run_tiles(pass); }
void run_all(const Forward<double>& pass) { run_tiles(pass); }

}  // namespace lnm
