// Python's view of the primitives: addresses and sizes as integers. ssfnas/ops/native.py is the
// only caller, and checks dtypes, layouts and sizes before it hands out an address.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "binding.h"
#include "cpu/instruction_sets.h"
#ifdef SSFNAS_HAS_CUDA
#include "binding_cuda_candidates.h"
#include "cuda/cuda_primitives.h"
#endif

namespace py = pybind11;

namespace ssfnas {
namespace {

// Where a primitive runs: on the CPU with so many threads, or on a GPU's stream.
struct Place {
  int device;            // -1 for the CPU
  std::int64_t threads;  // or the handle of the stream
};

int chosen_set = -1;

const CpuPrimitives& cpu() {
  int count = 0;
  const CpuPrimitives* sets = instruction_sets(&count);
  return sets[chosen_set < 0 ? count - 1 : chosen_set];
}

std::vector<std::string> names_of_sets() {
  int count = 0;
  const CpuPrimitives* sets = instruction_sets(&count);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.emplace_back(sets[i].name);
  return names;
}

void choose_set(const std::string& name) {
  const std::vector<std::string> names = names_of_sets();
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) {
      chosen_set = static_cast<int>(i);
      return;
    }
  }
  throw std::invalid_argument("this CPU cannot run the instruction set '" + name + "'");
}

#ifdef SSFNAS_HAS_CUDA
#define SSFNAS_RUN(function, args, place)                                      \
  if ((place).device < 0)                                                      \
    cpu().function(args, static_cast<int>((place).threads));             \
  else                                                                         \
    cuda::function(args, (place).device, reinterpret_cast<void*>((place).threads))
#else
#define SSFNAS_RUN(function, args, place)                                      \
  if ((place).device >= 0) throw std::runtime_error("built without CUDA");     \
  cpu().function(args, static_cast<int>((place).threads))
#endif

void mixed_sum_forward(int device, std::int64_t threads, int dtype, const Addresses& xs,
                       std::uintptr_t weights, std::uintptr_t out, std::int64_t length) {
  const py::gil_scoped_release released;
  const std::vector<void*> x = pointers(xs);
  const MixedSumForward args{static_cast<Dtype>(dtype), static_cast<std::int64_t>(x.size()),
                             length, x.data(), pointer(weights), pointer(out)};
  const Place place{device, threads};
  SSFNAS_RUN(mixed_sum_forward, args, place);
}

void mixed_sum_backward(int device, std::int64_t threads, int dtype, std::uintptr_t grad,
                        const Addresses& xs, std::uintptr_t weights, const Addresses& dxs,
                        std::uintptr_t dweights, std::int64_t length, std::uintptr_t partials) {
  if (dweights != 0) check_count(xs.size(), dxs.size(), "mixed_sum_backward");
  const py::gil_scoped_release released;
  const std::vector<void*> x = pointers(xs), dx = pointers(dxs);
  const MixedSumBackward args{static_cast<Dtype>(dtype), static_cast<std::int64_t>(dx.size()),
                              length, pointer(grad), x.data(), pointer(weights), dx.data(),
                              pointer(dweights), pointer(partials)};
  const Place place{device, threads};
  SSFNAS_RUN(mixed_sum_backward, args, place);
}

Extent extent_of(const std::vector<std::int64_t>& sizes) {
  if (sizes.size() != 3) throw std::invalid_argument("an extent is (outer, channels, inner)");
  return {sizes[0], sizes[1], sizes[2]};
}

using Sizes = std::vector<std::int64_t>;

void norm_statistics(int device, std::int64_t threads, int dtype, const Addresses& zs,
                     const Sizes& extent, std::uintptr_t mean, std::uintptr_t var,
                     std::uintptr_t partials) {
  const Extent sizes = extent_of(extent);
  const py::gil_scoped_release released;
  const std::vector<void*> z = pointers(zs);
  const NormStatistics args{static_cast<Dtype>(dtype), static_cast<std::int64_t>(z.size()), sizes,
                            z.data(), pointer(mean), pointer(var), pointer(partials)};
  const Place place{device, threads};
  SSFNAS_RUN(norm_statistics, args, place);
}

