// The primitives on CPUs: compiled once for each instruction set, chosen at run time.
//
// Results depend on the instruction set in the last bits only, and never on the number of threads.
#pragma once

#include "../primitives.h"

namespace ssfnas {

struct CpuPrimitives {
  const char* name;
#define SSFNAS_MEMBER(function, Arguments) void (*function)(const Arguments&, int threads);
  SSFNAS_PRIMITIVES(SSFNAS_MEMBER)
  SSFNAS_CPU_PRIMITIVES(SSFNAS_MEMBER)
#undef SSFNAS_MEMBER
};

// Those that this CPU can run, the fastest last; and their number.
const CpuPrimitives* instruction_sets(int* count);

#define SSFNAS_FUNCTION(function, Arguments) void function(const Arguments&, int threads);
#define SSFNAS_DECLARE(isa)          \
  namespace isa {                    \
  SSFNAS_PRIMITIVES(SSFNAS_FUNCTION) \
  SSFNAS_CPU_PRIMITIVES(SSFNAS_FUNCTION)   \
  }
SSFNAS_DECLARE(baseline)
SSFNAS_DECLARE(avx2)
SSFNAS_DECLARE(avx512)
SSFNAS_DECLARE(amx)
#undef SSFNAS_DECLARE
#undef SSFNAS_FUNCTION

}  // namespace ssfnas
