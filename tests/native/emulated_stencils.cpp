// The stencils of GPUs as a Python module for tests, their kernels run by cuda_emulation.h.

#include "binding_cuda_stencils.h"

PYBIND11_MODULE(emulated_stencils, m) {
  ssfnas::bind_units(m);
  ssfnas::bind_cuda_stencils(m);
}
