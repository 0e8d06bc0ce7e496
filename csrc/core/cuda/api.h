// The losses on a CUDA device: the arguments of core/api.h, every pointer one to device memory, and a stream.
//
// Unproved on hardware: no GPU has run this code yet. benchmarks/gpu_proof.py is what has to pass on one; until then
// the same kernels run on the host, thread by thread, in the tests (tests/core/cuda_on_host).
//
// Nothing waits for the device, copies to the host or allocates, so a call can be captured into a CUDA graph. The
// workspace may be any memory, its contents do not matter, and it must not be used by anything else before the call's
// work on the stream is done. Sizes, types and null pointers are checked on the host and come back as a Status. Values
// can only be checked on the device: a shift that is 0 modulo B or an array that is no permutation turns every
// requested result into NaN, and `error_index`, which is a device pointer here, gets the index that the CPU's would; -1
// if all is well. So does a negative_weight that only the device knows and that is not 1 although the positive is in
// the softmax, with an `error_index` of -2. No value leads to an access outside a buffer. A launch that CUDA refuses is
// Status::kDeviceFailure, and the results are then undefined; a process without a driver or device gets
// Status::kNoDevice.
//
// Determinism: the same inputs give the same bits, on any device of the same architecture. Sums over rows are formed in
// an order that follows the sizes alone; no float is added atomically.
//
// Limits beyond those of core/api.h: B and K at most 2^31 - 64, D at most 2^30 (their products may be larger, and those
// of P and K too). `executor` is not used. Rows whose squares overflow count as zero rows, as the square root of
// infinity makes them in tf.nn.l2_normalize.
#ifndef FASTNEG_CORE_CUDA_API_H_
#define FASTNEG_CORE_CUDA_API_H_

#include "core/api.h"

struct CUstream_st;  // What cudaStream_t points to.

namespace fastneg::cuda {

using Stream = CUstream_st*;

// kOk if there is a device to work on; asked anew each time.
Status DeviceStatus();

// CUDA's name of the error behind the last kNoDevice or kDeviceFailure that this thread got.
const char* LastErrorName();

// The pointers are only compared with null, except for their alignment: 16 bytes make the fast kernels possible.
size_t RolledSoftmaxWorkspaceBytes(const RolledSoftmaxArgs& args);
Status RolledSoftmax(const RolledSoftmaxArgs& args, Stream stream);

size_t ShuffledCosineWorkspaceBytes(const ShuffledCosineArgs& args);
Status ShuffledCosine(const ShuffledCosineArgs& args, Stream stream);

size_t SvSoftmaxWorkspaceBytes(const SvSoftmaxArgs& args);
Status SvSoftmax(const SvSoftmaxArgs& args, Stream stream);

// out[i] = dtype(scale * unit_grad[i]), with the scale, one value of the compute type, on the device too; zeros where
// it is 0. args.scale is not used.
Status ScaleGrad(const ScaleGradArgs& args, const void* scale, Stream stream);

Status SetZero(void* memory, size_t num_bytes, Stream stream);

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_API_H_