void norm_sum_forward(int device, std::int64_t threads, int dtype, const Addresses& zs,
                      const Sizes& extent, std::uintptr_t a, std::uintptr_t b,
                      std::uintptr_t out, std::uintptr_t factors, std::int64_t images) {
  const Extent sizes = extent_of(extent);
  const py::gil_scoped_release released;
  const std::vector<void*> z = pointers(zs);
  const NormSumForward args{static_cast<Dtype>(dtype), static_cast<std::int64_t>(z.size()), sizes,
                            z.data(), pointer(a), pointer(b), pointer(out), pointer(factors),
                            images};
  const Place place{device, threads};
  SSFNAS_RUN(norm_sum_forward, args, place);
}

void norm_sum_reduce(int device, std::int64_t threads, int dtype, std::uintptr_t grad,
                     const Addresses& zs, const Sizes& extent, std::uintptr_t mean,
                     std::uintptr_t rstd, std::uintptr_t s0, std::uintptr_t s1,
                     std::uintptr_t partials, std::uintptr_t factors, std::int64_t images) {
  const Extent sizes = extent_of(extent);
  const py::gil_scoped_release released;
  const std::vector<void*> z = pointers(zs);
  const NormSumReduce args{static_cast<Dtype>(dtype), static_cast<std::int64_t>(z.size()), sizes,
                           pointer(grad), z.data(), pointer(mean), pointer(rstd), pointer(s0),
                           pointer(s1), pointer(partials), pointer(factors), images};
  const Place place{device, threads};
  SSFNAS_RUN(norm_sum_reduce, args, place);
}

void norm_sum_apply(int device, std::int64_t threads, int dtype, std::uintptr_t grad,
                    const Addresses& zs, const Sizes& extent, std::uintptr_t p, std::uintptr_t q,
                    std::uintptr_t r, const Addresses& dzs) {
  check_count(zs.size(), dzs.size(), "norm_sum_apply");
  const Extent sizes = extent_of(extent);
  const py::gil_scoped_release released;
  const std::vector<void*> z = pointers(zs), dz = pointers(dzs);
  const NormSumApply args{static_cast<Dtype>(dtype), static_cast<std::int64_t>(z.size()), sizes,
                          pointer(grad), z.data(), pointer(p), pointer(q), pointer(r), dz.data()};
  const Place place{device, threads};
  SSFNAS_RUN(norm_sum_apply, args, place);
}

// --- filters on CPUs; for those on GPUs see binding_cuda_candidates.h

void separable_forward(int threads, const Units& units, const Addresses& zs, std::uintptr_t mean,
                       std::uintptr_t var) {
  check_count(zs.size(), units.units().groups, "separable_forward");
  const py::gil_scoped_release released;
  const std::vector<void*> z = pointers(zs);
  cpu().separable_forward({units.units(), z.data(), pointer(mean), pointer(var)}, threads);
}

void separable_backward(int threads, const Units& units, const Addresses& zs,
                        const Addresses& grads, std::uintptr_t p, std::uintptr_t q,
                        std::uintptr_t r, std::uintptr_t into, const Addresses& dxs,
                        std::uintptr_t s0, std::uintptr_t s1, std::uintptr_t center,
                        std::uintptr_t factors, const Addresses& d_depthwise,
                        const Addresses& d_pointwise) {
  const std::size_t groups = units.units().groups;
  check_count(zs.size(), groups, "separable_backward");
  check_count(grads.size(), groups, "separable_backward");
  check_count(dxs.size(), units.units().shared ? 1 : groups, "separable_backward");
  check_count(d_depthwise.size(), d_pointwise.size(), "separable_backward");
  if (!d_depthwise.empty()) check_count(d_depthwise.size(), groups, "separable_backward");
  const py::gil_scoped_release released;
  const std::vector<void*> z = pointers(zs), g = pointers(grads), dx = pointers(dxs);
  const std::vector<void*> df = pointers(d_depthwise), dw = pointers(d_pointwise);
  const bool wanted = !df.empty();
  cpu().separable_backward(
      {units.units(), z.data(), g.data(), pointer(p), pointer(q), pointer(r), pointer(into),
       dx.data(), pointer(s0), pointer(s1), pointer(center), pointer(factors),
       wanted ? df.data() : nullptr, wanted ? dw.data() : nullptr},
      threads);
}

// Rows that are meant, rows of the table, channels.
using TableSizes = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

const std::int64_t* places(std::uintptr_t address) {
  return static_cast<const std::int64_t*>(pointer(address));
}

