#include "instruction_sets.h"

#ifdef SSFNAS_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

#ifdef SSFNAS_HAS_AMX
constexpr CpuPrimitives amx_primitives = {
    "amx",
#define ISA amx
    SSFNAS_PRIMITIVES(SSFNAS_ENTRY) SSFNAS_CPU_PRIMITIVES(SSFNAS_ENTRY)
#undef ISA
};

// Whether the CPU has a matrix unit for bfloat16, and the system lets this process use it: its
// registers are so large that Linux has to be asked for room to save them.
bool may_use_amx() {
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, avx512_bf16 = 1u << 5;
  constexpr long request_permission = 0x1023, tile_data = 18;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & amx_bf16) == 0 || (d & amx_tile) == 0) return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a & avx512_bf16) == 0) return false;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

struct Found {
  CpuPrimitives sets[4];
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
    else
      return;
#endif
#ifdef SSFNAS_HAS_AMX
    if (may_use_amx()) sets[count++] = amx_primitives;
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
