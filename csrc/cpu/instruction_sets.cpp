#include "instruction_sets.h"

namespace ssfnas {
namespace {

#define SSFNAS_ENTRY(function, Arguments) ISA::function,

constexpr CpuPrimitives baseline_primitives = {
    "baseline",
#define ISA baseline
    SSFNAS_PRIMITIVES(SSFNAS_ENTRY) SSFNAS_CPU_PRIMITIVES(SSFNAS_ENTRY)
#undef ISA
};

#ifdef SSFNAS_HAS_AVX2
constexpr CpuPrimitives avx2_primitives = {
    "avx2",
#define ISA avx2
    SSFNAS_PRIMITIVES(SSFNAS_ENTRY) SSFNAS_CPU_PRIMITIVES(SSFNAS_ENTRY)
#undef ISA
};
#endif

#ifdef SSFNAS_HAS_AVX512
constexpr CpuPrimitives avx512_primitives = {
    "avx512",
#define ISA avx512
    SSFNAS_PRIMITIVES(SSFNAS_ENTRY) SSFNAS_CPU_PRIMITIVES(SSFNAS_ENTRY)
#undef ISA
};
#endif

struct Found {
  CpuPrimitives sets[3];
  int count = 0;

  Found() {
    sets[count++] = baseline_primitives;
#ifdef SSFNAS_HAS_AVX2
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("bmi2")))
      return;
    sets[count++] = avx2_primitives;
#endif
#ifdef SSFNAS_HAS_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      sets[count++] = avx512_primitives;
#endif
  }
};

}  // namespace

const CpuPrimitives* instruction_sets(int* count) {
  static const Found found;
  *count = found.count;
  return found.sets;
}

}  // namespace ssfnas