void enter_statistics(int dtype, const TableSizes& sizes, std::uintptr_t table,
                      std::int64_t start, std::uintptr_t mean, std::uintptr_t var,
                      std::uintptr_t gamma, std::uintptr_t beta, double eps) {
  const auto [count, rows, channels] = sizes;
  cpu().enter_statistics({static_cast<Dtype>(dtype), count, rows, channels, pointer(table), start,
                          pointer(mean), pointer(var), pointer(gamma), pointer(beta), eps},
                         1);
}

void node_coefficients(int dtype, const TableSizes& sizes, std::uintptr_t table,
                       std::uintptr_t rows_of, std::uintptr_t weights,
                       std::uintptr_t weight_places, bool separate, std::uintptr_t out,
                       std::uintptr_t b) {
  const auto [count, rows, channels] = sizes;
  cpu().node_coefficients(
      {static_cast<Dtype>(dtype), count, rows, channels, pointer(table), places(rows_of),
       pointer(weights), places(weight_places), separate, pointer(out), pointer(b)},
      1);
}

void gradient_coefficients(int dtype, const TableSizes& sizes, std::uintptr_t table,
                           std::uintptr_t rows_of, std::uintptr_t a, std::uintptr_t mean,
                           std::uintptr_t rstd, std::uintptr_t s0, bool s0_each,
                           std::uintptr_t s1, double values) {
  const auto [count, rows, channels] = sizes;
  cpu().gradient_coefficients(
      {static_cast<Dtype>(dtype), count, rows, channels, pointer(table), places(rows_of),
       pointer(a), pointer(mean), pointer(rstd), pointer(s0), s0_each, pointer(s1), values},
      1);
}

// Pixels, channels of each input and of the output.
using PixelSizes = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

void pointwise_forward(int threads, int dtype, const PixelSizes& sizes, const Addresses& xs,
                       std::uintptr_t weight, std::uintptr_t z, std::uintptr_t mean,
                       std::uintptr_t var) {
  const auto [pixels, inputs, outputs] = sizes;
  const py::gil_scoped_release released;
  const std::vector<void*> x = pointers(xs);
  cpu().pointwise_forward(
      {static_cast<Dtype>(dtype), pixels, static_cast<std::int64_t>(x.size()), inputs, outputs,
       x.data(), pointer(weight), pointer(z), pointer(mean), pointer(var)},
      threads);
}

void pointwise_backward(int threads, int dtype, const PixelSizes& sizes, const Addresses& xs,
                        std::uintptr_t z, std::uintptr_t grad, std::uintptr_t p, std::uintptr_t q,
                        std::uintptr_t r, std::uintptr_t weight, const Addresses& into,
                        const Addresses& dxs, std::uintptr_t d_weight) {
  const auto [pixels, inputs, outputs] = sizes;
  if (!into.empty()) check_count(into.size(), xs.size(), "pointwise_backward");
  if (!dxs.empty()) check_count(dxs.size(), xs.size(), "pointwise_backward");
  const py::gil_scoped_release released;
  const std::vector<void*> x = pointers(xs), before = pointers(into), dx = pointers(dxs);
  cpu().pointwise_backward(
      {static_cast<Dtype>(dtype), pixels, static_cast<std::int64_t>(x.size()), inputs, outputs,
       x.data(), pointer(z), pointer(grad), pointer(p), pointer(q), pointer(r), pointer(weight),
       before.empty() ? nullptr : before.data(), dx.empty() ? nullptr : dx.data(),
       pointer(d_weight)},
      threads);
}

// N, H, W, channels of each input, and of the results those of even and of odd pixels.
using ReduceSizes = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                               std::int64_t, std::int64_t>;

// What both passes of factorized reduces take, and the arrays that its pointers point to.
struct ReduceArguments {
  std::vector<void*> xs, even, odd;

  ReduceArguments(const Addresses& of_xs, const Addresses& of_even, const Addresses& of_odd)
      : xs(pointers(of_xs)), even(pointers(of_even)), odd(pointers(of_odd)) {}
  Reduces reduces(int dtype, const ReduceSizes& sizes) const {
    const auto [images, height, width, inputs, even_outputs, odd_outputs] = sizes;
    return {static_cast<Dtype>(dtype), static_cast<std::int64_t>(even.size()),
            static_cast<std::int64_t>(xs.size()), images, height, width, inputs, even_outputs,
            odd_outputs, xs.data(), even.data(), odd.data()};
  }
};

