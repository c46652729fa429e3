// What bindings share: addresses as Python has them, and the arguments of separable units.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "primitives.h"

namespace ssfnas {

namespace py = pybind11;

using Addresses = std::vector<std::uintptr_t>;

inline void* pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

inline std::vector<void*> pointers(const Addresses& addresses) {
  std::vector<void*> result;
  result.reserve(addresses.size());
  for (const std::uintptr_t address : addresses) result.push_back(pointer(address));
  return result;
}

inline void check_count(std::size_t found, std::size_t count, const char* what) {
  if (found != count)
    throw std::invalid_argument(std::string(what) + ": not one address for each tensor");
}

// N, H, W, C, stride
using ImageSizes = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

// What both passes of separable units take, and the arrays that its pointers point to.
class Units {
 public:
  Units(int dtype, const ImageSizes& image, std::vector<std::int64_t> sizes,
        std::vector<std::int64_t> dilations, const Addresses& depthwise,
        const Addresses& pointwise, const Addresses& xs, bool shared, std::uintptr_t scale,
        std::uintptr_t shift)
      : sizes_(std::move(sizes)),
        dilations_(std::move(dilations)),
        depthwise_(pointers(depthwise)),
        pointwise_(pointers(pointwise)),
        xs_(pointers(xs)) {
    const std::size_t groups = sizes_.size();
    check_count(dilations_.size(), groups, "separable units");
    check_count(depthwise_.size(), groups, "separable units");
    check_count(pointwise_.size(), groups, "separable units");
    check_count(xs_.size(), shared ? 1 : groups, "separable units");
    const auto [images, height, width, channels, stride] = image;
    units_ = {static_cast<Dtype>(dtype),
              static_cast<std::int64_t>(groups),
              images,
              height,
              width,
              channels,
              stride,
              sizes_.data(),
              dilations_.data(),
              depthwise_.data(),
              pointwise_.data(),
              shared,
              xs_.data(),
              pointer(scale),
              pointer(shift)};
  }
  Units(const Units&) = delete;
  Units& operator=(const Units&) = delete;
  const SeparableUnits& units() const { return units_; }

 private:
  std::vector<std::int64_t> sizes_, dilations_;
  std::vector<void*> depthwise_, pointwise_, xs_;
  SeparableUnits units_;
};

inline void bind_units(py::module_& m) {
  py::class_<Units>(m, "Units", py::module_local())
      .def(py::init<int, const ImageSizes&, std::vector<std::int64_t>, std::vector<std::int64_t>,
                    const Addresses&, const Addresses&, const Addresses&, bool, std::uintptr_t,
                    std::uintptr_t>());
}

}  // namespace ssfnas
