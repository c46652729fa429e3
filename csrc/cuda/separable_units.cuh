// Separable units as kernels of GPUs take them.
#pragma once

#include "cuda_candidates.h"
#include "filters.cuh"

namespace ssfnas {
namespace cuda {

constexpr int MOST_TAPS = 225;  // of a filter, so that a block has a thread for each

// Blocks that an SM has registers for, where numbers are such that speed counts: with fewer
// registers than that leaves, ptxas spills some.
template <class T>
constexpr int RESIDENT = sizeof(T) == 8 ? 1 : 2;

// A block has the results of one tile: of `together` groups, one after the other.
template <class T>
struct Units {
  Tiling tiling;
  Filters filters;
  Inputs xs;
  const Scalar<T>* scale;  // [G, C], or null
  const Scalar<T>* shift;
  int height, width;          // of the inputs
  int out_height, out_width;  // of the results
  int64_t results;            // values of a group's results
  int halo, taps;             // the largest
  int together;
  bool shared;

  __device__ int first() const { return blockIdx.z * together; }
  __device__ int last() const { return min(first() + together, filters.count); }
  __device__ int reach(int g) const { return shared ? halo : filters.halo(g); }
  __device__ const T* input(int g, int64_t image) const {
    return static_cast<const T*>(xs.at[shared ? 0 : g]) +
           image * height * width * tiling.channels;
  }
  // Where a group's results of an image begin.
  __device__ int64_t result(int g, int64_t image) const {
    return g * results + image * out_height * out_width * tiling.channels;
  }
  template <int VEC>
  __device__ Normalized<T, VEC> normalized(int g, const Lane<VEC>& lane) const {
    return {scale, shift, static_cast<int64_t>(g) * tiling.channels, lane};
  }
};

// The largest of all groups.
struct Plan {
  int halo = 0, taps = 0;
};

inline Filters filters_of(const SeparableUnits& units) {
  if (units.groups > MAX_INPUTS) throw std::invalid_argument("too many groups for one kernel");
  Filters filters{};
  filters.count = static_cast<int>(units.groups);
  filters.stride = static_cast<int>(units.stride);
  for (int g = 0; g < filters.count; ++g) {
    if (units.sizes[g] * units.sizes[g] > MOST_TAPS || units.dilations[g] > 255)
      throw std::invalid_argument("a filter is too large for one block of a GPU");
    filters.at[g] = units.depthwise[g];
    filters.size[g] = static_cast<unsigned char>(units.sizes[g]);
    filters.dilation[g] = static_cast<unsigned char>(units.dilations[g]);
  }
  return filters;
}

inline Plan plan_of(const Filters& filters) {
  Plan plan;
  for (int g = 0; g < filters.count; ++g) {
    const int halo = filters.dilation[g] * (filters.size[g] / 2);
    const int taps = filters.size[g] * filters.size[g];
    plan.halo = plan.halo > halo ? plan.halo : halo;
    plan.taps = plan.taps > taps ? plan.taps : taps;
  }
  return plan;
}

inline bool wide_fits(const SeparableUnits& units) {
  return units.channels % full_of(units.dtype) == 0 &&
         aligned(units.xs, units.shared ? 1 : units.groups) && aligned(units.scale) &&
         aligned(units.shift);
}

// Calls `function(Tag<T>, Number<VEC>)` for both ways to load, as far as sizes allow them.
template <class Function>
void for_each_width(const SeparableUnits& units, Function function) {
  for (const bool wide : {false, true})
    if (!wide || units.channels % full_of(units.dtype) == 0)
      for_dtype(units.dtype, wide, function);
}

// The most that `count(Tag<T>, Number<VEC>)` finds: how a call will load is not known before it.
template <class Count>
int64_t most_of_widths(const SeparableUnits& units, Count count) {
  int64_t most = 0;
  for_each_width(units, [&](auto tag, auto vec) {
    const int64_t found = count(tag, vec);
    if (found > most) most = found;
  });
  return most;
}

template <class T>
Units<T> units_of(const SeparableUnits& given) {
  Units<T> units{};
  units.filters = filters_of(given);
  units.xs = inputs(given.xs, given.shared ? 1 : given.groups);
  units.scale = static_cast<const Scalar<T>*>(given.scale);
  units.shift = static_cast<const Scalar<T>*>(given.shift);
  units.height = static_cast<int>(given.height), units.width = static_cast<int>(given.width);
  units.out_height = static_cast<int>(ceil_div(given.height, given.stride));
  units.out_width = static_cast<int>(ceil_div(given.width, given.stride));
  units.results = given.images * units.out_height * units.out_width * given.channels;
  const Plan plan = plan_of(units.filters);
  units.halo = plan.halo, units.taps = plan.taps;
  units.together = given.shared ? units.filters.count : 1;
  units.shared = given.shared;
  return units;
}

}  // namespace cuda
}  // namespace ssfnas
