#include "backward.h"

namespace lnm {

template Run<Backward<float>> pick<Backward<float>, false>(const Dynamics& d);

}  // namespace lnm
