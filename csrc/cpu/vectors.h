// Vectors of a register each in the arithmetic of sums, and loads and stores of all dtypes.
//
// Only for files that are compiled once for each instruction set: everything lives in the
// namespace of that set and nothing of the standard library is used, since the linker keeps one of
// several copies of an inline function, and might keep one that the CPU cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#ifndef SSFNAS_ISA
#error "define SSFNAS_ISA as the namespace of the instruction set"
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SSFNAS_MASKS  // a part of a vector is one instruction
#endif

#define SSFNAS_INLINE static inline __attribute__((always_inline))

namespace ssfnas {
namespace SSFNAS_ISA {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// Of one register: GCC keeps wider ones in memory.
#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

typedef float Floats __attribute__((vector_size(BYTES)));
typedef double Doubles __attribute__((vector_size(BYTES)));
typedef uint32_t Words __attribute__((vector_size(BYTES)));
typedef int32_t Masks __attribute__((vector_size(BYTES)));
typedef uint16_t Halves __attribute__((vector_size(BYTES / 2)));

template <class T>
struct Kept {  // what sums over T are kept in
  using Scalar = float;
  using Vector = Floats;
};
template <>
struct Kept<double> {
  using Scalar = double;
  using Vector = Doubles;
};
template <class T>
using Scalar = typename Kept<T>::Scalar;
template <class T>
using Vector = typename Kept<T>::Vector;
template <class T>
constexpr int lanes = sizeof(Vector<T>) / sizeof(Scalar<T>);

SSFNAS_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
SSFNAS_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
SSFNAS_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class V>
SSFNAS_INLINE V raw_load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}

template <class V>
SSFNAS_INLINE void raw_store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof(V));
}

SSFNAS_INLINE Words chosen(Masks mask, Words yes, Words no) {
  return ((Words)mask & yes) | (~(Words)mask & no);
}

// --- to the arithmetic of sums

SSFNAS_INLINE Floats widened(Halves bits, bfloat16) {
  return (Floats)(__builtin_convertvector(bits, Words) << 16);
}

SSFNAS_INLINE Floats widened(Halves bits, float16) {
  const Words half = __builtin_convertvector(bits, Words);
  const Words magnitude = (half & 0x7fff) << 13;
  const Words exponent = magnitude & (0x7c00u << 13);
  // Exponents are biased by 15 in half precision and by 127 in single precision.
  Words result = magnitude + (112u << 23);
  result = chosen((Masks)(exponent == (0x7c00u << 13)), result + (112u << 23), result);
  // A subnormal number has no leading one: give it one, and take it off as a number.
  const Floats one = (Floats)(Words{} + (113u << 23));
  const Words subnormal = (Words)((Floats)(magnitude + (113u << 23)) - one);
  result = chosen((Masks)(exponent == 0), subnormal, result);
  return (Floats)(result | ((half & 0x8000) << 16));
}

// --- and back, to the nearest, ties to even

SSFNAS_INLINE Halves narrowed(Floats v, bfloat16) {
#ifdef __AVX512BF16__
  return (Halves)_mm512_cvtneps_pbh((__m512)v);
#endif
  const Words bits = (Words)v;
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words nan = (bits >> 16) | 0x40;
  return __builtin_convertvector(chosen((Masks)(v != v), nan, rounded), Halves);
}

SSFNAS_INLINE Halves narrowed(Floats v, float16) {
  const Words bits = (Words)v & 0x7fffffff;
  const Words sign = ((Words)v >> 16) & 0x8000;
  // A carry out of the mantissa goes into the exponent, up to infinity, as it should.
  const Words normal = (bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
  // Half an ulp of the subnormal numbers is what adding a half rounds to.
  const Floats half = (Floats)(Words{} + (126u << 23));
  const Words subnormal = (Words)((Floats)bits + half) - (126u << 23);
  Words result = chosen((Masks)(bits < (113u << 23)), subnormal, normal);
  result = chosen((Masks)(bits >= (143u << 23)), Words{} + 0x7c00, result);
  result = chosen((Masks)(v != v), Words{} + 0x7e00, result);
  return __builtin_convertvector(result | sign, Halves);
}

template <class T>
SSFNAS_INLINE Vector<T> load(const T* from) {
  if constexpr (sizeof(T) == 2)
    return widened(raw_load<Halves>(from), T{});
  else
    return raw_load<Vector<T>>(from);
}

template <class T>
SSFNAS_INLINE void store(T* to, Vector<T> v) {
  if constexpr (sizeof(T) == 2)
    raw_store(to, narrowed(v, T{}));
  else
    raw_store(to, v);
}

// `to` is a multiple of the vector's size; to be followed by finish_stores().
template <class T>
SSFNAS_INLINE void store_past_caches(T* to, Vector<T> v) {
#ifdef __SSE2__
  alignas(64) T values[lanes<T>];
  store(values, v);
#ifdef __AVX512F__
  if constexpr (sizeof(values) == 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), raw_load<__m512i>(values));
    return;
  }
#endif
#ifdef __AVX__
  if constexpr (sizeof(values) == 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), raw_load<__m256i>(values));
    return;
  }
#endif
  if constexpr (sizeof(values) == 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), raw_load<__m128i>(values));
    return;
  }
#endif
  store(to, v);
}

// Before other cores read what was stored past the caches.
SSFNAS_INLINE void finish_stores() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// The first n < lanes values; the other lanes are zero.
template <class T>
SSFNAS_INLINE Vector<T> load(const T* from, int64_t n) {
#ifdef SSFNAS_MASKS
  // Through a buffer, the vector's load would wait for all of the values' stores.
  const __mmask16 first = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 2)
    return widened((Halves)_mm256_maskz_loadu_epi16(first, from), T{});
  else if constexpr (sizeof(T) == 4)
    return (Vector<T>)_mm512_maskz_loadu_epi32(first, from);
  else
    return (Vector<T>)_mm512_maskz_loadu_epi64(static_cast<__mmask8>(first), from);
#else
  T buffer[lanes<T>] = {};
  __builtin_memcpy(buffer, from, n * sizeof(T));
  return load(buffer);
#endif
}

template <class T>
SSFNAS_INLINE void store(T* to, Vector<T> v, int64_t n) {
#ifdef SSFNAS_MASKS
  const __mmask16 first = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 2)
    _mm256_mask_storeu_epi16(to, first, (__m256i)narrowed(v, T{}));
  else if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_epi32(to, first, (__m512i)v);
  else
    _mm512_mask_storeu_epi64(to, static_cast<__mmask8>(first), (__m512i)v);
#else
  T buffer[lanes<T>];
  store(buffer, v);
  __builtin_memcpy(to, buffer, n * sizeof(T));
#endif
}

// The same value in all lanes; unlike an addition of zero, which -0 does not survive, the
// subtraction is free.
template <class V, class S>
SSFNAS_INLINE V everywhere(S value) {
  return value - V{};
}

// The first n lanes; zero in the others.
template <class V>
SSFNAS_INLINE V first_lanes(V v, int64_t n) {
  constexpr int count = sizeof(V) / sizeof(v[0]);
  for (int i = 0; i < count; ++i) v[i] = i < n ? v[i] : 0;
  return v;
}

// The sum of the lanes, in a fixed order.
template <class V>
SSFNAS_INLINE auto sum_of_lanes(V v) {
  constexpr int count = sizeof(V) / sizeof(v[0]);
  decltype(v[0] + 0) parts[count];
  __builtin_memcpy(parts, &v, sizeof(V));
  for (int half = count / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  return parts[0];
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
