// The candidate operations of GPUs for Python; ssfnas/ops/cuda_candidates.py is the only caller.
#pragma once

#include "binding.h"
#include "cuda/cuda_candidates.h"

namespace ssfnas {

inline void* stream_of(std::int64_t handle) { return reinterpret_cast<void*>(handle); }

inline void bind_fused_units(py::module_& m) {
  m.def("fused_fits", [](const Units& units) {
    return cuda::fused_forward_fits(units.units()) && cuda::fused_backward_fits(units.units());
  });
  m.def("fused_forward_partials",
        [](const Units& units) { return cuda::fused_forward_partials(units.units()); });
  m.def("fused_backward_partials",
        [](const Units& units) { return cuda::fused_backward_partials(units.units()); });
  m.def("fused_forward", [](int device, std::int64_t stream, const Units& units,
                            std::uintptr_t out, std::uintptr_t mean, std::uintptr_t var,
                            std::uintptr_t partials) {
    const py::gil_scoped_release released;
    cuda::fused_forward(
        {units.units(), pointer(out), pointer(mean), pointer(var), pointer(partials)}, device,
        stream_of(stream));
  });
  m.def("fused_backward",
        [](int device, std::int64_t stream, const Units& units, const Addresses& grads,
           const Addresses& zs, std::uintptr_t p, std::uintptr_t q, std::uintptr_t r,
           std::uintptr_t factors, std::uintptr_t dd, std::uintptr_t dw,
           std::uintptr_t partials) {
          const SeparableUnits& given = units.units();
          check_count(grads.size(), given.groups, "fused_backward");
          if (q != 0) check_count(zs.size(), given.groups, "fused_backward");
          const py::gil_scoped_release released;
          const std::vector<void*> g = pointers(grads), z = pointers(zs);
          cuda::fused_backward({given, g.data(), z.data(), pointer(p), pointer(q), pointer(r),
                                pointer(factors), pointer(dd), pointer(dw), pointer(partials)},
                               device, stream_of(stream));
        });
}

inline void bind_cuda_candidates(py::module_& m) {
  bind_fused_units(m);
  m.def("depthwise_input_partials",
        [](const Units& units) { return cuda::depthwise_input_partials(units.units()); });
  m.def("depthwise_filter_partials",
        [](const Units& units) { return cuda::depthwise_filter_partials(units.units()); });
  m.def("depthwise_forward", [](int device, std::int64_t stream, const Units& units,
                              std::uintptr_t out) {
    const py::gil_scoped_release released;
    cuda::depthwise_forward({units.units(), pointer(out)}, device, stream_of(stream));
  });
  m.def("depthwise_backward_input",
        [](int device, std::int64_t stream, const Units& units, std::uintptr_t dd,
           std::uintptr_t into, const Addresses& dxs, std::uintptr_t sums,
           std::uintptr_t partials, std::uintptr_t center) {
          const SeparableUnits& given = units.units();
          check_count(dxs.size(), given.shared ? 1 : given.groups, "depthwise_backward_input");
          const py::gil_scoped_release released;
          const std::vector<void*> dx = pointers(dxs);
          cuda::depthwise_backward_input({given, pointer(dd), pointer(into), dx.data(),
                                        pointer(sums), pointer(partials), pointer(center)},
                                       device, stream_of(stream));
        });
  m.def("depthwise_backward_filter",
        [](int device, std::int64_t stream, const Units& units, std::uintptr_t dd,
           std::uintptr_t df, std::uintptr_t partials) {
          const py::gil_scoped_release released;
          cuda::depthwise_backward_filter(
              {units.units(), pointer(dd), pointer(df), pointer(partials)}, device,
              stream_of(stream));
        });
  m.def("scaled_sums", [](int device, std::int64_t stream, int dtype, const Addresses& grads,
                          const Addresses& zs, std::int64_t images, std::int64_t pixels,
                          std::int64_t channels, std::uintptr_t p, std::uintptr_t q,
                          std::uintptr_t r, std::uintptr_t factors, std::uintptr_t out) {
    if (q != 0) check_count(zs.size(), grads.size(), "scaled_sums");
    const py::gil_scoped_release released;
    const std::vector<void*> g = pointers(grads), z = pointers(zs);
    cuda::scaled_sums({static_cast<Dtype>(dtype), static_cast<std::int64_t>(g.size()), images,
                       pixels, channels, g.data(), z.data(), pointer(p), pointer(q), pointer(r),
                       pointer(factors), pointer(out)},
                      device, stream_of(stream));
  });
  m.def("cuda_pools_forward", [](int device, std::int64_t stream, int dtype,
                                 const ImageSizes& image, std::uintptr_t x,
                                 std::uintptr_t largest, std::uintptr_t average) {
    const auto [images, height, width, channels, stride] = image;
    const py::gil_scoped_release released;
    cuda::pools_forward({static_cast<Dtype>(dtype), images, height, width, channels, stride,
                         pointer(x), pointer(largest), pointer(average), nullptr, nullptr},
                        device, stream_of(stream));
  });
  m.def("cuda_pools_backward", [](int device, std::int64_t stream, int dtype,
                                  const ImageSizes& image, std::uintptr_t x,
                                  std::uintptr_t d_largest, std::uintptr_t d_average,
                                  std::uintptr_t into, std::uintptr_t dx) {
    const auto [images, height, width, channels, stride] = image;
    const py::gil_scoped_release released;
    cuda::pools_backward({static_cast<Dtype>(dtype), images, height, width, channels, stride,
                          pointer(x), pointer(d_largest), pointer(d_average), pointer(into),
                          pointer(dx)},
                         device, stream_of(stream));
  });
}

}  // namespace ssfnas
