// Maxima as PyTorch has them.
#pragma once

#include "vectors.h"

namespace ssfnas {
namespace SSFNAS_ISA {

// Which lanes of b replace those of a in a maximum: as in PyTorch NaN does, and stays.
template <class V>
SSFNAS_INLINE auto replaces(V b, V a) {
  return (b > a) | (b != b);
}

template <class V>
SSFNAS_INLINE V maximum(V a, V b) {
  return replaces(b, a) ? b : a;
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
