#include "xla_ffi/cuda_device.h"

#include <dlfcn.h>

#include <string>

#include "core/cuda/c_api.h"

namespace fastneg::xla_ffi {
namespace {

// The functions of core/cuda/c_api.h; null before FastnegLoadCuda.
struct Functions {
  decltype(&FastnegCudaRolledSoftmaxWorkspaceBytes) rolled_softmax_workspace_bytes = nullptr;
  decltype(&FastnegCudaRolledSoftmax) rolled_softmax = nullptr;
  decltype(&FastnegCudaShuffledCosineWorkspaceBytes) shuffled_cosine_workspace_bytes = nullptr;
  decltype(&FastnegCudaShuffledCosine) shuffled_cosine = nullptr;
  decltype(&FastnegCudaSvSoftmaxWorkspaceBytes) sv_softmax_workspace_bytes = nullptr;
  decltype(&FastnegCudaSvSoftmax) sv_softmax = nullptr;
  decltype(&FastnegCudaSetZero) set_zero = nullptr;
  decltype(&FastnegCudaLastErrorName) last_error_name = nullptr;
};

Functions g_functions;

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

bool FindAll(void* library, Functions* functions) {
  return Find(library, "FastnegCudaRolledSoftmaxWorkspaceBytes", &functions->rolled_softmax_workspace_bytes) &&
         Find(library, "FastnegCudaRolledSoftmax", &functions->rolled_softmax) &&
         Find(library, "FastnegCudaShuffledCosineWorkspaceBytes", &functions->shuffled_cosine_workspace_bytes) &&
         Find(library, "FastnegCudaShuffledCosine", &functions->shuffled_cosine) &&
         Find(library, "FastnegCudaSvSoftmaxWorkspaceBytes", &functions->sv_softmax_workspace_bytes) &&
         Find(library, "FastnegCudaSvSoftmax", &functions->sv_softmax) &&
         Find(library, "FastnegCudaSetZero", &functions->set_zero) &&
         Find(library, "FastnegCudaLastErrorName", &functions->last_error_name);
}

}  // namespace

size_t CudaDevice::WorkspaceBytes(const RolledSoftmaxArgs& args) const {
  return g_functions.rolled_softmax_workspace_bytes(&args);
}

size_t CudaDevice::WorkspaceBytes(const ShuffledCosineArgs& args) const {
  return g_functions.shuffled_cosine_workspace_bytes(&args);
}

size_t CudaDevice::WorkspaceBytes(const SvSoftmaxArgs& args) const {
  return g_functions.sv_softmax_workspace_bytes(&args);
}

Status CudaDevice::Run(const RolledSoftmaxArgs& args) const {
  return static_cast<Status>(g_functions.rolled_softmax(&args, stream_));
}

Status CudaDevice::Run(const ShuffledCosineArgs& args) const {
  return static_cast<Status>(g_functions.shuffled_cosine(&args, stream_));
}

Status CudaDevice::Run(const SvSoftmaxArgs& args) const {
  return static_cast<Status>(g_functions.sv_softmax(&args, stream_));
}

Status CudaDevice::SetZero(void* memory, size_t num_bytes) const {
  return static_cast<Status>(g_functions.set_zero(memory, num_bytes, stream_));
}

const char* CudaDevice::LastErrorName() const { return g_functions.last_error_name(); }

}  // namespace fastneg::xla_ffi

// Loads the CUDA kernels from the library at `path`, for FastnegXlaCudaHandler. Returns null, or why it could not be
// done, which stays valid until this thread calls again.
extern "C" __attribute__((visibility("default"))) const char* FastnegLoadCuda(const char* path) {
  static thread_local std::string problem;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  fastneg::xla_ffi::Functions functions;
  if (library == nullptr) {
    problem = dlerror();
  } else if (!FindAll(library, &functions)) {
    problem = "the library must have the functions of this version of fastneg";
  } else {
    fastneg::xla_ffi::g_functions = functions;
    return nullptr;
  }
  return problem.c_str();
}
