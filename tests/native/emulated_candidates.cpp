// The candidate operations of GPUs as a Python module for tests, their kernels run by cuda_emulation.h.

#include "binding_cuda_candidates.h"

PYBIND11_MODULE(emulated_candidates, m) {
  ssfnas::bind_units(m);
  ssfnas::bind_cuda_candidates(m);
}