void reduces_forward(int threads, int dtype, const ReduceSizes& sizes, const Addresses& xs,
                     const Addresses& even, const Addresses& odd, const Addresses& zs,
                     std::uintptr_t mean, std::uintptr_t var) {
  check_count(odd.size(), even.size(), "reduces_forward");
  check_count(zs.size(), even.size(), "reduces_forward");
  const py::gil_scoped_release released;
  const ReduceArguments given(xs, even, odd);
  const std::vector<void*> z = pointers(zs);
  cpu().reduces_forward({given.reduces(dtype, sizes), z.data(), pointer(mean), pointer(var)},
                        threads);
}

void reduces_backward(int threads, int dtype, const ReduceSizes& sizes, const Addresses& xs,
                      const Addresses& even, const Addresses& odd, const Addresses& zs,
                      const Addresses& grads, std::uintptr_t p, std::uintptr_t q,
                      std::uintptr_t r, std::uintptr_t factors, const Addresses& dxs, bool add,
                      const Addresses& d_even, const Addresses& d_odd) {
  const std::size_t groups = even.size();
  check_count(odd.size(), groups, "reduces_backward");
  check_count(grads.size(), groups, "reduces_backward");
  if (q != 0) check_count(zs.size(), groups, "reduces_backward");
  if (!dxs.empty()) check_count(dxs.size(), xs.size(), "reduces_backward");
  check_count(d_even.size(), d_odd.size(), "reduces_backward");
  if (!d_even.empty()) check_count(d_even.size(), groups, "reduces_backward");
  const py::gil_scoped_release released;
  const ReduceArguments given(xs, even, odd);
  const std::vector<void*> z = pointers(zs), g = pointers(grads), dx = pointers(dxs);
  const std::vector<void*> of_even = pointers(d_even), of_odd = pointers(d_odd);
  cpu().reduces_backward(
      {given.reduces(dtype, sizes), z.data(), g.data(), pointer(p), pointer(q), pointer(r),
       pointer(factors), dx.empty() ? nullptr : dx.data(), add,
       of_even.empty() ? nullptr : of_even.data(), of_odd.empty() ? nullptr : of_odd.data()},
      threads);
}

void pools_forward(int threads, int dtype, const ImageSizes& image, std::uintptr_t x,
                   std::uintptr_t largest, std::uintptr_t average, std::uintptr_t mean,
                   std::uintptr_t var) {
  const auto [images, height, width, channels, stride] = image;
  const py::gil_scoped_release released;
  cpu().pools_forward({static_cast<Dtype>(dtype), images, height, width, channels, stride,
                             pointer(x), pointer(largest), pointer(average), pointer(mean),
                             pointer(var)},
                            threads);
}

void pools_backward(int threads, int dtype, const ImageSizes& image, std::uintptr_t x,
                    std::uintptr_t d_largest, std::uintptr_t d_average, std::uintptr_t into,
                    std::uintptr_t dx) {
  const auto [images, height, width, channels, stride] = image;
  const py::gil_scoped_release released;
  cpu().pools_backward({static_cast<Dtype>(dtype), images, height, width, channels, stride,
                              pointer(x), pointer(d_largest), pointer(d_average), pointer(into),
                              pointer(dx)},
                             threads);
}

// N, H, W, C, share
using StateSizes = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

void split_forward(int threads, int dtype, const StateSizes& sizes, std::uintptr_t x,
                   std::uintptr_t head, std::uintptr_t rest) {
  const auto [images, height, width, channels, share] = sizes;
  const py::gil_scoped_release released;
  cpu().split_forward({static_cast<Dtype>(dtype), images, height, width, channels, share,
                       pointer(x), pointer(head), pointer(rest)},
                      threads);
}

void split_backward(int threads, int dtype, const StateSizes& sizes, std::int64_t stride,
                    std::uintptr_t x, std::uintptr_t d_head, const Addresses& d_rests,
                    std::uintptr_t b, std::uintptr_t dx) {
  const auto [images, height, width, channels, share] = sizes;
  const py::gil_scoped_release released;
  const std::vector<void*> rests = pointers(d_rests);
  cpu().split_backward({static_cast<Dtype>(dtype), images, height, width, channels, share, stride,
                        static_cast<std::int64_t>(rests.size()), pointer(x), pointer(d_head),
                        rests.data(), pointer(b), pointer(dx)},
                       threads);
}

