// Scratch memory of calls on the host. TensorFlow's allocator, which operations outside XLA have, keeps memory too.
#ifndef FASTNEG_XLA_FFI_SCRATCH_H_
#define FASTNEG_XLA_FFI_SCRATCH_H_

#include <cstddef>

namespace fastneg::xla_ffi {

// Returns null if there is none. Fresh memory costs page faults, a fifth of a large call's time, and malloc keeps no
// large blocks. So the largest block of up to 128 MiB that is given back is kept, and serves whoever asks next.
void* TakeScratch(size_t num_bytes);
void GiveBackScratch(void* memory);

}  // namespace fastneg::xla_ffi

#endif  // FASTNEG_XLA_FFI_SCRATCH_H_
