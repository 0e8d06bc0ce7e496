// The entries of core/cuda/api.h with C linkage, for callers that open the library at run time (ctypes, dlopen).
//
// `stream` is a cudaStream_t. Each <Loss>ArgsBytes returns the size of the arguments struct as the library was compiled
// with it: a caller that declares the struct in another language compares first.
#ifndef FASTNEG_CORE_CUDA_C_API_H_
#define FASTNEG_CORE_CUDA_C_API_H_

#include <cstddef>
#include <cstdint>

#include "core/api.h"

#define FASTNEG_CUDA_EXPORT extern "C" __attribute__((visibility("default")))

FASTNEG_CUDA_EXPORT int32_t FastnegCudaDeviceStatus();
FASTNEG_CUDA_EXPORT const char* FastnegCudaLastErrorName();

FASTNEG_CUDA_EXPORT size_t FastnegCudaRolledSoftmaxArgsBytes();
FASTNEG_CUDA_EXPORT size_t FastnegCudaRolledSoftmaxWorkspaceBytes(const fastneg::RolledSoftmaxArgs* args);
FASTNEG_CUDA_EXPORT int32_t FastnegCudaRolledSoftmax(const fastneg::RolledSoftmaxArgs* args, void* stream);

FASTNEG_CUDA_EXPORT size_t FastnegCudaShuffledCosineArgsBytes();
FASTNEG_CUDA_EXPORT size_t FastnegCudaShuffledCosineWorkspaceBytes(const fastneg::ShuffledCosineArgs* args);
FASTNEG_CUDA_EXPORT int32_t FastnegCudaShuffledCosine(const fastneg::ShuffledCosineArgs* args, void* stream);

FASTNEG_CUDA_EXPORT size_t FastnegCudaSvSoftmaxArgsBytes();
FASTNEG_CUDA_EXPORT size_t FastnegCudaSvSoftmaxWorkspaceBytes(const fastneg::SvSoftmaxArgs* args);
FASTNEG_CUDA_EXPORT int32_t FastnegCudaSvSoftmax(const fastneg::SvSoftmaxArgs* args, void* stream);

FASTNEG_CUDA_EXPORT int32_t FastnegCudaScaleGrad(const fastneg::ScaleGradArgs* args, const void* scale, void* stream);

FASTNEG_CUDA_EXPORT int32_t FastnegCudaSetZero(void* memory, size_t num_bytes, void* stream);

#endif  // FASTNEG_CORE_CUDA_C_API_H_