// Pixels, C, share
using NodeSizes = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

void merge_forward(int threads, int dtype, const NodeSizes& sizes, const Addresses& passing,
                   const Sizes& widths, std::uintptr_t mixed, std::uintptr_t b,
                   std::uintptr_t node, std::uintptr_t head) {
  check_count(widths.size(), passing.size(), "merge_forward");
  const auto [pixels, channels, share] = sizes;
  const py::gil_scoped_release released;
  const std::vector<void*> rests = pointers(passing);
  cpu().merge_forward({static_cast<Dtype>(dtype), pixels, channels, share,
                       static_cast<std::int64_t>(rests.size()), rests.data(), widths.data(),
                       pointer(mixed), pointer(b), pointer(node), pointer(head)},
                      threads);
}

void merge_backward(int threads, int dtype, const NodeSizes& sizes, const Addresses& passing,
                    const Sizes& widths, std::uintptr_t outside, std::uintptr_t d_head,
                    const Addresses& d_rests, std::uintptr_t b, std::uintptr_t d_mixed,
                    std::uintptr_t d_rest, std::uintptr_t d_factors) {
  check_count(widths.size(), passing.size(), "merge_backward");
  const auto [pixels, channels, share] = sizes;
  const py::gil_scoped_release released;
  const std::vector<void*> rests = pointers(passing), later = pointers(d_rests);
  cpu().merge_backward({static_cast<Dtype>(dtype), pixels, channels, share,
                        static_cast<std::int64_t>(rests.size()),
                        static_cast<std::int64_t>(later.size()), rests.data(), widths.data(),
                        pointer(outside), pointer(d_head), later.data(), pointer(b),
                        pointer(d_mixed), pointer(d_rest), pointer(d_factors)},
                       threads);
}

}  // namespace
}  // namespace ssfnas

PYBIND11_MODULE(_C, m) {
  using namespace ssfnas;
  m.doc() = "Candidates and their sums in C++ and CUDA; ssfnas.ops.native is the way to call them.";
  m.def("mixed_sum_forward", &mixed_sum_forward);
  m.def("mixed_sum_backward", &mixed_sum_backward);
  m.def("norm_statistics", &norm_statistics);
  m.def("norm_sum_forward", &norm_sum_forward);
  m.def("norm_sum_reduce", &norm_sum_reduce);
  m.def("norm_sum_apply", &norm_sum_apply);
  bind_units(m);
  m.def("separable_forward", &separable_forward);
  m.def("separable_backward", &separable_backward);
  m.def("enter_statistics", &enter_statistics);
  m.def("node_coefficients", &node_coefficients);
  m.def("gradient_coefficients", &gradient_coefficients);
  m.def("pointwise_forward", &pointwise_forward);
  m.def("pointwise_backward", &pointwise_backward);
  m.def("reduces_forward", &reduces_forward);
  m.def("reduces_backward", &reduces_backward);
  m.def("pools_forward", &pools_forward);
  m.def("pools_backward", &pools_backward);
  m.def("split_forward", &split_forward);
  m.def("split_backward", &split_backward);
  m.def("merge_forward", &merge_forward);
  m.def("merge_backward", &merge_backward);
  m.def("instruction_sets", &names_of_sets, "Those that this CPU can run; the fastest last.");
  m.def("instruction_set", [] { return std::string(cpu().name); });
  m.def("choose_instruction_set", &choose_set);
#ifdef SSFNAS_HAS_CUDA
  m.attr("cuda_architectures") = SSFNAS_CUDA_ARCHITECTURES;
  m.attr("max_inputs") = cuda::MAX_INPUTS;
  m.def("mixed_sum_partials", &cuda::mixed_sum_partials);
  m.def("norm_partials",
        [](int dtype, const Addresses& tensors, const Sizes& extent, std::int64_t rows) {
          const std::vector<void*> all = pointers(tensors);
          return cuda::norm_partials(static_cast<Dtype>(dtype), extent_of(extent), rows, all.data(),
                                     static_cast<std::int64_t>(all.size()));
        });
  bind_cuda_candidates(m);
#else
  m.attr("cuda_architectures") = "";
  m.attr("max_inputs") = 0;
#endif
}
