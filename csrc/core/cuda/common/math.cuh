// Functions of the compute types under one name each.
#ifndef FASTNEG_CORE_CUDA_COMMON_MATH_CUH_
#define FASTNEG_CORE_CUDA_COMMON_MATH_CUH_

#include <cuda_runtime.h>

#include <cmath>

namespace fastneg::cuda {

__device__ __forceinline__ float Exp(float x) { return expf(x); }
__device__ __forceinline__ double Exp(double x) { return exp(x); }
__device__ __forceinline__ float Log(float x) { return logf(x); }
__device__ __forceinline__ double Log(double x) { return log(x); }
__device__ __forceinline__ float Log1p(float x) { return log1pf(x); }
__device__ __forceinline__ double Log1p(double x) { return log1p(x); }
__device__ __forceinline__ float SquareRoot(float x) { return sqrtf(x); }
__device__ __forceinline__ double SquareRoot(double x) { return sqrt(x); }

// A product that is rounded whatever becomes of it: no addition takes it into a fused multiply-add.
__device__ __forceinline__ float RoundedProduct(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double RoundedProduct(double a, double b) { return __dmul_rn(a, b); }

template <typename T>
__device__ __forceinline__ bool IsInfinite(T x) {
  return x - x != T(0) && x == x;
}

template <typename T>
__device__ __forceinline__ T Magnitude(T x) {
  return x < 0 ? -x : x;
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_COMMON_MATH_CUH_
